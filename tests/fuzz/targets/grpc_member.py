"""Bodies of every service of an etcd member, by another member (who may call them all)."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.identities import MASTERS, MEMBERS
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd import v3election_pb2, v3lock_pb2
from rayplane.proto.rayplane.v1 import raft_pb2
from rayplane.storage.env import Env, SystemClock
from tests.etcd.harness import SETTLE_S, member_config, simulated_disk
from tests.fuzz.targets._grpc import Case, Served, make_calls
from tests.fuzz.targets._wire import RecordingNetwork, calling

CASES = 50
CASES_PER_WORLD = 60
_SERVICES = [
    *pb.DESCRIPTOR.services_by_name.values(),
    *v3lock_pb2.DESCRIPTOR.services_by_name.values(),
    *v3election_pb2.DESCRIPTOR.services_by_name.values(),
    *raft_pb2.DESCRIPTOR.services_by_name.values(),
]
_WORDS = (b"a", b"b", b"\0", b"", b"root", b"root", b"http://m1:2380", b"k/1", b"\xff\xff", b"user", b"pass")
#: A member that is believed: what it says of the log is true, or the cluster was lost before.
_BELIEVED = ("Send", "Snapshot")


def make(rng: random.Random) -> Case:
    return make_calls(rng, _SERVICES, _WORDS, _BELIEVED)


class OneMember(Served):
    def __init__(self, member: Member, network: RecordingNetwork) -> None:
        super().__init__([s for served in network.served.values() for s in served], Identity("m9", (MEMBERS, MASTERS)))
        self.member = member

    async def good(self) -> None:
        request = pb.RangeRequest(key=b"good", serializable=True)
        async with calling(self.registry, self.identity) as caller:
            status = await caller.call("/etcdserverpb.KV/Range", [request.SerializeToString()], limit=b"60S")
        # With users on, a certificate may be of none of them; with an alarm on, nothing is served.
        assert status.partition(" ")[0] in ("0", "3", "7", "15", "16"), status

    def sizes(self) -> dict[str, int]:
        """But for the links to members that were added."""
        links = sum("_Link._run" in str(t.get_coro()) for t in asyncio.all_tasks())
        return super().sizes() | {"tasks": len(asyncio.all_tasks()) - links}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[OneMember]:
    network = RecordingNetwork(Fabric(), "m0", Identity("m0", (MEMBERS,)))
    env = Env(SystemClock(), random.Random(1), simulated_disk())
    member = Member(member_config("m0", {"m0": "http://m0:2380"}), env, network)
    await member.start()
    try:
        async with asyncio.timeout(SETTLE_S):
            await member.ready()
        yield OneMember(member, network)
    finally:
        await member.stop()
