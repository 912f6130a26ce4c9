"""The plan: which nodes some pods need beside those there are, what finds no place, and what a loss would cost. Pure.

Pods are placed as the scheduler would, the more important first; one that finds no node brings another, if it fits on
that. A loss is tried by taking nodes away and placing their pods elsewhere. Where nodes came, all is placed again with
these there from the beginning, until none comes: a scheduler that spreads pods uses the last node as the first.
Whatever is tried is tried on what the scheduler's core sees (`trial`), and is not so any more when the plan is made.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
    """Pods of one workload, alike but for their names; `on` makes the pod of a Node, if it is to have one."""

    pods: Sequence[PodInfo]
    on: Callable[[Object], PodInfo | None] | None = None


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
    check: Callable[[], None] = lambda: None,
) -> Plan:
    """`template`: the Node of a name and zone; `parse`: a pod as one without a node; `check` raises to end it."""
    with trial(cycle) as tried:
        return _Planning(tried, limits, groups, template, parse, check).made()


class _Planning:
    def __init__(
        self,
        tried: Trial,
        limits: Limits,
        groups: Sequence[Group],
        template: Callable[[str, str], Object],
        parse: Callable[[PodInfo], PodInfo | None],
        check: Callable[[], None],
    ) -> None:
        self._tried = tried
        self._limits = limits
        self._groups = sorted(groups, key=lambda group: -max((pod.priority for pod in group.pods), default=0))
        self._template = template
        self._parse = parse
        self._check = check
        self._cycle, self._snapshot = tried.cycle, tried.cycle.snapshot
        self._nodes = tried.cycle.cluster.node_objects
        """Those that are lost just now are among them."""
        self._there = frozenset(self._snapshot.index)
        self._staying = set[str]()
        """Keys of planned pods that go with their node."""

    def made(self) -> Plan:
        zones: list[str] = []
        while True:
            self._tried.back_to(0)
            self._staying.clear()
            for name in sorted(self._there):
                self._settle_everywhere(name)
            for zone in zones:
                self._add(zone)
            unplaced = (*self._unplaced(), *self._unplaced_daemons())
            losses = tuple(self._losses())
            added = sorted((name for name in self._snapshot.index if name not in self._there), key=_number)
            if len(added) == len(zones):
                return self._plan(added, unplaced, losses)
            zones = [self._zone_of(name) for name in added]

    def _unplaced(self) -> Iterator[Unplaced]:
        for group in self._groups:
            for number, pod in enumerate(group.pods):
                if not self._settle(pod, self._limits.zones):
                    # The others are like it.
                    yield Unplaced(workload_of(pod.obj), len(group.pods) - number, self._why_nowhere(pod))
                    break

    def _unplaced_daemons(self) -> Iterator[Unplaced]:
        for group in self._groups:
            wanted = (
                [group.on(dict(self._nodes[name])) for name in self._snapshot.index] if group.on is not None else []
            )
            without = [pod for pod in wanted if pod is not None and pod.key not in self._snapshot.pods]
            if without:
                yield Unplaced(workload_of(without[0].obj), len(without), self._why(without[0]))

    def _settle(self, pod: PodInfo, zones: Sequence[str]) -> bool:
        """Place the pod, on a new node of these zones if it must be; whether it has a place."""
        self._check()
        if self._tried.place(pod) is not None:
            return True
        return any(self._placed_anew(pod, zone) for zone in self._open(zones))

    def _placed_anew(self, pod: PodInfo, zone: str) -> bool:
        mark = self._tried.mark
        self._add(zone)
        placed = self._tried.place(pod) is not None
        if not placed:
            self._tried.back_to(mark)
        return placed

    def _open(self, zones: Sequence[str]) -> list[str]:
        """Zones for a new node, if there may be one: that with the fewest first."""
        return sorted(zones, key=self._nodes_in()) if len(self._nodes) < self._limits.nodes_max else []

    def _why_nowhere(self, pod: PodInfo) -> str:
        """In the scheduler's words, with a new node there if one may be."""
        mark = self._tried.mark
        for zone in self._open(self._limits.zones)[:1]:
            self._add(zone)
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
            pod = group.on(dict(self._nodes[node])) if group.on is not None else None
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
        homeless = self._rehome(self._taken_from(nodes), zones)
        came = [self._zone_of(name) for name in self._snapshot.index if name not in before]
        self._tried.back_to(mark)
        for zone in came:
            self._add(zone)
        return homeless

    def _rehome(self, pods: Iterable[PodInfo], zones: Sequence[str]) -> Counter[str]:
        """Find them other places, as the scheduler would, if need be in place of less important pods."""
        homeless = Counter[str]()
        hopeless, lost = set[tuple[str, int]](), set[tuple[str, int]]()
        waiting = deque(sorted(pods, key=lambda pod: -pod.priority))
        while waiting:
            pod = waiting.popleft()
            alike = workload_of(pod.obj), id(pod.shape)
            if alike in lost and self._cycle.is_alike(pod):
                homeless[alike[0]] += 1
            elif not self._settle(pod, () if alike in hopeless else zones):
                hopeless.add(alike)
                evicted = self._evicted_for(pod)
                waiting.extend(evicted)
                if not evicted:
                    lost.add(alike)
                    homeless[alike[0]] += 1
        return homeless

    def _evicted_for(self, pod: PodInfo) -> list[PodInfo]:
        """The pods that it takes the place of; none where it has no right to any."""
        if not (pod.may_preempt and self._snapshot.has_lower_priority(pod.priority)):
            return []
        decision = self._cycle.schedule_one(pod)
        if not isinstance(decision, Failure) or decision.preemption is None:
            return []
        mark, victims = self._tried.mark, decision.preemption.victims
        for victim in victims:
            self._tried.take(victim)
        if self._tried.place(pod) is None:
            self._tried.back_to(mark)
            return []
        return self._movable(victims)

    def _taken_from(self, nodes: Collection[str]) -> list[PodInfo]:
        """Take the nodes away; their pods, as if they had never been placed."""
        taken = []
        for node in nodes:
            for pod in [*self._snapshot.pods_on(node).values()]:
                if pod.key not in self._staying and not stays_with_node(pod.obj):
                    self._tried.take(pod)
                    taken.append(pod)
            self._tried.remove_node(node)
        return self._movable(taken)

    def _movable(self, pods: Iterable[PodInfo]) -> list[PodInfo]:
        """Without their nodes; those that some other scheduler places are left to it."""
        mine = [pod for pod in pods if pod.key not in self._staying and self._cycle.handles(pod)]
        return [moved for pod in mine if (moved := self._parse(pod)) is not None]

    # -- the answer ----------------------------------------------------------------------------------------

    def _plan(self, added: Sequence[str], unplaced: tuple[Unplaced, ...], losses: tuple[Loss, ...]) -> Plan:
        names = [*sorted(self._there), *added]
        pods = [_on(pod.obj, pod.node) for pod in self._snapshot.pods.values()]
        # They count to what is asked for.
        pods += [
            _on(pod.obj, "none") for group in self._groups for pod in group.pods if pod.key not in self._snapshot.pods
        ]
        sums = packed([dict(self._nodes[name]) for name in names], pods)
        nodes = {name: _node(self._zone_of(name), sums["nodes"][name]) for name in names}
        return Plan(nodes, tuple(added), sums["lowerBound"], unplaced, losses)


def _on(pod: Object, node: str) -> Object:
    return {**pod, "spec": {**meta.spec(pod), "nodeName": node}}


def _node(zone: str, told: Mapping[str, Any]) -> PlannedNode:
    others = told["others"]
    requested = {name: _amounts(need, others["held"].get(name, {})) for name, need in told["held"].items()}
    return PlannedNode(zone, _amounts(told["room"], others["room"]), requested)


def _amounts(usual: Sequence[int], others: Mapping[str, int]) -> dict[str, int]:
    return {**dict(zip(("pods", "cpu", "memory"), usual, strict=True)), **others}


def _number(name: str) -> int:
    return int(name.removeprefix(NEW))
