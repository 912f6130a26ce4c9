"""The group cycle: the pods of a pod group are decided together, all that its policy wants or none.

Each pod is decided as by itself, seeing the ones before it. Where fewer find nodes than the group needs, all that were
assumed are taken back, and it is looked whether deleting pods of lower priority would let enough of them in: each of
the pods that find no node asks for the least, as if the victims before were gone and the pods before placed. Victims
are named only if that does for the group: nobody is deleted in vain.

Pure. Source: KEP-4671 (workload scheduling cycle), KEP-5710 (workload-aware preemption); kubernetes/pkg/scheduler
(podGroupCycle). There victims are found by emptying the whole cluster and putting back who still fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.cycle import Cycle, Failure, Placement, fault
from rayplane.control_plane.scheduler.groups import GANGS, GroupInfo, mismatch
from rayplane.control_plane.scheduler.hints import NO_NODES
from rayplane.control_plane.scheduler.pods import PodInfo, Shape
from rayplane.control_plane.scheduler.preemption import Preemption
from rayplane.control_plane.scheduler.snapshot import Ints

_EXTENDERS = "an HTTP extender has a say in pods of this group, and is not asked about pods that are decided together"
_NOBODY = "preemption: No preemption victims found for incoming preemptor"
SEARCHES_MAX = 4096
"""Searches for victims that one decision may take; one that may have to try node by node counts as `_SEARCH_COST`."""
_SEARCH_COST, _CANDIDATES = 16, 4
_REASONS_MAX = 64
"""Pods of one decision for which it is found out why they get no node; the others are told what the first was."""
_TOO_MANY = "preemption: too many pods of the group would need others to be deleted for them"
_IN_VAIN = "preemption: Preemption is not helpful for scheduling"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for a group, as its status has to say it. `message` is empty where it got its nodes."""

    group: GroupInfo
    profile: str
    is_scheduled: bool
    message: str = ""
    is_fault: bool = False
    victims: int = 0
    """So many pods are deleted for it; it waits for them to go."""

    @property
    def preempts(self) -> bool:
        return self.victims > 0


@dataclass(frozen=True, slots=True)
class GroupDecision:
    """The decisions on pods of a group, and the group's verdict; None without one where the group is not there."""

    decisions: Sequence[Placement | Failure]
    verdict: Verdict | None


@dataclass(slots=True)
class _Try:
    """One go at placing a group."""

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


@dataclass(slots=True)
class _Search:
    """A search for victims: pods are placed one after the other, and those in their way are gone meanwhile."""

    cycle: Cycle
    done: _Try
    left: int
    gone: list[PodInfo] = field(default_factory=list)
    found: dict[str, Preemption] = field(default_factory=dict)
    helpful: dict[tuple[str, Shape], Ints] = field(default_factory=dict)
    """Where deletions may help, by what pods that are alike have in common."""

    def room_for(self, pod: PodInfo) -> None:
        cycle, victims = self.cycle, tuple[PodInfo, ...]()
        self.done.remaining -= 1
        placement = cycle.find(pod)
        if placement is None:
            room = self._ask(pod)
            if isinstance(room, str):
                return
            victims = room.victims
            for victim in victims:
                cycle.snapshot.remove_pod(victim.key)
            self.gone += victims
            placement = cycle.place(pod, [room.node])
        if placement is not None:
            self.done.placed(placement, "")
            self.found[pod.key] = Preemption(placement.node, victims)

    def _ask(self, pod: PodInfo) -> Preemption | str:
        is_alike = self.cycle.is_alike(pod)
        self.left -= 1 if is_alike else _SEARCH_COST
        helpful = self.helpful.get((pod.scheduler, pod.shape)) if is_alike else None
        if helpful is None:
            helpful = self.cycle.helpful(pod)
        if is_alike:
            self.helpful[pod.scheduler, pod.shape] = helpful
        return self.cycle.make_room(pod, helpful, candidates=_CANDIDATES)


