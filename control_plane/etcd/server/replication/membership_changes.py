"""Membership requests: what a member list may become, and bringing the change through the log.

Only the leader proposes changes, one at a time; other members hand them over. The outcome comes by the local apply
step, as for every proposal.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.codec import Kind, encode_member
from rayplane.control_plane.etcd.server.config import MemberConfig, member_id
from rayplane.control_plane.etcd.server.ports import PeerStubs, RaftStatus
from rayplane.control_plane.etcd.server.replication.proposals import Proposal, Proposals, Proposer
from rayplane.control_plane.etcd.server.state_machine.membership import Membership, check_url_syntax
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

#: A learner is in sync when it has this share of the leader's log, as in etcd.
READY_SHARE = 0.9


class Log(RaftStatus, Protocol):
    """The driver, to which changes go."""

    proposals: Proposals

    def append_change(self, change: raft.ConfChange) -> None:
        """Raises ProposalDropped, ConfChangeRefused."""


class Connections(PeerStubs, Protocol):
    """Connections to peers: which can be reached, and calls to them."""

    def active_since(self, peer: int) -> float | None:
        """By the loop's time; None when there is no stream to it."""


class MembershipChanger:
    """Membership requests of one member."""

    def __init__(
        self, config: MemberConfig, driver: Log, proposer: Proposer, peers: Connections, members: Membership
    ) -> None:
        self._config = config
        self._driver = driver
        self._proposer = proposer
        self._peers = peers
        self._members = members

    async def add(self, peer_urls: list[str], *, learner: bool) -> tuple[pb.Member, list[pb.Member]]:
        """A new member with a new id; it may start then. Raises EtcdError."""
        check_url_syntax(peer_urls)
        peer_urls = sorted(url.strip() for url in peer_urls)
        salt = f"{self._driver.cluster_id:x}-{self._proposer.next_request_id():x}"
        added = pb.Member(ID=member_id(peer_urls, salt), peerURLs=peer_urls, isLearner=learner)
        kind = raft.ConfChangeType.ADD_LEARNER if learner else raft.ConfChangeType.ADD_NODE
        if not learner:
            self._check_started(adding=1)
            # etcd asks this of learners too; they have no vote, and one may be what replaces a voter that is lost.
            await self._check_health(lambda voters, healthy: healthy == voters)
        return added, await self._change(kind, added)

    async def remove(self, id_: int) -> list[pb.Member]:
        """Raises EtcdError."""
        held = self._members.get(id_)
        if held is not None and not held.isLearner:
            self._check_started(without=id_)
            if id_ == self._driver.member_id or self._peers.active_since(id_) is not None:
                # One that is down may go: it does not count towards the majority as it is.
                await self._check_health(lambda voters, healthy: healthy - 1 >= 1 + (voters - 1) // 2)
        return await self._change(raft.ConfChangeType.REMOVE_NODE, pb.Member(ID=id_))

    async def update(self, id_: int, peer_urls: list[str]) -> Any:
        """Raises EtcdError."""
        check_url_syntax(peer_urls)
        request = pb.MemberUpdateRequest(ID=id_, peerURLs=peer_urls)
        return await self._proposer.propose(Kind.MEMBER_UPDATE, request)

    async def promote(self, id_: int, *, forward: bool) -> list[pb.Member]:
        """Make a learner a voter. Only the leader can tell whether it is in sync. Raises EtcdError."""
        if not self._driver.is_leader:
            if not forward:
                raise errors.NotLeader
            stub = self._peers.stub_of(self._driver.leader_id)
            if stub is None:
                raise errors.NoLeader
            request = pb.MemberPromoteRequest(ID=id_)
            answer = await stub.Promote(request, timeout=self._config.request_timeout_s)
            return list(answer.members)
        held = self._members.get(id_)
        if held is None:
            raise errors.MemberNotFound
        if not held.isLearner:
            raise errors.MemberNotLearner
        status = self._driver.status()
        progress = status.progress.get(id_)
        if progress is None or progress.match < READY_SHARE * status.progress[self._driver.member_id].match:
            raise errors.LearnerNotReady
        return await self._change(raft.ConfChangeType.ADD_NODE, pb.Member(ID=id_))

    def _check_started(self, *, adding: int = 0, without: int = 0) -> None:
        """The members that have been started must be a majority after the change."""
        voters = [m for m in self._members.voters() if without != m.ID]
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
        now = asyncio.get_running_loop().time
        deadline = now() + 2 * self._config.election_timeout_s
        while True:
            voters = [m.ID for m in self._members.voters()]
            since = [self._peers.active_since(i) for i in voters if i != self._driver.member_id]
            settled = now() - self._config.election_timeout_s
            healthy = (self._driver.member_id in voters) + sum(s is not None and s <= settled for s in since)
            if enough(len(voters), healthy):
                return
            if now() >= deadline or not enough(len(voters), len(voters) - since.count(None)):
                raise errors.UnhealthyCluster
            await asyncio.sleep(self._config.tick_s)

    async def _change(self, kind: raft.ConfChangeType, target: pb.Member) -> list[pb.Member]:
        loop = asyncio.get_running_loop()
        request_id = self._proposer.next_request_id()
        change = raft.ConfChange(kind, target.ID, encode_member(request_id, target))
        self._members.check(change, target)
        deadline = loop.time() + self._config.request_timeout_s
        answer: asyncio.Future[Any] = loop.create_future()
        proposal = Proposal(b"", None, answer, deadline, self._driver.term or 1)
        self._driver.proposals.add(request_id, proposal)
        try:
            while not proposal.future.done() and not await self._hand_over(change, proposal):
                await asyncio.sleep(self._config.tick_s)
            outcome = await answer
        finally:
            self._driver.proposals.take(request_id)
        return list(outcome.members)

    async def _hand_over(self, change: raft.ConfChange, proposal: Proposal) -> bool:
        """Whether the leader has taken it into its log; False when it should be tried again."""
        proposal.term = self._driver.term or 1
        if self._driver.is_leader:
            return self._try(change)
        stub = self._peers.stub_of(self._driver.leader_id)
        if stub is None:
            return False
        try:
            await stub.ProposeChange(wire.Change(data=change.encode()), timeout=self._config.election_timeout_s)
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
            self._driver.append_change(change)
        except raft.ProposalDropped:
            raise errors.UnhealthyCluster from None
        except raft.ConfChangeRefused as e:
            raise (errors.UnhealthyCluster if e.retryable else errors.MemberNotEnoughStarted) from None
