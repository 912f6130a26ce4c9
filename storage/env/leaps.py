"""An event loop of real sockets and threads whose time can be led forward: from timer to timer, while nobody works.

Leases are renewed, schedules kept and time-outs met as in the time that was left out, since every timer goes off in its
turn, late by no more than a stride. Whoever is outside sees somebody in a great hurry, and is waited for only where
`at_machine_pace`, `keep_pace` or `machine_time` says so.
"""

import asyncio
import contextlib
import functools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, Unpack

from rayplane.storage.env.clock import AheadClock, Clock, SystemClock

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
#: How long threads may take before they are looked for again.
_LOOK_S = 0.05
#: Of each so many seconds that are leapt over a loop with sockets gives the machine this long to bring what was sent.
_SETTLED_EACH_S, _SETTLE_S = 1.0, 0.001

#: A timer that is nearer belongs to work under way, and is met exactly.
_NEAR_S = 0.02
_OWN_FILES = 1
"""Of a loop: by it threads wake it."""


class _Selector(selectors.DefaultSelector):
    """A selector that does not sleep while its loop leaps: it tells the loop how long it would have."""

    loop: "LeapingLoop"
    _settled_at_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self.loop
        if not loop.leaping or loop.awaited or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        found = super().select(_LOOK_S if loop.threads else self._settling_s())
        if not found and not loop.threads and timeout is not None:
            loop.ahead_s += timeout if timeout < _NEAR_S else max(timeout, loop.stride_s)
        return found

    def _settling_s(self) -> float:
        if len(self.get_map()) <= _OWN_FILES or self.loop.ahead_s < self._settled_at_s + _SETTLED_EACH_S:
            return 0.0
        self._settled_at_s = self.loop.ahead_s
        return _SETTLE_S


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop, see the module."""

    def __init__(self, ahead_s: float = 0.0, *, stride_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        """By how much its time is ahead of the machine's."""
        self.stride_s = stride_s
        """The least that it leaps where nobody has work under way: what is done again and again is done once then."""
        self.leaping = 0
        """How many lead it forward now."""
        self.threads = 0
        """Calls that threads work on: time does not pass for them."""
        self.awaited = 0
        """Answers of others, for which time passes as the machine's does."""
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


def clock_of(loop: asyncio.AbstractEventLoop) -> Clock:
    """The clock that goes with a loop."""
    return AheadClock(lambda: loop.ahead_s) if isinstance(loop, LeapingLoop) else SystemClock()


def ahead_of(loop: asyncio.AbstractEventLoop) -> float:
    """By how many seconds a loop's time is ahead of the machine's."""
    return loop.ahead_s if isinstance(loop, LeapingLoop) else 0.0


def machine_time(loop: asyncio.AbstractEventLoop) -> float:
    """A loop's time without what was leapt over: by it those have to hurry who are outside."""
    return loop.time() - ahead_of(loop)


def is_leaping(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether it is led forward now: then silence says nothing of whoever is outside, who was given no time."""
    return isinstance(loop, LeapingLoop) and loop.leaping > 0


def keep_pace(for_s: float) -> Callable[[], None]:
    """Have the running loop not leap for so long by the machine's time, or until what is returned is called."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, LeapingLoop):
        return _nothing
    loop.awaited += 1
    waiting = True

    def release() -> None:
        nonlocal waiting
        loop.awaited -= waiting
        waiting = False
        timer.cancel()

    timer = loop.call_later(for_s, release)
    return release


def _nothing() -> None:
    pass


def at_machine_pace(wait: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Decorate what waits for somebody outside, for a bounded time: a loop that leaps does not leap over it."""

    @functools.wraps(wait)
    async def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, LeapingLoop):
            return await wait(*args, **kwargs)
        loop.awaited += 1
        try:
            return await wait(*args, **kwargs)
        finally:
            loop.awaited -= 1

    return waiting
