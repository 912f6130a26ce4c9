"""Pod groups as the scheduler sees them: what each asks for, and which pods are of it. Pure.

A pod of a group waits (PreEnqueue) until the group is there and, where it is a gang, as many pods as it wants together.

Source: KEP-4671 (gang scheduling), KEP-5710 (workload-aware preemption); plug-in GangScheduling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.snapshot import Snapshot

GANGS: Final = "GangScheduling"
"""The plug-in's name."""
NOT_ENOUGH: Final = "waiting for minCount pods from a gang to appear in scheduling queue"


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """One pod group. `least`: pods that must have nodes together; 1 for a group that is no gang."""

    obj: Object
    key: str
    least: int
    priority: int
    is_one: bool
    """Whether its pods are disrupted together or not at all."""

    @classmethod
    def of(cls, group: Object) -> GroupInfo:
        spec = meta.spec(group)
        gang: Mapping[str, Any] | None = (spec.get("schedulingPolicy") or {}).get("gang")
        return cls(
            obj=group,
            key=meta.key(group),
            least=1 if gang is None else max(gang.get("minCount") or 1, 1),
            priority=spec.get("priority") or 0,
            is_one=(spec.get("disruptionMode") or {}).get("all") is not None,
        )


class GroupIndex:
    """All pod groups, and all pods that name one: those that wait and those that have nodes."""

    def __init__(self) -> None:
        self._groups: dict[str, GroupInfo] = {}
        self._members: dict[str, dict[str, PodInfo]] = {}
        self._ones = 0  # groups whose pods are disrupted together
        self.version = 0
        """Grows with every change in whom a preemption may hit."""

    def get(self, key: str) -> GroupInfo | None:
        return self._groups.get(key)

    def set(self, group: Object) -> GroupInfo:
        info, old = GroupInfo.of(group), self._groups.get(meta.key(group))
        self._groups[info.key] = info
        if old is None or (old.is_one, old.priority) != (info.is_one, info.priority):
            self._changed(old, info)
        return info

    def remove(self, key: str) -> None:
        self._changed(self._groups.pop(key, None), None)

    def _changed(self, old: GroupInfo | None, new: GroupInfo | None) -> None:
        was, is_now = old is not None and old.is_one, new is not None and new.is_one
        self._ones += is_now - was
        self.version += was or is_now

    # -- members -------------------------------------------------------------------------------------------

    def join(self, pod: PodInfo) -> None:
        """A pod of a group came, or is seen anew."""
        self._members.setdefault(pod.group, {})[pod.key] = pod

    def leave(self, group: str, key: str) -> None:
        """A pod of a group is gone, or about to go without having had a node."""
        members = self._members.get(group)
        if members is not None:
            members.pop(key, None)
            if not members:
                del self._members[group]

    def members(self, group: str) -> Iterable[PodInfo]:
        return self._members.get(group, {}).values()

    def scheduled(self, group: str, snapshot: Snapshot) -> list[PodInfo]:
        """Members that have nodes, or are assumed there."""
        return [found for pod in self.members(group) if (found := snapshot.pods.get(pod.key)) is not None]

    def awaited(self, key: str) -> str:
        """What pods of a group wait for before it can be decided; empty for nothing."""
        group = self._groups.get(key)
        if group is None:
            return f'waiting for pod\'s pod group "{key.partition("/")[2]}" to appear in scheduling queue'
        return NOT_ENOUGH if len(self._members.get(key, ())) < group.least else ""

    # -- victims -------------------------------------------------------------------------------------------

    def unspared(self, pods: list[PodInfo], priority: int) -> list[PodInfo]:
        """Those whose group, where it goes as one, is not too important for a preemptor of this priority."""
        if not self._ones:
            return pods
        groups = ((pod, self._groups.get(pod.group)) for pod in pods)
        return [pod for pod, group in groups if group is None or not group.is_one or group.priority < priority]

    def with_all(self, victims: tuple[PodInfo, ...], snapshot: Snapshot) -> tuple[PodInfo, ...]:
        """The victims, and with each all the pods that are disrupted together with it."""
        if not self._ones:
            return victims
        found = {pod.key: pod for pod in victims}
        for pod in victims:
            group = self._groups.get(pod.group)
            if group is not None and group.is_one:
                found |= {other.key: other for other in self.scheduled(pod.group, snapshot)}
        return tuple(found.values())

    def disrupted(self, victims: Iterable[PodInfo]) -> list[GroupInfo]:
        """The groups that go as one with these victims, each once."""
        found = {group.key: group for pod in victims if (group := self._groups.get(pod.group)) and group.is_one}
        return list(found.values())


def mismatch(group: GroupInfo, pods: Iterable[PodInfo]) -> str:
    """Why these pods cannot be of one group; empty when nothing is against it."""
    first: PodInfo | None = None
    every = "all pods in a pod group hierarchy should have the same"
    for pod in pods:
        first = first or pod
        if pod.scheduler != first.scheduler:
            names = f'"{pod.scheduler}" ("{pod.name}") and "{first.scheduler}" ("{first.name}")'
            return f"{every} .spec.schedulerName set, got: {names}"
        if pod.priority != group.priority:
            values = f'{pod.priority} ("{pod.name}") and {group.priority} ("{group.key}")'
            return f"{every} priority as the root pod group's priority, got {values}"
        if pod.may_preempt != first.may_preempt:
            values = " and ".join(f'{_policy(one)} ("{one.name}")' for one in (pod, first))
            return f"{every} preemption policy, got {values}"
    return ""


def _policy(pod: PodInfo) -> str:
    return "PreemptLowerPriority" if pod.may_preempt else "Never"
