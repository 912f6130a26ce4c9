"""Plug-ins about what a node is: its name, features, marks, taints, labels, images; and its ports, which one can have.

Source: Kubernetes concepts "Taints and Tolerations", "Assigning Pods to Nodes", "Scheduler Configuration"; KEP-5328.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from rayplane.control_plane.api.node_affinity import NodeTerm, node_terms, only_names
from rayplane.control_plane.api.taints import (
    HARD_EFFECTS,
    NO_SCHEDULE,
    PREFER_NO_SCHEDULE,
    UNSCHEDULABLE,
    Taint,
    any_tolerates,
)
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.plugins.args import NodeAffinityArgs
from rayplane.control_plane.scheduler.plugins.base import SCORE_MAX, Plugin, PodView, Refusal, Scope, scaled
from rayplane.control_plane.scheduler.pods import Shape
from rayplane.control_plane.scheduler.rows import admitted, rows_of_term, rows_of_terms
from rayplane.control_plane.scheduler.snapshot import Bools, Ints, Rows, Snapshot

_UNSCHEDULABLE = Taint(UNSCHEDULABLE, "", NO_SCHEDULE)
_MEGA = 1024 * 1024
#: Sizes of images between which the score of ImageLocality goes from 0 to 100; the upper one for each container.
_IMAGES_MIN, _IMAGES_MAX = 23 * _MEGA, 1000 * _MEGA
_IMAGE_SCORES_MAX = 256


class NodeUnschedulable(Plugin):
    """NodeUnschedulable: cordoned nodes take who tolerates that."""

    name: ClassVar[str] = "NodeUnschedulable"
    scope: ClassVar[Scope] = Scope.NODE
    has_one_reason: ClassVar[bool] = True

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        return None if view.pod.shape.tolerates(_UNSCHEDULABLE) else ~view.snapshot.unschedulable[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if view.snapshot.info(row).unschedulable and not view.pod.shape.tolerates(_UNSCHEDULABLE):
            return Refusal(self.name, ("node(s) were unschedulable",), False)
        return None


class NodeName(Plugin):
    """NodeName: a pod that names its node goes nowhere else."""

    name: ClassVar[str] = "NodeName"
    scope: ClassVar[Scope] = Scope.CLUSTER  # the name is no part of the shape
    has_one_reason: ClassVar[bool] = True

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.wanted_node)

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        wanted = view.pod.wanted_node
        if not wanted:
            return None
        found = np.zeros(view.snapshot.rows, dtype=np.bool_)
        row = view.snapshot.index.get(wanted)
        if row is not None:
            found[row] = True
        return found[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        wanted = view.pod.wanted_node
        if wanted and view.snapshot.info(row).name != wanted:
            return Refusal(self.name, ("node(s) didn't match the requested node name",), False)
        return None


class NodeDeclaredFeatures(Plugin):
    """NodeDeclaredFeatures: a pod goes where the kubelet knows all that it wants."""

    name: ClassVar[str] = "NodeDeclaredFeatures"
    scope: ClassVar[Scope] = Scope.CLUSTER  # what it wants is no part of the shape
    has_one_reason: ClassVar[bool] = True

    def concerns(self, view: PodView) -> bool:
        return bool(view.pod.features)

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        return super().allowed(view, rows) if view.pod.features else None

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if view.snapshot.info(row).features.issuperset(view.pod.features):
            return None
        return Refusal(self.name, ("node(s) didn't match Pod's required features",), False)


def untolerated(shape: Shape, node: NodeInfo) -> Taint | None:
    """The first taint that keeps the pod away."""
    for taint in node.taints:
        if taint.effect in HARD_EFFECTS and not shape.tolerates(taint):
            return taint
    return None


def tolerated_rows(snapshot: Snapshot, shape: Shape) -> Bools:
    """Rows without a taint that keeps the pod away."""
    found = _by_taints(snapshot, lambda taints: all(t.effect not in HARD_EFFECTS or shape.tolerates(t) for t in taints))
    return found > 0


def _by_taints(snapshot: Snapshot, judge: Callable[[tuple[Taint, ...]], int]) -> Ints:
    """For each row what `judge` says of its taints; asked once for all nodes with the same ones."""
    said = [judge(taints) for taints in snapshot.taint_sets]
    found: Ints = np.array(said, dtype=np.int64)[snapshot.taint_codes]
    return found


class TaintToleration(Plugin):
    """TaintToleration: hard taints keep away who does not tolerate them, soft ones count against a node."""

    name: ClassVar[str] = "TaintToleration"
    scope: ClassVar[Scope] = Scope.NODE

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        return tolerated_rows(view.snapshot, view.pod.shape)[rows] if view.snapshot.has_taints else None

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        taint = untolerated(view.pod.shape, view.snapshot.info(row))
        if taint is None:
            return None
        return Refusal(
            self.name, ("node(s) had untolerated taint(s)",), False, detail=f"{{{taint.key}: {taint.value}}}"
        )

    def refusals(self, view: PodView, rows: Ints) -> Iterable[tuple[Refusal, Ints]]:
        codes = view.snapshot.taint_codes[rows]
        for code in sorted({*codes.tolist()}):
            alike = rows[codes == code]
            found = self.refusal(view, int(alike[0]))
            if found is not None:
                yield found, alike

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        tolerations = [t for t in view.pod.shape.tolerations if t.effect in ("", PREFER_NO_SCHEDULE)]

        def bad(taints: tuple[Taint, ...]) -> int:
            return sum(t.effect == PREFER_NO_SCHEDULE and not any_tolerates(tolerations, t) for t in taints)

        if not view.snapshot.has_taints:
            return None
        return _by_taints(view.snapshot, bad)[rows]

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        return scaled(raw, among, reverse=True)


class NodeAffinity(Plugin):
    """NodeAffinity: nodeSelector, required and preferred terms, and what the profile adds for all pods."""

    name: ClassVar[str] = "NodeAffinity"
    scope: ClassVar[Scope] = Scope.NODE

    def __init__(self, args: NodeAffinityArgs | None = None) -> None:
        super().__init__(args)
        added = (args.added_affinity if args else None) or {}
        self._required = node_terms(added.get("requiredDuringSchedulingIgnoredDuringExecution"))
        self._preferred = tuple(
            (item.get("weight") or 0, NodeTerm.of(item.get("preference") or {}))
            for item in added.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        )

    def only(self, view: PodView) -> frozenset[str] | None:
        return only_names(view.pod.shape.required)

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        shape = view.pod.shape
        if self._required is None and shape.required is None and shape.node_selector.everything:
            return None
        found = admitted(view.snapshot, shape)
        if self._required is not None:
            found &= rows_of_terms(view.snapshot, self._required)
        return found[rows]

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        node = view.snapshot.info(row)
        if self._required is not None and not any(t.matches(node.labels, node.name) for t in self._required):
            return Refusal(self.name, ("node(s) didn't match scheduler-enforced node affinity",), False)
        if not view.pod.shape.admits_labels(node.labels, node.name):
            return Refusal(self.name, ("node(s) didn't match Pod's node affinity/selector",), False)
        return None

    def refusals(self, view: PodView, rows: Ints) -> Iterable[tuple[Refusal, Ints]]:
        if self._required is not None:
            return super().refusals(view, rows)
        found = self.refusal(view, int(rows[0]))
        return [] if found is None else [(found, rows)]

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        preferred = (*self._preferred, *view.pod.shape.preferred)
        if not preferred:
            return None
        found = np.zeros(view.snapshot.rows, dtype=np.int64)
        for weight, term in preferred:
            found += weight * rows_of_term(view.snapshot, term)
        return found[rows]

    def normalized(self, view: PodView, raw: Ints, among: Bools) -> Ints:
        return scaled(raw, among)


class NodePorts(Plugin):
    """NodePorts: host ports that the pod wants must be free."""

    name: ClassVar[str] = "NodePorts"
    scope: ClassVar[Scope] = Scope.USE
    has_one_reason: ClassVar[bool] = True

    def allowed(self, view: PodView, rows: Rows) -> Bools | None:
        wanted = view.pod.shape.ports
        if not wanted:
            return None
        snapshot = view.snapshot
        numbers = snapshot.numbers(rows)
        return np.array([not snapshot.ports(row).conflict(wanted) for row in numbers.tolist()], dtype=np.bool_)

    def refusal(self, view: PodView, row: int) -> Refusal | None:
        if view.snapshot.ports(row).conflict(view.pod.shape.ports):
            return Refusal(self.name, ("node(s) didn't have free ports for the requested pod ports",), True)
        return None


class ImageLocality(Plugin):
    """ImageLocality: nodes that have large images of the pod, if these are on many nodes."""

    name: ClassVar[str] = "ImageLocality"
    scope: ClassVar[Scope] = Scope.CLUSTER  # the share of nodes that have an image changes with any node

    def __init__(self, args: Any = None) -> None:
        super().__init__(args)
        self._known: OrderedDict[Shape, tuple[int, Ints | None]] = OrderedDict()

    def score(self, view: PodView, rows: Rows, among: Bools | None) -> Ints | None:
        snapshot, shape = view.snapshot, view.pod.shape
        if not snapshot.has_images:
            return None
        known = self._known.get(shape)
        if known is None or known[0] != snapshot.node_version:
            known = self._known[shape] = snapshot.node_version, _image_scores(snapshot, shape)
            if len(self._known) > _IMAGE_SCORES_MAX:
                self._known.popitem(last=False)
        return None if known[1] is None else known[1][rows]


def _image_scores(snapshot: Snapshot, shape: Shape) -> Ints | None:
    """From the sum of the images' sizes, each times the share of nodes that have it; None when no node has any."""
    total = np.zeros(snapshot.rows, dtype=np.int64)
    for name in shape.images:
        sizes = snapshot.image_sizes(name)
        share = len(sizes) / max(len(snapshot), 1)
        for row, size in sizes.items():
            total[row] += int(size * share)
    if not total.any():
        return None
    most = _IMAGES_MAX * len(shape.images)
    found: Ints = SCORE_MAX * (np.clip(total, _IMAGES_MIN, most) - _IMAGES_MIN) // (most - _IMAGES_MIN)
    return found
