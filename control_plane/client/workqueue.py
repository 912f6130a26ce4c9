"""A queue of keys to reconcile (as in Kubernetes' client-go `workqueue`).

A key is in the queue at most once, and in work at most once: one that is added while it is in work comes again
afterwards. The number of keys bounds it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.component_base.metrics import Family, Histogram, counter, exponential, gauge, histogram

BACKOFF = Backoff(0.005, 30.0)
_BOUNDS_S = exponential(1e-8, 10.0, 12)


class QueueMetrics:
    """Counts of one queue, and of those that take its place in later terms."""

    __slots__ = ("adds", "depth", "retries", "waits", "work")

    def __init__(self) -> None:
        self.depth = self.adds = self.retries = 0
        self.waits = Histogram(_BOUNDS_S)
        self.work = Histogram(_BOUNDS_S)


def collect(queues: Mapping[str, QueueMetrics]) -> Iterable[Family]:
    """Families of queues by their names, as client-go calls them."""
    depth = {(queue,): metrics.depth for queue, metrics in queues.items()}
    yield gauge("workqueue_depth", "Keys that wait.", depth, "name")
    adds = {(queue,): metrics.adds for queue, metrics in queues.items()}
    yield counter("workqueue_adds_total", "Keys added.", adds, "name")
    retries = {(queue,): metrics.retries for queue, metrics in queues.items()}
    yield counter("workqueue_retries_total", "Keys added again after a failure.", retries, "name")
    waits = {(queue,): metrics.waits for queue, metrics in queues.items()}
    yield histogram("workqueue_queue_duration_seconds", "Time that keys waited.", waits, "name")
    work = {(queue,): metrics.work for queue, metrics in queues.items()}
    yield histogram("workqueue_work_duration_seconds", "Time that work on keys took.", work, "name")


@dataclass(frozen=True, slots=True)
class Standing:
    """The standing of a key: since when it waits for a worker or is in work, when it comes next, in seconds."""

    queued_s: float | None = None
    working_s: float | None = None
    due_in_s: float | None = None
    failures: int = 0


class WorkQueue:
    """Keys in the order they were first added; delayed and rate-limited adding by the loop's timers."""

    def __init__(self, *, backoff: Backoff = BACKOFF, metrics: QueueMetrics | None = None) -> None:
        self._backoff = backoff
        self._metrics = metrics or QueueMetrics()
        self._queue: dict[str, float] = {}  # since when
        self._working: dict[str, float] = {}  # since when
        self._again: dict[str, None] = {}
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, key: str) -> None:
        if key in self._working:
            self._again[key] = None
        elif key not in self._queue:
            self._queue[key] = asyncio.get_running_loop().time()
            self._metrics.adds += 1
            self._metrics.depth = len(self._queue)
            self._wake()

    def add_after(self, key: str, seconds: float) -> None:
        """Add later; of several pending times the earliest counts."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        pending = self._timers.get(key)
        if pending is not None:
            if pending.when() <= when:
                return
            pending.cancel()
        self._timers[key] = loop.call_at(when, self._due, key)

    def add_rate_limited(self, key: str) -> None:
        """Add after a pause that doubles with each failure since `forget`."""
        self._metrics.retries += 1
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, self._backoff.pause_s(failures))

    def failures(self, key: str) -> int:
        return self._failures.get(key, 0)

    def standing(self, key: str) -> Standing:
        now, timer = asyncio.get_running_loop().time(), self._timers.get(key)
        queued, working = self._queue.get(key), self._working.get(key)
        return Standing(
            queued_s=None if queued is None else now - queued,
            working_s=None if working is None else now - working,
            due_in_s=None if timer is None else max(0.0, timer.when() - now),
            failures=self._failures.get(key, 0),
        )

    def forget(self, key: str) -> None:
        """The key's work went well: its next failure counts as the first."""
        self._failures.pop(key, None)

    async def get(self) -> str:
        """The next key; it is in work until `done`."""
        while not self._queue:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                elif self._queue:
                    # It was woken for a key that it will not take: another must.
                    self._wake()
                raise
        key = next(iter(self._queue))
        now = asyncio.get_running_loop().time()
        self._metrics.waits.observe(now - self._queue.pop(key))
        self._metrics.depth = len(self._queue)
        self._working[key] = now
        return key

    def done(self, key: str) -> None:
        since = self._working.pop(key, None)
        if since is not None:
            self._metrics.work.observe(asyncio.get_running_loop().time() - since)
        if key in self._again:
            del self._again[key]
            self.add(key)

    def close(self) -> None:
        """Cancel the timers that are left."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._metrics.depth = 0

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
