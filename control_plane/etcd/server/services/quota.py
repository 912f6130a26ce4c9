"""The space that a member's store may take: more is refused before it is proposed."""

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.ports import Proposer
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.proto.etcd import rpc_pb2 as pb


class Quota:
    """The quota of one member's store, in bytes; 0 for none."""

    def __init__(self, quota_bytes: int, member_id: int, machine: StateMachine, proposer: Proposer) -> None:
        self.bytes = quota_bytes
        self._member_id = member_id
        self._machine = machine
        self._proposer = proposer
        self._used = 0

    def check(self, size: int) -> None:
        """Before something that needs `size` bytes is proposed. Raises NoSpace, and lets all members know."""
        self._used += size
        if not self.bytes or self._used <= self.bytes:
            return
        # Measured only when what was added since the last time may have filled it.
        self._used = self._machine.store.backend.size()[1] + size
        if self._used > self.bytes:
            if not self._machine.alarms.out_of_space:
                alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=self._member_id, alarm=pb.NOSPACE)
                self._proposer.propose_unwatched(Kind.ALARM, alarm)
            raise errors.NoSpace
