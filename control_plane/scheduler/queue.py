"""The scheduling queue, pods that wait for a node: ready to be tried, backing off, known not to fit for now, or gated.

Pure: the time comes in with each call, in seconds of any monotonic clock. Bounded by the number of pending pods; of
events at most `EVENTS_MAX` are remembered for the pods that are being decided.

A pod that found no node is parked with the plug-ins that refused it. An event for which one of those has a hint moves
it on: to the back-off queue, and from there to the active one when its back-off is over, or as soon as there is
nothing else to do. After an error it is the back-off that counts. What nobody thought of is tried after
`retry_after_s` all the same. A gated pod is one that a plug-in does not let in; it is asked again likewise.

Source: Kubernetes "Scheduling Framework", scheduling queue; KEP-4247, KEP-5142 (pop from the back-off queue), KEP-3521.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler.events import Event, Resource, pod_actions
from rayplane.control_plane.scheduler.groups import GANGS
from rayplane.control_plane.scheduler.hints import NO_NODES, Hints
from rayplane.control_plane.scheduler.pods import PodInfo

EVENTS_MAX = 4096
#: What is over sooner is not worth a word.
KEPT_OUT_S = 5.0
_SWEEP_FROM = 64  # entries of a heap


class Place(Enum):
    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    GATED = "gated"
    IN_FLIGHT = "in flight"


@dataclass(frozen=True, slots=True)
class Gate:
    """The plug-in that does not let a pod in, and what it says; Kubernetes' own gates need no word."""

    plugin: str
    message: str = ""
    awaits: str = ""
    """In whose place hints say what opens it; empty: the plug-in's own do."""

    @property
    def hinted(self) -> frozenset[str]:
        return frozenset((self.awaits or self.plugin,))


@dataclass(slots=True, eq=False)
class QueuedPod:
    """A pending pod. `stamp` voids heap entries of earlier places."""

    pod: PodInfo
    place: Place
    order: int
    came_at: float
    attempts: int = 0
    refusals: int = 0
    errors: int = 0
    """In a row; `refusals`: since it came."""
    stamp: int = 0
    since: float = 0.0
    ready_at: float = 0.0
    plugins: frozenset[str] = frozenset()
    """Those that refused it last. `events_seen`: how many events there were when it was taken to be decided."""
    events_seen: int = 0
    gate: Gate | None = None
    kept_out_at: float = 0.0
    told: str = ""
    """What was told of its gate. `kept_out_at`: since when there is something else to tell."""
    patient: bool = False
    """It backs off even when there is nothing else to do."""


class _Line:
    """Pods in the order of a key. Those that moved on meanwhile are passed over, and swept when they are most."""

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, int, QueuedPod]] = []

    def push(self, queued: QueuedPod, key: Any, present: int) -> None:
        heapq.heappush(self._heap, (key, queued.order, queued.stamp, queued))
        if len(self._heap) > _SWEEP_FROM + 2 * present:
            self._heap = [entry for entry in self._heap if entry[3].stamp == entry[2]]
            heapq.heapify(self._heap)

    def first(self) -> QueuedPod | None:
        while self._heap and self._heap[0][3].stamp != self._heap[0][2]:
            heapq.heappop(self._heap)
        return self._heap[0][3] if self._heap else None


def by_priority(pod: PodInfo) -> int:
    """Kubernetes' order: the most important first (plug-in PrioritySort)."""
    return -pod.priority


def never_gated(_pod: PodInfo) -> None:
    return None


