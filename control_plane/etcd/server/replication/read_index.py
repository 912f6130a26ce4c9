"""Linearizable reads: those that wait for a quorum's word that this member's state is new enough (ReadIndex).

No timers of its own: the member's tick ends what waited too long, and asks again.
"""

import asyncio
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft


@dataclass(slots=True)
class _Read:
    future: asyncio.Future[None]
    deadline: float


class ReadIndex:
    """Linearizable reads (thesis §6.4): one round of ReadIndex serves all reads that wait when it starts.

    `ask` sends a round's context to raft; it raises ReadIndexDropped when nobody leads, and the round is asked
    again later (`retry`), as it is when its answer does not come: reads may be repeated freely.
    """

    def __init__(self, ask: Callable[[bytes], None], *, first: int, timeout_s: float) -> None:
        """`first` numbers the first context: random, lest a late answer to an earlier life of this member fits."""
        self._timeout_s = timeout_s
        self._draining = False
        self._ask = ask
        self._next: list[_Read] = []
        self._asked: list[_Read] = []
        self._context = first  # of the present round
        self._asking = False  # whether raft has been asked for it
        self._confirmed: list[tuple[int, list[_Read]]] = []  # by the index that they wait for
        self._idle_sweeps = 0
        self.slow = self.failed = 0  # rounds asked again, reads timed out

    async def barrier(self) -> None:
        """Return when the applied state is linearizable with respect to the call. Raises Timeout, Stopped."""
        read = self._read()
        self.add(read.future, read.deadline)
        await read.future

    async def reached(self, index: int) -> None:
        """Return when the state machine has come to a committed `index`. Raises Timeout, Stopped."""
        read = self._read()
        self._wait(index, [read])
        await read.future

    def _read(self) -> _Read:
        if self._draining:
            raise errors.Stopped
        loop = asyncio.get_running_loop()
        return _Read(loop.create_future(), loop.time() + self._timeout_s)

    def _wait(self, index: int, reads: list[_Read]) -> None:
        insort(self._confirmed, (index, reads), key=itemgetter(0))

    def drain(self) -> None:
        """Take nothing more; what waits may still come to its end."""
        self._draining = True

    def add(self, future: asyncio.Future[None], deadline: float) -> None:
        """Resolve the future when a read of the applied state is linearizable with respect to this moment."""
        self._next.append(_Read(future, deadline))
        if not self._asked:
            self._start()

    def _start(self) -> None:
        self._asked, self._next = self._next, []
        self._context += 1
        self.retry()

    def retry(self) -> None:
        """Ask (again) for the present round. Any answer to it will do, so that a slow network is only slow."""
        if not self._asked:
            return
        self._idle_sweeps = 0
        try:
            self._ask(self._context.to_bytes(8, "big"))
            self._asking = True
        except raft.ReadIndexDropped:
            self._asking = False

    def leader_seen(self, state: raft.SoftState) -> None:
        """There may be somebody to ask now."""
        if state.lead != raft.NONE:
            self.retry()

    def confirmed(self, state: raft.ReadState, applied: int) -> None:
        """Raft's answer; one to an earlier round is late."""
        if not self._asked or int.from_bytes(state.context, "big") != self._context:
            return
        reads, self._asked = self._asked, []
        self._wait(state.index, reads)
        self.applied(applied)
        self._start()

    def applied(self, index: int) -> None:
        """The state machine has come to `index`."""
        while self._confirmed and self._confirmed[0][0] <= index:
            for read in self._confirmed.pop(0)[1]:
                if not read.future.done():
                    read.future.set_result(None)

    def sweep(self, now: float, retry_after: int) -> None:
        """Once per tick: fail what waited too long; ask again after `retry_after` ticks without an answer."""
        for reads in (self._next, self._asked, *(r for _, r in self._confirmed)):
            for read in reads:
                if read.deadline <= now and not read.future.done():
                    self.failed += 1
                    read.future.set_exception(errors.Timeout())
        self._next = [r for r in self._next if not r.future.done()]
        self._asked = [r for r in self._asked if not r.future.done()]
        waiting = ((index, [r for r in reads if not r.future.done()]) for index, reads in self._confirmed)
        self._confirmed = [(index, reads) for index, reads in waiting if reads]
        if not self._asked:
            self._start()
            return
        self._idle_sweeps += 1
        if self._idle_sweeps >= retry_after or not self._asking:
            self.slow += 1
            self.retry()

    def fail_all(self, error: Callable[[], Exception]) -> None:
        for reads in (self._next, self._asked, *(r for _, r in self._confirmed)):
            for read in reads:
                if not read.future.done():
                    read.future.set_exception(error())
        self._next, self._asked, self._confirmed = [], [], []