class GroupCycle:
    """A cycle's way with groups of pods."""

    def __init__(self, cycle: Cycle, *, extended: Callable[[PodInfo], bool] = lambda _: False) -> None:
        """`extended`: whether HTTP extenders have a say in a pod."""
        self._cycle = cycle
        self._extended = extended
        self._groups = cycle.cluster.groups

    def schedule(self, pods: Sequence[PodInfo]) -> GroupDecision:
        """Decide pods of one group, those of it that wait for a node. Placed ones are assumed in the snapshot."""
        group = self._groups.get(pods[0].group)
        if group is None:
            awaited = self._groups.awaited(pods[0].group)
            return GroupDecision(_refused(pods, awaited, frozenset((GANGS,))), None)
        there = self._groups.scheduled(group.key, self._cycle.snapshot)
        wrong = mismatch(group, (*pods, *there)) or (_EXTENDERS if any(map(self._extended, pods)) else "")
        if wrong:
            verdict = Verdict(group, pods[0].scheduler, is_scheduled=False, message=wrong, is_fault=True)
            return GroupDecision([Failure(pod, wrong, is_fault=True) for pod in pods], verdict)
        done = self._place(group, pods, len(there))
        if done.is_enough:
            found = [done.placements.get(pod.key) or replace(done.failures[pod.key], soon=True) for pod in pods]
            return GroupDecision(found, Verdict(group, pods[0].scheduler, is_scheduled=True))
        self._take_back(done)
        return self._refuse(group, pods, done, len(there))

    def explain(self, pods: Sequence[PodInfo]) -> str:
        """Why these pods of one group would not get nodes together now; empty when they would. Changes nothing."""
        group = self._groups.get(pods[0].group)
        awaited = self._groups.awaited(pods[0].group)
        if group is None or awaited:
            return awaited
        there = self._groups.scheduled(group.key, self._cycle.snapshot)
        wrong = mismatch(group, (*pods, *there))
        if wrong:
            return wrong
        done = self._place(group, pods, len(there))
        self._take_back(done)
        return "" if done.is_enough else _said(group, done, len(there))

    # -- placing -------------------------------------------------------------------------------------------

    def _place(self, group: GroupInfo, pods: Sequence[PodInfo], there: int) -> _Try:
        done = _Try(group.least - there, len(pods))
        alike: dict[tuple[str, Shape], Failure] = {}
        for pod in pods:
            if done.is_hopeless:
                break
            known = alike.get((pod.scheduler, pod.shape))
            if known is not None:
                done.remaining -= 1
                done.failures[pod.key] = replace(known, pod=pod)
                continue
            decision = self._attempt(pod, done)
            if isinstance(decision, Failure) and not decision.is_fault and self._cycle.is_alike(pod):
                alike[pod.scheduler, pod.shape] = decision
        return done

    def _attempt(self, pod: PodInfo, done: _Try) -> Placement | Failure:
        nominated = self._cycle.nominated_node(pod.key)
        known = next(iter(done.failures.values())) if len(done.failures) >= _REASONS_MAX else None
        try:
            if known is None:
                decision = self._cycle.attempt(pod)
            else:
                decision = self._cycle.find(pod) or replace(known, pod=pod)
        except Exception as e:  # as for a lone pod: what is wrong with it must not end the term
            decision = fault(pod, e)
        done.remaining -= 1
        if isinstance(decision, Failure):
            done.failures[pod.key] = decision
            if decision.is_fault:
                done.broken = decision
        else:
            done.placed(decision, nominated)
        return decision

    def _take_back(self, done: _Try) -> None:
        for placement in reversed(done.placements.values()):
            self._cycle.forget(placement.pod)
            if placement.pod.key in done.nominated:
                self._cycle.nominate(placement.pod, done.nominated[placement.pod.key])

    # -- a group that gets no nodes ------------------------------------------------------------------------

    def _refuse(self, group: GroupInfo, pods: Sequence[PodInfo], done: _Try, there: int) -> GroupDecision:
        said = _said(group, done, there)
        if done.broken is not None:
            found = [done.failures.get(pod.key) or Failure(pod, said, is_fault=True) for pod in pods]
            found = [one if one.is_fault else replace(one, message=said, is_fault=True) for one in found]
            return GroupDecision(
                found, Verdict(group, pods[0].scheduler, is_scheduled=False, message=said, is_fault=True)
            )
        blamed = frozenset((GANGS,)).union(*(one.plugins or (NO_NODES,) for one in done.failures.values()))
        room = self._guarded(group, pods, there) if done.failures else ""
        if isinstance(room, str):
            stays = room in (report.NOT_ELIGIBLE_POLICY, report.NOT_ELIGIBLE_TERMINATING)
            said = f"{said}, {room}" if room else said
            refused = _refused(pods, said, blamed, done)
            found = [replace(one, keeps_nomination=stays) for one in refused]
            return GroupDecision(found, Verdict(group, pods[0].scheduler, is_scheduled=False, message=said))
        victims = sum(len(one.victims) for one in room.values())
        found = [replace(one, preemption=room.get(one.pod.key)) for one in _refused(pods, said, blamed, done)]
        return GroupDecision(
            found, Verdict(group, pods[0].scheduler, is_scheduled=False, message=said, victims=victims)
        )

    def _guarded(self, group: GroupInfo, pods: Sequence[PodInfo], there: int) -> dict[str, Preemption] | str:
        try:
            return self._make_room(group, pods, there)
        except Exception as e:  # what is wrong with whoever might be deleted must not end the term
            return f"preemption: {fault(pods[0], e).message}"

    def _make_room(self, group: GroupInfo, pods: Sequence[PodInfo], there: int) -> dict[str, Preemption] | str:
        """Where each pod would go, and whom to delete for it; or the sentence that says why nobody is."""
        cycle = self._cycle
        for pod in pods:
            if why := cycle.eligible(pod):
                return "" if why == report.NO_PREEMPTION else why
        if not cycle.snapshot.has_lower_priority(group.priority):
            return _NOBODY
        search = _Search(cycle, _Try(group.least - there, len(pods)), SEARCHES_MAX)
        # Room that was kept for one of them, and is no more, is in nobody's way.
        kept = {pod.key: (pod, node) for pod in pods if (node := cycle.nominated_node(pod.key))}
        try:
            for key in kept:
                cycle.forget_nomination(key)
            for pod in pods:
                if search.done.is_hopeless or search.left < 0:
                    break
                search.room_for(pod)
        finally:
            self._take_back(search.done)
            for victim in search.gone:
                cycle.snapshot.set_pod(victim)
            for pod, node in kept.values():
                cycle.nominate(pod, node)
        if search.left < 0:
            return _TOO_MANY
        return search.found if search.done.is_enough and search.gone else _IN_VAIN


def _said(group: GroupInfo, done: _Try, there: int) -> str:
    if done.broken is not None:
        return f"failed to schedule other pod from a pod group: {done.broken.message}"
    if group.least <= there:  # it has what it needs; these are more
        return next(iter(done.failures.values())).message
    return report.gang_not_met(group.least, there + len(done.placements), done.remaining)


def _refused(pods: Iterable[PodInfo], said: str, blamed: frozenset[str], done: _Try | None = None) -> list[Failure]:
    """Each with its own reason where it has one, else the group's. Whatever helps one of them may help the group."""
    own = done.failures if done is not None else {}
    return [replace(own.get(pod.key) or Failure(pod, said), plugins=blamed) for pod in pods]
