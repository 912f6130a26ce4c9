"""CustomResourceDefinitions: what they make this server serve, and what becomes of their objects when they go.

A definition is complete when it is stored (its names are accepted and it is established in the same write, or wait for
another definition to go), and each server serves it as soon as its cache has it: a request for a resource that is not
known waits for the caches to catch up before it is refused. A deleted definition waits, by a finalizer, until its
objects are gone; every server tries to remove them, whoever is first.
"""

import asyncio
import logging
from functools import partial
from types import MappingProxyType
from typing import Any

import orjson

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import CRDS
from rayplane.control_plane.api.kinds.rules import ScalePaths
from rayplane.control_plane.api.machinery import schema
from rayplane.control_plane.api.machinery.resources import ResourceInfo, SubresourceInfo, version_priority
from rayplane.control_plane.api.meta import Object, get_condition
from rayplane.control_plane.apiserver.apiextensions import rules
from rayplane.control_plane.apiserver.apiextensions.acceptance import (
    group_of,
    is_accepted,
    is_established,
    terminating,
    waits_in_vain,
)
from rayplane.control_plane.apiserver.apiextensions.defaulting import prune, settle
from rayplane.control_plane.apiserver.conversions import Webhook
from rayplane.control_plane.apiserver.kinds import CustomVersion, Kinds
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.apiserver.watch_cache.watchers import DELETED, Event
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

CLEANUP = "customresourcecleanup.apiextensions.k8s.io"
_VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
_VERBS_AT_THE_END = ("delete", "deletecollection", "get", "list", "watch")
_CHANGE = ("get", "patch", "update")


# --- the definition's own life -----------------------------------------------------------------


def mark_for_cleanup(crd: Object, now: str) -> None:
    """A definition that is being deleted holds on until its objects are gone."""
    meta = crd["metadata"]
    if not meta.get("deletionTimestamp") and CLEANUP not in (meta.get("finalizers") or ()):
        meta["finalizers"] = [*(meta.get("finalizers") or ()), CLEANUP]
        terminating(crd, now)


# --- what is served -----------------------------------------------------------------------------


def versions_of(crd: Object, revision: int) -> list[CustomVersion]:
    """The served versions of a definition, and its storage version even when it is not served.

    `revision` is that of the definition: what was stored before was stored by another schema.
    """
    spec = crd["spec"]
    group, names = spec["group"], spec["names"]
    webhook = Webhook.of(crd)
    storage = next((v["name"] for v in spec["versions"] if v.get("storage")), spec["versions"][0]["name"])
    made = []
    for version in spec["versions"]:
        if not version.get("served") and version["name"] != storage:
            continue
        openapi = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
        parts = version.get("subresources") or {}
        info = _info(crd, version, storage)
        made.append(
            CustomVersion(
                info=info,
                served=bool(version.get("served")),
                schema=openapi,
                definition=schema.from_openapi(f"{group}.{version['name']}.{names['kind']}", openapi, root=True),
                columns=list(version.get("additionalPrinterColumns") or ()),
                selectable=tuple(f.get("jsonPath") or "" for f in version.get("selectableFields") or ()),
                scale=ScalePaths.of(parts.get("scale")),
                deprecated=_deprecation(spec, version) if version.get("deprecated") else "",
                revision=revision,
                settle=partial(settle, schema=openapi),
                prune=partial(prune, schema=openapi, root=True),
                rules=rules.compiled(openapi),
                webhook=webhook,
                terminating=bool(crd["metadata"].get("deletionTimestamp")),
            )
        )
    return made


def _accepted_names(crd: Object) -> Object:
    """What a definition is served by besides plural and kind: while it waits for new ones, by what it had."""
    accepted = (crd.get("status") or {}).get("acceptedNames") or {}
    return {field: accepted[field] for field in ("singular", "listKind", "shortNames") if field in accepted}


def _info(crd: Object, version: Object, storage: str) -> ResourceInfo:
    """One version of a resource whose objects are stored in another, or in the same."""
    spec = crd["spec"]
    group, names = spec["group"], {**spec["names"], **_accepted_names(crd)}
    ends = (get_condition(crd, "Terminating") or {}).get("status") == "True"
    return ResourceInfo(
        group=group,
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        singular=names.get("singular") or names["kind"].lower(),
        namespaced=spec.get("scope") == "Namespaced",
        verbs=_VERBS,
        told_verbs=_VERBS_AT_THE_END if ends else (),
        definition="",
        storage_prefix=f"/registry/{group}/{names['plural']}/",
        stored_api_version=f"{group}/{storage}",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=_subresources(group, version["name"], names["kind"], version.get("subresources") or {}),
        custom=True,
        list_kind=names.get("listKind") or f"{names['kind']}List",
    )


def _deprecation(spec: Object, version: Object) -> str:
    """What is told who uses a deprecated version: the definition's own words, or which version to take instead."""
    if version.get("deprecationWarning"):
        return str(version["deprecationWarning"])
    own, what = version_priority(version["name"]), f"{spec['group']}/{{}} {spec['names']['kind']}"
    newer = [v["name"] for v in spec["versions"] if v.get("served") and not v.get("deprecated")]
    newer = sorted((name for name in newer if version_priority(name) < own), key=version_priority)
    text = f"{what.format(version['name'])} is deprecated"
    return f"{text}; use {what.format(newer[0])}" if newer else text


