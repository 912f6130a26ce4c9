"""Filters: the nodes that a pod may go to, and why it may not go to the others.

Every rule exists once as a mask over all rows (fast) and once as a reason for one row (for messages, `explain` and
preemption); tests hold both together. The order of rules is Kubernetes': a node's first refusal is the one told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rayplane.control_plane.api.pods.ports import ports_conflict
from rayplane.control_plane.api.taints import HARD_EFFECTS, NO_SCHEDULE, UNSCHEDULABLE, Taint
from rayplane.control_plane.scheduler import interpod
from rayplane.control_plane.scheduler.interpod import Refusals, SpreadRefusals
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import CPU, MEMORY, PODS, STORAGE, PodInfo, Shape
from rayplane.control_plane.scheduler.snapshot import Bools, Snapshot
from rayplane.control_plane.scheduler.volumes import NO_SPACE, VolumeIndex, VolumeNeeds

_UNSCHEDULABLE = Taint(UNSCHEDULABLE, "", NO_SCHEDULE)
_RESOURCE_ORDER = {PODS: 0, CPU: 1, MEMORY: 2, STORAGE: 3}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A reason why a node does not do. `resolvable`: removing pods from it might help."""

    plugin: str
    reasons: tuple[str, ...]
    resolvable: bool


def untolerated(shape: Shape, node: NodeInfo) -> Taint | None:
    """The first taint that keeps the pod away."""
    for taint in node.taints:
        if taint.effect in HARD_EFFECTS and not shape.tolerates(taint):
            return taint
    return None


def refused_by_node(shape: Shape, node: NodeInfo) -> Refusal | None:
    """Rules that only look at what the node is, not at its pods."""
    if node.unschedulable and not shape.tolerates(_UNSCHEDULABLE):
        return Refusal("NodeUnschedulable", ("node(s) were unschedulable",), False)
    taint = untolerated(shape, node)
    if taint is not None:
        text = f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"
        return Refusal("TaintToleration", (text,), False)
    if not shape.admits_labels(node.labels, node.name):
        return Refusal("NodeAffinity", ("node(s) didn't match Pod's node affinity/selector",), False)
    return None


def refused_by_ports(shape: Shape, snapshot: Snapshot, row: int) -> Refusal | None:
    if shape.ports:
        used = snapshot.ports(row)
        if any(ports_conflict(mine, other) for mine in shape.ports for other in used):
            return Refusal("NodePorts", ("node(s) didn't have free ports for the requested pod ports",), True)
    return None


def refused_by_resources(shape: Shape, snapshot: Snapshot, row: int) -> Refusal | None:
    lacking = []
    resolvable = True
    for resource, wanted in shape.requests.items():
        column = snapshot.column(resource)
        allocatable = int(snapshot.allocatable[row, column])
        if int(snapshot.requested[row, column]) + wanted > allocatable:
            lacking.append(resource)
            resolvable = resolvable and wanted <= allocatable
    if not lacking:
        return None
    lacking.sort(key=lambda resource: (_RESOURCE_ORDER.get(resource, 4), resource))
    reasons = tuple("Too many pods" if r == PODS else f"Insufficient {r}" for r in lacking)
    return Refusal("NodeResourcesFit", reasons, resolvable)


@dataclass(slots=True)
class PodView:
    """One pod against the snapshot as it is now: made for one decision, thrown away after it.

    `admitted` are the rows whose node the pod's selector and affinity allow (needed by spread rules).
    """

    pod: PodInfo
    snapshot: Snapshot
    volumes: VolumeIndex
    needs: VolumeNeeds
    _interpod: Refusals | None = None
    _spread: SpreadRefusals | None = None
    _spread_known: bool = False
    _admitted: Bools | None = None
    _free: dict[str, int] | None = field(default=None)

    @staticmethod
    def of(pod: PodInfo, snapshot: Snapshot, volumes: VolumeIndex) -> PodView:
        needs = volumes.needs(pod) if pod.claims else VolumeNeeds()
        return PodView(pod, snapshot, volumes, needs)

    def admitted(self) -> Bools:
        if self._admitted is None:
            snapshot, shape = self.snapshot, self.pod.shape
            found = np.zeros(snapshot.rows, dtype=np.bool_)
            for _, row in snapshot.nodes():
                info = snapshot.info(row)
                found[row] = shape.admits_labels(info.labels, info.name)
            self._admitted = found
        return self._admitted

    def interpod(self) -> Refusals:
        if self._interpod is None:
            self._interpod = interpod.refusals(self.pod, self.snapshot)
        return self._interpod

    def spread(self) -> SpreadRefusals | None:
        if not self._spread_known:
            self._spread_known = True
            if any(rule.hard for rule in self.pod.spread):
                self._spread = interpod.spread_refusals(self.pod, self.snapshot, self.admitted())
        return self._spread

    def mask(self) -> Bools | None:
        """Rows that the rules beyond node, ports and resources allow; None when none of those rules applies."""
        snapshot = self.snapshot
        found: Bools | None = None
        if self.needs.bound or self.needs.waiting:
            found = self.volumes.mask(self.needs, snapshot)
        spread = self.spread()
        if spread is not None:
            allowed = ~(spread.skewed | spread.unlabelled)
            found = allowed if found is None else found & allowed
        if self.pod.affinity or self.pod.anti_affinity or snapshot.anti_terms():
            allowed_near = self.interpod().mask(snapshot.rows)
            if allowed_near is not None:
                found = allowed_near if found is None else found & allowed_near
        return found

    def refusal(self, row: int) -> Refusal | None:
        """The first rule, in Kubernetes' order, that keeps the pod off a node."""
        shape, snapshot = self.pod.shape, self.snapshot
        node = snapshot.info(row)
        return (
            refused_by_node(shape, node)
            or refused_by_ports(shape, snapshot, row)
            or refused_by_resources(shape, snapshot, row)
            or self._refused_by_volumes(node)
            or self._refused_by_spread(row)
            or self._refused_by_pods(row)
        )

    def _refused_by_volumes(self, node: NodeInfo) -> Refusal | None:
        if not (self.needs.bound or self.needs.waiting):
            return None
        if self._free is None:
            self._free = self.volumes.free_bytes(self.snapshot) if self.needs.waiting else {}
        text = self.volumes.refusal(self.needs, node, self._free)
        return Refusal("VolumeBinding", (text,), text == NO_SPACE) if text else None

    def _refused_by_spread(self, row: int) -> Refusal | None:
        spread = self.spread()
        if spread is not None and spread.unlabelled[row]:
            return Refusal("PodTopologySpread", (interpod.SPREAD_NO_LABEL,), False)
        if spread is not None and spread.skewed[row]:
            return Refusal("PodTopologySpread", (interpod.SPREAD,), True)
        return None

    def _refused_by_pods(self, row: int) -> Refusal | None:
        found = self.interpod()
        if found.affinity is not None and found.affinity[row]:
            return Refusal("InterPodAffinity", (interpod.AFFINITY,), False)
        if found.anti_affinity is not None and found.anti_affinity[row]:
            return Refusal("InterPodAffinity", (interpod.ANTI_AFFINITY,), True)
        if found.existing is not None and found.existing[row]:
            return Refusal("InterPodAffinity", (interpod.EXISTING_ANTI_AFFINITY,), True)
        return None
