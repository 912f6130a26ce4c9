"""CustomResourceDefinitions: what they make this server serve, and what becomes of their objects when they go.

A definition is complete when it is stored (its names are accepted and it is established in the same write), and each
server serves it as soon as its cache has it: a request for a resource that is not known waits for the caches to
catch up before it is refused. A deleted definition waits, by a finalizer, until its objects are gone; every server
tries to remove them, whoever is first.
"""

import asyncio
import logging
from types import MappingProxyType
from typing import Any

import orjson

from rayplane.control_plane.api.errors import ApiError, FieldError, invalid, required, too_many
from rayplane.control_plane.api.kinds.apiextensions.custom_resource_definition import definition
from rayplane.control_plane.api.kinds.rules import ScalePaths
from rayplane.control_plane.api.machinery import schema
from rayplane.control_plane.api.machinery.resources import ResourceInfo, SubresourceInfo, version_priority
from rayplane.control_plane.api.meta import Object, get_condition, set_condition
from rayplane.control_plane.apiserver.apiextensions import schema as custom_schema
from rayplane.control_plane.apiserver.kinds import CRDS, CustomVersion, Kinds
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
_COLUMNS_MAX = 100


# --- the definition's own life -----------------------------------------------------------------


def complete(crd: Object, now: str) -> None:
    """Defaults and status of a definition that is being written, in place."""
    spec = crd.setdefault("spec", {})
    names = spec.setdefault("names", {})
    kind = names.get("kind") or ""
    names.setdefault("singular", kind.lower())
    names.setdefault("listKind", f"{kind}List")
    spec.setdefault("conversion", {"strategy": "None"})
    status = crd.get("status") or {}
    stored = [v["name"] for v in spec.get("versions") or () if v.get("storage") and v.get("name")]
    versions = list(status.get("storedVersions") or [])
    conditions = [dict(c) for c in status.get("conditions") or ()]
    for condition in (
        {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts", "message": "no conflicts found"},
        {
            "type": "Established",
            "status": "True",
            "reason": "InitialNamesAccepted",
            "message": "the initial names have been accepted",
        },
    ):
        set_condition(conditions, condition, now)
    crd["status"] = {
        "conditions": conditions,
        "acceptedNames": dict(names),
        "storedVersions": versions + [v for v in stored if v not in versions],
    }


def errors_of(crd: Object, kinds: Kinds) -> list[FieldError]:
    """What is wrong with a definition."""
    spec = crd.get("spec") or {}
    names, group = spec.get("names") or {}, spec.get("group") or ""
    plural, kind = names.get("plural") or "", names.get("kind") or ""
    found: list[FieldError] = []
    name = crd["metadata"].get("name") or ""
    if name != f"{plural}.{group}":
        found.append(invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if "." not in group:
        found.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    elif any(not info.custom for info in kinds.in_group(group)):
        # Kinds, rules and keys in etcd of these groups are the server's own.
        found.append(invalid("spec.group", group, "is served by this server itself"))
    for field, value in (("plural", plural), ("kind", kind)):
        if not value:
            found.append(required(f"spec.names.{field}"))
    for info in kinds.in_group(group):
        if info.plural != plural and kind in (info.kind, info.list_kind):
            # Objects are told apart by their kind.
            found.append(invalid("spec.names.kind", kind, f'"{kind}" is already in use by {info.name}'))
            break
    if spec.get("scope") not in ("Namespaced", "Cluster"):
        found.append(required("spec.scope"))
    return found + _version_errors(spec.get("versions") or []) + definition(crd)


def _version_errors(versions: list[Object]) -> list[FieldError]:
    found: list[FieldError] = []
    if sum(bool(v.get("storage")) for v in versions) != 1:
        text = "must have exactly one version marked as storage version"
        found.append(invalid("spec.versions", [v.get("name") for v in versions], text))
    for index, version in enumerate(versions):
        columns = len(version.get("additionalPrinterColumns") or ())
        if columns > _COLUMNS_MAX:
            # Each row of each table has them all.
            found.append(too_many(f"spec.versions[{index}].additionalPrinterColumns", columns, _COLUMNS_MAX))
        if not (version.get("schema") or {}).get("openAPIV3Schema"):
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            found.append(required(path, "schemas are required"))
        else:
            path = f"spec.versions[{index}].schema.openAPIV3Schema"
            found += custom_schema.schema_errors(version["schema"]["openAPIV3Schema"], path)
    return found


def mark_for_cleanup(crd: Object, now: str) -> None:
    """A definition that is being deleted holds on until its objects are gone."""
    meta = crd["metadata"]
    if not meta.get("deletionTimestamp") and CLEANUP not in (meta.get("finalizers") or ()):
        meta["finalizers"] = [*(meta.get("finalizers") or ()), CLEANUP]
        status = crd.setdefault("status", {})
        conditions = [dict(c) for c in status.get("conditions") or ()]
        condition = {
            "type": "Terminating",
            "status": "True",
            "reason": "InstanceDeletionPending",
            "message": "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        }
        set_condition(conditions, condition, now)
        status["conditions"] = conditions


# --- what is served -----------------------------------------------------------------------------


def versions_of(crd: Object) -> list[CustomVersion]:
    """The served versions of a definition, and its storage version even when it is not served."""
    spec = crd["spec"]
    group, names = spec["group"], spec["names"]
    storage = next((v["name"] for v in spec["versions"] if v.get("storage")), spec["versions"][0]["name"])
    made = []
    for version in spec["versions"]:
        if not version.get("served") and version["name"] != storage:
            continue
        openapi = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object"}
        parts = version.get("subresources") or {}
        ends = (get_condition(crd, "Terminating") or {}).get("status") == "True"
        info = ResourceInfo(
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
            subresources=_subresources(group, version["name"], names["kind"], parts),
            custom=True,
            list_kind=names.get("listKind") or f"{names['kind']}List",
        )
        made.append(
            CustomVersion(
                info=info,
                served=bool(version.get("served")),
                schema=openapi,
                definition=schema.from_openapi(f"{group}.{version['name']}.{names['kind']}", openapi, root=True),
                columns=list(version.get("additionalPrinterColumns") or ()),
                selectable=tuple(f.get("jsonPath") or "" for f in version.get("selectableFields") or ()),
                scale=_scale_paths(parts.get("scale")),
                deprecated=_deprecation(spec, version) if version.get("deprecated") else "",
            )
        )
    return made


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


def _scale_paths(scale: dict[str, Any] | None) -> ScalePaths | None:
    if not scale:
        return None
    return ScalePaths(
        spec=scale.get("specReplicasPath") or ".spec.replicas",
        status=scale.get("statusReplicasPath") or ".status.replicas",
        selector=scale.get("labelSelectorPath") or "",
    )


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
            self._serve(entry.object)
        for name in self._kinds.custom_names():
            if name not in defined:
                self._kinds.remove_custom(name)

    async def catch_up(self) -> None:
        """Return when everything that was defined before this call is served."""
        await self._hub.fresh()
        await self.load()

    def _on_event(self, event: Event) -> None:
        crd = event.entry.object
        if event.type != DELETED:
            self._serve(crd)
            return
        prefix = self._kinds.remove_custom(crd["metadata"]["name"])
        if prefix:
            self._hub.forget(prefix)

    def _serve(self, crd: Object) -> None:
        try:
            versions = versions_of(crd)
        except Exception as e:
            # Written around validation: better not served than not started.
            log.warning("definition %s is not served: %s", crd["metadata"].get("name"), e)
            return
        self._kinds.set_custom(crd["metadata"]["name"], versions)
        meta = crd["metadata"]
        if meta.get("deletionTimestamp") and CLEANUP in (meta.get("finalizers") or ()):
            self._cleaner.add(meta["name"])


class Cleaner:
    """A worker that removes the objects of deleted definitions, one definition after the other, in a task of its own.

    `empty(name)` deletes the objects and tells whether none is left; `release(name)` drops the finalizer.
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
