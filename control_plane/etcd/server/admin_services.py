"""The etcd v3 services for operators: Cluster, Maintenance, Auth."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from control_plane.etcd.server import errors
from control_plane.etcd.server.codec import Kind
from control_plane.etcd.server.config import ETCD_VERSION
from control_plane.etcd.server.services import Base
from control_plane.rpc import Context, RpcError
from proto.etcd import rpc_pb2 as pb

SNAPSHOT_BLOB_BYTES = 32 * 1024
SNAPSHOT_ALIGNMENT = 512


class ClusterService(Base):
    """etcdserverpb.Cluster."""

    async def MemberAdd(self, request: pb.MemberAddRequest, context: Context) -> pb.MemberAddResponse:
        self.gate(context)
        added, members = await self.member.reconfiguration.add(list(request.peerURLs), learner=request.isLearner)
        return pb.MemberAddResponse(header=self.header(), member=added, members=members)

    async def MemberRemove(self, request: pb.MemberRemoveRequest, context: Context) -> pb.MemberRemoveResponse:
        self.gate(context)
        members = await self.member.reconfiguration.remove(request.ID)
        return pb.MemberRemoveResponse(header=self.header(), members=members)

    async def MemberUpdate(self, request: pb.MemberUpdateRequest, context: Context) -> pb.MemberUpdateResponse:
        self.gate(context)
        response = await self.member.reconfiguration.update(request.ID, list(request.peerURLs))
        stamped: pb.MemberUpdateResponse = self.stamp(response)
        return stamped

    async def MemberList(self, request: pb.MemberListRequest, context: Context) -> pb.MemberListResponse:
        self.gate(context, learner=not request.linearizable)
        if request.linearizable:
            await self.member.barrier()
        # As in etcd, without a revision.
        return pb.MemberListResponse(header=self.member.header(0), members=self.member.members())

    async def MemberPromote(self, request: pb.MemberPromoteRequest, context: Context) -> pb.MemberPromoteResponse:
        self.gate(context)
        members = await self.member.promote_member(request.ID, forward=True)
        return pb.MemberPromoteResponse(header=self.header(), members=members)


class MaintenanceService(Base):
    """etcdserverpb.Maintenance."""

    async def Alarm(self, request: pb.AlarmRequest, context: Context) -> pb.AlarmResponse:
        self.gate(context)
        if request.action == pb.AlarmRequest.GET:
            alarms = [
                a
                for a in self.member.machine.alarms
                if request.memberID in (0, a.memberID) and request.alarm in (pb.NONE, a.alarm)
            ]
            return pb.AlarmResponse(header=self.header(), alarms=alarms)
        response: pb.AlarmResponse = self.stamp(await self.member.propose(Kind.ALARM, request))
        return response

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        self.gate(context, learner=True)
        member = self.member
        status = member.node.status()
        size, in_use = member.store.backend.size()
        problems = [] if status.lead else [errors.PREFIX + errors.NoLeader.text]
        problems += [f"memberID:{a.memberID} alarm:{pb.AlarmType.Name(a.alarm)} " for a in member.machine.alarms]
        return pb.StatusResponse(
            header=self.header(),
            version=ETCD_VERSION,
            storageVersion=ETCD_VERSION.rpartition(".")[0],
            dbSize=size,
            dbSizeInUse=in_use,
            dbSizeQuota=member.config.quota_bytes,
            leader=status.lead,
            raftIndex=status.last_index,
            raftTerm=status.term,
            raftAppliedIndex=member.applied,
            errors=problems,
            isLearner=member.is_learner,
        )

    async def Defragment(self, request: pb.DefragmentRequest, context: Context) -> pb.DefragmentResponse:
        """Finishes removing compacted history and makes the store durable; LMDB reuses freed pages by itself."""
        self.gate(context, learner=True)
        while self.member.store.scrub():
            await asyncio.sleep(0)
        await self.member.store.flush()
        return pb.DefragmentResponse()

    async def Hash(self, request: pb.HashRequest, context: Context) -> pb.HashResponse:
        self.gate(context, learner=True)
        value, _, _ = self.member.store.hash_kv()
        return pb.HashResponse(header=self.header(), hash=value)

    async def HashKV(self, request: pb.HashKVRequest, context: Context) -> pb.HashKVResponse:
        self.gate(context, learner=True)
        try:
            value, compacted, revision = self.member.store.hash_kv(request.revision)
        except Exception as e:
            raise errors.from_store(e) from None
        return pb.HashKVResponse(header=self.header(), hash=value, compact_revision=compacted, hash_revision=revision)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotResponse]:
        """The store's snapshot stream (`storage.mvcc` restores it), zeros up to a multiple of 512 bytes, and SHA-256.

        The length is not known beforehand, so `remaining_bytes` only tells the parts from each other: more than 32
        for the stream, 32 for the padding, 0 for the digest. As etcdctl wants it, the sum of all is n * 512 + 32.
        """
        self.gate(context, learner=True)
        digest = hashlib.sha256()
        header = self.header()
        size = 0

        def response(blob: bytes, remaining: int) -> pb.SnapshotResponse:
            return pb.SnapshotResponse(header=header, remaining_bytes=remaining, blob=blob, version=ETCD_VERSION)

        for blob in _blobs(self.member.store.snapshot()):
            digest.update(blob)
            size += len(blob)
            yield response(blob, SNAPSHOT_BLOB_BYTES)
        padding = bytes(-size % SNAPSHOT_ALIGNMENT)
        digest.update(padding)
        yield response(padding, digest.digest_size)
        yield response(digest.digest(), 0)

    async def MoveLeader(self, request: pb.MoveLeaderRequest, context: Context) -> pb.MoveLeaderResponse:
        self.gate(context)
        await self.member.reconfiguration.move_leader(request.targetID)
        return pb.MoveLeaderResponse()

    async def Downgrade(self, request: pb.DowngradeRequest, context: Context) -> pb.DowngradeResponse:
        raise RpcError(errors.Code.UNIMPLEMENTED, "etcdserver: downgrade is not supported")


def _blobs(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), SNAPSHOT_BLOB_BYTES):
            yield chunk[start : start + SNAPSHOT_BLOB_BYTES]


class AuthService(Base):
    """etcdserverpb.Auth: access is granted by client certificate, there are no users to manage."""

    async def AuthStatus(self, request: pb.AuthStatusRequest, context: Context) -> pb.AuthStatusResponse:
        self.gate(context, learner=True)
        return pb.AuthStatusResponse(header=self.header(), enabled=False)

    async def _refuse(self, request: Any, context: Context) -> Any:
        raise errors.AuthNotEnabled

    AuthEnable = AuthDisable = Authenticate = _refuse
    UserAdd = UserGet = UserList = UserDelete = UserChangePassword = UserGrantRole = UserRevokeRole = _refuse
    RoleAdd = RoleGet = RoleList = RoleDelete = RoleGrantPermission = RoleRevokePermission = _refuse
