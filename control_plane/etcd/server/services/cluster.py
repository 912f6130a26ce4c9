"""The Cluster service: the list of members and its changes."""

from rayplane.control_plane.etcd.server.ports import MembershipChanges, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.membership import check_url_syntax
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb


class ClusterService(Base):
    """etcdserverpb.Cluster. As in etcd, the headers have no revision."""

    def __init__(
        self,
        raft: RaftStatus,
        callers: Callers,
        machine: StateMachine,
        *,
        changes: MembershipChanges,
        reads: ReadBarrier,
    ) -> None:
        super().__init__(raft, callers, machine.store)
        self._members = machine.members
        self._changes = changes
        self._reads = reads

    def header(self) -> pb.ResponseHeader:
        return self.raft.header(0)

    async def MemberAdd(self, request: pb.MemberAddRequest, context: Context) -> pb.MemberAddResponse:
        self.gate(context)
        check_url_syntax(request.peerURLs)
        await self.require_admin(context)
        added, members = await self._changes.add(list(request.peerURLs), learner=request.isLearner)
        return pb.MemberAddResponse(header=self.header(), member=added, members=members)

    async def MemberRemove(self, request: pb.MemberRemoveRequest, context: Context) -> pb.MemberRemoveResponse:
        self.gate(context)
        await self.require_admin(context)
        members = await self._changes.remove(request.ID)
        return pb.MemberRemoveResponse(header=self.header(), members=members)

    async def MemberUpdate(self, request: pb.MemberUpdateRequest, context: Context) -> pb.MemberUpdateResponse:
        self.gate(context)
        await self.require_admin(context)
        response = await self._changes.update(request.ID, list(request.peerURLs))
        return pb.MemberUpdateResponse(header=self.header(), members=response.members)

    async def MemberList(self, request: pb.MemberListRequest, context: Context) -> pb.MemberListResponse:
        self.gate(context, learner=not request.linearizable)
        if request.linearizable:
            await self._reads.barrier()
        return pb.MemberListResponse(header=self.header(), members=self._members.all())

    async def MemberPromote(self, request: pb.MemberPromoteRequest, context: Context) -> pb.MemberPromoteResponse:
        self.gate(context)
        await self.require_admin(context)
        members = await self._changes.promote(request.ID, forward=True)
        return pb.MemberPromoteResponse(header=self.header(), members=members)
