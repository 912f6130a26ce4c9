"""Room for a pod group: which pods of lower priority are deleted so that enough of its pods find nodes.

Two ways are gone, and the one whose victims matter less is taken. Pod by pod: each that finds no node asks for the
least, as if the victims before were gone and the pods before placed. And as a whole, where there are not too many: all
that could be victims are gone, and the group is placed. Either way, whoever can stay beside the group where its pods
are now stays: first those whose deletion would break a disruption budget, then the most important; pods that are
disrupted together stay together. So no victim is left that need not be one.

Pure. Source: KEP-5710 (workload-aware preemption), whose way is the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rayplane.control_plane.scheduler.cycle import Cycle, Failure, Placement
from rayplane.control_plane.scheduler.pods import PodInfo, Shape
from rayplane.control_plane.scheduler.preemption import Candidate, Preemption, importance
from rayplane.control_plane.scheduler.snapshot import Ints

SEARCHES_MAX = 4096
"""Searches for victims that one decision may take; one that may have to try node by node counts as `_SEARCH_COST`."""
_SEARCH_COST, _CANDIDATES = 16, 4
EMPTIED_MAX: Final = 256
"""Pods that may be victims, up to which the group is also placed as if all of them were gone."""
_TOO_MANY = "preemption: too many pods of the group would need others to be deleted for them"
_IN_VAIN = "preemption: Preemption is not helpful for scheduling"


@dataclass(slots=True)
class Try:
    """One go at placing a group of pods."""

    needed: int
    remaining: int
    placements: dict[str, Placement] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    nominated: dict[str, str] = field(default_factory=dict)
    """Where pods were to go before they were placed, by pod."""
    broken: Failure | None = None

    def placed(self, placement: Placement, nominated: str) -> None:
        self.placements[placement.pod.key] = placement
        if nominated:
            self.nominated[placement.pod.key] = nominated

    @property
    def is_hopeless(self) -> bool:
        return self.broken is not None or len(self.placements) + self.remaining < self.needed

    @property
    def is_enough(self) -> bool:
        return self.broken is None and bool(self.placements) and len(self.placements) >= self.needed

    def take_back(self, cycle: Cycle) -> None:
        """Undo all placements."""
        for placement in reversed(self.placements.values()):
            cycle.forget(placement.pod)
            if placement.pod.key in self.nominated:
                cycle.nominate(placement.pod, self.nominated[placement.pod.key])


@dataclass(slots=True)
class _Search:
    """A search for victims: pods are placed, and those in their way are gone meanwhile."""

    cycle: Cycle
    done: Try
    left: int
    gone: list[PodInfo] = field(default_factory=list)
    helpful: dict[tuple[str, Shape], Ints] = field(default_factory=dict)
    """Where deletions may help, by what pods that are alike have in common."""

    # -- the two ways ----------------------------------------------------------------------------------------

    def pod_by_pod(self, pods: Sequence[PodInfo]) -> None:
        for pod in pods:
            if self.done.is_hopeless or self.left < 0:
                return
            self.done.remaining -= 1
            placement = self.cycle.find(pod)
            if placement is None:
                room = self._ask(pod)
                if isinstance(room, str):
                    continue
                self._take_out(room.victims)
                placement = self.cycle.place(pod, [room.node])
            if placement is not None:
                self.done.placed(placement, "")

    def as_a_whole(self, pods: Sequence[PodInfo], potential: Iterable[PodInfo]) -> None:
        self._take_out(potential)
        for pod in pods:
            if self.done.is_hopeless:
                return
            self.done.remaining -= 1
            placement = self.cycle.find(pod)
            if placement is not None:
                self.done.placed(placement, "")

    def _take_out(self, victims: Iterable[PodInfo]) -> None:
        for victim in victims:
            self.cycle.snapshot.remove_pod(victim.key)
            self.gone.append(victim)

    def _ask(self, pod: PodInfo) -> Preemption | str:
        is_alike = self.cycle.is_alike(pod)
        self.left -= 1 if is_alike else _SEARCH_COST
        helpful = self.helpful.get((pod.scheduler, pod.shape)) if is_alike else None
        if helpful is None:
            helpful = self.cycle.helpful(pod)
        if is_alike:
            self.helpful[pod.scheduler, pod.shape] = helpful
        return self.cycle.make_room(pod, helpful, candidates=_CANDIDATES)

    # -- who can stay ----------------------------------------------------------------------------------------

    def spare(self) -> None:
        """Put back whoever can stay, as far as the searches last."""
        placed = [placement for placement in self.done.placements.values()]
        is_local = all(self.cycle.is_alike(placement.pod) for placement in placed)
        breaking, others = self.cycle.cluster.budgets.split(sorted(self.gone, key=importance, reverse=True))
        seen: set[str] = set()
        for victim in (*breaking, *others):
            unit = [one for one in self._unit(victim) if one.key not in seen]
            seen.update(one.key for one in unit)
            if not unit or self.left < 0:
                continue
            nodes = {one.node for one in unit}
            concerned = [one for one in placed if not is_local or one.node in nodes]
            self.left -= len(concerned)
            if self._can_stay(unit, concerned):
                self.gone = [one for one in self.gone if one not in unit]

    def _unit(self, victim: PodInfo) -> list[PodInfo]:
        """Those that are disrupted together with one."""
        group = self.cycle.cluster.groups.get(victim.group) if victim.group else None
        if group is None or not group.is_one:
            return [victim]
        return [one for one in self.gone if one.group == victim.group]

    def _can_stay(self, unit: Sequence[PodInfo], concerned: Sequence[Placement]) -> bool:
        """Whether the pods of the group find their nodes as before with these there; if so they are there."""
        snapshot = self.cycle.snapshot
        for placement in concerned:
            snapshot.remove_pod(placement.pod.key)
        for one in unit:
            snapshot.set_pod(one)
        fits = True
        for placement in concerned:  # each sees the ones before it, as when it was placed
            fits = fits and self.cycle.fits(placement.pod, placement.node)
            snapshot.set_pod(placement.pod)
        if not fits:
            for one in unit:
                snapshot.remove_pod(one.key)
        return fits

    # -- the end ---------------------------------------------------------------------------------------------

    def cost(self) -> tuple[int, ...]:
        breaking, _ = self.cycle.cluster.budgets.split(sorted(self.gone, key=importance))
        return Candidate(tuple(self.gone), len(breaking)).cost()

    def found(self) -> dict[str, Preemption]:
        """Where each pod would go, and whom to delete on its node; the first pod also has those on other nodes."""
        nodes = {placement.node for placement in self.done.placements.values()}
        left = sorted(self.gone, key=importance)
        elsewhere = [one for one in left if one.node not in nodes]
        found: dict[str, Preemption] = {}
        for key, placement in self.done.placements.items():
            mine = [one for one in left if one.node == placement.node] + elsewhere
            left, elsewhere = [one for one in left if one not in mine], []
            found[key] = Preemption(placement.node, tuple(mine))
        return found

    def undo(self, victims: Iterable[PodInfo]) -> None:
        self.done.take_back(self.cycle)
        for victim in victims:
            if victim.key not in self.cycle.snapshot.pods:
                self.cycle.snapshot.set_pod(victim)


def make_room(cycle: Cycle, pods: Sequence[PodInfo], needed: int, priority: int) -> dict[str, Preemption] | str:
    """Where each pod would go, and whom to delete for it; or the sentence that says why nobody is. Changes nothing.

    Nobody is to be deleted where the pods fit beside all others in some other way than one after the other.
    """
    first, is_too_long = _gone_about(cycle, pods, needed, lambda search: search.pod_by_pod(pods))
    potential = _potential(cycle, priority)
    if len(potential) > EMPTIED_MAX:
        return first[1] if first is not None else _TOO_MANY if is_too_long else _IN_VAIN
    second, _ = _gone_about(cycle, pods, needed, lambda search: search.as_a_whole(pods, potential))
    ways = [way for way in (first, second) if way is not None]
    return min(ways, key=lambda way: way[0])[1] if ways else _IN_VAIN


def _potential(cycle: Cycle, priority: int) -> list[PodInfo]:
    """Those that could be victims; a few more than may be looked at are enough to know that they are too many."""
    lower = []
    for pod in cycle.snapshot.pods.values():
        if pod.priority < priority and pod.node in cycle.snapshot.index:
            lower.append(pod)
            if len(lower) > EMPTIED_MAX:
                break
    return cycle.cluster.groups.unspared(lower, priority)


def _gone_about(
    cycle: Cycle, pods: Sequence[PodInfo], needed: int, way: Callable[[_Search], None]
) -> tuple[tuple[tuple[int, ...], dict[str, Preemption]] | None, bool]:
    """What a way costs and finds, None where it leads nowhere; and whether it took too long to say."""
    search = _Search(cycle, Try(needed, len(pods)), SEARCHES_MAX)
    taken_out: list[PodInfo] = []
    try:
        way(search)
        taken_out = [*search.gone]
        if search.left < 0 or not (search.done.is_enough and search.gone):
            return None, search.left < 0
        search.spare()
        return (search.cost() if search.gone else (), search.found()), False
    finally:
        search.undo(taken_out or search.gone)
