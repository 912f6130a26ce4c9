"""The Peer service: what a member answers the other members."""

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import CorruptEntry, Kind, decode_member, message_from_wire
from rayplane.control_plane.etcd.server.ports import MembershipChanges, Proposer
from rayplane.control_plane.etcd.server.replication.transport import REMOVED
from rayplane.control_plane.etcd.server.state_machine.hashing import Hasher
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL, Level, told_level
from rayplane.control_plane.etcd.server.state_machine.membership import Membership
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire


class LeaseTime(Protocol):
    """Time of leases, which the leader counts."""

    async def renew(self, lease_id: int) -> int: ...

    async def remaining(self, lease_id: int) -> int: ...


class Inbox(Protocol):
    """The driver, to which messages go."""

    member_id: int
    cluster_id: int

    def receive(self, messages: Iterable[raft.Message], proposals: Iterable[bytes]) -> list[int]: ...

    def refused(self, peer: int, request_ids: Iterable[int]) -> None: ...

    async def receive_snapshot(self, message: raft.Message, chunks: AsyncIterator[bytes]) -> None: ...

    def acknowledged(self, member_id: int, term: int) -> tuple[int, int]: ...


class Received(Protocol):
    """The transport, which counts what came and tells what was not taken of it."""

    def received(self, peer: int, messages: Iterable[raft.Message], proposals: Iterable[bytes]) -> None: ...

    def refuse(self, peer: int, request_ids: Sequence[int]) -> None: ...


class Changes(MembershipChanges, Protocol):
    """Changes of membership, those of other members too."""

    def propose(self, change: raft.ConfChange) -> None: ...


class PeerService:
    """A service that answers the other members."""

    def __init__(
        self,
        driver: Inbox,
        *,
        traffic: Received,
        members: Membership,
        changes: Changes,
        proposer: Proposer,
        lease_time: LeaseTime,
        hasher: Hasher,
        level: Level,
        build: str,
    ) -> None:
        self._level = level
        self._build = build
        self._driver = driver
        self._traffic = traffic
        self._members = members
        self._changes = changes
        self._proposer = proposer
        self._lease_time = lease_time
        self._hasher = hasher

    async def Send(self, requests: AsyncIterator[wire.Batch], context: Context) -> wire.StreamEnd:
        async for batch in requests:
            self._check(batch.cluster_id)
            if batch.to != self._driver.member_id:
                raise RpcError(
                    errors.Code.FAILED_PRECONDITION, f"this is member {self._driver.member_id:x}, not {batch.to:x}"
                )
            sender = getattr(batch, "from")
            self._check_removed(sender)
            messages, proposals = [message_from_wire(m) for m in batch.messages], batch.proposals
            self._traffic.received(sender, messages, proposals)
            if refused := self._driver.receive(messages, proposals):
                self._traffic.refuse(sender, refused)
            if batch.refused:
                self._driver.refused(sender, batch.refused)
        return wire.StreamEnd()

    async def Snapshot(self, requests: AsyncIterator[wire.SnapshotChunk], context: Context) -> wire.SnapshotReceived:
        first = await anext(aiter(requests), None)
        if first is None:
            raise RpcError(errors.Code.INVALID_ARGUMENT, "an empty snapshot stream")
        self._check(first.cluster_id)
        await self._driver.receive_snapshot(message_from_wire(first.message), _data(requests))
        return wire.SnapshotReceived()

    def _check(self, cluster_id: int) -> None:
        if cluster_id != self._driver.cluster_id:
            raise RpcError(
                errors.Code.FAILED_PRECONDITION,
                f"this is cluster {self._driver.cluster_id:x}, not {cluster_id:x}: check initial_cluster",
            )

    def _check_removed(self, sender: int) -> None:
        if self._members.is_removed(sender):
            raise RpcError(
                errors.Code.FAILED_PRECONDITION, f"member {sender:x} has been removed from the cluster", REMOVED
            )

    async def Renew(self, request: wire.RenewRequest, context: Context) -> wire.RenewResponse:
        try:
            return wire.RenewResponse(ttl=await self._lease_time.renew(request.id))
        except errors.LeaseNotFound:
            return wire.RenewResponse(ttl=0)

    async def Remaining(self, request: wire.RemainingRequest, context: Context) -> wire.RemainingResponse:
        try:
            return wire.RemainingResponse(remaining=await self._lease_time.remaining(request.id))
        except errors.LeaseNotFound:
            return wire.RemainingResponse(remaining=-1)

    async def Members(self, request: wire.MembersRequest, context: Context) -> wire.MembersResponse:
        term, index = self._driver.acknowledged(request.asker, request.term) if request.asker else (0, 0)
        return wire.MembersResponse(
            cluster_id=self._driver.cluster_id,
            members=self._members.all(),
            removed=self._members.removed,
            asker_term=term,
            asker_index=index,
            level=LEVEL,
            build=self._build,
        )

    async def Claim(self, request: wire.Attributes, context: Context) -> wire.AttributesSet:
        if told_level(request.level) < self._level.now:
            raise RpcError(
                errors.Code.FAILED_PRECONDITION,
                f"{request.name} reads level {told_level(request.level)} of the log, the cluster has {self._level.now} "
                "by now: start it with a build as new as the others'",
            )
        await self._proposer.propose(Kind.ATTRIBUTES, request)
        return wire.AttributesSet()

    async def Promote(self, request: pb.MemberPromoteRequest, context: Context) -> pb.MemberPromoteResponse:
        members = await self._changes.promote(request.ID, forward=False)
        return pb.MemberPromoteResponse(members=members)

    async def ProposeChange(self, request: wire.Change, context: Context) -> wire.ChangeProposed:
        self._changes.propose(_change_of(request.data))
        return wire.ChangeProposed()

    async def HashKV(self, request: pb.HashKVRequest, context: Context) -> pb.HashKVResponse:
        return await self._hasher.hash_kv(request.revision)


def _change_of(data: bytes) -> raft.ConfChange:
    """Raises RpcError for what no member could apply: once it is in the log, it ends them all."""
    try:
        change = raft.ConfChange.decode(data)
        decode_member(change.context)
    except (raft.RaftError, CorruptEntry) as e:
        raise RpcError(errors.Code.INVALID_ARGUMENT, f"not a change of membership: {e}") from e
    return change


async def _data(requests: AsyncIterator[wire.SnapshotChunk]) -> AsyncIterator[bytes]:
    async for chunk in requests:
        yield chunk.data
