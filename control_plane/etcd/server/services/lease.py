"""The Lease service."""

import contextlib
from collections.abc import AsyncIterator

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.ports import RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.services.quota import Quota
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.upkeep.lease_clock import LeaseClock
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb


class LeaseService(Base):
    """etcdserverpb.Lease."""

    def __init__(
        self,
        raft: RaftStatus,
        callers: Callers,
        machine: StateMachine,
        *,
        lease_clock: LeaseClock,
        reads: ReadBarrier,
        quota: Quota,
    ) -> None:
        super().__init__(raft, callers, machine.store)
        self._lessor = machine.lessor
        self._lease_clock = lease_clock
        self._reads = reads
        self._quota = quota

    async def LeaseGrant(self, request: pb.LeaseGrantRequest, context: Context) -> pb.LeaseGrantResponse:
        self.gate(context)
        await self.require_user(context)
        if not request.ID:
            request.ID = self._lease_clock.new_id()
        self._quota.check(0)
        response: pb.LeaseGrantResponse = self.stamp(await self.callers.propose(Kind.LEASE_GRANT, request, context))
        return response

    async def LeaseRevoke(self, request: pb.LeaseRevokeRequest, context: Context) -> pb.LeaseRevokeResponse:
        self.gate(context)
        await self.require_user(context)
        response: pb.LeaseRevokeResponse = self.stamp(await self.callers.propose(Kind.LEASE_REVOKE, request, context))
        return response

    async def LeaseKeepAlive(
        self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], context: Context
    ) -> AsyncIterator[pb.LeaseKeepAliveResponse]:
        self.gate(context)
        async for request in requests:
            # As in etcd, the revision is that from before the renewal.
            header = self.header()
            if self.callers.enabled:
                await self.callers.check_renewal(context, request.ID)
            ttl = await self._lease_clock.keep_alive(request.ID)
            yield pb.LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=ttl)

    async def LeaseTimeToLive(self, request: pb.LeaseTimeToLiveRequest, context: Context) -> pb.LeaseTimeToLiveResponse:
        self.gate(context)
        await self.require_user(context)
        remaining = await self._lease_clock.time_to_live(request.ID)
        response = pb.LeaseTimeToLiveResponse(header=self.header(), ID=request.ID, TTL=remaining)
        if remaining < 0:
            return response
        # The leader knows the lease; this member may have to come up to it first.
        await self._reads.barrier()
        with contextlib.suppress(errors.LeaseNotFound):
            lease = self._lessor.get(request.ID)
            response.grantedTTL = lease.ttl_s
            if request.keys:
                if self.callers.enabled:
                    await self.callers.check_lease_keys(context, request.ID)
                response.keys.extend(sorted(lease.keys))
        return response

    async def LeaseLeases(self, request: pb.LeaseLeasesRequest, context: Context) -> pb.LeaseLeasesResponse:
        self.gate(context)
        await self._reads.barrier()
        if self.callers.enabled:
            await self.callers.check_lease_keys(context, *self._lessor.ids())
        leases = [pb.LeaseStatus(ID=i) for i in self._lessor.ids()]
        return pb.LeaseLeasesResponse(header=self.header(), leases=leases)
