"""A leader that goes in order spares the others an election timeout, if one of them takes over soon."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rayplane.control_plane.etcd import raft

if TYPE_CHECKING:
    from rayplane.control_plane.etcd.server.member import Member

#: Ticks that a stopping leader waits for its heir.
HAND_OVER_TICKS = 5


async def hand_over(member: "Member") -> None:
    """Let the voter that has most of the log lead, and wait until it does or took too long."""
    progress = member.node.status().progress
    heirs = [(p.match, i) for i, p in progress.items() if p.recent_active and not p.is_learner]
    heirs = [heir for heir in heirs if heir[1] != member.member_id]
    with contextlib.suppress(raft.TransferRefused, TimeoutError):
        if heirs:
            member.node.transfer_leader(max(heirs)[1])
            member.wake()
            async with asyncio.timeout(HAND_OVER_TICKS * member.config.tick_s):
                # Not only until it steps down: the heir may need its vote.
                while member.leader_id in (member.member_id, raft.NONE):
                    await member.leader_changed()
