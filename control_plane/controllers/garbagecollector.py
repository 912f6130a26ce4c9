"""Garbage collector: dependents go when their owners have gone; foreground and orphan deletion of owners.

Keys are `object/<resource>/<namespace>/<name>` (look at one object) and `owner/<uid>` (an owner has gone: look at all
that name it). Before anything is deleted the API server itself confirms that the owners are gone: caches of owners may
lag behind caches of dependents. Objects of kinds nobody serves count as living: better too much than too little.
Source: Kubernetes concepts "Garbage Collection", "Owners and Dependents".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import form_as_stored
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Delete,
    IfAbsent,
    Moment,
    Patch,
    Result,
    View,
    Watch,
    result,
)

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"
CRDS = "customresourcedefinitions.apiextensions.k8s.io"
Absent = tuple[str, str, str, str]


def followed_as(crd: Object) -> str:
    """How to ask for a custom resource's objects: as they are stored, where a webhook would have to convert them."""
    spec = meta.spec(crd)
    if (spec.get("conversion") or {}).get("strategy") == "Webhook":
        return form_as_stored(crd)
    return f"{spec['names']['plural']}.{spec['group']}"


class GarbageCollector(BaseController):
    name = "garbagecollector"
    component = "garbage-collector-controller"

    def __init__(self, resources: Sequence[str]) -> None:
        self._resources = tuple(resources)
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}
        for name in resources:
            info = builtin_registry().by_name(name)
            self._learn(name, info.group, info.kind, namespaced=info.namespaced)
        self.watches: Sequence[Watch] = tuple(
            Watch(name, self._mapping(name), changed=_ownership_changed) for name in resources
        )

    def _learn(self, resource: str, group: str, kind: str, *, namespaced: bool) -> None:
        self._kinds[group, kind] = (resource, namespaced)

    def add_custom(self, crd: Object) -> str:
        """Follow owners among a custom resource's objects from now on; as what they were followed, if that is over."""
        spec = meta.spec(crd)
        group, kind, resource = spec["group"], spec["names"]["kind"], followed_as(crd)
        before, _ = self._kinds.get((group, kind), ("", False))
        if before == resource or not meta.condition_is(crd, "Established"):
            return ""
        self._forget(before)
        self._learn(resource, group, kind, namespaced=spec.get("scope") == "Namespaced")
        self._resources = (*self._resources, resource)
        watch = Watch(resource, self._mapping(resource), changed=_ownership_changed)
        self.watches = (*self.watches, watch)
        return before

    def remove_custom(self, crd: Object) -> str:
        """The custom resource is no longer served: owners of its kind count as living."""
        spec = meta.spec(crd)
        resource, _ = self._kinds.pop((spec["group"], spec["names"]["kind"]), (followed_as(crd), False))
        self._forget(resource)
        return resource

    @property
    def resources(self) -> Sequence[str]:
        """All whose owners are followed."""
        return self._resources

    def _forget(self, resource: str) -> None:
        self._resources = tuple(r for r in self._resources if r != resource)
        self.watches = tuple(w for w in self.watches if w.resource != resource)

    def _mapping(self, resource: str) -> Any:
        def keys(o: Object, view: View) -> Iterable[str]:
            found = []
            if meta.metadata(o).get("ownerReferences") or _is_finalizing(o):
                found.append(f"object/{resource}/{meta.namespace(o)}/{meta.name(o)}")
            if view.get(resource, meta.namespace(o), meta.name(o)) is None:
                found.append(f"owner/{meta.uid(o)}")
            # An owner that waits for this dependent may be able to go on.
            for ref in meta.metadata(o).get("ownerReferences") or ():
                owner = self._cached_owner(ref, meta.namespace(o), view)
                if owner is not None and _is_finalizing(owner):
                    where = self._kinds[meta.group_of(ref), ref["kind"]]
                    found.append(f"object/{where[0]}/{meta.namespace(owner)}/{meta.name(owner)}")
            return found

        return keys

    def _cached_owner(self, ref: dict[str, Any], namespace: str, view: View) -> Object | None:
        known = self._kinds.get((meta.group_of(ref), ref.get("kind") or ""))
        if known is None:
            return None
        owner = view.get(known[0], namespace if known[1] else "", ref.get("name") or "")
        return owner if owner is not None and meta.uid(owner) == ref.get("uid") else None

    # --- reconcile ------------------------------------------------------------------------------

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, rest = key.partition("/")
        if what == "owner":
            return result(self._of_owner(rest, view))
        resource, namespace, name = rest.split("/", 2)
        o = view.get(resource, namespace, name)
        if o is None:
            return NOTHING
        if meta.is_deleting(o):
            return self._finish(resource, o, view)
        return result(self._collect(resource, o, view))

    def _of_owner(self, uid: str, view: View) -> list[Action]:
        """Everything that named a departed owner: one check of that owner serves many dependents."""
        groups: dict[tuple[Absent, ...], list[Patch | Delete]] = {}
        steps: list[Action] = []
        for resource, o in self._dependents(uid, view):
            for action in self._collect(resource, o, view):
                if isinstance(action, IfAbsent):
                    groups.setdefault(action.absent, []).extend(action.writes)
                else:
                    steps.append(action)
        return [*steps, *(IfAbsent(a, tuple(writes)) for a, writes in groups.items())]

    def _dependents(self, uid: str, view: View) -> list[tuple[str, Object]]:
        return [
            (resource, o)
            for resource in self._resources
            for o in sorted(view.indexed(resource, "owner", uid), key=meta.key)
        ]

    def _collect(self, resource: str, o: Object, view: View) -> list[Action]:
        """Delete an object without a living owner; drop references to owners that are gone."""
        refs = meta.metadata(o).get("ownerReferences") or ()
        if not refs or meta.is_deleting(o):
            return []
        solid, waiting = [], False
        absent: list[Absent] = []
        for ref in refs:
            known = self._kinds.get((meta.group_of(ref), ref.get("kind") or ""))
            owner = self._cached_owner(ref, meta.namespace(o), view)
            if known is not None and owner is None:
                space = meta.namespace(o) if known[1] else ""
                absent.append((known[0], space, ref["name"], ref["uid"]))
            elif owner is not None and meta.is_deleting(owner) and FOREGROUND in meta.finalizers(owner):
                waiting = True
            else:
                solid.append(ref)
        write: Patch | Delete
        if len(solid) == len(refs):
            return []
        if solid:  # some owner lives: only the references to the others go
            write = _with_owners(resource, o, solid)
        else:
            below = self._dependents(meta.uid(o), view) if waiting else ()
            chained = any(_blocks(d, meta.uid(o)) for _, d in below)
            write = Delete(resource, o, propagation="Foreground" if chained else "Background")
        return [IfAbsent(tuple(absent), (write,))] if absent else [write]

    def _finish(self, resource: str, o: Object, view: View) -> Result:
        """Serve the finalizers of an object under deletion."""
        dependents = self._dependents(meta.uid(o), view)
        if ORPHAN in meta.finalizers(o):
            freed = [_without_owner(name, d, meta.uid(o)) for name, d in dependents]
            return result(freed, [_without_finalizer(resource, o, ORPHAN)])
        if FOREGROUND not in meta.finalizers(o):
            return NOTHING
        blocking = [(name, d) for name, d in dependents if _blocks(d, meta.uid(o))]
        if not blocking:
            return result([_without_finalizer(resource, o, FOREGROUND)])
        steps: list[Action] = []
        for name, d in dependents:
            steps += self._collect(name, d, view)
        return result(steps)


