"""The space that a member's store may take: more is refused before it is proposed."""

from typing import TYPE_CHECKING

from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.proto.etcd import rpc_pb2 as pb

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member


class Quota:
    """Of one member."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._used = 0

    def check(self, size: int) -> None:
        """Before something that needs `size` bytes is proposed. Raises NoSpace, and lets all members know."""
        member, quota = self._member, self._member.config.quota_bytes
        self._used += size
        if not quota or self._used <= quota:
            return
        # Measured only when what was added since the last time may have filled it.
        self._used = member.store.backend.size()[1] + size
        if self._used > quota:
            if not member.machine.out_of_space:
                alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=member.member_id, alarm=pb.NOSPACE)
                member.propose_unwatched(Kind.ALARM, alarm)
            raise errors.NoSpace
