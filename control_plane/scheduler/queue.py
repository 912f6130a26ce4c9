"""The scheduling queue, pods that wait for a node: ready to be tried, backing off, or known not to fit for now.

Pure: the time comes in with each call, in seconds of any monotonic clock. Bounded by the number of pending pods.
Source: Kubernetes "Scheduling Framework", scheduling queue.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler.pods import PodInfo


class Place(Enum):
    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    IN_FLIGHT = "in flight"


@dataclass(slots=True, eq=False)
class QueuedPod:
    """A pending pod. `stamp` voids heap entries of earlier places."""

    pod: PodInfo
    order: int
    place: Place
    attempts: int = 0
    stamp: int = 0
    since: float = 0.0
    ready_at: float = 0.0
    event_count: int = 0


class SchedulingQueue:
    """Order of trying: higher priority first, then first come. Every pod is in exactly one place."""

    def __init__(self, *, backoff: Backoff, retry_after_s: float) -> None:
        self._pauses = backoff
        self._retry_after_s = retry_after_s
        self._pods: dict[str, QueuedPod] = {}
        self._active: list[tuple[int, int, int, str]] = []  # -priority, order, stamp, key
        self._backoff: list[tuple[float, int, int, str]] = []  # ready_at, order, stamp, key
        self._unschedulable: dict[str, None] = {}
        self._orders = 0
        self._events = 0
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

    def get(self, key: str) -> PodInfo | None:
        queued = self._pods.get(key)
        return queued.pod if queued else None

    # -- in and out ----------------------------------------------------------------------------------------

    def add(self, pod: PodInfo) -> None:
        """A new pending pod, or a new version of one; a version that may schedule otherwise is tried at once."""
        queued = self._pods.get(pod.key)
        if queued is None:
            self._orders += 1
            queued = self._pods[pod.key] = QueuedPod(pod, self._orders, Place.ACTIVE)
            self._activate(queued)
            return
        old, queued.pod = queued.pod, pod
        if (
            queued.place is Place.UNSCHEDULABLE
            and (old.shape is not pod.shape or old.labels != pod.labels or old.uid != pod.uid)
        ) or (queued.place is Place.ACTIVE and old.priority != pod.priority):
            self._activate(queued)

    def remove(self, key: str) -> PodInfo | None:
        """The pod is gone, or has a node."""
        queued = self._pods.pop(key, None)
        if queued is None:
            return None
        self._unschedulable.pop(key, None)
        return queued.pod

    def pop(self, limit: int, now: float) -> list[PodInfo]:
        """The next pods to decide, at most `limit`; each must come back by `failed` or `remove`."""
        self._promote(now)
        found: list[PodInfo] = []
        while self._active and len(found) < limit:
            _, _, stamp, key = heapq.heappop(self._active)
            queued = self._pods.get(key)
            if queued is None or queued.stamp != stamp or queued.place is not Place.ACTIVE:
                continue
            queued.place = Place.IN_FLIGHT
            queued.attempts += 1
            queued.event_count = self._events
            found.append(queued.pod)
        return found

    def failed(self, key: str, now: float, *, retry: bool = False) -> None:
        """A pod in flight found no node. With `retry` (or when something happened meanwhile) it only backs off."""
        queued = self._pods.get(key)
        if queued is None or queued.place is not Place.IN_FLIGHT:
            return
        queued.since = now
        queued.ready_at = now + self._backoff_of(queued)
        if retry or queued.event_count != self._events:
            self._back_off(queued)
        else:
            queued.place = Place.UNSCHEDULABLE
            queued.stamp = self._next_stamp()
            self._unschedulable[key] = None

    def something_changed(self, now: float) -> None:
        """Room may have come up: unschedulable pods are tried again, each when its back-off is over."""
        self._events += 1
        keys, self._unschedulable = [*self._unschedulable], {}
        for key in keys:
            self._retry(self._pods[key], now)

    def pod_came(self, now: float) -> None:
        """A pod got a node: that helps only those that want to be near others or evenly spread."""
        for key in [*self._unschedulable]:
            queued = self._pods[key]
            if queued.pod.affinity or queued.pod.spread:
                del self._unschedulable[key]
                self._retry(queued, now)

    def next_wake(self, now: float) -> float | None:
        """Seconds until `pop` may have something; 0 when it has; None when only an event can bring something."""
        while self._active and not self._is_current(self._active[0][3], self._active[0][2], Place.ACTIVE):
            heapq.heappop(self._active)
        if self._active:
            return 0.0
        times = []
        while self._backoff and not self._is_current(self._backoff[0][3], self._backoff[0][2], Place.BACKOFF):
            heapq.heappop(self._backoff)
        if self._backoff:
            times.append(self._backoff[0][0])
        if self._unschedulable:
            times.append(self._pods[next(iter(self._unschedulable))].since + self._retry_after_s)
        return max(0.0, min(times) - now) if times else None

    def _next_stamp(self) -> int:
        self._stamps += 1
        return self._stamps

    # -- moves ---------------------------------------------------------------------------------------------

    def _is_current(self, key: str, stamp: int, place: Place) -> bool:
        queued = self._pods.get(key)
        return queued is not None and queued.stamp == stamp and queued.place is place

    def _backoff_of(self, queued: QueuedPod) -> float:
        return self._pauses.pause_s(max(queued.attempts, 1))

    def _activate(self, queued: QueuedPod) -> None:
        self._unschedulable.pop(queued.pod.key, None)
        queued.place = Place.ACTIVE
        queued.stamp = self._next_stamp()
        heapq.heappush(self._active, (-queued.pod.priority, queued.order, queued.stamp, queued.pod.key))

    def _back_off(self, queued: QueuedPod) -> None:
        queued.place = Place.BACKOFF
        queued.stamp = self._next_stamp()
        heapq.heappush(self._backoff, (queued.ready_at, queued.order, queued.stamp, queued.pod.key))

    def _retry(self, queued: QueuedPod, now: float) -> None:
        if queued.ready_at <= now:
            self._activate(queued)
        else:
            self._back_off(queued)

    def _promote(self, now: float) -> None:
        """Pods whose back-off is over become active, and unschedulable ones nobody thought of for long."""
        while self._backoff and self._backoff[0][0] <= now:
            _, _, stamp, key = heapq.heappop(self._backoff)
            if self._is_current(key, stamp, Place.BACKOFF):
                self._activate(self._pods[key])
        while self._unschedulable:
            queued = self._pods[next(iter(self._unschedulable))]
            if queued.since + self._retry_after_s > now:
                break
            self._activate(queued)
