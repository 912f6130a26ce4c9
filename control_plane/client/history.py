"""Times of revisions: a clock in etcd, whose own past leads from revisions to times and back.

One key holds the time of day and is put again every second or so. What it held at a revision tells when that was, so
the index is as durable as the store, and ends where the store's history does.
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

    async def tick(self, now: datetime, every_s: float) -> None:
        """Put the time, unless another has just done so. Where machines' clocks differ, time never runs backwards."""
        last = await self._clock()
        if last is not None and _time(last) > now - timedelta(seconds=every_s / 2):
            return
        same = pb.Compare(
            key=CLOCK_KEY,
            target=pb.Compare.MOD,
            result=pb.Compare.EQUAL,
            mod_revision=last.mod_revision if last is not None else 0,
        )
        put = pb.PutRequest(key=CLOCK_KEY, value=format_micro_time(now).encode())
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
        """The last revision that is known to be no later. Raises Forgotten where all are later."""
        last = await self._clock()
        if last is None:
            raise Forgotten(await self.newest())
        low = oldest = await self.oldest()
        high, found = max(last.mod_revision, oldest), 0
        while low <= high:
            middle = (low + high) // 2
            one = await self._clock(middle)
            if one is not None and _time(one) > time:
                high = one.mod_revision - 1
            else:
                found = max(one.mod_revision, oldest) if one is not None else 0
                low = middle + 1
        if not found:
            raise Forgotten(oldest)
        return found

    async def time_of(self, revision: int) -> datetime | None:
        """When it was, as far as that is known: no later than that, and hardly earlier."""
        found = await self._clock(revision)
        return _time(found) if found is not None else None

    async def _clock(self, revision: int = 0) -> KeyValue | None:
        found = await self._etcd.range(CLOCK_KEY, revision=revision)
        return found.kvs[0] if found.kvs else None


def _time(clock: KeyValue) -> datetime:
    return parse_time(clock.value.decode())
