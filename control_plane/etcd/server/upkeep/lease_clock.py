"""Leases in time: the leader's clock over the lessor, and other members' calls to it.

The lessor knows the leases by the log; who asks for time (renewals, what is left) asks the leader. The leader proposes
to revoke what ran out, from the member's tick.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.raft import Role, SoftState
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import PeerStubs, Proposer, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

log = logging.getLogger(__name__)


class LeaseClock:
    """Time of one member's leases. `chance` gives as many random bits as it is asked for."""

    def __init__(
        self,
        config: MemberConfig,
        raft: RaftStatus,
        lessor: Lessor,
        *,
        proposer: Proposer,
        reads: ReadBarrier,
        peers: PeerStubs,
        chance: Callable[[int], int],
    ) -> None:
        self._config = config
        self._raft = raft
        self._lessor = lessor
        self._proposer = proposer
        self._reads = reads
        self._peers = peers
        self._chance = chance

    def tick(self, now: float) -> None:
        """On the leader: propose what time has brought about."""
        if not self._lessor.primary:
            return
        for lease_id in self._lessor.expired(now):
            self._proposer.propose_unwatched(Kind.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=lease_id))
        if due := self._lessor.due_checkpoints(now):
            self._checkpoint(due)

    def leader_seen(self, state: SoftState) -> None:
        """This member may have become the leader, or be one no more."""
        leads = state.role is Role.LEADER
        if leads and not self._lessor.primary:
            self._lessor.promote(self._now(), self._config.election_timeout_s)
        elif not leads and self._lessor.primary:
            self._lessor.demote()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def renew(self, lease_id: int) -> int:
        """On the leader. Raises NotLeader, LeaseNotFound, Timeout.

        The answer is a promise: another that leads already would not know of it and end the lease before. So a quorum
        must say, after the renewal, that this member leads still: a later leader gives the lease its time anew.
        """
        term = self._leading_term()
        try:
            ttl = self._lessor.renew(lease_id, self._now())
        except errors.LeaseNotFound:
            # Its grant may not be applied yet, or another leader may have prolonged it.
            await self._confirm(term)
            if self._lessor.exists(lease_id):
                raise errors.NotLeader from None  # it has run out, but only its revocation decides that
            raise
        if self._lessor.get(lease_id).remaining:
            # Else the next leader would give it only what was left at its last checkpoint.
            checkpoint = pb.LeaseCheckpoint(ID=lease_id, remaining_TTL=0)
            await self._proposer.propose(Kind.LEASE_CHECKPOINT, pb.LeaseCheckpointRequest(checkpoints=[checkpoint]))
        await self._confirm(term)
        # An earlier leader's revocation may have come through the log just now.
        self._lessor.get(lease_id)
        return ttl

    def _leading_term(self) -> int:
        if not self._lessor.primary:
            raise errors.NotLeader
        return self._raft.term

    async def _confirm(self, term: int) -> None:
        """Return when this member has led in `term` until now, and has applied what was committed. Raises NotLeader."""
        await self._reads.barrier()
        if not self._raft.is_leader or self._raft.term != term:
            raise errors.NotLeader

    def _checkpoint(self, remaining: list[tuple[int, int]]) -> None:
        checkpoints = [pb.LeaseCheckpoint(ID=i, remaining_TTL=r) for i, r in remaining]
        self._proposer.propose_unwatched(Kind.LEASE_CHECKPOINT, pb.LeaseCheckpointRequest(checkpoints=checkpoints))

    async def remaining(self, lease_id: int) -> int:
        """On the leader. Raises NotLeader, LeaseNotFound, Timeout."""
        await self._confirm(self._leading_term())
        return self._lessor.remaining(lease_id, self._now())

    def new_id(self) -> int:
        """For a grant that leaves the choice to the server."""
        return self._chance(62) or 1

    async def keep_alive(self, lease_id: int) -> int:
        """The TTL that the lease has again; 0 when there is no such lease. Raises Timeout."""

        async def ask(stub: Stub) -> int:
            answer = await stub.Renew(wire.RenewRequest(id=lease_id), timeout=self._config.election_timeout_s)
            return int(answer.ttl)

        try:
            return await self._from_leader(lambda: self.renew(lease_id), ask)
        except errors.LeaseNotFound:
            return 0

    async def time_to_live(self, lease_id: int) -> int:
        """Seconds left; -1 when there is no such lease. Raises Timeout."""

        async def ask(stub: Stub) -> int:
            request = wire.RemainingRequest(id=lease_id)
            answer = await stub.Remaining(request, timeout=self._config.election_timeout_s)
            return int(answer.remaining)

        try:
            return await self._from_leader(lambda: self.remaining(lease_id), ask)
        except errors.LeaseNotFound:
            return -1

    async def _from_leader(self, local: Callable[[], Awaitable[int]], ask: Callable[[Stub], Awaitable[int]]) -> int:
        """What the leader, this member or another, says; asked again while leadership changes. Raises Timeout."""
        deadline = self._now() + self._config.request_timeout_s
        while self._now() < deadline:
            stub = self._peers.stub_of(self._raft.leader_id)
            if self._lessor.primary:
                with contextlib.suppress(errors.NotLeader):
                    return await local()
            elif stub is not None:
                try:
                    return await ask(stub)
                except RpcError as e:
                    log.debug("asking the leader failed: %s", e)
            await asyncio.sleep(self._config.tick_s)
        raise errors.Timeout if self._raft.leader_id else errors.NoLeader
