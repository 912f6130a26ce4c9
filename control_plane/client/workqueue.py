"""A queue of keys to reconcile (as in Kubernetes' client-go `workqueue`).

A key is in the queue at most once, and in work at most once: one that is added while it is in work comes again
afterwards. The number of keys bounds it.
"""

import asyncio

from rayplane.control_plane.backoff import Backoff

BACKOFF = Backoff(0.005, 30.0)


class WorkQueue:
    """Keys in the order they were first added; delayed and rate-limited adding by the loop's timers."""

    def __init__(self, *, backoff: Backoff = BACKOFF) -> None:
        self._backoff = backoff
        self._queue: dict[str, None] = {}
        self._working: set[str] = set()
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
            self._queue[key] = None
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
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self.add_after(key, self._backoff.pause_s(failures))

    def failures(self, key: str) -> int:
        return self._failures.get(key, 0)

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
        del self._queue[key]
        self._working.add(key)
        return key

    def done(self, key: str) -> None:
        self._working.discard(key)
        if key in self._again:
            del self._again[key]
            self.add(key)

    def close(self) -> None:
        """Cancel the timers that are left."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _due(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return
