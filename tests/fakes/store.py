"""Objects as an API server keeps them: versions, uids, generations, finalizers, grace, and the history of all of it.

The rules are those of `api.kinds`, which the API server has too; `tests/test_fake_api.py` compares them. Left out are
defaults, validation, admission and who may do what, so that tests can write objects of a few fields. Stored objects are
replaced, never changed: what is handed out is read-only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.kinds import deletion, strategy
from rayplane.control_plane.api.kinds.core.binding import bind
from rayplane.control_plane.api.machinery.patching import PatchKind, apply_patch
from rayplane.control_plane.api.machinery.resources import ResourceInfo, UnknownResource, builtin_registry
from rayplane.control_plane.api.machinery.schema import definition_of
from rayplane.control_plane.api.meta import Object

START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Change:
    """One write: the object before it, and after; of a deleted one its last state."""

    resource: str
    kind: str
    old: Object | None
    obj: Object


Listener = Callable[[str, str, Object | None, Object], None]


def copied(obj: Object) -> Object:
    """A deep copy, as one that has travelled."""
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


class Store:
    """The API's objects; all methods raise the API's errors. `listeners` are told each change as it is made."""

    def __init__(self, clock: Callable[[], datetime] = lambda: START) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self.history: list[Change] = []
        """The change that made version n is at n - 1."""
        self.floor = 0
        """Watches from before this version are told that it is too old."""
        self.listeners: list[Listener] = []
        self._clock = clock
        self._numbers = itertools.count(1)

    @property
    def version(self) -> int:
        return len(self.history)

    # --- reads ----------------------------------------------------------------------------------

    def get(self, resource: str, namespace: str, name: str) -> Object | None:
        return self.objects.get(resource, {}).get(f"{namespace}/{name}" if namespace else name)

    def list(self, resource: str) -> Sequence[Object]:
        return list(self.objects.get(resource, {}).values())

    def require(self, resource: str, namespace: str, name: str) -> Object:
        found = self.get(resource, namespace, name)
        if found is None:
            raise errors.NotFound.of(resource, name)
        return found

    # --- writes of clients ----------------------------------------------------------------------

    def create(self, resource: str, obj: Object) -> Object:
        info, obj = info_of(resource), _whole(resource, obj)
        own, number = obj["metadata"], next(self._numbers)
        if own.get("resourceVersion"):
            raise errors.ApiError("resourceVersion should not be set on objects to be created", reason="", code=500)
        if not own.get("name"):
            own["name"] = strategy.generated_name(own["generateName"], f"{number:05d}")
        own.update(uid=f"uid-{number}", creationTimestamp=meta.format_time(self._clock()))
        strategy.prepare_for_create(obj, info)
        if self.get(resource, meta.namespace(obj), meta.name(obj)) is not None:
            raise errors.AlreadyExists.of(resource, meta.name(obj))
        return self._store(resource, obj)

    def update(self, resource: str, obj: Object, *, subresource: str = "") -> Object:
        old = self.require(resource, meta.namespace(obj), meta.name(obj))
        return self._change(resource, old, _whole(resource, obj), subresource)

    def patch(
        self, resource: str, name: str, namespace: str, body: Any, *, kind: PatchKind = "merge", subresource: str = ""
    ) -> Object:
        old = self.require(resource, namespace, name)
        definition = definition_of(old["apiVersion"], old["kind"]) if kind == "strategic" else None
        return self._change(resource, old, apply_patch(kind, copied(old), body, definition), subresource)

    def delete(
        self,
        resource: str,
        name: str,
        namespace: str = "",
        *,
        uid: str = "",
        version: str = "",
        grace_s: int | None = None,
        propagation: str = "",
    ) -> Object:
        obj = copied(self.require(resource, namespace, name))
        deletion.check_preconditions(obj, resource, uid=uid, version=version)
        done = deletion.begin_deletion(obj, now=self._clock(), grace_seconds=grace_s, propagation=propagation)
        if done.remove:
            return self._remove(resource, obj)
        return self._store(resource, obj) if done.changed else obj

    def bind(self, binding: Object) -> Object:
        pod = copied(self.require("pods", meta.namespace(binding), meta.name(binding)))
        bind(pod, binding, now=self._clock())
        return self._store("pods", pod)

    # --- writes behind the rules ----------------------------------------------------------------

    def put(self, resource: str, obj: Object) -> Object:
        """Create or replace, whatever the rules say."""
        return self._store(resource, _whole(resource, obj))

    def remove(self, resource: str, key: str) -> None:
        """Take an object away, whatever holds it back; `key` is name or namespace/name."""
        self._remove(resource, copied(self.objects[resource][key]))

    def forget_history(self) -> None:
        """Compact."""
        self.floor = self.version

    # --- inside ---------------------------------------------------------------------------------

    def _change(self, resource: str, old: Object, new: Object, subresource: str) -> Object:
        guard = meta.resource_version(new)
        if (guard and guard != meta.resource_version(old)) or meta.uid(new) not in ("", meta.uid(old)):
            raise errors.Conflict.of(resource, meta.name(old))
        if subresource == "status":
            strategy.prepare_for_status_update(new, old, info_of(resource))
        elif subresource == "finalize":
            new = {**old, "spec": new.get("spec") or {}}
        else:
            strategy.prepare_for_update(new, old, info_of(resource))
        new["metadata"] = {**new["metadata"], "resourceVersion": meta.resource_version(old)}
        if deletion.removable(new):
            return self._remove(resource, new)
        return old if new == old else self._store(resource, new)

    def _store(self, resource: str, obj: Object) -> Object:
        pool = self.objects.setdefault(resource, {})
        old = pool.get(meta.key(obj))
        pool[meta.key(obj)] = obj
        return self._record(resource, "MODIFIED" if old is not None else "ADDED", old, obj)

    def _remove(self, resource: str, obj: Object) -> Object:
        return self._record(resource, "DELETED", self.objects[resource].pop(meta.key(obj)), obj)

    def _record(self, resource: str, kind: str, old: Object | None, obj: Object) -> Object:
        obj["metadata"] = {**obj["metadata"], "resourceVersion": str(self.version + 1)}
        self.history.append(Change(resource, kind, old, obj))
        for listener in list(self.listeners):
            listener(resource, kind, old, obj)
        return obj


def info_of(resource: str) -> ResourceInfo | None:
    """None for what is not built in."""
    try:
        return builtin_registry().by_name(resource)
    except UnknownResource:
        return None


def _whole(resource: str, obj: Object) -> Object:
    """A copy that says what it is."""
    info, copy = info_of(resource), copied(obj)
    if info is not None:
        copy.setdefault("apiVersion", info.api_version)
        copy.setdefault("kind", info.kind)
    copy.setdefault("metadata", {})
    return copy
