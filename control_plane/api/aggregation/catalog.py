"""All that is served together: our own groups and versions and the aggregated ones, in the order of their priorities.

Source: kube-aggregator's handler_apis and its sorting of APIServices by group and version.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.aggregation.backends import OURS, Backend
from rayplane.control_plane.api.machinery.resources import GroupInfo, Registry, ResourceInfo, version_priority
from rayplane.control_plane.api.meta import Object

# Of what has no APIService (yet): those of definitions are made with these.
_GROUP_PRIORITY, _VERSION_PRIORITY = 1000, 100
GroupVersion = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Remote:
    """An aggregated group and version, as its server was last found."""

    backend: Backend
    resources: tuple[ResourceInfo, ...] = ()
    openapi: str = ""
    """The path of its OpenAPI v3 document, with the hash; empty where there is none."""
    stale: bool = True
    """The last question got no answer: the resources are those of an earlier one."""


class Catalog:
    """The groups and versions in order. `generation` grows with each change."""

    def __init__(self, own: Registry) -> None:
        self._own = own
        self._priorities: dict[GroupVersion, tuple[int, int]] = {}
        self._remote: dict[GroupVersion, Remote] = {}
        self._before: dict[GroupVersion, Remote] = {}
        self._changes = 0

    @property
    def generation(self) -> int:
        return self._own.generation + self._changes

    # --- what there is ------------------------------------------------------------------------

    def remote(self, group: str, version: str) -> Remote | None:
        """The aggregated one of these names; None for what is answered here, or nowhere."""
        return self._remote.get((group, version))

    def remotes(self) -> list[Remote]:
        return list(self._remote.values())

    def in_version(self, group: str, version: str) -> list[ResourceInfo]:
        found = self._remote.get((group, version))
        return self._own.in_version(group, version) if found is None else list(found.resources)

    def is_stale(self, group: str, version: str) -> bool:
        found = self._remote.get((group, version))
        return found is not None and found.stale

    def groups(self) -> list[GroupInfo]:
        """All; first the core group, then that of APIServices, whatever its priority."""
        versions = {group.name: list(group.versions) for group in self._own.groups()}
        for group, version in self._remote:
            known = versions.setdefault(group, [])
            if version not in known:
                known.append(version)
        found = [self._sorted(name, all_) for name, all_ in versions.items()]
        return sorted(found, key=lambda group: (-self._priority(group), group.name))

    def group(self, name: str) -> GroupInfo | None:
        return next((group for group in self.groups() if group.name == name), None)

    def _sorted(self, group: str, versions: list[str]) -> GroupInfo:
        def key(version: str) -> tuple[int, tuple[int, int, int, str]]:
            priority = self._priorities.get((group, version), (0, _VERSION_PRIORITY))[1]
            return -priority, version_priority(version)

        return GroupInfo(group, tuple(sorted(versions, key=key)))

    def _priority(self, group: GroupInfo) -> float:
        if group.name in OURS:
            return math.inf
        default = (_GROUP_PRIORITY, 0)
        return max(self._priorities.get((group.name, version), default)[0] for version in group.versions)

    # --- what changes -------------------------------------------------------------------------

    def put(self, service: Object) -> bool:
        """Heed an APIService; whether it leads elsewhere than before."""
        spec = meta.spec(service)
        key = spec.get("group") or "", spec["version"]
        self._priorities[key] = spec.get("groupPriorityMinimum") or 0, spec.get("versionPriority") or 0
        backend, known = Backend.of(service), self._remote.get(key) or self._before.pop(key, None)
        self._changes += 1
        if backend is None:
            self._remote.pop(key, None)
            return known is not None
        stays = known is not None and replace(known.backend, available=backend.available) == backend
        self._remote[key] = replace(known, backend=backend) if stays and known is not None else Remote(backend)
        return not stays

    def remove(self, service: Object) -> None:
        spec = meta.spec(service)
        key = spec.get("group") or "", spec["version"]
        self._priorities.pop(key, None)
        self._remote.pop(key, None)
        self._changes += 1

    def clear(self) -> None:
        """Begin anew: what is put again is known still."""
        self._priorities.clear()
        self._before, self._remote = self._remote, {}
        self._changes += 1

    def found(self, asked: Backend, resources: tuple[ResourceInfo, ...] | None, openapi: str = "") -> None:
        """What a server has answered; None: nothing of use. Heeded if the APIService still leads there."""
        key = asked.group, asked.version
        known = self._remote.get(key)
        if known is None or replace(known.backend, available=asked.available) != asked:
            return
        if resources is None:
            now = replace(known, stale=True)
        else:
            now = replace(known, resources=resources, openapi=openapi, stale=False)
        if now != known or [one.told for one in now.resources] != [one.told for one in known.resources]:
            self._remote[key] = now
            self._changes += 1
