"""Ranges as a member answers them: first what must hold before anything may be read, then the store."""

from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.large_range import is_large, run_large_range
from rayplane.control_plane.rpc import Context, Encoded
from rayplane.proto.etcd import rpc_pb2 as pb

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member


class Reading:
    """Of one member."""

    def __init__(self, member: "Member") -> None:
        self._member = member

    def check_sound(self) -> None:
        """Raises Corrupt when this member is known to hold something else than the others."""
        machine = self._member.machine
        if machine.alarms and machine.is_corrupt(self._member.member_id):
            raise errors.Corrupt

    async def range(self, request: pb.RangeRequest, context: Context | None = None) -> pb.RangeResponse:
        """`context`: the call in whose name it is; the member's own questions have none. Raises EtcdError."""
        await self._ready(request, context)
        try:
            return kv.run_range(self._member.store, request)
        except Exception as e:
            raise errors.from_store(e) from None

    async def range_encoded(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse | Encoded:
        """As `range`; a large answer comes encoded, its header complete. Raises EtcdError."""
        await self._ready(request, context)
        member = self._member
        try:
            if is_large(member.store, request):
                return await run_large_range(member.store, request, member.header)
            return kv.run_range(member.store, request)
        except Exception as e:
            raise errors.from_store(e) from None

    async def _ready(self, request: pb.RangeRequest, context: Context | None) -> None:
        self.check_sound()
        member = self._member
        if not request.serializable:
            await member.barrier()
        if context is not None and member.machine.auth.enabled:
            await member.callers.check_range(context, request.key, request.range_end)
