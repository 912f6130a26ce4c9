"""Membership requests: what a member list may become, and bringing the change through the log.

Only the leader proposes changes, one at a time; other members hand them over. The outcome comes by the local apply
step, as for every proposal.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server import errors
from rayplane.control_plane.etcd.server.codec import Kind, encode_member
from rayplane.control_plane.etcd.server.config import member_id
from rayplane.control_plane.etcd.server.replication.pending import Proposal, Proposals
from rayplane.control_plane.etcd.server.state_machine.membership import check_url_syntax
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member

#: A learner is in sync when it has this share of the leader's log, as in etcd.
READY_SHARE = 0.9


class Reconfiguration:
    """Membership requests of one member."""

    def __init__(self, member: "Member", proposals: Proposals) -> None:
        self._member = member
        self._proposals = proposals

    async def add(self, peer_urls: list[str], *, learner: bool) -> tuple[pb.Member, list[pb.Member]]:
        """A new member with a new id; it may start then. Raises EtcdError."""
        check_url_syntax(peer_urls)
        peer_urls = sorted(url.strip() for url in peer_urls)
        salt = f"{self._member.cluster_id:x}-{self._member.next_request_id():x}"
        added = pb.Member(ID=member_id(peer_urls, salt), peerURLs=peer_urls, isLearner=learner)
        kind = raft.ConfChangeType.ADD_LEARNER if learner else raft.ConfChangeType.ADD_NODE
        if not learner:
            self._check_started(adding=1)
            # etcd asks this of learners too; they have no vote, and one may be what replaces a voter that is lost.
            await self._check_health(lambda voters, healthy: healthy == voters)
        return added, await self._change(kind, added)

    async def remove(self, id_: int) -> list[pb.Member]:
        """Raises EtcdError."""
        held = self._member.machine.members.get(id_)
        if held is not None and not held.isLearner:
            self._check_started(without=id_)
            if id_ == self._member.member_id or self._member.transport.active_since(id_) is not None:
                # One that is down may go: it does not count towards the majority as it is.
                await self._check_health(lambda voters, healthy: healthy - 1 >= 1 + (voters - 1) // 2)
        return await self._change(raft.ConfChangeType.REMOVE_NODE, pb.Member(ID=id_))

    async def update(self, id_: int, peer_urls: list[str]) -> Any:
        """Raises EtcdError."""
        check_url_syntax(peer_urls)
        request = pb.MemberUpdateRequest(ID=id_, peerURLs=peer_urls)
        return await self._member.propose(Kind.MEMBER_UPDATE, request)

    async def promote(self, id_: int, *, forward: bool) -> list[pb.Member]:
        """Make a learner a voter. Only the leader can tell whether it is in sync. Raises EtcdError."""
        member = self._member
        if not member.is_leader:
            if not forward:
                raise errors.NotLeader
            stub = member.transport.stub_of(member.leader_id)
            if stub is None:
                raise errors.NoLeader
            request = pb.MemberPromoteRequest(ID=id_)
            answer = await stub.Promote(request, timeout=member.config.request_timeout_s)
            return list(answer.members)
        held = member.machine.members.get(id_)
        if held is None:
            raise errors.MemberNotFound
        if not held.isLearner:
            raise errors.MemberNotLearner
        status = member.node.status()
        progress = status.progress.get(id_)
        if progress is None or progress.match < READY_SHARE * status.progress[member.member_id].match:
            raise errors.LearnerNotReady
        return await self._change(raft.ConfChangeType.ADD_NODE, pb.Member(ID=id_))

    async def move_leader(self, target: int) -> None:
        """Hand leadership to a voter. Raises NotLeader, BadLeaderTransferee, TimeoutLeaderTransfer."""
        member = self._member
        if not member.is_leader:
            raise errors.NotLeader
        if target == member.member_id:
            return
        try:
            member.node.transfer_leader(target)
        except raft.TransferRefused:
            raise errors.BadLeaderTransferee from None
        member.wake()
        try:
            async with asyncio.timeout(2 * member.election_timeout_s):
                while member.leader_id != target:
                    await member.leader_changed()
        except TimeoutError:
            raise errors.TimeoutLeaderTransfer from None

    def _check_started(self, *, adding: int = 0, without: int = 0) -> None:
        """The members that have been started must be a majority after the change."""
        voters = [m for m in self._member.machine.members.voters() if without != m.ID]
        started = sum(bool(m.name) for m in voters)
        if adding and len(voters) == started == 1:
            return  # one member may become two
        if started < (len(voters) + adding) // 2 + 1:
            raise errors.MemberNotEnoughStarted

    async def _check_health(self, enough: Callable[[int, int], bool]) -> None:
        """The voters that can be reached must be enough; `enough` is told of how many, and how many of them are.

        A connection counts once it has held for an election timeout; right after a start that is waited for. Raises
        UnhealthyCluster, as etcd does with its strict reconfiguration check.
        """
        member, now = self._member, asyncio.get_running_loop().time
        deadline = now() + 2 * member.election_timeout_s
        while True:
            voters = [m.ID for m in member.machine.members.voters()]
            since = [member.transport.active_since(i) for i in voters if i != member.member_id]
            settled = now() - member.election_timeout_s
            healthy = (member.member_id in voters) + sum(s is not None and s <= settled for s in since)
            if enough(len(voters), healthy):
                return
            if now() >= deadline or not enough(len(voters), len(voters) - since.count(None)):
                raise errors.UnhealthyCluster
            await asyncio.sleep(member.config.tick_s)

    async def _change(self, kind: raft.ConfChangeType, target: pb.Member) -> list[pb.Member]:
        member = self._member
        loop = asyncio.get_running_loop()
        request_id = member.next_request_id()
        change = raft.ConfChange(kind, target.ID, encode_member(request_id, target))
        member.machine.members.check(change, target)
        deadline = loop.time() + member.config.request_timeout_s
        proposal = Proposal(b"", None, loop.create_future(), deadline, member.node.term or 1)
        self._proposals.add(request_id, proposal)
        try:
            while not proposal.future.done() and not await self._hand_over(change, proposal):
                await asyncio.sleep(member.config.tick_s)
            outcome: Any = await proposal.future
        finally:
            self._proposals.take(request_id)
        return list(outcome.members)

    async def _hand_over(self, change: raft.ConfChange, proposal: Proposal) -> bool:
        """Whether the leader has taken it into its log; False when it should be tried again."""
        member = self._member
        proposal.term = member.node.term or 1
        if member.is_leader:
            return self._try(change)
        stub = member.transport.stub_of(member.leader_id)
        if stub is None:
            return False
        try:
            await stub.ProposeChange(wire.Change(data=change.encode()), timeout=member.election_timeout_s)
        except RpcError as e:
            if e.code is errors.Code.UNAVAILABLE:
                return False
            raise
        return True

    def _try(self, change: raft.ConfChange) -> bool:
        try:
            self.propose(change)
        except errors.EtcdError as e:
            if e.code is errors.Code.UNAVAILABLE:
                return False
            raise
        return True

    def propose(self, change: raft.ConfChange) -> None:
        """On the leader. Raises UnhealthyCluster when it may be tried again, MemberNotFound when it never fits."""
        try:
            self._member.node.propose_conf_change(change)
        except raft.ProposalDropped:
            raise errors.UnhealthyCluster from None
        except raft.ConfChangeRefused as e:
            raise (errors.UnhealthyCluster if e.retryable else errors.MemberNotEnoughStarted) from None
        self._member.wake()
