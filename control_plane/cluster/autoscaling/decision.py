"""The decision on how many nodes a cluster should have. Pure: what is seen, limits and the time in, actions out.

A node is added when a pod that found none would fit on it, and removed when its pods fit elsewhere and that has been
so for a while. Both are tried on what the scheduler's core sees, by its own rules. What is about to come counts as
there, so that nothing is asked for twice, and what waits for a node has its place before any node is judged needless.

Invariants: never more nodes than the limit, and none is removed below the other; a node with a pod that could not be
placed elsewhere, or that a budget, an annotation or a volume keeps, stays; of nodes with pods one goes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import stays_with_node
from rayplane.control_plane.cluster.autoscaling.keeping import SCALE_DOWN_DISABLED, why_kept
from rayplane.control_plane.cluster.autoscaling.trial import Trial, trial
from rayplane.control_plane.scheduler.cycle import Cycle
from rayplane.control_plane.scheduler.pods import CPU, MEMORY, PodInfo

#: A node of which a larger share is asked for stays, whoever could go elsewhere.
UTILIZATION_MAX: Final = 0.5
#: So many empty nodes go at once.
EMPTY_MAX: Final = 10
#: So many units with pods are tried in a look, and so many pods that wait; the others have their turn when these had.
TRIED_MAX: Final = 30
PENDING_MAX: Final = 1000
#: Pods of less priority wait for room, and bring no node.
EXPENDABLE_BELOW: Final = -10
_MAX_REACHED = "max node group size reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits to what may be decided. `delay_s`: from when a node was missing last until one may go."""

    nodes_min: int
    nodes_max: int
    unneeded_s: float
    delay_s: float
    provision_s: float
    """A node that does not get ready for so long is not counted on any more, and goes if it never registered."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A host and the nodes that come and go with it."""

    name: str
    nodes: tuple[str, ...]
    ready: bool = True
    leaving: bool = False
    """It is being emptied, or is on its way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The view of what there is.

    `parse`: a pod as one without a node. `template`: the Node that one of this name would be.
    """

    cycle: Cycle
    pending: Sequence[PodInfo]
    units: Sequence[Unit]
    parse: Callable[[PodInfo], PodInfo | None]
    template: Callable[[str], Object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The knowledge that a decision needs of those before it. Times are of the clock that it is given."""

    coming: Mapping[str, float] = field(default_factory=dict)
    """Units that were not ready yet, and since when they are wanted."""
    arrived: frozenset[str] = frozenset()
    """Units that were ready once."""
    unneeded: Mapping[str, float] = field(default_factory=dict)
    wanted_at: float | None = None
    """When a node was missing last, or could not be emptied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Nodes to add, units to remove, and why."""

    add: int = 0
    triggers: tuple[PodInfo, ...] = ()
    """The pods that have a place on what is added."""
    refused: tuple[tuple[PodInfo, str], ...] = ()
    """Those that no further node would help, and why."""
    remove: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    """Units that never came: there is nothing to empty, and they have others' place among the most."""
    kept: Mapping[str, str] = field(default_factory=dict)
    """Why the other units stay."""
    memory: Memory


def decide(seen: Seen, memory: Memory, limits: Limits, now: float) -> Decision:
    names = {unit.name for unit in seen.units}
    arrived = (memory.arrived & names) | {unit.name for unit in seen.units if unit.ready}
    coming = {name: memory.coming.get(name, now) for name in sorted(names - arrived)}
    with trial(seen.cycle) as tried:
        late = {name for name, since in coming.items() if now >= since + limits.provision_s}
        expected = [u for u in seen.units if u.name in coming.keys() - late and not u.leaving]
        for number in range(sum(len(unit.nodes) for unit in expected)):
            tried.add_node(seen.template(f"coming-{number}"))
        up = _Up(tried, seen, limits)
        up.run()
        wanted_at = now if up.added or expected else memory.wanted_at
        down = _Down(tried, seen, limits)
        unneeded = {name: memory.unneeded.get(name, now) for name in down.unneeded(coming)}
        rests = wanted_at is not None and now < wanted_at + limits.delay_s
        ripe = [] if rests else [name for name, since in unneeded.items() if now >= since + limits.unneeded_s]
        return Decision(
            add=len(up.added),
            triggers=tuple(up.triggers),
            refused=tuple(up.refused),
            remove=down.first_of(ripe),
            lost=down.lost(late),
            kept=down.kept,
            memory=Memory(coming=coming, arrived=frozenset(arrived), unneeded=unneeded, wanted_at=wanted_at),
        )


def is_waiting(pod: PodInfo) -> bool:
    """Whether the scheduler found no node for a pod, and makes no room for it either."""
    said = (meta.status(pod.obj).get("conditions") or ()) if not pod.nominated else ()
    told = any(c.get("type") == "PodScheduled" and c.get("reason") == "Unschedulable" for c in said)
    return told and pod.priority >= EXPENDABLE_BELOW


def _count(units: Collection[Unit]) -> int:
    return sum(len(unit.nodes) for unit in units)


class _Up:
    """The nodes that are missing."""

    def __init__(self, tried: Trial, seen: Seen, limits: Limits) -> None:
        self.added: list[str] = []
        self.triggers: list[PodInfo] = []
        self.refused: list[tuple[PodInfo, str]] = []
        self._tried = tried
        self._seen = seen
        there = _count(seen.units)
        self._room = limits.nodes_max - there
        self._missing = limits.nodes_min - _count([unit for unit in seen.units if not unit.leaving])
        self._hopeless: dict[object, str] = {}

    def run(self) -> None:
        for _ in range(min(self._missing, self._room)):
            self._add()
        for pod in sorted(self._seen.pending, key=lambda pod: (-pod.priority, pod.key))[:PENDING_MAX]:
            if why := self._why_not(pod):
                self.refused.append((pod, why))

    def _why_not(self, pod: PodInfo) -> str:
        """Why nothing helps the pod; empty when it has its place."""
        alike = (pod.scheduler, pod.shape) if self._tried.cycle.is_alike(pod) else pod.key
        if alike in self._hopeless:
            return self._hopeless[alike]
        if self._placed(pod):
            return ""
        mark = self._tried.mark
        name = self._add()
        why = self._refused_at(pod, name)
        if not why and len(self.added) > self._room:
            why = f"1 {_MAX_REACHED}"
        elif not why and self._placed(pod):
            return ""
        self.added.pop()
        self._tried.back_to(mark)
        # By itself it would fit on a node, and there it does not: only what others do could change that.
        self._hopeless[alike] = why or "no node would do"
        return self._hopeless[alike]

    def _placed(self, pod: PodInfo) -> bool:
        placed = self._tried.place(pod)
        if placed is not None and placed.node in self.added:
            self.triggers.append(pod)
        return placed is not None

    def _refused_at(self, pod: PodInfo, node: str) -> str:
        refusal = self._tried.refusal(pod, node)
        return ", ".join(f"1 {reason}" for reason in refusal.reasons) if refusal is not None else ""

    def _add(self) -> str:
        name = f"added-{len(self.added)}"
        self._tried.add_node(self._seen.template(name))
        self.added.append(name)
        return name


class _Down:
    """The units that nobody needs."""

    def __init__(self, tried: Trial, seen: Seen, limits: Limits) -> None:
        self.kept: dict[str, str] = {}
        self._tried = tried
        self._seen = seen
        self._snapshot = seen.cycle.snapshot
        self._empty: set[str] = set()
        self._tries = 0
        volumes = seen.cycle.cluster.volumes.volumes.values()
        self._with_bytes = {node for volume in volumes for node in volume.nodes}
        self._spare = _count([unit for unit in seen.units if not unit.leaving]) - limits.nodes_min
        self._busy = any(unit.leaving for unit in seen.units)

    def unneeded(self, coming: Collection[str]) -> Iterator[str]:
        """Units that could all go, the emptiest first and of those the youngest."""
        there = [unit for unit in self._seen.units if not unit.leaving and unit.name not in coming]
        pods = {unit.name: [p for node in unit.nodes for p in self._movable(node)] for unit in there}
        for unit in sorted(there, key=lambda unit: (len(pods[unit.name]), -len(unit.name), _reversed(unit.name))):
            mark = self._tried.mark
            if why := self._why_kept(unit, pods[unit.name]):
                self.kept[unit.name] = why
                self._tried.back_to(mark)
                continue
            self._spare -= len(unit.nodes)
            if not pods[unit.name]:
                self._empty.add(unit.name)
            yield unit.name

    def first_of(self, ripe: Sequence[str]) -> tuple[str, ...]:
        """Those that go now: empty ones together, or one that has pods when no other is on its way."""
        empty = [name for name in ripe if name in self._empty][:EMPTY_MAX]
        return tuple(empty if empty else [] if self._busy else ripe[:1])

    def lost(self, late: Collection[str]) -> tuple[str, ...]:
        """Those without a Node. One that has registered may be back, with all that is there."""
        there = self._snapshot.index.keys() | self._with_bytes
        return tuple(u.name for u in self._seen.units if u.name in late and not u.leaving and there.isdisjoint(u.nodes))

    def _movable(self, node: str) -> list[PodInfo]:
        return [pod for pod in self._snapshot.pods_on(node).values() if not stays_with_node(pod.obj)]

    def _why_kept(self, unit: Unit, pods: Sequence[PodInfo]) -> str:
        if len(unit.nodes) > self._spare:
            return "NodeGroupMinSizeReached"
        for node in unit.nodes:
            if why := self._why_node_kept(node):
                return why
        budgets = self._seen.cycle.cluster.budgets
        for pod in pods:
            if why := why_kept(pod.obj, budgeted=budgets.covers(pod)):
                return f"{why}: {pod.key}"
        if breaking := budgets.split(pods)[0]:
            return f"NotEnoughPdb: {breaking[0].key}"
        self._tries += bool(pods)
        if self._tries > TRIED_MAX:
            return "others are tried first"
        return self._why_not_elsewhere(unit, pods)

    def _why_node_kept(self, node: str) -> str:
        cluster, row = self._seen.cycle.cluster, self._snapshot.index.get(node)
        if row is None:
            return "it is not registered"
        if meta.annotations(dict(cluster.node_objects[node])).get(SCALE_DOWN_DISABLED) == "true":
            return "ScaleDownDisabledAnnotation"
        if node in self._with_bytes:
            return "a volume's bytes are there"
        if self._utilization(row) > UTILIZATION_MAX:
            return "NotUnderutilized"
        return ""

    def _utilization(self, row: int) -> float:
        columns = [self._snapshot.column(resource) for resource in (CPU, MEMORY)]
        has, asked = self._snapshot.allocatable[row, columns], self._snapshot.requested[row, columns]
        return max((float(a) / float(h) for a, h in zip(asked, has, strict=True) if h), default=0.0)

    def _why_not_elsewhere(self, unit: Unit, pods: Sequence[PodInfo]) -> str:
        for node in unit.nodes:
            self._tried.remove_node(node)
        for pod in pods:
            if pod.terminating:
                continue
            self._tried.take(pod)
            moved = self._seen.parse(pod)
            if moved is None or not self._seen.cycle.handles(moved) or self._tried.place(moved) is None:
                return f"NoPlaceToMovePods: {pod.key}"
        return ""


def _reversed(name: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in name)
