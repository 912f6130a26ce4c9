"""Ranges as a member answers them: first what must hold before anything may be read, then the store."""

from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.ports import RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.large_range import is_large, run_large_range
from rayplane.control_plane.rpc import Context, Encoded
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.mvcc import MvccError


class RangeRights(Protocol):
    """Rights to read, once authentication is on."""

    @property
    def enabled(self) -> bool: ...

    async def check_range(self, context: Context, key: bytes, end: bytes) -> None: ...


class Ranges:
    """Reads of one member's store."""

    def __init__(self, raft: RaftStatus, machine: StateMachine, reads: ReadBarrier, rights: RangeRights) -> None:
        self._raft = raft
        self._machine = machine
        self._store = machine.store
        self._reads = reads
        self._rights = rights

    def check_sound(self) -> None:
        """Raises Corrupt when this member is known to hold something else than the others."""
        alarms = self._machine.alarms
        if alarms and alarms.is_corrupt(self._raft.member_id):
            raise errors.Corrupt

    async def range(self, request: pb.RangeRequest, context: Context | None = None) -> pb.RangeResponse:
        """`context`: the call in whose name it is; the member's own questions have none. Raises EtcdError."""
        await self._ready(request, context)
        try:
            return kv.run_range(self._store, request)
        except MvccError as e:
            raise kv.from_store(e) from None

    async def range_encoded(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse | Encoded:
        """As `range`; a large answer comes encoded, its header complete. Raises EtcdError."""
        await self._ready(request, context)
        try:
            if is_large(self._store, request):
                return await run_large_range(self._store, request, self._raft.header)
            return kv.run_range(self._store, request)
        except MvccError as e:
            raise kv.from_store(e) from None

    async def _ready(self, request: pb.RangeRequest, context: Context | None) -> None:
        self.check_sound()
        if not request.serializable:
            await self._reads.barrier()
        if context is not None and self._rights.enabled:
            await self._rights.check_range(context, request.key, request.range_end)
