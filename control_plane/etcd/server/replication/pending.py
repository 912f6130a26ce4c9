"""What waits: proposals for their outcome, reads for a quorum's word. No tasks and no timers of their own.

Both are swept by the member's tick: everything has the same time limit, so the oldest come first and nothing needs a
timer per request.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server import errors


@dataclass(slots=True)
class Proposal:
    """One request on its way through the log. `term` is that in which it was handed over; 0 while it is parked."""

    data: bytes
    request: Message | None
    future: asyncio.Future[Message]
    deadline: float
    term: int = 0
    forwarded_to: int = 0


class Proposals:
    """Requests by id, oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[int, Proposal] = {}
        self.failed = 0  # ended without a known outcome

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request_id: int, proposal: Proposal) -> None:
        self._waiting[request_id] = proposal

    def take(self, request_id: int) -> Proposal | None:
        """The proposal whose outcome is known now, if it is of this member and still waited for."""
        return self._waiting.pop(request_id, None)

    def parked(self) -> list[Proposal]:
        """Proposals that no leader was there for, oldest first."""
        return [p for p in self._waiting.values() if not p.term]

    def fail_before(self, term: int) -> None:
        """An entry of `term` was applied: what was handed over in an earlier one and is not applied yet is lost."""
        self._fail(lambda p: 0 < p.term < term, errors.LeaderChanged)

    def fail_forwarded(self, peer: int) -> None:
        """The connection to the leader broke: the outcome is unknown."""
        self._fail(lambda p: p.forwarded_to == peer, errors.TimeoutConnectionLost)

    def fail_handed_over(self) -> None:
        """The log jumped over entries of which some may be these: the outcome is unknown."""
        self._fail(lambda p: p.term > 0, errors.Timeout)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        self._fail(lambda p: True, error)

    def expire(self, now: float) -> None:
        while self._waiting:
            request_id, proposal = next(iter(self._waiting.items()))
            if proposal.deadline > now and not proposal.future.done():
                return
            del self._waiting[request_id]
            if not proposal.future.done():
                self.failed += 1
                proposal.future.set_exception(errors.Timeout())

    def _fail(self, chosen: Callable[[Proposal], bool], error: Callable[[], Exception]) -> None:
        for request_id, proposal in list(self._waiting.items()):
            if chosen(proposal):
                del self._waiting[request_id]
                if not proposal.future.done():
                    self.failed += 1
                    proposal.future.set_exception(error())


@dataclass(slots=True)
class _Read:
    future: asyncio.Future[None]
    deadline: float


class ReadRounds:
    """Linearizable reads (thesis §6.4): one round of ReadIndex serves all reads that wait when it starts.

    `ask` sends a round's context to raft; it raises ReadIndexDropped when nobody leads, and the round is asked
    again later (`retry`), as it is when its answer does not come: reads may be repeated freely.
    """

    def __init__(self, ask: Callable[[bytes], None], *, first: int) -> None:
        """`first` numbers the first context: random, lest a late answer to an earlier life of this member fits."""
        self._ask = ask
        self._next: list[_Read] = []
        self._asked: list[_Read] = []
        self._context = first  # of the present round
        self._asking = False  # whether raft has been asked for it
        self._confirmed: list[tuple[int, list[_Read]]] = []
        self._idle_sweeps = 0
        self.slow = self.failed = 0  # rounds asked again, reads timed out

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

    def confirmed(self, state: raft.ReadState, applied: int) -> None:
        """Raft's answer; one to an earlier round is late."""
        if not self._asked or int.from_bytes(state.context, "big") != self._context:
            return
        reads, self._asked = self._asked, []
        self._confirmed.append((state.index, reads))
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
