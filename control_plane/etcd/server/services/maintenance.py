"""The Maintenance service: alarms, status, hashes, snapshots, moving the leader."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import ETCD_VERSION
from rayplane.control_plane.etcd.server.ports import LeaderMoves, Proposer, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.services.base import Base
from rayplane.control_plane.etcd.server.services.callers import Callers
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.hashing import Hasher
from rayplane.control_plane.rpc import Context
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env.failpoints import hit

SNAPSHOT_BLOB_BYTES = 32 * 1024
SNAPSHOT_ALIGNMENT = 512


class MaintenanceService(Base):
    """etcdserverpb.Maintenance."""

    def __init__(
        self,
        raft: RaftStatus,
        callers: Callers,
        machine: StateMachine,
        *,
        proposer: Proposer,
        reads: ReadBarrier,
        leadership: LeaderMoves,
        hasher: Hasher,
        quota_bytes: int,
    ) -> None:
        super().__init__(raft, callers, machine.store)
        self._alarms = machine.alarms
        self._proposer = proposer
        self._reads = reads
        self._leadership = leadership
        self._hasher = hasher
        self._quota_bytes = quota_bytes

    async def Alarm(self, request: pb.AlarmRequest, context: Context) -> pb.AlarmResponse:
        self.gate(context)
        if request.action == pb.AlarmRequest.GET:
            await self._reads.barrier()
            # Whichever member it asks for, as in etcd.
            alarms = [a for a in self._alarms.all() if request.alarm in (pb.NONE, a.alarm)]
            return pb.AlarmResponse(header=self.header(), alarms=alarms)
        await self.require_admin(context)
        response: pb.AlarmResponse = self.stamp(await self._proposer.propose(Kind.ALARM, request))
        return response

    async def Status(self, request: pb.StatusRequest, context: Context) -> pb.StatusResponse:
        self.gate(context, learner=True)
        status = self.raft.status()
        size, in_use = self.store.backend.size()
        problems = [] if status.lead else [errors.PREFIX + errors.NoLeader.text]
        problems += [f"memberID:{a.memberID} alarm:{pb.AlarmType.Name(a.alarm)} " for a in self._alarms.all()]
        return pb.StatusResponse(
            header=self.header(),
            version=ETCD_VERSION,
            storageVersion=ETCD_VERSION.rpartition(".")[0],
            dbSize=size,
            dbSizeInUse=in_use,
            dbSizeQuota=self._quota_bytes,
            leader=status.lead,
            raftIndex=status.last_index,
            raftTerm=status.term,
            raftAppliedIndex=self.raft.applied,
            errors=problems,
            isLearner=self.raft.is_learner,
        )

    async def Defragment(self, request: pb.DefragmentRequest, context: Context) -> pb.DefragmentResponse:
        """Finishes removing compacted history and writes the store anew without gaps, while it goes on serving."""
        self.gate(context, learner=True)
        await self.require_admin(context)
        hit("defrag.before")
        await self.store.defragment()
        hit("defrag.after")
        return pb.DefragmentResponse()

    async def Hash(self, request: pb.HashRequest, context: Context) -> pb.HashResponse:
        self.gate(context, learner=True)
        await self.require_admin(context)
        value, _, _ = await self.store.hash_kv_gently()
        return pb.HashResponse(header=self.header(), hash=value)

    async def HashKV(self, request: pb.HashKVRequest, context: Context) -> pb.HashKVResponse:
        self.gate(context, learner=True)
        await self.require_admin(context)
        return await self._hasher.hash_kv(request.revision)

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotResponse]:
        """The store's snapshot stream (`storage.mvcc` restores it), 1 to 512 zeros, and their SHA-256.

        `remaining_bytes` is what is still to come before the digest: it is 0 for the zeros and the digest alone. As
        etcdctl wants it, the sum of all is n * 512 + 32.
        """
        self.gate(context, learner=True)
        await self.require_admin(context)
        digest = hashlib.sha256()
        # Both of the same moment: the first is for the length.
        measured, chunks = self.store.snapshot(), self.store.snapshot()
        size = 0
        for chunk in measured:
            size += len(chunk)
            await asyncio.sleep(0)
        padding = bytes(SNAPSHOT_ALIGNMENT - size % SNAPSHOT_ALIGNMENT)
        remaining = size + len(padding)

        def response(blob: bytes) -> pb.SnapshotResponse:
            return pb.SnapshotResponse(remaining_bytes=remaining, blob=blob, version=ETCD_VERSION)

        for chunk in chunks:
            for start in range(0, len(chunk), SNAPSHOT_BLOB_BYTES):
                blob = chunk[start : start + SNAPSHOT_BLOB_BYTES]
                digest.update(blob)
                remaining -= len(blob)
                yield response(blob)
            await asyncio.sleep(0)  # sending need not wait: others get their turn here
        digest.update(padding)
        remaining = 0
        yield response(padding)
        yield response(digest.digest())

    async def MoveLeader(self, request: pb.MoveLeaderRequest, context: Context) -> pb.MoveLeaderResponse:
        self.gate(context)
        await self.require_admin(context)
        await self._leadership.move_leader(request.targetID)
        return pb.MoveLeaderResponse()

    async def Downgrade(self, request: pb.DowngradeRequest, context: Context) -> pb.DowngradeResponse:
        """Checks the version as etcd does; there is no older rayplane to go back to, so none is ever enabled."""
        self.gate(context)
        await self.require_admin(context)
        if request.action == pb.DowngradeRequest.CANCEL:
            raise errors.NoInflightDowngrade
        if request.action not in (pb.DowngradeRequest.VALIDATE, pb.DowngradeRequest.ENABLE):
            raise errors.UnknownMethod
        numbers = re.fullmatch(r"(\d+)\.(\d+)(\.\d+)?", request.version)
        if numbers is None:
            raise errors.WrongDowngradeVersionFormat
        major, minor = (int(part) for part in ETCD_VERSION.split(".")[:2])
        if (int(numbers[1]), int(numbers[2])) != (major, minor - 1):
            raise errors.InvalidDowngradeTargetVersion
        if request.action == pb.DowngradeRequest.ENABLE:
            raise errors.NotCapable
        return pb.DowngradeResponse(header=self.header(), version=f"{major}.{minor}.0")
