"""etcd's revision, by the word of a majority that this client puts together itself: one round trip instead of two.

A leader that is asked for a linearizable read asks a majority whether it still leads, and only then answers (ReadIndex,
thesis section 6.4). Here its client asks the leader and as many others as make a majority with it at the same time.
When the leader's answer and theirs name the same term, the leader's revision has in it all that was acknowledged before
the question: a write of a later term would have needed a leader that was elected before, by a majority in which at
least one of these members had that later term already, and no member's term goes back. Writes of the leader's own term
and of earlier ones are among what it knows to be committed. All that counts is that each member looked at itself after
it was asked: no clock, no pause and no late answer can make that untrue.

Members other than this project's know no such questions: then, and whenever there is no such agreement, the answer is
that there is none, and the caller asks in etcd's own way.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import grpc

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

log = logging.getLogger(__name__)

SERVICE = wire.DESCRIPTOR.services_by_name["Standings"]
#: Who has not answered in this time is not waited for.
WAIT_S = 0.1
#: After a question without an agreement, and after a stream that ended, none is asked for this long.
PAUSE_S = 1.0
#: The same for a member that does not know the question.
UNKNOWN_S = 60.0


def agreed(standings: Sequence[wire.Standing]) -> int:
    """The revision of the leader among members that make a majority in its term; 0 where there is none."""
    for leader in standings:
        if leader.revision:
            same = {s.member_id for s in standings if s.term == leader.term}
            if 2 * len(same.intersection(leader.voters)) > len(leader.voters):
                return leader.revision
    return 0


class _Line:
    """A stream of questions to one member, one at a time."""

    def __init__(self, stub: Stub, told: Callable[[int, wire.Standing | None], None]) -> None:
        """`told` gets the question's number and the answer; None when the stream ended without one."""
        loop = asyncio.get_running_loop()
        self.open_from = 0.0
        """The loop's time from which on there may be another stream, where this one has ended."""
        self._number = 0  # of the question that waits for its answer
        self._told = told
        self._asked = asyncio.Event()
        self._task = loop.create_task(self._run(stub), name="standings")

    @property
    def free(self) -> bool:
        return not (self._number or self._task.done())

    @property
    def ended(self) -> bool:
        return self._task.done()

    def ask(self, number: int) -> None:
        self._number = number
        self._asked.set()

    async def stop(self) -> None:
        await cancel_and_wait(self._task)

    async def _questions(self) -> AsyncIterator[wire.Question]:
        while True:
            await self._asked.wait()
            self._asked.clear()
            yield wire.Question(number=self._number)

    async def _run(self, stub: Stub) -> None:
        pause_s = PAUSE_S
        try:
            async with aclosing(stub.Ask(self._questions())) as standings:
                async for standing in standings:
                    number, self._number = self._number, 0
                    self._told(number, standing)
        except RpcError as e:
            log.debug("no member is asked for its standing for a while: %s", e)
            if e.code is grpc.StatusCode.UNIMPLEMENTED:
                pause_s = UNKNOWN_S
        except Exception:
            # There is etcd's own way to ask.
            log.exception("a member is not asked for its standing any more")
        finally:
            self.open_from = asyncio.get_running_loop().time() + pause_s
            self._told(self._number, None)


class Standings:
    """Questions to a majority, one at a time."""

    def __init__(self, endpoints: Endpoints, stub: Callable[[str], Stub]) -> None:
        """`stub` of the service Standings at an address."""
        self._endpoints = endpoints
        self._stub = stub
        self._lines: dict[str, _Line] = {}
        self._number = 0
        self._expected = 0
        self._heard: list[wire.Standing] = []
        self._answer: asyncio.Future[int] | None = None
        self._paused_until = 0.0

    async def revision(self) -> int:
        """A revision that all acknowledged before this call is in; 0 where no majority says so."""
        loop = asyncio.get_running_loop()
        lines = self._chosen(loop.time())
        if not lines:
            return 0
        self._number += 1
        self._expected, self._heard = len(lines), []
        answer = self._answer = loop.create_future()
        for line in lines:
            line.ask(self._number)
        timer = loop.call_later(WAIT_S, self._settle, 0)
        try:
            found = await answer
        finally:
            timer.cancel()
            self._answer = None
        if not found:
            self._paused_until = loop.time() + PAUSE_S
        return found

    async def stop(self) -> None:
        for line in self._lines.values():
            await line.stop()
        self._lines.clear()

    def _chosen(self, now: float) -> list[_Line]:
        """The line to whoever is asked first, which should lead, and to the next that are free; none where that is
        no majority."""
        if now < self._paused_until:
            return []
        addresses = self._endpoints.addresses
        first = addresses.index(self._endpoints.pick(sticky=True))
        needed, found = len(addresses) // 2 + 1, list[_Line]()
        for address in (*addresses[first:], *addresses[:first]):
            line = self._line(address, now)
            if line.free:
                found.append(line)
            elif not found:
                break
            if len(found) == needed:
                return found
        return []

    def _line(self, address: str, now: float) -> _Line:
        line = self._lines.get(address)
        if line is None or (line.ended and line.open_from <= now):
            # Members come and go.
            known = self._endpoints.addresses
            self._lines = {a: one for a, one in self._lines.items() if a in known or not one.ended}
            line = self._lines[address] = _Line(self._stub(address), self._told)
        return line

    def _told(self, number: int, standing: wire.Standing | None) -> None:
        if number != self._number or self._answer is None:
            return
        if standing is None:
            self._settle(0)
            return
        self._heard.append(standing)
        found = agreed(self._heard)
        if found or len(self._heard) == self._expected:
            self._settle(found)

    def _settle(self, found: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(found)
