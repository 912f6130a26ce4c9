"""Leadership: who leads, as this member sees it; standing for it early, handing it over, noticing that nobody leads."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.ports import RaftStatus
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine

#: Ticks that a stopping leader waits for its heir.
HAND_OVER_TICKS = 5
#: Election timeouts without a leader after which streams that demand one are ended.
LEADERLESS_TIMEOUTS = 3


class Candidate(RaftStatus, Protocol):
    """The driver."""

    def transfer_leader(self, to: int) -> None:
        """Raises TransferRefused."""

    def campaign(self) -> None: ...


class Leadership:
    """Leadership as one member sees it. `on_leaderless` is called once nobody has led for some election timeouts."""

    def __init__(self, config: MemberConfig, driver: Candidate, machine: StateMachine) -> None:
        self.on_leaderless: list[Callable[[], None]] = []
        self._config = config
        self._driver = driver
        self._machine = machine
        self._changed = asyncio.Event()
        self._ticks = self._leaderless_ticks = 0

    async def leader_changed(self) -> None:
        """Wait for another leader, or for the loss of one."""
        await self._changed.wait()

    def leader_seen(self, state: raft.SoftState) -> None:
        """The raft node tells of a leader, or of none."""
        self._changed.set()
        self._changed = asyncio.Event()

    def tick(self, now: float) -> None:
        self._ticks += 1
        self._hasten_first_election()
        if self._driver.leader_id != raft.NONE:
            self._leaderless_ticks = 0
            return
        self._leaderless_ticks += 1
        if self._leaderless_ticks == LEADERLESS_TIMEOUTS * self._config.election_ticks:
            for told in self.on_leaderless:
                told()

    def _hasten_first_election(self) -> None:
        """A new cluster's first founder stands at once instead of after a timeout; pre-vote makes it harmless."""
        driver = self._driver
        if driver.term != 1 or driver.leader_id != raft.NONE:
            return
        if self._ticks % 2 and self._machine.conf_state.voters[:1] == (driver.member_id,):
            driver.campaign()

    def campaign_alone(self) -> None:
        """A lone voter need not wait for an election timeout."""
        driver = self._driver
        if driver.leader_id == raft.NONE and self._machine.conf_state.voters == (driver.member_id,):
            driver.campaign()

    async def move_leader(self, target: int) -> None:
        """Hand leadership to a voter. Raises NotLeader, BadLeaderTransferee, TimeoutLeaderTransfer."""
        driver = self._driver
        if not driver.is_leader:
            raise errors.NotLeader
        if target == driver.member_id:
            return
        try:
            driver.transfer_leader(target)
        except raft.TransferRefused:
            raise errors.BadLeaderTransferee from None
        try:
            async with asyncio.timeout(2 * self._config.election_timeout_s):
                while driver.leader_id != target:
                    await self.leader_changed()
        except TimeoutError:
            raise errors.TimeoutLeaderTransfer from None

    async def hand_over(self) -> None:
        """Before a leader stops: let the voter that has most of the log lead, and wait until it does or took too long.

        It spares the others an election timeout.
        """
        driver = self._driver
        progress = driver.status().progress
        heirs = [(p.match, i) for i, p in progress.items() if p.recent_active and not p.is_learner]
        heirs = [heir for heir in heirs if heir[1] != driver.member_id]
        if not heirs:
            return
        with contextlib.suppress(raft.TransferRefused, TimeoutError):
            driver.transfer_leader(max(heirs)[1])
            async with asyncio.timeout(HAND_OVER_TICKS * self._config.tick_s):
                # Not only until it steps down: the heir may need its vote.
                while driver.leader_id in (driver.member_id, raft.NONE):
                    await self.leader_changed()
