"""Volumes of pods: which nodes can reach bound ones, and take or make those that wait for their first consumer.

The scheduler only chooses the node (annotation `volume.kubernetes.io/selected-node`); the controller manager then
binds a volume of that node, or has one made there.

Source: Kubernetes concepts "Storage Classes" (volume binding mode, allowed topologies), "Persistent Volumes" (node
affinity), "Storage Capacity".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import (
    LOCAL,
    NO_PROVISIONER,
    REPLICATED,
    SELECTED_NODE,
    capacity_bytes,
    class_of,
    fits,
    is_bound,
    is_free,
    refers_to,
    requested_bytes,
)
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import IN, LabelSelector, Requirement, from_label_selector
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import NodeTerm, admits, node_terms
from rayplane.control_plane.scheduler.claim_use import ClaimUse
from rayplane.control_plane.scheduler.nodes import HOSTNAME, NodeInfo
from rayplane.control_plane.scheduler.pods import AMOUNT_MAX, DISK_MARK, MIGRATED, PodInfo
from rayplane.control_plane.scheduler.rows import rows_of_selector, rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Snapshot

NO_AFFINITY = "node(s) didn't match PersistentVolume's node affinity"
NOTHING_TO_BIND = "node(s) didn't find available persistent volumes to bind"
NO_SPACE = "node(s) did not have enough free storage"
UNBOUND_IMMEDIATE = "pod has unbound immediate PersistentVolumeClaims"


#: Labels of volumes and nodes that name a zone or region, and the older names of the same.
ZONE_LABELS = {
    "topology.kubernetes.io/zone": "",
    "topology.kubernetes.io/region": "",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
READ_WRITE_ONCE_POD = "ReadWriteOncePod"


@dataclass(frozen=True, slots=True)
class Volume:
    """Facts of a PersistentVolume that matter for scheduling."""

    obj: Object
    name: str
    terms: tuple[NodeTerm, ...] | None
    size: int
    #: Nodes that hold its bytes, as far as the object tells.
    nodes: tuple[str, ...]
    #: The driver that attaches it; empty for none.
    driver: str
    #: (label, values) that a node must have one of.
    zones: tuple[tuple[str, frozenset[str]], ...]

    @staticmethod
    def of(obj: Object) -> Volume:
        spec = meta.spec(obj)
        terms = node_terms((spec.get("nodeAffinity") or {}).get("required"))
        csi = spec.get("csi") or {}
        replicas = (csi.get("volumeAttributes") or {}).get("replicas") or ""
        nodes = tuple(name for name in replicas.split(",") if name)
        if not nodes and terms:
            pinned = (r for t in terms for r in t.labels.requirements if r.key == HOSTNAME and r.operator == "in")
            nodes = tuple(value for r in pinned for value in r.values)
        driver = csi.get("driver") or next((name for field, name in MIGRATED.items() if spec.get(field)), "")
        labels = meta.labels(obj)
        zones = tuple((key, frozenset(labels[key].split("__"))) for key in ZONE_LABELS if key in labels)
        return Volume(obj, meta.name(obj), terms, capacity_bytes(obj), nodes, driver, zones)

    def is_elsewhere(self, node: str) -> bool:
        """The bytes of a local volume are on another node."""
        driver = (meta.spec(self.obj).get("csi") or {}).get("driver")
        return driver == LOCAL and bool(self.nodes) and node not in self.nodes

    @property
    def is_anywhere(self) -> bool:
        """Whether every node reaches it."""
        return self.terms is None and self.driver != REPLICATED

    def admits(self, node: NodeInfo) -> bool:
        if self.driver == REPLICATED and node.volume_bytes == 0:
            return False  # a node that keeps no volumes does not speak to their replicas either
        return self.terms is None or admits(self.terms, {HOSTNAME: node.name, **node.labels}, node.name)


@dataclass(frozen=True, slots=True)
class VolumeNeeds:
    """Needs of a pod's claims that a node must meet. `problem`: no node will do until something else happens."""

    problem: str = ""
    bound: tuple[Volume, ...] = ()
    waiting: tuple[Object, ...] = ()
    """The smallest first: of volumes that exist it gets the small ones."""
    rooms: dict[str, Ints | None] = field(default_factory=dict)
    """What `VolumeIndex.room_for` has found out, by claim, in the decision that the needs are worked out for."""


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
        self._attachments: dict[str, tuple[str, str, str]] = {}  # by name: driver, node, volume
        self._attached_to: dict[str, set[str]] = {}  # node: attachments
        #: Drivers whose volumes go only to nodes that have the driver.
        self.strict_drivers: set[str] = set()
        self._promised: dict[str, _Promise] = {}  # by claim
        self._holders: dict[str, set[str]] = {}  # uids of the pods that count on it
        self._free: dict[str, dict[str, Volume]] = {}  # volumes that a claim may still get, by class
        #: Which claims are in use where, and what each node's drivers can attach.
        self.use = ClaimUse(self.driver_of)

    # -- objects -------------------------------------------------------------------------------------------

    def set_claim(self, claim: Object) -> None:
        key = meta.key(claim)
        self.claims[key] = claim
        if is_bound(claim):
            self._drop_promise(key)
        self.use.driver_may_differ(key)

    def remove_claim(self, key: str) -> None:
        self.claims.pop(key, None)
        self._drop_promise(key)

    def _drop_promise(self, key: str) -> None:
        self._promised.pop(key, None)
        self._holders.pop(key, None)

    def set_volume(self, volume: Object) -> None:
        name = meta.name(volume)
        self.remove_volume(name)
        found = self.volumes[name] = Volume.of(volume)
        ref = meta.spec(volume).get("claimRef") or {}
        if meta.status(volume).get("phase") != "Bound":
            self._free.setdefault(class_of(volume), {})[name] = found
        if ref:
            self.use.driver_may_differ(f"{ref.get('namespace')}/{ref.get('name')}")

    def remove_volume(self, name: str) -> None:
        old = self.volumes.pop(name, None)
        if old is not None:
            self._free.get(class_of(old.obj), {}).pop(name, None)

    def driver_of(self, key: str) -> str:
        """The driver that attaches a claim's volume, or will, or a pod's own disk; empty when that is not known."""
        if DISK_MARK in key:
            return key.partition(DISK_MARK)[0]
        claim = self.claims.get(key)
        if claim is None:
            return ""
        volume = self.volumes.get(meta.spec(claim).get("volumeName") or "")
        if volume is not None:
            return volume.driver
        provisioner: str = (self.classes.get(class_of(claim)) or {}).get("provisioner") or ""
        return "" if provisioner == NO_PROVISIONER else provisioner

    def set_attachment(self, attachment: Object) -> None:
        """A volume is attached to a node, or is to be."""
        spec, name = meta.spec(attachment), meta.name(attachment)
        driver, node = spec.get("attacher") or "", spec.get("nodeName") or ""
        volume = (spec.get("source") or {}).get("persistentVolumeName") or ""
        self.remove_attachment(name)
        self._attachments[name] = driver, node, volume
        self._attached_to.setdefault(node, set()).add(name)
        self.use.attach(driver, node, 1)

    def remove_attachment(self, name: str) -> None:
        found = self._attachments.pop(name, None)
        if found is not None:
            driver, node, _ = found
            self.use.attach(driver, node, -1)
            self._attached_to[node].discard(name)
            if not self._attached_to[node]:
                del self._attached_to[node]

    def attached_unused(self, driver: str, node: str) -> set[str]:
        """The claims whose volumes a driver has attached to a node where no pod uses them."""
        found = set()
        for name in self._attached_to.get(node, ()):
            by, _, volume = self._attachments[name]
            known = self.volumes.get(volume)
            if by == driver and known is not None:
                ref = meta.spec(known.obj).get("claimRef") or {}
                claim = f"{ref.get('namespace')}/{ref.get('name')}" if ref else volume
                if not self.use.pods(claim).get(node):
                    found.add(claim)
        return found

    def set_driver(self, driver: Object) -> None:
        """A driver says whether its volumes may go to nodes that do not have it yet."""
        is_strict = meta.spec(driver).get("preventPodSchedulingIfMissing") is True
        (self.strict_drivers.add if is_strict else self.strict_drivers.discard)(meta.name(driver))

    def remove_driver(self, name: str) -> None:
        self.strict_drivers.discard(name)

    def promise(self, keys: Iterable[str], node: NodeInfo, uid: str) -> None:
        """The claims of a placed pod get their volumes on `node`: other pods may not count on those.

        What another pod with the same claim was promised there holds for both.
        """
        for key in keys:
            claim = self.claims[key]
            self._holders.setdefault(key, set()).add(uid)
            known = self._promised.get(key)
            if known is not None and known.node == node.name:
                continue
            volume = self._match(claim, node, ())
            if volume is not None:
                self._promised[key] = _Promise(node.name, volume.name, 0)
            else:
                replicated = self.classes[class_of(claim)].get("provisioner") == REPLICATED
                self._promised[key] = _Promise(node.name, "", 0 if replicated else requested_bytes(claim))

    def forget(self, keys: Iterable[str], uid: str) -> None:
        """A placed pod came to nothing: what it alone counted on is free again."""
        for key in keys:
            holders = self._holders.get(key, set())
            holders.discard(uid)
            if not holders:
                self._drop_promise(key)

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
        return VolumeNeeds("", tuple(bound), tuple(sorted(waiting, key=requested_bytes)))

    def _waits_for_consumer(self, claim: Object) -> bool:
        storage = self.classes.get(class_of(claim))
        return storage is not None and storage.get("volumeBindingMode") == "WaitForFirstConsumer"

    def refusal(self, needs: VolumeNeeds, node: NodeInfo, free: int | None) -> str:
        """Why a node cannot serve these volumes; empty when it can. `free` bytes are left for new ones, if known."""
        if any(not volume.admits(node) for volume in needs.bound):
            return NO_AFFINITY
        wanted = 0
        taken: list[str] = []
        for claim in needs.waiting:
            promise = self._promised.get(meta.key(claim))
            selected = self._selected(claim)
            if selected and selected != node.name:
                return NOTHING_TO_BIND
            volume = self._match(claim, node, taken)
            if volume is not None:
                taken.append(volume.name)
                continue
            storage = self.classes[class_of(claim)]
            if storage.get("provisioner") == NO_PROVISIONER or not _allows(storage, node):
                return NOTHING_TO_BIND
            replicated = storage.get("provisioner") == REPLICATED
            if not self._capacity_published(claim, storage, node) or (replicated and node.volume_bytes == 0):
                return NO_SPACE
            if not replicated and promise is None:
                wanted += requested_bytes(claim)
        return NO_SPACE if free is not None and wanted > free else ""

    def _selected(self, claim: Object) -> str:
        """The node that was chosen for a claim already."""
        promise = self._promised.get(meta.key(claim))
        return meta.annotations(claim).get(SELECTED_NODE) or (promise.node if promise else "")

    def mask(self, needs: VolumeNeeds, snapshot: Snapshot) -> Bools:
        """True for rows whose node can serve the volumes."""
        found = snapshot.valid.copy()
        for volume in needs.bound:
            if volume.terms is not None:
                found &= rows_of_terms(snapshot, volume.terms)
        if snapshot.reports_volume_bytes and any(volume.driver == REPLICATED for volume in needs.bound):
            for row in np.flatnonzero(found).tolist():
                found[row] = snapshot.info(row).volume_bytes != 0
        if not needs.waiting or not found.any():
            return found
        candidates = [self._candidates(claim, ()) for claim in needs.waiting]
        for claim, volumes in zip(needs.waiting, candidates, strict=True):
            found &= self._served(claim, volumes, needs, snapshot)
        if len(needs.waiting) > 1 or snapshot.reports_volume_bytes:
            # Claims may want the same volume, and share a node's room: looked at node by node.
            free = self.free_bytes(snapshot)
            for row in np.flatnonzero(found).tolist():
                node = snapshot.info(row)
                found[row] = not self.refusal(needs, node, free.get(node.name))
        return found

    def _served(self, claim: Object, candidates: Sequence[Volume], needs: VolumeNeeds, snapshot: Snapshot) -> Bools:
        """Rows where one claim finds a volume, or gets one made."""
        selected = self._selected(claim)
        if selected:
            found = np.zeros(snapshot.rows, dtype=np.bool_)
            row = snapshot.index.get(selected)
            if row is not None:
                found[row] = not self.refusal(VolumeNeeds(waiting=(claim,)), snapshot.info(row), None)
            return found
        storage = self.classes[class_of(claim)]
        found = np.zeros(snapshot.rows, dtype=np.bool_)
        if storage.get("provisioner") != NO_PROVISIONER:
            room = self.room_for(claim, needs, snapshot)
            found = _allowed_rows(storage, snapshot) & (snapshot.valid if room is None else room >= 0)
        for volume in candidates:
            found |= snapshot.valid if volume.terms is None else rows_of_terms(snapshot, volume.terms)
            if found.all():
                break
        return found

    def free_bytes(self, snapshot: Snapshot) -> dict[str, int]:
        """Bytes left for volumes on the nodes that report how many they have."""
        if not snapshot.reports_volume_bytes:
            return {}
        free = {
            name: info.volume_bytes
            for name, row in snapshot.index.items()
            if (info := snapshot.info(row)).volume_bytes is not None
        }
        for volume in self.volumes.values():
            for name in volume.nodes:
                if name in free:
                    free[name] -= volume.size
        for promise in self._promised.values():
            if promise.node in free:
                free[promise.node] -= promise.size
        return free

    def _candidates(self, claim: Object, taken: Collection[str]) -> list[Volume]:
        """Volumes that are free for a claim and fit it, wherever they are."""
        free = self._free.get(class_of(claim))
        if not free:
            return []
        key = meta.key(claim)
        promised = {p.volume for other, p in self._promised.items() if other != key}
        return [v for v in free.values() if v.name not in taken and v.name not in promised and _fits(v, claim)]

    def _match(self, claim: Object, node: NodeInfo, taken: Collection[str]) -> Volume | None:
        """The smallest volume that exists, is free for the claim, fits it and is reachable from the node."""
        found = [v for v in self._candidates(claim, taken) if v.admits(node)]
        return min(found, key=lambda v: (v.size, v.name), default=None)

    def free_for(self, claim: Object) -> list[Volume]:
        """Volumes that a claim may get, wherever they are."""
        return self._candidates(claim, ())

    def room_for(self, claim: Object, needs: VolumeNeeds, snapshot: Snapshot) -> Ints | None:
        """For each row the largest capacity that has room for the claim, -1 where none has.

        None where the claim's class has no CSIStorageCapacity: nobody says how much there is.
        """
        key = meta.key(claim)
        if key not in needs.rooms:
            needs.rooms[key] = self._room_for(claim, snapshot)
        return needs.rooms[key]

    def _room_for(self, claim: Object, snapshot: Snapshot) -> Ints | None:
        published = [c for c in self.capacities.values() if c.get("storageClassName") == class_of(claim)]
        if not published:
            return None
        wanted = requested_bytes(claim)
        found = np.full(snapshot.rows, -1, dtype=np.int64)
        for capacity in published:
            if _has_room(capacity, wanted):
                rows = rows_of_selector(snapshot, from_label_selector(capacity.get("nodeTopology")))
                size = min(quantity.value(capacity.get("capacity") or "0"), AMOUNT_MAX)
                found[rows] = np.maximum(found[rows], size)
        return found

    def _capacity_published(self, claim: Object, storage: Object, node: NodeInfo) -> bool:
        """CSIStorageCapacity objects of the class, if there are any, must show room reachable from the node."""
        published = [c for c in self.capacities.values() if c.get("storageClassName") == meta.name(storage)]
        wanted = requested_bytes(claim)
        return not published or any(
            _has_room(c, wanted) and from_label_selector(c.get("nodeTopology")).matches(node.labels) for c in published
        )


def _has_room(capacity: Object, wanted: int) -> bool:
    return quantity.value(capacity.get("maximumVolumeSize") or capacity.get("capacity") or "0") >= wanted


def _allowed_rows(storage: Object, snapshot: Snapshot) -> Bools:
    """Rows that allowedTopologies admits."""
    terms = storage.get("allowedTopologies")
    if not terms:
        return snapshot.valid
    found = np.zeros(snapshot.rows, dtype=np.bool_)
    for term in terms:
        rules = [
            Requirement(e.get("key") or "", IN, tuple(sorted(e.get("values") or ())))
            for e in term.get("matchLabelExpressions") or ()
        ]
        found |= rows_of_selector(snapshot, LabelSelector(rules))
    return found


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