class SchedulingQueue:
    """Order of trying: higher priority first, then who waits longest since the last try. A pod is in one place."""

    def __init__(
        self,
        hints: Hints,
        *,
        backoff: Backoff,
        retry_after_s: float,
        order: Callable[[PodInfo], Any] = by_priority,
        gate: Callable[[PodInfo], Gate | None] = never_gated,
        incoming: Counter[tuple[str, str]] | None = None,
    ) -> None:
        """`incoming` counts pods by the queue they came to and the event that brought them."""
        self._hints = hints
        self._pauses = backoff
        self._retry_after_s = retry_after_s
        self._key = order
        self._gate = gate
        self._incoming: Counter[tuple[str, str]] = Counter() if incoming is None else incoming
        self._pods: dict[str, QueuedPod] = {}
        self._active = _Line()
        self._backoff = _Line()  # by the end of the back-off
        self._early = _Line()  # of these the ones that no error befell, in the order of trying
        self._parked: dict[str, QueuedPod] = {}  # unschedulable and gated, the longest first
        self._groups: dict[frozenset[str], dict[str, QueuedPod]] = {}  # the same, by who refused them
        self._members: dict[str, dict[str, QueuedPod]] = {}  # pods of pod groups, by group
        self._untold: dict[str, QueuedPod] = {}  # gated, with something to tell of it; the longest first
        self._deciding: dict[str, QueuedPod] = {}  # taken, not yet decided; the longest first
        self._events: list[Event] = []
        self._events_seen = 0  # of all times; the list holds the newest
        self._orders = 0
        self._stamps = 0

    def __len__(self) -> int:
        return len(self._pods)

    def __contains__(self, key: str) -> bool:
        return key in self._pods

    def places(self) -> dict[Place, int]:
        """How many pods are where."""
        found = dict.fromkeys(Place, 0)
        for queued in self._pods.values():
            found[queued.place] += 1
        return found

    def refused(self) -> Counter[tuple[str, str]]:
        """How many unschedulable pods wait for a plug-in, by plug-in and profile."""
        found: Counter[tuple[str, str]] = Counter()
        for queued in self._parked.values():
            if queued.place is Place.UNSCHEDULABLE:
                found.update((plugin, queued.pod.scheduler) for plugin in queued.plugins if plugin)
        return found

    def get(self, key: str) -> PodInfo | None:
        queued = self._pods.get(key)
        return queued.pod if queued else None

    def find(self, key: str) -> QueuedPod | None:
        """Where a pod is and how it fared so far; not to be changed."""
        return self._pods.get(key)

    def pods(self) -> list[PodInfo]:
        """All pods that wait, whatever for."""
        return [queued.pod for queued in self._pods.values()]

    # -- in and out ----------------------------------------------------------------------------------------

    def add(self, pod: PodInfo, now: float) -> None:
        """A new pending pod, or a new version of one; a version that may be scheduled otherwise is tried again."""
        queued = self._pods.get(pod.key)
        if queued is None:
            queued = self._pods[pod.key] = QueuedPod(pod, Place.ACTIVE, self._next_order(), now)
            if pod.group:
                self._join(queued)
            self._retry(queued, now, "PodAdd")
            return
        old, queued.pod = queued.pod, pod
        if queued.place is Place.ACTIVE and self._key(old) != self._key(pod):
            self._activate(queued, now, "PodUpdate")
            return
        actions = pod_actions(old, pod)
        if actions:
            event = Event(Resource.PENDING_POD, actions, old, pod)
            self._remember(event)
            if queued.place in (Place.UNSCHEDULABLE, Place.GATED) and self._may_help(queued, event):
                self._retry(queued, now, "PodUpdate")

    def remove(self, key: str) -> PodInfo | None:
        """The pod is gone, or has a node."""
        queued = self._pods.pop(key, None)
        if queued is None:
            return None
        self._leave(queued)
        self._untold.pop(key, None)
        if queued.pod.group:
            members = self._members[queued.pod.group]
            del members[key]
            if not members:
                del self._members[queued.pod.group]
        return queued.pod

    def pop(self, limit: int, now: float) -> list[PodInfo]:
        """The next pods to decide, at most `limit`; each must come back by `failed`, `placed` or `remove`.

        With nothing active the ones that back off are not kept waiting, but for those that met an error.
        """
        self._promote(now)
        found: list[PodInfo] = []
        while len(found) < limit:
            queued = self._active.first() or self._early.first()
            if queued is None:
                break
            self._take(queued)
            found.append(queued.pod)
        return found

    def kept_out(self, limit: int, now: float) -> list[tuple[PodInfo, str]]:
        """At most `limit` pods that a gate has kept out for a while, with what it says; each is told once."""
        found: list[tuple[PodInfo, str]] = []
        while len(found) < limit and self._untold:
            queued = next(iter(self._untold.values()))
            if queued.kept_out_at + KEPT_OUT_S > now:
                break
            del self._untold[queued.pod.key]
            if queued.gate is not None and queued.gate.message != queued.told:
                queued.told = queued.gate.message
                found.append((queued.pod, queued.told))
        return found

    def _take(self, queued: QueuedPod) -> None:
        self._move(queued, Place.IN_FLIGHT)
        queued.attempts += 1
        queued.events_seen = self._events_seen
        self._deciding[queued.pod.key] = queued

    # -- pods of pod groups --------------------------------------------------------------------------------

    def _join(self, queued: QueuedPod) -> None:
        """A new pod of a group that found no nodes backs off with it: else each would have all of it tried again."""
        members = self._members.setdefault(queued.pod.group, {})
        first = next(iter(members.values()), None)
        if first is not None and first.place in (Place.BACKOFF, Place.UNSCHEDULABLE):
            queued.ready_at, queued.patient = first.ready_at, True
        members[queued.pod.key] = queued

    def with_others(self, pod: PodInfo) -> list[PodInfo]:
        """A pod that was popped, and of its group all that may be decided with it, taken like it, in a fixed order."""
        found = [self._pods[pod.key]]
        for queued in self._members[pod.group].values():
            if queued.place is not Place.IN_FLIGHT and self._gate(queued.pod) is None:
                self._take(queued)
                found.append(queued)
        found.sort(key=lambda queued: (-queued.pod.priority, queued.came_at, queued.pod.key))
        return [queued.pod for queued in found]

    def waiting(self, group: str) -> list[PodInfo]:
        """The pods of a group that wait for nodes, whatever for."""
        return [queued.pod for queued in self._members.get(group, {}).values()]

    def group_changed(self, group: str, now: float, event: str) -> bool:
        """Try a group that may be let in, or find nodes, now: one of its pods, which takes the others along; whether
        there is one."""
        for queued in self._members.get(group, {}).values():
            gate = self._gate(queued.pod) if queued.place is Place.GATED else None
            if gate is not None and gate.plugin == GANGS:
                return False  # as it would be for all
            waits = queued.place is Place.UNSCHEDULABLE and GANGS in queued.plugins
            if waits or (queued.place is Place.GATED and gate is None):
                self._retry(queued, now, event)
                return True
        return False

    def placed(self, key: str) -> None:
        """A pod in flight got a node; what happens from now on does not concern it, unless its binding fails."""
        self._decided(key)

    def failed(
        self,
        key: str,
        now: float,
        plugins: Iterable[str] = (),
        *,
        retry: bool = False,
        patient: bool = False,
        soon: bool = False,
    ) -> None:
        """A pod in flight found no node: these plug-ins refused it. After an error (`retry`) it only backs off.

        `patient`: it lost the node that it had, and so may have woken others that wake it: it backs off in any case.
        `soon`: it is tried again at once.
        """
        queued = self._pods.get(key)
        if queued is None or queued.place is not Place.IN_FLIGHT:
            return
        queued.plugins = frozenset(plugins) or frozenset((NO_NODES,))
        missed = self._missed(queued)
        self._decided(key)
        queued.order = self._next_order()
        queued.since, queued.patient = now, patient
        if retry:
            queued.errors += 1
        else:
            queued.errors, queued.refusals = 0, queued.refusals + 1
        queued.ready_at = now + self._pauses.pause_s(queued.errors or queued.refusals)
        if soon:
            queued.ready_at = now
            self._activate(queued, now, "ScheduleAttemptFailure")
        elif retry or missed:
            self._back_off(queued, now, "ScheduleAttemptFailure")
        else:
            self._park(queued, Place.UNSCHEDULABLE, queued.plugins, "ScheduleAttemptFailure")

    def happened(self, event: Event, now: float) -> bool:
        """Try those again that the event may help, each when its back-off is over; whether there are any."""
        self._remember(event)
        moved = False
        for plugins in [*self._groups]:
            hints = self._hints.concerned(plugins, event)
            if not hints:
                continue
            for queued in [*self._groups[plugins].values()]:
                if self._hints.help(hints, queued.pod, event):
                    moved = True
                    self._retry(queued, now, event.label)
        return moved

    def next_wake(self, now: float) -> float | None:
        """Seconds until `pop` may have something; 0 when it has; None when only an event can bring something."""
        if self._active.first() or self._early.first():
            return 0.0
        times = []
        backing = self._backoff.first()
        if backing is not None:
            times.append(backing.ready_at)
        if self._parked:
            times.append(next(iter(self._parked.values())).since + self._retry_after_s)
        if self._untold:
            times.append(next(iter(self._untold.values())).kept_out_at + KEPT_OUT_S)
        return max(0.0, min(times) - now) if times else None

    # -- events while pods are being decided ----------------------------------------------------------------

    def _remember(self, event: Event) -> None:
        self._events_seen += 1
        if self._deciding:
            self._events.append(event)
            if len(self._events) > 2 * EVENTS_MAX:
                del self._events[:-EVENTS_MAX]

    def _missed(self, queued: QueuedPod) -> bool:
        """Whether one of the events since the pod was taken may help it; any may of those that were forgotten."""
        behind = self._events_seen - queued.events_seen
        if queued.pod.key not in self._deciding or behind > len(self._events):
            return behind > 0
        missed = self._events[len(self._events) - behind :]
        return any(self._may_help(queued, event) for event in missed)

    def _decided(self, key: str) -> None:
        self._deciding.pop(key, None)
        if not self._deciding:
            self._events = []

    def _may_help(self, queued: QueuedPod, event: Event) -> bool:
        plugins = queued.gate.hinted if queued.gate else queued.plugins
        return self._hints.help(self._hints.concerned(plugins, event), queued.pod, event)

    # -- moves ---------------------------------------------------------------------------------------------

    def _next_order(self) -> int:
        self._orders += 1
        return self._orders

    def _leave(self, queued: QueuedPod) -> None:
        """Out of wherever it is."""
        queued.stamp = -1
        key = queued.pod.key
        self._decided(key)
        if self._parked.pop(key, None) is not None:
            plugins = queued.gate.hinted if queued.gate else queued.plugins
            group = self._groups[plugins]
            del group[key]
            if not group:
                del self._groups[plugins]
        queued.gate = None

    def _move(self, queued: QueuedPod, place: Place, event: str = "") -> None:
        self._leave(queued)
        self._stamps += 1
        queued.stamp = self._stamps
        queued.place = place
        if event:
            self._incoming[place.value, event] += 1

    def _park(self, queued: QueuedPod, place: Place, plugins: frozenset[str], event: str) -> None:
        self._move(queued, place, event)
        self._parked[queued.pod.key] = queued
        self._groups.setdefault(plugins, {})[queued.pod.key] = queued

    def _is_let_in(self, queued: QueuedPod, now: float, event: str) -> bool:
        """Else it is parked until its gate may have opened."""
        gate = self._gate(queued.pod)
        if gate is None:
            self._untold.pop(queued.pod.key, None)
            queued.told = ""
            return True
        queued.since = now
        if gate.message not in ("", queued.told) and queued.pod.key not in self._untold:
            queued.kept_out_at = now
            self._untold[queued.pod.key] = queued
        self._park(queued, Place.GATED, gate.hinted, event)
        queued.gate = gate
        return False

    def _activate(self, queued: QueuedPod, now: float, event: str) -> None:
        if self._is_let_in(queued, now, event):
            self._move(queued, Place.ACTIVE, event)
            self._active.push(queued, self._key(queued.pod), len(self._pods))

    def _back_off(self, queued: QueuedPod, now: float, event: str) -> None:
        if self._is_let_in(queued, now, event):
            self._move(queued, Place.BACKOFF, event)
            self._backoff.push(queued, queued.ready_at, len(self._pods))
            if not queued.errors and not queued.patient:
                self._early.push(queued, self._key(queued.pod), len(self._pods))

    def _retry(self, queued: QueuedPod, now: float, event: str) -> None:
        if queued.ready_at <= now:
            self._activate(queued, now, event)
        else:
            self._back_off(queued, now, event)

    def _promote(self, now: float) -> None:
        """Pods whose back-off is over become active, and parked ones nobody thought of for long."""
        while (queued := self._backoff.first()) is not None and queued.ready_at <= now:
            self._activate(queued, now, "BackoffComplete")
        while self._parked:
            queued = next(iter(self._parked.values()))
            if queued.since + self._retry_after_s > now:
                break
            self._retry(queued, now, "UnschedulableTimeout")
