"""Volumes of pods: which nodes can reach bound ones, and take or make those that wait for their first consumer.

The scheduler only chooses the node (annotation `volume.kubernetes.io/selected-node`); the controller manager then
binds a volume of that node, or has one made there.

Source: Kubernetes concepts "Storage Classes" (volume binding mode, allowed topologies), "Persistent Volumes" (node
affinity), "Storage Capacity".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import (
    REPLICATED,
    capacity_bytes,
    class_of,
    fits,
    is_bound,
    is_free,
    refers_to,
    requested_bytes,
)
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import NodeTerm, admits, node_terms
from rayplane.control_plane.scheduler.nodes import HOSTNAME, NodeInfo
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Bools, Snapshot

SELECTED_NODE = "volume.kubernetes.io/selected-node"
NO_PROVISIONER = "kubernetes.io/no-provisioner"

NO_AFFINITY = "node(s) didn't match PersistentVolume's node affinity"
NOTHING_TO_BIND = "node(s) didn't find available persistent volumes to bind"
NO_SPACE = "node(s) did not have enough free storage"
UNBOUND_IMMEDIATE = "pod has unbound immediate PersistentVolumeClaims"


@dataclass(frozen=True, slots=True)
class Volume:
    """Facts of a PersistentVolume that matter for scheduling."""

    obj: Object
    name: str
    terms: tuple[NodeTerm, ...] | None
    size: int
    #: Nodes that hold its bytes, as far as the object tells.
    nodes: tuple[str, ...]

    @staticmethod
    def of(obj: Object) -> Volume:
        spec = meta.spec(obj)
        terms = node_terms((spec.get("nodeAffinity") or {}).get("required"))
        replicas = ((spec.get("csi") or {}).get("volumeAttributes") or {}).get("replicas") or ""
        nodes = tuple(name for name in replicas.split(",") if name)
        if not nodes and terms:
            pinned = (r for t in terms for r in t.labels.requirements if r.key == HOSTNAME and r.operator == "in")
            nodes = tuple(value for r in pinned for value in r.values)
        return Volume(obj, meta.name(obj), terms, capacity_bytes(obj), nodes)

    def admits(self, node: NodeInfo) -> bool:
        return self.terms is None or admits(self.terms, {HOSTNAME: node.name, **node.labels}, node.name)


@dataclass(frozen=True, slots=True)
class VolumeNeeds:
    """Needs of a pod's claims that a node must meet. `problem`: no node will do until something else happens."""

    problem: str = ""
    bound: tuple[Volume, ...] = ()
    waiting: tuple[Object, ...] = ()


@dataclass(frozen=True, slots=True)
class _Promise:
    """A claim's volume: `volume` of those that exist, or a new one of `size` bytes on `node`."""

    node: str
    volume: str
    size: int


