"""The rise of the cluster's level: the leader asks all members what they can read, until all can read what it does.

Then an entry of the log says so, once, and nobody asks any more. Every member marks its data directory with the level
that its log has come to, so that a build that could not read it refuses the directory.
"""

import asyncio
import logging

from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import PeerStubs, Proposer, RaftStatus
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL, Level, common_level
from rayplane.control_plane.etcd.server.state_machine.membership import Membership
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import Disk, DiskError
from rayplane.storage.env.marks import raise_mark
from rayplane.storage.formats import Mark

log = logging.getLogger(__name__)

CHECK_EVERY_S = 1.0
ASK_TIMEOUT_S = 1.0


class LevelRise:
    """One member's part in it. No tasks of its own: the member runs `run`."""

    def __init__(
        self,
        config: MemberConfig,
        raft: RaftStatus,
        level: Level,
        members: Membership,
        *,
        proposer: Proposer,
        peers: PeerStubs,
        disk: Disk,
        mark: Mark,
    ) -> None:
        self._config = config
        self._raft = raft
        self._level = level
        self._members = members
        self._proposer = proposer
        self._peers = peers
        self._disk = disk
        self._mark = mark
        self._news = asyncio.Event()
        level.on_raised.append(self._news.set)

    def look(self) -> None:
        """The leader may be another now."""
        self._news.set()

    async def run(self) -> None:
        """Until the level is this build's, and the data directory says so."""
        while not await self._is_done():
            if self._raft.is_leader and self._level.now < LEVEL:
                await self._try()
            try:
                async with asyncio.timeout(CHECK_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()

    async def _is_done(self) -> bool:
        try:
            self._mark = await raise_mark(self._disk, self._mark, self._level.now, self._config.build)
        except DiskError as e:
            log.warning("the data directory cannot be marked with its format yet: %s", e)
        return self._mark.format >= LEVEL

    async def _try(self) -> None:
        others = [m.ID for m in self._members.all() if self._raft.member_id != m.ID]
        told = await asyncio.gather(*(self._ask(peer) for peer in others))
        level = common_level([LEVEL, *told])
        if level > self._level.now:
            log.info("all members read level %d: the log may have it from now on", level)
            self._proposer.propose_unwatched(Kind.LEVEL, wire.Level(level=level, build=self._config.build))

    async def _ask(self, peer: int) -> int | None:
        """The level that a member reads; None when it does not say."""
        stub = self._peers.stub_of(peer)
        if stub is None:
            return None
        try:
            answer: wire.MembersResponse = await stub.Members(wire.MembersRequest(), timeout=ASK_TIMEOUT_S)
        except RpcError:
            return None
        return int(answer.level)