def _with_owners(resource: str, o: Object, owners: Sequence[dict[str, Any]]) -> Patch:
    guard = {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}
    body = {"metadata": {**guard, "ownerReferences": list(owners) or None}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def _without_owner(resource: str, o: Object, uid: str) -> Patch:
    refs = meta.metadata(o).get("ownerReferences") or ()
    return _with_owners(resource, o, [ref for ref in refs if ref.get("uid") != uid])


def _without_finalizer(resource: str, o: Object, finalizer: str) -> Patch:
    guard = {"uid": meta.uid(o), "resourceVersion": meta.resource_version(o)}
    kept = [f for f in meta.finalizers(o) if f != finalizer]
    body = {"metadata": {**guard, "finalizers": kept or None}}
    return Patch(resource, meta.namespace(o), meta.name(o), body)


def _is_finalizing(o: Object) -> bool:
    finalizers = meta.finalizers(o)
    return meta.is_deleting(o) and (FOREGROUND in finalizers or ORPHAN in finalizers)


def _blocks(o: Object, owner_uid: str) -> bool:
    return any(
        ref.get("uid") == owner_uid and ref.get("blockOwnerDeletion")
        for ref in meta.metadata(o).get("ownerReferences") or ()
    )


def _ownership_changed(old: Object, new: Object) -> bool:
    return (
        meta.metadata(old).get("ownerReferences") != meta.metadata(new).get("ownerReferences")
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.finalizers(old) != meta.finalizers(new)
        or meta.uid(old) != meta.uid(new)
    )
