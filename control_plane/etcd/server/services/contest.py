"""Contests that the Lock and Election services hold: keys under one prefix, of which the oldest owns.

A contestant's key is `<prefix><lease in hexadecimal>`. It waits for the deletion of every key that was created before
its own, the youngest of them first, so that each waits for its predecessor only. All of that goes through the
member's own KV, Watch and Lease services in the caller's name, as etcd does it through a client of its own; so
refusals come, as from etcd, with the code UNKNOWN.

Concurrency: each call is the task of its RPC. One that is cancelled or fails takes its key away before it ends;
should that be impossible, the key goes with its lease.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.services.kv import KVService
from rayplane.control_plane.etcd.server.services.lease import LeaseService
from rayplane.control_plane.etcd.server.services.watch import WatchService
from rayplane.control_plane.rpc import Context, Encoded, RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import Event
from rayplane.storage.key_ranges import prefix_end

log = logging.getLogger(__name__)

#: Seconds of the lease of a caller who brings none.
SESSION_TTL_S = 60
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Place:
    """A contestant's key. `new`: whether this call made it; `first`: whether none was before it when it entered."""

    key: bytes
    value: bytes
    lease: int
    revision: int
    header: pb.ResponseHeader
    new: bool
    first: bool


class Contest:
    """Keys under prefixes, on one member's services."""

    def __init__(self, kv: KVService, watch: WatchService, lease: LeaseService) -> None:
        self._kv = kv
        self._watch = watch
        self._lease = lease

    async def session(self, lease: int, context: Context) -> int:
        """The caller's lease, or a new one of SESSION_TTL_S."""
        if lease:
            return lease
        response = await self._lease.LeaseGrant(pb.LeaseGrantRequest(TTL=SESSION_TTL_S), context)
        return int(response.ID)

    async def enter(self, prefix: bytes, lease: int, value: bytes, context: Context) -> Place:
        """Put the key that stands for a lease, unless it is there. Raises RpcError."""
        key = prefix + b"%x" % (lease & ((1 << 64) - 1))
        absent = pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)
        owner = pb.RequestOp(request_range=_oldest(prefix))
        put = pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        get = pb.RequestOp(request_range=pb.RangeRequest(key=key))
        request = pb.TxnRequest(compare=[absent], success=[put, owner], failure=[get, owner])
        entering = asyncio.get_running_loop().create_task(self._enter(request, key, value, lease, context))
        try:
            return await asyncio.shield(entering)
        except asyncio.CancelledError:
            # Whether the key is there is known only when the transaction is done.
            with contextlib.suppress(RpcError):
                place = await entering
                if place.new:
                    await self.leave(place, context)
            raise

    async def _enter(self, request: pb.TxnRequest, key: bytes, value: bytes, lease: int, context: Context) -> Place:
        response = await self.txn(request, context)
        revision, owners = response.header.revision, response.responses[1].response_range.kvs
        if not response.succeeded:
            held = response.responses[0].response_range.kvs[0]
            value, revision = held.value, held.create_revision
        first = not owners or owners[0].create_revision == revision
        return Place(key, value, lease, revision, response.header, response.succeeded, first)

    async def turn(self, prefix: bytes, place: Place, context: Context) -> pb.RangeResponse:
        """Wait until no key is left that is older; the answer shows the own key, if it is still there."""
        older = pb.RangeRequest(
            key=prefix,
            range_end=prefix_end(prefix),
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.CREATE,
            limit=1,
            keys_only=True,
            max_create_revision=place.revision - 1,
        )
        while True:
            response = await self.range(older, context)
            if not response.kvs:
                break
            await self._deletion(response.kvs[0].key, response.header.revision, context)
        response = await self.range(pb.RangeRequest(key=place.key), context)
        if response.kvs and response.kvs[0].create_revision != place.revision:
            response.ClearField("kvs")  # another call's key in the place of a lost one
        return response

    async def leave(self, place: Place, context: Context) -> None:
        """Take the key away, unless it is another's by now."""
        own = pb.Compare(key=place.key, target=pb.Compare.CREATE, create_revision=place.revision)
        delete = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=place.key))
        try:
            await self.txn(pb.TxnRequest(compare=[own], success=[delete]), context)
        except RpcError as e:
            log.info("a contestant's key stays until its lease runs out: %s", e)

    async def oldest(self, prefix: bytes, context: Context) -> pb.RangeResponse:
        """The owner's key-value, if there is one."""
        return await self.range(_oldest(prefix), context)

    async def range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse:
        return _message(await self._kv.Range(request, context), pb.RangeResponse)

    async def txn(self, request: pb.TxnRequest, context: Context) -> pb.TxnResponse:
        return _message(await self._kv.Txn(request, context), pb.TxnResponse)

    async def delete(self, key: bytes, context: Context) -> pb.ResponseHeader:
        response = await self._kv.DeleteRange(pb.DeleteRangeRequest(key=key), context)
        return _message(response, pb.DeleteRangeResponse).header

    async def _deletion(self, key: bytes, revision: int, context: Context) -> None:
        """Wait until a key that was there at `revision` is deleted, or the history of that is compacted."""
        async with contextlib.aclosing(self.watch(key, b"", revision + 1, context)) as responses:
            async for response in responses:
                if any(event.type == Event.DELETE for event in response.events):
                    return

    async def watch(
        self, key: bytes, end: bytes, revision: int, context: Context
    ) -> AsyncGenerator[pb.WatchResponse, None]:
        """Events of a range from a revision on; ends when they are compacted. Raises RpcError when refused."""
        create = pb.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
        stream = cast(AsyncGenerator[Any, None], self._watch.Watch(_only(create), context))
        async with contextlib.aclosing(stream) as responses:
            async for encoded in responses:
                response = _message(encoded, pb.WatchResponse)
                if response.canceled:
                    if response.compact_revision:
                        return
                    raise RpcError(errors.Code.UNKNOWN, response.cancel_reason)
                if response.events:
                    yield response


async def _only(create: pb.WatchCreateRequest) -> AsyncIterator[pb.WatchRequest]:
    """The requests of a stream with one watch: it stays open as long as its reader."""
    yield pb.WatchRequest(create_request=create)
    await asyncio.get_running_loop().create_future()


def _oldest(prefix: bytes) -> pb.RangeRequest:
    return pb.RangeRequest(
        key=prefix,
        range_end=prefix_end(prefix),
        sort_order=pb.RangeRequest.ASCEND,
        sort_target=pb.RangeRequest.CREATE,
        limit=1,
    )


def _message(response: Any, kind: type[_T]) -> _T:
    return kind.FromString(response.data) if isinstance(response, Encoded) else response  # type: ignore[attr-defined]


@contextlib.contextmanager
def as_client() -> Iterator[None]:
    """Refusals of the services called come to the caller with the code UNKNOWN."""
    try:
        yield
    except RpcError as e:
        raise RpcError(errors.Code.UNKNOWN, e.message) from None


async def or_leave(contest: Contest, place: Place, context: Context, waiting: Awaitable[_T]) -> _T:
    """The outcome of a wait; when it fails or is cancelled, the contestant's key is taken away first."""
    try:
        return await waiting
    except BaseException:
        await contest.leave(place, context)
        raise
