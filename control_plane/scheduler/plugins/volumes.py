"""Plug-ins about volumes: where they are, who may use them, how many a node takes.

Source: Kubernetes concepts "Storage Classes" (volume binding mode), "Storage Capacity", "Node-specific Volume Limits",
"Persistent Volumes" (access modes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.api import meta
from rayplane.control_plane.scheduler.plugins.args import VolumeBindingArgs
from rayplane.control_plane.scheduler.plugins.base import Cluster, Plugin, PodView, Refusal, Scope
from rayplane.control_plane.scheduler.plugins.volume_scores import storage_scores
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows
from rayplane.control_plane.scheduler.volumes import NO_SPACE, READ_WRITE_ONCE_POD, ZONE_LABELS, Volume, VolumeNeeds

#: Disks of pods that only one may write: field, what names one, and whether readers may share it.
_DISKS = {
    "gcePersistentDisk": (("pdName",), True),
    "awsElasticBlockStore": (("volumeID",), False),
    "iscsi": (("iqn",), True),
    "rbd": (("pool", "image"), True),
}


class VolumeBinding(Plugin):
    """VolumeBinding: bound claims draw the pod to their volumes, waiting ones get theirs where the pod goes.

    Unless told otherwise it is better the more storage is left there.
    """

    name: ClassVar[str] = "VolumeBinding"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def __init__(self, args: VolumeBindingArgs | None = None) -> None:
        super().__init__(args)
        self._points = (args or VolumeBindingArgs()).shape

    def _needs(self, view: PodView) -> VolumeNeeds:
        found: VolumeNeeds | None = view.memo.get(self.name)
        if found is None:
            found = view.memo[self.name] = view.cluster.volumes.needs(view.pod)
        return found

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.claims)

    def problem(self, view: PodView) -> str:
        return self._needs(view).problem if view.pod.claims else ""

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not view.pod.claims:
            return None
        needs = self._needs(view)
        if needs.problem or not (needs.waiting or any(not volume.is_anywhere for volume in needs.bound)):
            return None
        return view.cluster.volumes.mask(needs, view.snapshot)[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not view.pod.claims:
            return None
        needs = self._needs(view)
        if needs.problem:
            return Refusal(self.name, (needs.problem,), False)
        volumes, node = view.cluster.volumes, view.snapshot.info(row)
        free = volumes.free_bytes(view.snapshot).get(node.name) if needs.waiting else None
        text = volumes.refusal(needs, node, free)
        return Refusal(self.name, (text,), text == NO_SPACE) if text else None

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        if not view.pod.claims or among is None:
            return None
        found = storage_scores(view.cluster.volumes, self._needs(view), view.snapshot, among, self._points)
        return None if found is None else found[rows]

    def reserve(self, view: PodView, row: int) -> None:
        view.cluster.volumes.promise(self.waiting(view), view.snapshot.info(row), view.pod.uid)

    def waiting(self, view: PodView) -> tuple[str, ...]:
        """Keys of the claims whose node must be selected before the pod is bound."""
        if not view.pod.claims:
            return ()
        return tuple(f"{c['metadata']['namespace']}/{c['metadata']['name']}" for c in self._needs(view).waiting)

    def forget(self, cluster: Cluster, pod: PodInfo) -> None:
        cluster.volumes.forget(pod.claims, pod.uid)


def _bound(view: PodView) -> list[Volume]:
    """Volumes of the pod's claims that have one."""
    volumes = view.cluster.volumes
    claims = (volumes.claims.get(key) for key in view.pod.claims)
    names = (meta.spec(claim).get("volumeName") or "" for claim in claims if claim is not None)
    return [volumes.volumes[name] for name in names if name in volumes.volumes]


class VolumeZone(Plugin):
    """VolumeZone: a volume that is marked with a zone or region is used there."""

    name: ClassVar[str] = "VolumeZone"
    scope: ClassVar[Scope] = Scope.CLUSTER
    has_one_reason: ClassVar[bool] = True

    def _zones(self, view: PodView) -> list[tuple[str, frozenset[str]]]:
        found: list[tuple[str, frozenset[str]]] | None = view.memo.get(self.name)
        if found is None:
            found = view.memo[self.name] = [zone for volume in _bound(view) for zone in volume.zones]
        return found

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.claims and self._zones(view))

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        return super().allowed(view, rows) if self.concerns(view) else None

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not self.concerns(view):
            return None
        labels = view.snapshot.info(row).labels
        if not any(key in labels for key in ZONE_LABELS):
            return None  # a cluster of one zone does not mark its nodes
        for key, values in self._zones(view):
            here = labels.get(key) or labels.get(ZONE_LABELS[key])
            if here not in values:
                return Refusal(self.name, ("node(s) had no available volume zone",), False)
        return None


