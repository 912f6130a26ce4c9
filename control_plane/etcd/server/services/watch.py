"""The Watch service."""

import asyncio
import logging
from collections.abc import AsyncIterator

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.state_machine.watchable_store import WatchableStore, WatchStream
from rayplane.control_plane.rpc import Context, Encoded, RpcError
from rayplane.proto.etcd import rpc_pb2 as pb

log = logging.getLogger(__name__)


class WatchService(Base):
    """etcdserverpb.Watch: one stream of the watchable store per call."""

    def __init__(self, raft: RaftStatus, callers: Callers, watches: WatchableStore) -> None:
        super().__init__(raft, callers, watches.store)
        self._watches = watches

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Context) -> AsyncIterator[Encoded]:
        self.gate(context)
        stream = self._watches.open()
        stream.requires_leader = context.metadata.get("hasleader") == "true"
        reader = asyncio.get_running_loop().create_task(self._read(requests, stream, context))
        try:
            while True:
                for response in await stream.next_encoded():
                    yield response
        finally:
            stream.close()
            reader.cancel()

    async def _read(self, requests: AsyncIterator[pb.WatchRequest], stream: WatchStream, context: Context) -> None:
        try:
            async for request in requests:
                kind = request.WhichOneof("request_union")
                if kind == "create_request":
                    refusal = await self._refusal(request.create_request, context)
                    stream.create(request.create_request, refusal)
                elif kind == "cancel_request":
                    stream.cancel(request.cancel_request.watch_id)
                elif kind == "progress_request":
                    stream.request_progress()
                if stream.congested:
                    stream.fail(errors.TooManyRequests())
                    return
        except RpcError:
            stream.fail(errors.WatchCanceled())
        except Exception:
            # What takes no more requests must not look as if it did.
            log.exception("a stream of watches ends")
            stream.fail(errors.WatchCanceled())
        # A client that asks for nothing more still watches, as in etcd.

    async def _refusal(self, request: pb.WatchCreateRequest, context: Context) -> str:
        """Why the caller may not watch this; empty if it may."""
        if not self.callers.enabled:
            return ""
        return await self.callers.watch_refusal(context, request)