def _subresources(group: str, version: str, kind: str, parts: dict[str, Any]) -> MappingProxyType[str, SubresourceInfo]:
    found = {}
    if "status" in parts:
        found["status"] = SubresourceInfo(group, version, kind, _CHANGE)
    if parts.get("scale"):
        found["scale"] = SubresourceInfo("autoscaling", "v1", "Scale", _CHANGE)
    return MappingProxyType(found)


class CustomResources:
    """A watcher that keeps `kinds` in step with the stored definitions.

    `cleanup(info)` removes all objects of a resource.
    """

    def __init__(self, kinds: Kinds, hub: WatchHub, cleaner: "Cleaner") -> None:
        self._kinds = kinds
        self._hub = hub
        self._cleaner = cleaner
        self._cache: ResourceCache | None = None

    async def load(self) -> None:
        """Serve what is defined; cheap when nothing changed."""
        cache = await self._hub.cache(self._kinds.named(CRDS))
        if self._cache is not cache:
            self._cache = cache
            cache.listeners.append(self._on_event)
            cache.installed.append(self._serve_all)
            self._serve_all()

    def _serve_all(self) -> None:
        assert self._cache is not None
        defined: dict[str, None] = {}
        for entry in self._cache.readable():
            defined[entry.name] = None
            self._serve(entry.object, entry.revision)
        for name in self._kinds.custom_names():
            if name not in defined:
                self._kinds.remove_custom(name)
        for group in {group_of(entry.object) for entry in self._cache.readable() if not is_accepted(entry.object)}:
            self._reconsider(group)

    async def catch_up(self) -> None:
        """Return when everything that was defined before this call is served."""
        await self._hub.fresh()
        await self.load()

    def _on_event(self, event: Event) -> None:
        crd = event.entry.object
        if event.type != DELETED:
            self._serve(crd, event.entry.revision)
        elif prefix := self._kinds.remove_custom(crd["metadata"]["name"]):
            self._hub.forget(prefix)
        self._reconsider(group_of(crd))

    def _reconsider(self, group: str) -> None:
        """Look again at the definitions that waited for names of a group: whoever had them may have given them up.

        One that was judged just before that is stored after it: its own coming is an occasion as well.
        """
        assert self._cache is not None
        waiting = [e for e in self._cache.readable() if group_of(e.object) == group and not is_accepted(e.object)]
        in_group = self._kinds.in_group(group) if waiting else []
        for entry in waiting:
            try:
                if waits_in_vain(entry.object, in_group):
                    self._cleaner.add(entry.name)
            except Exception as e:
                # Written around validation, as below.
                log.warning("the names of definition %s are not judged: %s", entry.name, e)

    def _serve(self, crd: Object, revision: int) -> None:
        try:
            versions = versions_of(crd, revision) if is_established(crd) else []
        except Exception as e:
            # Written around validation: better not served than not started.
            log.warning("definition %s is not served: %s", crd["metadata"].get("name"), e)
            return
        changed = self._kinds.set_custom(crd["metadata"]["name"], versions)
        if changed:
            self._hub.forget(changed, "its definition has changed")
        meta = crd["metadata"]
        if meta.get("deletionTimestamp") and CLEANUP in (meta.get("finalizers") or ()):
            self._cleaner.add(meta["name"])


class Cleaner:
    """A worker that removes the objects of deleted definitions, one definition after the other, in a task of its own.

    `empty(name)` deletes the objects and tells whether none is left, or that the definition is not being deleted;
    `release(name)` writes it again: without our finalizer where it is, and with the names that are free.
    """

    BACKOFF = Backoff(0.2, 5.0)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, name: str) -> None:
        self._names[name] = None
        self._wake.set()

    def start(self, empty: Any, release: Any) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(empty, release))

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def _run(self, empty: Any, release: Any) -> None:
        tries: dict[str, int] = {}
        while True:
            if not self._names:
                self._wake.clear()
                await self._wake.wait()
            name = next(iter(self._names))
            del self._names[name]
            try:
                if await empty(name):
                    await release(name)
                    tries.pop(name, None)
                    continue
            except ApiError as e:
                log.info("the objects of %s are not all removed yet: %s", name, e.message)
            except Exception:
                # One definition that trips over a bug must not keep the others.
                log.exception("the objects of %s are not all removed yet", name)
            # Objects with finalizers of their own may take their time.
            tries[name] = tries.get(name, 0) + 1
            await asyncio.sleep(self.BACKOFF.pause_s(tries[name]))
            self._names[name] = None


def without_finalizer(crd: Object) -> Object:
    """A copy of a definition that nothing of ours holds back."""
    copy: Object = orjson.loads(orjson.dumps(crd))
    kept = [f for f in copy["metadata"].get("finalizers") or () if f != CLEANUP]
    copy["metadata"]["finalizers"] = kept
    return copy
