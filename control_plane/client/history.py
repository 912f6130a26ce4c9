"""Times of revisions: a clock in etcd, whose own past leads from revisions to times and back.

One key holds the time of day and is put again some seconds after others have written: such a tick tells when the
revisions between it and the one before were. So the index is as durable as the store, and ends where its history does.

Time does not run backwards but where a clock that was ahead is right again: after some ticks that nobody wrote
because of it, a tick begins anew, and says after which revision (`TIME REVISION`). Until the next such, times grow.
"""

from contextlib import aclosing
from datetime import datetime, timedelta

import grpc

from rayplane.control_plane.api.meta import format_micro_time, parse_time
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import KeyValue

CLOCK_KEY = b"/rayplane/clock"
TICKS_HELD_UP = 5
"""Ticks in a row that one in the future holds up, before time begins anew: whose clock is ahead has gone by then."""


class Forgotten(Exception):
    """The instant is before what is kept: an instant from `oldest` on can be seen."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"history is kept from revision {oldest} on")
        self.oldest = oldest


class Future(Exception):
    """The revision is still to come."""

    def __init__(self, newest: int) -> None:
        super().__init__(f"the newest revision is {newest}")
        self.newest = newest


class History:
    """The past of one etcd. Methods raise RpcError."""

    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd
        self._ahead = self._last = 0

    async def tick(self, now: datetime, every_s: float) -> None:
        """Put the time, unless another has just done so, or nobody has written since."""
        # Of any member, as the comparison below sees what it has missed.
        found = await self._etcd.range(CLOCK_KEY, serializable=True)
        last = found.kvs[0] if found.kvs else None
        if last is not None and last.mod_revision == found.header.revision:
            return
        since = _since(last) if last is not None else 0
        if last is not None and _time(last) > now - timedelta(seconds=every_s / 2):
            self._ahead = self._ahead + 1 if last.mod_revision == self._last else 0
            self._last = last.mod_revision
            if self._ahead < TICKS_HELD_UP:
                return
            since = last.mod_revision
        same = pb.Compare(
            key=CLOCK_KEY,
            target=pb.Compare.MOD,
            result=pb.Compare.EQUAL,
            mod_revision=last.mod_revision if last is not None else 0,
        )
        value = f"{format_micro_time(now)} {since}" if since else format_micro_time(now)
        put = pb.PutRequest(key=CLOCK_KEY, value=value.encode())
        await self._etcd.txn([same], [pb.RequestOp(request_put=put)])

    async def newest(self) -> int:
        """The revision of now."""
        return int((await self._etcd.range(CLOCK_KEY)).header.revision)

    async def oldest(self) -> int:
        """The first revision that can be read."""
        try:
            await self._etcd.range(CLOCK_KEY, revision=1)
        except RpcError as e:
            if e.code != grpc.StatusCode.OUT_OF_RANGE:
                raise
        else:
            return 1
        async with aclosing(self._etcd.watch(CLOCK_KEY, start_revision=1)) as answers:
            async for answer in answers:
                if answer.compact_revision:
                    return int(answer.compact_revision)
        raise RpcError(grpc.StatusCode.UNAVAILABLE, "the member that was asked went away: try again")

    async def check(self, revision: int) -> None:
        """Raises Forgotten, Future for a revision that cannot be read."""
        newest = await self.newest()
        if revision > newest:
            raise Future(newest)
        try:
            await self._clock(revision)
        except RpcError as e:
            if e.code != grpc.StatusCode.OUT_OF_RANGE:
                raise
            raise Forgotten(await self.oldest()) from e

    async def at(self, time: datetime) -> int:
        """The revision of the last tick that was no later. Raises Forgotten where all are later."""
        last, oldest = await self._clock(), await self.oldest()
        high = last.mod_revision if last is not None else 0
        while last is not None and high >= oldest:
            if found := await self._tick_before(time, max(_since(last) + 1, oldest), high):
                return found
            high = _since(last)
            last = await self._clock(high) if high >= oldest else None
        raise Forgotten(oldest)

    async def _tick_before(self, time: datetime, low: int, high: int) -> int:
        """The last tick no later than a time among revisions in which time grows, 0 without one."""
        first, found = low, 0
        while low <= high:
            middle = (low + high) // 2
            one = await self._clock(middle)
            if one is not None and one.mod_revision >= first and _time(one) > time:
                high = one.mod_revision - 1
            else:
                found = one.mod_revision if one is not None and one.mod_revision >= first else 0
                low = middle + 1
        return found

    async def time_of(self, revision: int) -> datetime | None:
        """When it was: what the next tick says, or, while there is none, the last."""
        found, last = await self._clock(revision), await self._clock()
        if last is None or last.mod_revision <= revision or (found is not None and found.mod_revision == revision):
            return _time(found) if found is not None else None
        async with aclosing(self._etcd.watch(CLOCK_KEY, start_revision=revision + 1)) as answers:
            async for answer in answers:
                if answer.events or answer.compact_revision:
                    return _time(answer.events[0].kv) if answer.events else None
        return None

    async def _clock(self, revision: int = 0) -> KeyValue | None:
        found = await self._etcd.range(CLOCK_KEY, revision=revision)
        return found.kvs[0] if found.kvs else None


def _time(clock: KeyValue) -> datetime:
    return parse_time(clock.value.decode().partition(" ")[0])


def _since(clock: KeyValue) -> int:
    """The revision after which time has grown since."""
    return int(clock.value.decode().partition(" ")[2] or 0)
