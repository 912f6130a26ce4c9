"""The plan: which nodes some pods need beside those there are, what finds no place, and what a loss would cost. Pure.

Pods are placed as the scheduler would, the more important first; one that finds no node brings another, if it fits on
that. A loss is tried by taking nodes away and placing their pods elsewhere. Whatever is tried is tried on what the
scheduler's core sees (`trial`), and is not so any more when the plan is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.api.packing import packed, workload_of
from rayplane.control_plane.api.pods.state import stays_with_node
from rayplane.control_plane.cluster.autoscaling.trial import Trial, trial
from rayplane.control_plane.scheduler.cycle import Cycle, Failure
from rayplane.control_plane.scheduler.pods import PodInfo

NODE: Final = "node"
NEW: Final = "new-"
"""How names of nodes begin that are not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a plan. New nodes are spread over `zones`, empty where there are none."""

    nodes_max: int
    zones: tuple[str, ...] = ("",)
    survive: str = ""
    """`node` or `zone`: there are to be so many nodes that any of these may be lost."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pods of one workload, alike but for their names; `on` makes the pod of a node where each has one."""

    pods: Sequence[PodInfo]
    on: Callable[[str], PodInfo | None] | None = None


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Pods of a workload that find no node however many are added."""

    workload: str
    count: int
    message: str


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a node or zone after which pods, counted by workload, find no other node."""

    name: str
    homeless: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A node that is there or would be. Amounts by resource: `cpu` by the thousandth, all else in whole units."""

    zone: str
    allocatable: Mapping[str, int]
    requested: Mapping[str, Mapping[str, int]]
    """By workload."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer. `nodes` are all there are then, by name."""

    nodes: Mapping[str, PlannedNode]
    added: tuple[str, ...]
    lower_bound: int
    """The fewest nodes that could possibly hold the pods, by the sum of what they ask for."""
    unplaced: tuple[Unplaced, ...]
    losses: tuple[Loss, ...]

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        return {**found, "lowerBound": found.pop("lower_bound")}


def plan(
    cycle: Cycle,
    groups: Sequence[Group],
    limits: Limits,
    *,
    template: Callable[[str, str], Object],
    parse: Callable[[PodInfo], PodInfo | None],
) -> Plan:
    """`template`: the Node of a name and zone; `parse`: a pod as one without a node."""
    with trial(cycle) as tried:
        return _Planning(tried, limits, groups, template, parse).made()