class VolumeRestrictions(Plugin):
    """VolumeRestrictions: a ReadWriteOncePod claim has one pod, a disk that is not shared one pod of a node."""

    name: ClassVar[str] = "VolumeRestrictions"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def _exclusive(self, view: PodView) -> list[str]:
        """The pod's claims that only one pod may use."""
        known = view.cluster.volumes.claims
        return [
            key
            for key in view.pod.claims
            if key in known and READ_WRITE_ONCE_POD in (meta.spec(known[key]).get("accessModes") or ())
        ]

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.disks or (view.pod.claims and self._exclusive(view)))

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        pod, snapshot = view.pod, view.snapshot
        if pod.claims and any(view.cluster.volumes.use.pods(key) for key in self._exclusive(view)):
            return np.zeros(len(snapshot.numbers(rows)), dtype=np.bool_)
        return super().allowed(view, rows) if pod.disks else None

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        pod = view.pod
        if pod.disks:
            others = view.snapshot.pods_on(view.snapshot.info(row).name).values()
            if any(disks_conflict(mine, theirs) for other in others for mine in pod.disks for theirs in other.disks):
                return Refusal(self.name, ("node(s) had no available disk",), True)
        if pod.claims and any(view.cluster.volumes.use.pods(key) for key in self._exclusive(view)):
            text = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"
            return Refusal(self.name, (text,), True)
        return None


def disks_conflict(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two pods' volumes are the same disk, which cannot be shared so."""
    for field, (names, shareable) in _DISKS.items():
        mine, theirs = one.get(field), other.get(field)
        if not mine or not theirs or any(mine.get(name) != theirs.get(name) for name in names):
            continue
        if field == "rbd" and not set(mine.get("monitors") or ()) & set(theirs.get("monitors") or ()):
            continue
        if not (shareable and mine.get("readOnly") and theirs.get("readOnly")):
            return True
    return False


class NodeVolumeLimits(Plugin):
    """NodeVolumeLimits: a driver attaches so many volumes to a node, and no more; some want to be there first."""

    name: ClassVar[str] = "NodeVolumeLimits"
    scope: ClassVar[Scope] = Scope.CLUSTER

    def _drivers(self, view: PodView) -> dict[str, list[str]]:
        """The pod's claims by driver, of drivers with limits and of those that want to be there first."""
        found: dict[str, list[str]] | None = view.memo.get(self.name)
        if found is None:
            found, volumes = {}, view.cluster.volumes
            for key in dict.fromkeys((*view.pod.claims, *view.pod.attached)):
                driver = volumes.driver_of(key)
                if driver and (volumes.use.limits(driver) or driver in volumes.strict_drivers):
                    found.setdefault(driver, []).append(key)
            view.memo[self.name] = found
        return found

    def concerns(self, view: PodView) -> bool:
        return bool((view.pod.claims or view.pod.attached) and self._drivers(view))

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        if not self.concerns(view):
            return None
        snapshot = view.snapshot
        found = np.ones(snapshot.rows, dtype=np.bool_)
        use = view.cluster.volumes.use
        strict = view.cluster.volumes.strict_drivers
        for driver in self._drivers(view):
            if driver in strict:
                found[[row for name, row in snapshot.nodes() if not use.has_driver(name, driver)]] = False
            for name in use.full(driver, len(view.pod.claims) + len(view.pod.attached)):
                row = snapshot.index.get(name)
                if row is not None:
                    found[row] = self.refusal(view, row) is None
        return found[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if not self.concerns(view):
            return None
        use, node = view.cluster.volumes.use, view.snapshot.info(row)
        strict = view.cluster.volumes.strict_drivers
        for driver in self._drivers(view):
            if driver in strict and not use.has_driver(node.name, driver):
                return Refusal(self.name, (f"{driver} CSI driver is not installed on the node",), True)
        for driver, claims in self._drivers(view).items():
            limit = use.limits(driver).get(node.name)
            more = {claim for claim in claims if not use.pods(claim).get(node.name)} if limit is not None else set()
            unused = view.cluster.volumes.attached_unused(driver, node.name) if more else set()
            if more - unused and use.attached(driver, node.name) + len(unused | more) > (limit or 0):
                return Refusal(self.name, ("node(s) exceed max volume count",), True)
        return None

    def refusals(self, view: PodView, rows: Ints) -> Iterable[tuple[Refusal, Ints]]:
        if not view.cluster.volumes.strict_drivers.isdisjoint(self._drivers(view)):
            return super().refusals(view, rows)
        found = self.refusal(view, int(rows[0]))
        return [] if found is None else [(found, rows)]
