"""An event loop of real sockets and threads whose time can be led forward: from timer to timer, while nobody works.

Leases are renewed, schedules kept and time-outs met as in the time that was left out, since every timer goes off in its
turn. Of other processes nobody waits for an answer: to them it is a cluster that is in a great hurry.
"""

import asyncio
import contextlib
import selectors
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple, Unpack

from rayplane.storage.env import Clock, SystemClock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
#: How long threads may take before they are looked for again.
_LOOK_S = 0.05


class _Selector(selectors.DefaultSelector):
    """A selector that does not sleep while its loop leaps: it tells the loop how long it would have."""

    loop: "LeapingLoop"

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self.loop.leaping or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        found = super().select(_LOOK_S if self.loop.threads else 0)
        if not found and not self.loop.threads and timeout is not None:
            self.loop.ahead_s += timeout
        return found


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop, see the module."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        """By how much its time is ahead of the machine's."""
        self.leaping = 0
        """How many lead it forward now."""
        self.threads = 0
        """Calls that threads work on: time does not pass for them."""
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return super().time() + self.ahead_s

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self.threads += 1
        future.add_done_callback(self._returned)
        return future

    def _returned(self, _: "asyncio.Future[Any]") -> None:
        self.threads -= 1

    async def advance(self, span_s: float) -> None:
        """Return when so much time has passed on this loop: at once, but for the work that falls due meanwhile."""
        with self.leaps():
            await asyncio.sleep(span_s)

    @contextlib.contextmanager
    def leaps(self) -> Iterator[None]:
        """Around what should not wait for time."""
        self.leaping += 1
        try:
            yield
        finally:
            self.leaping -= 1


class LoopClock:
    """A clock that is ahead of another as far as its loop is."""

    def __init__(self, loop: LeapingLoop, clock: Clock | None = None) -> None:
        self._loop = loop
        self._clock = clock or SystemClock()

    def now(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._loop.ahead_s)