class VolumeIndex:
    """Claims, volumes and classes as last seen, and what was promised to pods placed since."""

    def __init__(self) -> None:
        self.claims: dict[str, Object] = {}
        self.volumes: dict[str, Volume] = {}
        self.classes: dict[str, Object] = {}
        self.capacities: dict[str, Object] = {}
        self._promised: dict[str, _Promise] = {}  # by claim

    # -- objects -------------------------------------------------------------------------------------------

    def set_claim(self, claim: Object) -> None:
        key = meta.key(claim)
        self.claims[key] = claim
        if is_bound(claim):
            self._promised.pop(key, None)

    def remove_claim(self, key: str) -> None:
        self.claims.pop(key, None)
        self._promised.pop(key, None)

    def set_volume(self, volume: Object) -> None:
        self.volumes[meta.name(volume)] = Volume.of(volume)

    def remove_volume(self, name: str) -> None:
        self.volumes.pop(name, None)

    def promise(self, keys: Iterable[str], node: NodeInfo) -> None:
        """The claims of a placed pod get their volumes on `node`: other pods may not count on those."""
        for key in keys:
            claim = self.claims[key]
            volume = self._match(claim, node, ())
            if volume is not None:
                self._promised[key] = _Promise(node.name, volume.name, 0)
            else:
                replicated = self.classes[class_of(claim)].get("provisioner") == REPLICATED
                self._promised[key] = _Promise(node.name, "", 0 if replicated else requested_bytes(claim))

    def forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._promised.pop(key, None)

    # -- questions -----------------------------------------------------------------------------------------

    def needs(self, pod: PodInfo) -> VolumeNeeds:
        """What the pod's claims ask for, or why it cannot be placed at all now."""
        bound: list[Volume] = []
        waiting: list[Object] = []
        unbound_immediate = False
        for key in pod.claims:
            claim = self.claims.get(key)
            name = key.partition("/")[2]
            if claim is None:
                return VolumeNeeds(f'persistentvolumeclaim "{name}" not found')
            if meta.is_deleting(claim):
                return VolumeNeeds(f'persistentvolumeclaim "{name}" is being deleted')
            if meta.status(claim).get("phase") == "Lost":
                lost = meta.spec(claim).get("volumeName") or ""
                return VolumeNeeds(f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{lost}"')
            volume_name = meta.spec(claim).get("volumeName")
            if is_bound(claim):
                volume = self.volumes.get(volume_name or "")
                if volume is None:
                    return VolumeNeeds(f'persistentvolume "{volume_name}" not found')
                bound.append(volume)
            elif volume_name or not self._waits_for_consumer(claim):
                unbound_immediate = True
            else:
                waiting.append(claim)
        if unbound_immediate:
            return VolumeNeeds(UNBOUND_IMMEDIATE)
        return VolumeNeeds("", tuple(bound), tuple(waiting))

    def _waits_for_consumer(self, claim: Object) -> bool:
        storage = self.classes.get(class_of(claim))
        return storage is not None and storage.get("volumeBindingMode") == "WaitForFirstConsumer"

    def refusal(self, needs: VolumeNeeds, node: NodeInfo, free: Mapping[str, int]) -> str:
        """Why a node cannot serve these volumes; empty when it can. `free` as `free_bytes` gives it."""
        if any(not volume.admits(node) for volume in needs.bound):
            return NO_AFFINITY
        wanted = 0
        taken: list[str] = []
        for claim in needs.waiting:
            promise = self._promised.get(meta.key(claim))
            selected = meta.annotations(claim).get(SELECTED_NODE) or (promise.node if promise else "")
            if selected and selected != node.name:
                return NOTHING_TO_BIND
            volume = self._match(claim, node, taken)
            if volume is not None:
                taken.append(volume.name)
                continue
            storage = self.classes[class_of(claim)]
            if storage.get("provisioner") == NO_PROVISIONER or not _allows(storage, node):
                return NOTHING_TO_BIND
            if not self._capacity_published(claim, storage, node):
                return NO_SPACE
            if storage.get("provisioner") != REPLICATED and promise is None:
                wanted += requested_bytes(claim)
        return NO_SPACE if wanted > free.get(node.name, wanted) else ""

    def mask(self, needs: VolumeNeeds, snapshot: Snapshot) -> Bools:
        """True for rows whose node can serve the volumes."""
        free = self.free_bytes(snapshot) if needs.waiting else {}
        found = np.zeros(snapshot.rows, dtype=np.bool_)
        for _, row in snapshot.nodes():
            found[row] = not self.refusal(needs, snapshot.info(row), free)
        return found

    def free_bytes(self, snapshot: Snapshot) -> dict[str, int]:
        """Bytes left for volumes on the nodes that report how many they have."""
        free = {
            name: info.volume_bytes
            for name, row in snapshot.index.items()
            if (info := snapshot.info(row)).volume_bytes is not None
        }
        if free:
            for volume in self.volumes.values():
                for name in volume.nodes:
                    if name in free:
                        free[name] -= volume.size
            for promise in self._promised.values():
                if promise.node in free:
                    free[promise.node] -= promise.size
        return free

    def _match(self, claim: Object, node: NodeInfo, taken: Collection[str]) -> Volume | None:
        """The smallest volume that exists, is free for the claim, fits it and is reachable from the node."""
        key = meta.key(claim)
        promised = {p.volume for other, p in self._promised.items() if other != key}
        found = [
            v
            for v in self.volumes.values()
            if v.name not in taken and v.name not in promised and _fits(v, claim) and v.admits(node)
        ]
        return min(found, key=lambda v: (v.size, v.name), default=None)

    def _capacity_published(self, claim: Object, storage: Object, node: NodeInfo) -> bool:
        """CSIStorageCapacity objects of the class, if there are any, must show room reachable from the node."""
        published = [c for c in self.capacities.values() if c.get("storageClassName") == meta.name(storage)]
        wanted = requested_bytes(claim)
        return not published or any(
            quantity.value(c.get("maximumVolumeSize") or c.get("capacity") or "0") >= wanted
            and from_label_selector(c.get("nodeTopology")).matches(node.labels)
            for c in published
        )


def _fits(volume: Volume, claim: Object) -> bool:
    return (is_free(volume.obj) or refers_to(volume.obj, claim)) and fits(volume.obj, claim)


def _allows(storage: Object, node: NodeInfo) -> bool:
    """allowedTopologies: any term, all of its label expressions."""
    terms = storage.get("allowedTopologies")
    if not terms:
        return True
    return any(
        all(
            node.labels.get(expression.get("key") or "") in (expression.get("values") or ())
            for expression in term.get("matchLabelExpressions") or ()
        )
        for term in terms
    )