class _Planning:
    def __init__(
        self,
        tried: Trial,
        limits: Limits,
        groups: Sequence[Group],
        template: Callable[[str, str], Object],
        parse: Callable[[PodInfo], PodInfo | None],
    ) -> None:
        self._tried = tried
        self._limits = limits
        self._groups = sorted(groups, key=lambda group: -max((pod.priority for pod in group.pods), default=0))
        self._template = template
        self._parse = parse
        self._cycle, self._snapshot = tried.cycle, tried.cycle.snapshot
        self._nodes = tried.cycle.cluster.node_objects
        """Those that are lost just now are among them."""
        self._there = frozenset(self._snapshot.index)
        self._staying = set[str]()
        """Keys of planned pods that go with their node."""

    def made(self) -> Plan:
        for name in self._there:
            self._settle_everywhere(name)
        unplaced = tuple(self._unplaced())
        losses = tuple(self._losses())
        added = sorted((name for name in self._snapshot.index if name not in self._there), key=_number)
        names = [*sorted(self._there), *added]
        held = self._packing(names)
        nodes = {name: _node(self._zone_of(name), held["nodes"][name]) for name in names}
        return Plan(nodes, tuple(added), held["lowerBound"], unplaced, losses)

    def _unplaced(self) -> Iterator[Unplaced]:
        for group in self._groups:
            for number, pod in enumerate(group.pods):
                if why := self._settle(pod, self._limits.zones):
                    # The others are like it.
                    yield Unplaced(workload_of(pod.obj), len(group.pods) - number, why)
                    break

    def _settle(self, pod: PodInfo, zones: Sequence[str]) -> str:
        """Place the pod, on a new node of these zones if it must be; why it could not be, or nothing."""
        if self._tried.place(pod) is not None:
            return ""
        if not zones or len(self._nodes) >= self._limits.nodes_max:
            return self._why(pod)
        why = ""
        for zone in sorted(zones, key=self._nodes_in()):
            mark = self._tried.mark
            self._add(zone)
            if self._tried.place(pod) is not None:
                return ""
            why = self._why(pod)
            self._tried.back_to(mark)
        return why

    def _why(self, pod: PodInfo) -> str:
        decision = self._cycle.attempt(pod)
        return decision.message if isinstance(decision, Failure) else ""

    def _add(self, zone: str) -> None:
        number = len(self._nodes)
        while (name := f"{NEW}{number}") in self._nodes:
            number += 1
        self._tried.add_node(self._template(name, zone))
        self._settle_everywhere(name)

    def _settle_everywhere(self, node: str) -> None:
        for group in self._groups:
            pod = group.on(node) if group.on is not None else None
            if pod is not None and self._tried.place(pod) is not None:
                self._staying.add(pod.key)

    def _zone_of(self, node: str) -> str:
        return self._snapshot.info(self._snapshot.index[node]).labels.get(ZONE, "")

    def _nodes_in(self) -> Callable[[str], int]:
        return Counter(self._zone_of(name) for name in self._snapshot.index).__getitem__

    # -- losses --------------------------------------------------------------------------------------------

    def _losses(self) -> Iterator[Loss]:
        by_zone = self._limits.survive not in ("", NODE)
        domain_of = self._zone_of if by_zone else str
        for domain in sorted({domain_of(name) for name in self._snapshot.index}):
            # Nodes may have come to it for the loss of another.
            nodes = [name for name in self._snapshot.index if domain_of(name) == domain]
            others = [zone for zone in self._limits.zones if not by_zone or zone != domain]
            if homeless := self._lose(nodes, others if self._limits.survive else []):
                yield Loss(domain, dict(homeless))

    def _lose(self, nodes: Collection[str], zones: Sequence[str]) -> Counter[str]:
        """The pods without a place when these nodes are gone. Nodes of `zones` that give them one stay from now on."""
        mark = self._tried.mark
        before = {*self._snapshot.index}
        homeless = Counter(
            workload_of(pod.obj)
            for pod in sorted(self._taken_from(nodes), key=lambda pod: -pod.priority)
            if self._settle(pod, zones)
        )
        came = [self._zone_of(name) for name in self._snapshot.index if name not in before]
        self._tried.back_to(mark)
        for zone in came:
            self._add(zone)
        return homeless

    def _taken_from(self, nodes: Collection[str]) -> list[PodInfo]:
        """Take the nodes away; their pods, as if they had never been placed."""
        moving = []
        for node in nodes:
            for pod in [*self._snapshot.pods_on(node).values()]:
                if pod.key not in self._staying and not stays_with_node(pod.obj):
                    self._tried.take(pod)
                    moving.append(self._parse(pod))
            self._tried.remove_node(node)
        return [pod for pod in moving if pod is not None]

    # -- the answer ----------------------------------------------------------------------------------------

    def _packing(self, names: Collection[str]) -> dict[str, Any]:
        nodes = [dict(self._nodes[name]) for name in names]
        pods = [
            {**pod.obj, "spec": {**meta.spec(pod.obj), "nodeName": pod.node}} for pod in self._snapshot.pods.values()
        ]
        return packed(nodes, pods)


def _node(zone: str, told: Mapping[str, Any]) -> PlannedNode:
    others = told["others"]
    requested = {name: _amounts(need, others["held"].get(name, {})) for name, need in told["held"].items()}
    return PlannedNode(zone, _amounts(told["room"], others["room"]), requested)


def _amounts(usual: Sequence[int], others: Mapping[str, int]) -> dict[str, int]:
    return {**dict(zip(("pods", "cpu", "memory"), usual, strict=True)), **others}


def _number(name: str) -> int:
    return int(name.removeprefix(NEW))
