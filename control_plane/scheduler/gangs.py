"""The group cycle: the pods of a pod group are decided together, all that its policy wants or none.

Each pod is decided as by itself, seeing the ones before it. Where fewer find nodes than the group needs, all that were
assumed are taken back, and it is looked whether deleting pods of lower priority would let enough of them in
(`gang_room`). Victims are named only if that does for the group: nobody is deleted in vain.

Pure. Source: KEP-4671 (workload scheduling cycle); kubernetes/pkg/scheduler (podGroupCycle).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rayplane.control_plane.scheduler import report
from rayplane.control_plane.scheduler.cycle import Cycle, Failure, Placement, fault
from rayplane.control_plane.scheduler.gang_room import Try, make_room
from rayplane.control_plane.scheduler.groups import GANGS, GroupInfo, mismatch
from rayplane.control_plane.scheduler.hints import NO_NODES
from rayplane.control_plane.scheduler.pods import PodInfo, Shape
from rayplane.control_plane.scheduler.preemption import Preemption

_EXTENDERS = "an HTTP extender has a say in pods of this group, and is not asked about pods that are decided together"
_LEFT = "the other pods of the group have their nodes"
_NOBODY = "preemption: No preemption victims found for incoming preemptor"
_REASONS_MAX = 64
"""Pods of one decision for which it is found out why they get no node; the others are told what the first was."""


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
        done.take_back(self._cycle)
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
        done.take_back(self._cycle)
        return "" if done.is_enough else _said(group, done, len(there))

    # -- placing -------------------------------------------------------------------------------------------

    def _place(self, group: GroupInfo, pods: Sequence[PodInfo], there: int) -> Try:
        done = Try(group.least - there, len(pods))
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

    def _attempt(self, pod: PodInfo, done: Try) -> Placement | Failure:
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

    # -- a group that gets no nodes ------------------------------------------------------------------------

    def _refuse(self, group: GroupInfo, pods: Sequence[PodInfo], done: Try, there: int) -> GroupDecision:
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
        if not victims and (decision := self._settle(group, pods, room, there)) is not None:
            return decision
        found = [replace(one, preemption=room.get(one.pod.key)) for one in _refused(pods, said, blamed, done)]
        return GroupDecision(
            found, Verdict(group, pods[0].scheduler, is_scheduled=False, message=said, victims=victims)
        )

    def _settle(
        self, group: GroupInfo, pods: Sequence[PodInfo], room: Mapping[str, Preemption], there: int
    ) -> GroupDecision | None:
        """Place the pods where they fit beside all others."""
        done = Try(group.least - there, len(pods))
        for pod in pods:
            placement = self._cycle.place(pod, [room[pod.key].node]) if pod.key in room else None
            if placement is not None:
                done.placed(placement, "")
        if not done.is_enough:
            done.take_back(self._cycle)
            return None
        found = [done.placements.get(pod.key) or Failure(pod, _LEFT, soon=True) for pod in pods]
        return GroupDecision(found, Verdict(group, pods[0].scheduler, is_scheduled=True))

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
        # Room that was kept for one of them, and is no more, is in nobody's way.
        kept = {pod.key: (pod, node) for pod in pods if (node := cycle.nominated_node(pod.key))}
        try:
            for key in kept:
                cycle.forget_nomination(key)
            return make_room(cycle, pods, group.least - there, group.priority)
        finally:
            for pod, node in kept.values():
                cycle.nominate(pod, node)


def _said(group: GroupInfo, done: Try, there: int) -> str:
    if done.broken is not None:
        return f"failed to schedule other pod from a pod group: {done.broken.message}"
    if group.least <= there:  # it has what it needs; these are more
        return next(iter(done.failures.values())).message
    return report.gang_not_met(group.least, there + len(done.placements), done.remaining)


def _refused(pods: Iterable[PodInfo], said: str, blamed: frozenset[str], done: Try | None = None) -> list[Failure]:
    """Each with its own reason where it has one, else the group's. Whatever helps one of them may help the group."""
    own = done.failures if done is not None else {}
    return [replace(own.get(pod.key) or Failure(pod, said), plugins=blamed) for pod in pods]
