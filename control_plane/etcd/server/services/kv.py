"""The etcd v3 services that clients use all the time: KV, Watch, Lease. Thin: checks, then the member.

Every response carries the member's header. A caller that sends the metadata `hasleader: true` is refused while no
leader is known. A learner answers serializable reads and status only.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import ServiceDescriptor

from rayplane.control_plane.etcd.callers import CLIENT_METHODS
from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.state_machine import kv
from rayplane.control_plane.etcd.server.state_machine.watchable_store import WatchStream
from rayplane.control_plane.rpc import Context, Encoded, RpcError, Service, each
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd import v3election_pb2 as election_pb
from rayplane.proto.etcd import v3lock_pb2 as lock_pb

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member

#: What etcd's envelope adds to a request besides its length.
ENVELOPE_BYTES = 15


class Base:
    """What all services share."""

    def __init__(self, member: "Member") -> None:
        self.member = member

    def gate(self, context: Context, *, learner: bool = False) -> None:
        """Raises NoLeader, LearnerRefuses. `learner`: whether a learner may answer."""
        member = self.member
        if context.metadata.get("hasleader") == "true" and not member.leader_id:
            raise errors.NoLeader
        if not learner and member.is_learner:
            raise errors.LearnerRefuses

    async def require_user(self, context: Context) -> None:
        """Once authentication is on, the caller must be somebody. Raises UserEmpty, InvalidAuthToken."""
        if self.member.machine.auth.enabled:
            await self.member.callers.require_user(context)

    async def require_admin(self, context: Context) -> None:
        """Once authentication is on, the caller must have the root role. Raises PermissionDenied, UserEmpty..."""
        if self.member.machine.auth.enabled:
            await self.member.callers.require_admin(context)

    def stamp(self, response: Any) -> Any:
        """Complete the header of a response that has the revision only."""
        header = response.header
        header.cluster_id = self.member.cluster_id
        header.member_id = self.member.member_id
        header.raft_term = self.member.node.term
        return response

    def header(self) -> pb.ResponseHeader:
        return self.member.header(self.member.store.revision)


class KVService(Base):
    """etcdserverpb.KV."""

    async def Range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse | Encoded:
        self.gate(context, learner=request.serializable)
        kv.check_range(request)
        response = await self.member.reading.range_encoded(request, context)
        return response if isinstance(response, Encoded) else self.stamp(response)  # type: ignore[no-any-return]

    async def Put(self, request: pb.PutRequest, context: Context) -> pb.PutResponse:
        self.gate(context)
        kv.check_put(request)
        self._check_size(request)
        response: pb.PutResponse = self.stamp(await self.member.propose(Kind.PUT, request, context))
        return response

    async def DeleteRange(self, request: pb.DeleteRangeRequest, context: Context) -> pb.DeleteRangeResponse:
        self.gate(context)
        kv.check_delete(request)
        self._check_size(request)
        response: pb.DeleteRangeResponse = self.stamp(await self.member.propose(Kind.DELETE_RANGE, request, context))
        return response

    async def Txn(self, request: pb.TxnRequest, context: Context) -> pb.TxnResponse:
        self.gate(context)
        kv.check_txn(request, self.member.config.max_txn_ops)
        if kv.is_read_only(request):
            self.member.reading.check_sound()
            if not kv.is_serializable(request):
                await self.member.barrier()
            if self.member.machine.auth.enabled:
                await self.member.callers.check_txn(context, request)
            try:
                response: pb.TxnResponse = kv.run_read_only_txn(self.member.store, request)
            except Exception as e:
                raise errors.from_store(e) from None
        else:
            self._check_size(request)
            response = await self.member.propose(Kind.TXN, request, context)
        self.stamp(response)
        return response

    async def Compact(self, request: pb.CompactionRequest, context: Context) -> pb.CompactionResponse:
        self.gate(context)
        await self.require_admin(context)
        response: pb.CompactionResponse = self.stamp(await self.member.propose(Kind.COMPACT, request))
        return response

    def _check_size(self, request: pb.PutRequest | pb.TxnRequest | pb.DeleteRangeRequest) -> None:
        """Raises RequestTooLarge, NoSpace."""
        size = request.ByteSize()
        # etcd measures the request in its envelope: a field with its length, and the header with a request id.
        if size + ENVELOPE_BYTES + (size.bit_length() + 6) // 7 > self.member.config.max_request_bytes:
            raise errors.RequestTooLarge
        if not isinstance(request, pb.DeleteRangeRequest) and (
            isinstance(request, pb.PutRequest) or kv.puts_anything(request)
        ):
            self.member.quota.check(size)


class WatchService(Base):
    """etcdserverpb.Watch: one stream of the hub per call."""

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Context) -> AsyncIterator[Encoded]:
        self.gate(context)
        stream = self.member.hub.open()
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
        # A client that asks for nothing more still watches, as in etcd.

    async def _refusal(self, request: pb.WatchCreateRequest, context: Context) -> str:
        """Why the caller may not watch this; empty if it may."""
        if not self.member.machine.auth.enabled:
            return ""
        return await self.member.callers.watch_refusal(context, request)


class LeaseService(Base):
    """etcdserverpb.Lease."""

    async def LeaseGrant(self, request: pb.LeaseGrantRequest, context: Context) -> pb.LeaseGrantResponse:
        self.gate(context)
        await self.require_user(context)
        if not request.ID:
            request.ID = self.member.leases.new_id()
        self.member.quota.check(0)
        response: pb.LeaseGrantResponse = self.stamp(await self.member.propose(Kind.LEASE_GRANT, request, context))
        return response

    async def LeaseRevoke(self, request: pb.LeaseRevokeRequest, context: Context) -> pb.LeaseRevokeResponse:
        self.gate(context)
        await self.require_user(context)
        response: pb.LeaseRevokeResponse = self.stamp(await self.member.propose(Kind.LEASE_REVOKE, request, context))
        return response

    async def LeaseKeepAlive(
        self, requests: AsyncIterator[pb.LeaseKeepAliveRequest], context: Context
    ) -> AsyncIterator[pb.LeaseKeepAliveResponse]:
        self.gate(context)
        async for request in requests:
            # As in etcd, the revision is that from before the renewal.
            header = self.header()
            if self.member.machine.auth.enabled:
                await self.member.callers.check_renewal(context, request.ID)
            ttl = await self.member.leases.keep_alive(request.ID)
            yield pb.LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=ttl)

    async def LeaseTimeToLive(self, request: pb.LeaseTimeToLiveRequest, context: Context) -> pb.LeaseTimeToLiveResponse:
        self.gate(context)
        await self.require_user(context)
        remaining = await self.member.leases.time_to_live(request.ID)
        response = pb.LeaseTimeToLiveResponse(header=self.header(), ID=request.ID, TTL=remaining)
        if remaining < 0:
            return response
        # The leader knows the lease; this member may have to come up to it first.
        await self.member.barrier()
        with contextlib.suppress(errors.LeaseNotFound):
            lease = self.member.lessor.get(request.ID)
            response.grantedTTL = lease.ttl
            if request.keys:
                if self.member.machine.auth.enabled:
                    await self.member.callers.check_lease_keys(context, request.ID)
                response.keys.extend(sorted(lease.keys))
        return response

    async def LeaseLeases(self, request: pb.LeaseLeasesRequest, context: Context) -> pb.LeaseLeasesResponse:
        self.gate(context)
        await self.member.barrier()
        if self.member.machine.auth.enabled:
            await self.member.callers.check_lease_keys(context, *self.member.lessor.ids())
        leases = [pb.LeaseStatus(ID=i) for i in self.member.lessor.ids()]
        return pb.LeaseLeasesResponse(header=self.header(), leases=leases)


def services_of(member: "Member") -> Sequence[Service]:
    """Everything that a member serves to clients."""
    from rayplane.control_plane.etcd.server.services.auth import AuthService
    from rayplane.control_plane.etcd.server.services.election import ElectionService
    from rayplane.control_plane.etcd.server.services.lock import LockService
    from rayplane.control_plane.etcd.server.services.maintenance import ClusterService, MaintenanceService

    etcd = pb.DESCRIPTOR.services_by_name
    handlers: list[tuple[ServiceDescriptor, Base]] = [
        (etcd["KV"], KVService(member)),
        (etcd["Watch"], WatchService(member)),
        (etcd["Lease"], LeaseService(member)),
        (etcd["Cluster"], ClusterService(member)),
        (etcd["Maintenance"], MaintenanceService(member)),
        (etcd["Auth"], AuthService(member)),
        (lock_pb.DESCRIPTOR.services_by_name["Lock"], LockService(member)),
        (election_pb.DESCRIPTOR.services_by_name["Election"], ElectionService(member)),
    ]
    limit = member.config.max_message_bytes
    return [
        Service(
            descriptor,
            handler,
            callers=each(member.config.client_callers, *CLIENT_METHODS[descriptor.name].split()),
            request_bytes_max=limit,
        )
        for descriptor, handler in handlers
    ]
