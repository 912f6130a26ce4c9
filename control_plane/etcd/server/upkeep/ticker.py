"""The member's tick: the one timer by which raft, proposals, reads, leases and watches know that time has passed."""

import asyncio
import itertools
from collections.abc import Callable, Sequence


class Ticker:
    """A ticker that calls each of `steps` with the loop's time, every `tick_s` seconds.

    What one raises goes to `fail`.
    """

    def __init__(
        self,
        tick_s: float,
        steps: Sequence[Callable[[float], None]],
        *,
        leads: Callable[[], bool],
        fail: Callable[[Exception], None],
    ) -> None:
        self._tick_s = tick_s
        self._steps = steps
        self._leads = leads
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._skipped = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = self._loop.time() + self._tick_s
        self._timer = self._loop.call_at(self._due, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        # Set anew from now: a stalled loop must not make up for lost ticks in a burst, that would look like silence.
        now, due = self._loop.time(), self._due
        self._due = now + self._tick_s
        self._timer = self._loop.call_at(self._due, self._tick)
        if now - due > self._tick_s and not self._leads() and not self._skipped:
            # This loop stood still: what others sent meanwhile, the leader's heartbeat perhaps, is read before the
            # silence is counted. Only every other time: a loop that always is late must still find a lost leader.
            self._skipped = True
            return
        self._skipped = False
        try:
            for step in self._steps:
                step(now)
        except Exception as e:
            self._fail(e)


def every(ticks: int, step: Callable[[], None]) -> Callable[[float], None]:
    """A step of the ticker that is done at every so many ticks only."""
    count = itertools.count(1)

    def counted(now: float) -> None:
        if next(count) % max(1, ticks) == 0:
            step()

    return counted
