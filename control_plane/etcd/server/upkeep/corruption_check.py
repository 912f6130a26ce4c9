"""Corruption checks: hashes of the members' histories, compared at the same revision.

Two checks, both off unless configured, as in etcd: a member that starts compares itself with the others before it
serves, and the leader compares all of them now and then. A member that differs from the majority is told apart by a
CORRUPT alarm, under which all members refuse writes (`apply`) and that member refuses reads too. What a disk does to
a member's own files is found without others: every file and record has checksums (`storage.wal`, `storage.mvcc`).

Hashes can be compared only at one revision and behind one compaction; where they cannot, nothing is concluded.
"""

import asyncio
import logging
from collections import Counter

from rayplane.control_plane.etcd.server.codec import PEER, Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.errors import RefusedToStart
from rayplane.control_plane.etcd.server.ports import Proposer, RaftStatus, ReadBarrier
from rayplane.control_plane.etcd.server.state_machine.apply import StateMachine
from rayplane.control_plane.etcd.server.state_machine.hashing import Hasher
from rayplane.control_plane.etcd.server.state_machine.membership import address_of
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb

log = logging.getLogger(__name__)

#: A hash reads everything that a member holds.
HASH_TIMEOUT_S = 60.0


class CorruptionCheck:
    """One member's checks. No tasks of its own: the member runs `run`."""

    def __init__(
        self,
        config: MemberConfig,
        raft: RaftStatus,
        machine: StateMachine,
        *,
        hasher: Hasher,
        proposer: Proposer,
        reads: ReadBarrier,
        network: Network,
    ) -> None:
        self._config = config
        self._raft = raft
        self._machine = machine
        self._hasher = hasher
        self._proposer = proposer
        self._reads = reads
        self._network = network

    async def before_serving(self) -> None:
        """Raises RefusedToStart when more of the others differ from this member than agree with it."""
        own, others = await self._hashes()
        differing = sorted(i for i, other in others.items() if other != own.hash)
        if len(differing) > len(others) - len(differing):
            names = ", ".join(f"{i:x}" for i in differing)
            raise RefusedToStart(
                f"the store of member {self._config.name} differs from that of {names} at revision "
                f"{own.hash_revision}: it is damaged; remove this member from the cluster, delete its data directory "
                "and add it again"
            )

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self._config.corrupt_check_s)
            if self._raft.is_leader:
                try:
                    await self._check_all()
                except RpcError as e:
                    log.info("the members could not be compared, will be repeated: %s", e)

    async def _check_all(self) -> None:
        await self._reads.barrier()
        own, others = await self._hashes()
        for corrupt in minority({self._raft.member_id: own.hash, **others}, self._raft.member_id):
            if not self._machine.alarms.is_corrupt(corrupt):
                log.critical(
                    "member %x holds something else at revision %d: raising an alarm", corrupt, own.hash_revision
                )
                alarm = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=corrupt, alarm=pb.CORRUPT)
                await self._proposer.propose(Kind.ALARM, alarm)

    async def _hashes(self) -> tuple[pb.HashKVResponse, dict[int, int]]:
        """This member's hash now, and those of the others that can be compared with it, by member id."""
        own = await self._hasher.hash_kv(0)
        peers = [m for m in self._machine.members.all() if self._raft.member_id != m.ID and m.peerURLs]
        answers = await asyncio.gather(*(self._ask(address_of(m.peerURLs[0]), own.hash_revision) for m in peers))
        return own, {
            peer.ID: answer.hash
            for peer, answer in zip(peers, answers, strict=True)
            if answer is not None and answer.compact_revision == own.compact_revision
        }

    async def _ask(self, address: str, revision: int) -> pb.HashKVResponse | None:
        stub = Stub(self._network.channel(address), PEER)
        try:
            answer: pb.HashKVResponse = await stub.HashKV(pb.HashKVRequest(revision=revision), timeout=HASH_TIMEOUT_S)
        except RpcError as e:
            # It is away, behind, or has compacted further.
            log.debug("no hash from %s: %s", address, e)
            return None
        return answer


def minority(hashes: dict[int, int], leader: int) -> list[int]:
    """Members to mistrust: those that differ from more than half of all, or from the leader if no half agrees."""
    most, count = Counter(hashes.values()).most_common(1)[0]
    trusted = most if 2 * count > len(hashes) else hashes[leader]
    return sorted(i for i, value in hashes.items() if value != trusted)
