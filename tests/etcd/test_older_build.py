"""Members beside an older build: its data is read and upgraded, its messages are answered, it gets what it can read."""

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.etcd.server.codec import PEER, message_from_wire, message_to_wire
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL
from rayplane.control_plane.identities import MEMBERS
from rayplane.control_plane.rpc import EVERYONE, Identity, Service, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.env import Env, LocalDisk, SystemClock
from rayplane.storage.env.marks import checked
from rayplane.storage.formats import FIRST, MEMBER, Kept, Mark, NewerFormat
from tests.etcd.harness import SETTLE_S, TICK_S, member_config
from tests.recorded import unpacked

PEERS = {f"m{i}": f"http://m{i}:2380" for i in range(3)}
KEYS = {f"k{i}": f"v{28 + i if i < 2 else 21 + i}" for i in range(6)} | {"leased": "x", "by-txn": "y"}


async def until(done: Any) -> None:
    async with asyncio.timeout(SETTLE_S):
        while not done():
            await asyncio.sleep(TICK_S)


def keys(member: Member) -> dict[str, str]:
    return {kv.key.decode(): kv.value.decode() for kv in member.store.range(b"\0", b"\0").kvs}


@contextlib.asynccontextmanager
async def member_on(
    path: Path, name: str, peers: dict[str, str], fabric: Fabric, **options: Any
) -> AsyncIterator[Member]:
    network = MemoryNetwork(fabric, name, Identity(name, (MEMBERS,)))
    env = Env(SystemClock(), random.Random(1), LocalDisk(path))
    member = Member(member_config(name, peers, build="0.2.0", **options), env, network)
    await member.start()
    try:
        yield member
    finally:
        await member.stop()


# Data


async def test_the_data_of_an_older_build_is_read_and_marked_when_the_log_is_raised(tmp_path: Path) -> None:
    path = unpacked(tmp_path) / "alone"
    disk = LocalDisk(path)
    for _ in range(2):
        async with member_on(path, "m0", {"m0": "http://m0:2380"}, Fabric()) as member:
            await member.ready()
            assert keys(member) == KEYS
            assert member.machine.lessor.get(77).ttl_s == 600
            await until(lambda: member.machine.level.now == LEVEL)
            await until(lambda: checked(disk, MEMBER, "0.2.0").format == LEVEL)
    assert checked(disk, MEMBER, "0.2.0") == Mark(LEVEL, "0.2.0")
    with pytest.raises(NewerFormat, match=r"made by rayplane 0\.2\.0; this is rayplane 0\.1\.0"):
        checked(disk, Kept(MEMBER.what, LEVEL - 1, MEMBER.back), "0.1.0")


async def test_a_newer_directory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = unpacked(tmp_path) / "alone"
    await LocalDisk(path).write_atomic("format.json", Mark(LEVEL + 1, "9.0").encode())
    with pytest.raises(NewerFormat, match=r"rayplane 9\.0.*rayplane restore"):
        async with member_on(path, "m0", {"m0": "http://m0:2380"}, Fabric()):
            pass


# Messages


class Leader:
    """Members of the older build, of which one leads: they answer nothing and keep what they are sent."""

    def __init__(self) -> None:
        self.told: list[wire.Batch] = []

    async def Send(self, requests: AsyncIterator[wire.Batch], context: object) -> wire.StreamEnd:
        async for batch in requests:
            self.told.append(batch)
        return wire.StreamEnd()


async def test_a_follower_goes_on_behind_a_leader_of_the_older_build(tmp_path: Path) -> None:
    recorded = unpacked(tmp_path)
    told = json.loads((recorded / "messages.json").read_text())
    batches = [wire.Batch.FromString(base64.b64decode(b)) for b in told["to_follower"]]
    fabric, leader = Fabric(), Leader()
    network = MemoryNetwork(fabric, told["leader"], Identity(told["leader"], (MEMBERS,)))
    await network.serve(f"{told['leader']}:2380", [Service(PEER, leader, callers={"Send": EVERYONE})])
    # It never loses patience: all that it hears was said long ago.
    options = {"cluster_state": "existing", "election_ticks": 100_000}
    async with member_on(recorded / "follower", told["follower"], PEERS, fabric, **options) as member:
        ended = asyncio.Event()

        async def all_of_them() -> AsyncIterator[wire.Batch]:
            for batch in batches:
                yield batch
            await ended.wait()

        stub = Stub(network.channel(f"{told['follower']}:2380"), PEER)

        async def send() -> None:
            async for _ in stub.Send(all_of_them()):
                pass

        call = asyncio.create_task(send())
        await until(lambda: keys(member).get("later4") == "w4")
        assert keys(member) == KEYS | {f"later{i}": f"w{i}" for i in range(5)}
        last = max(m.index + len(m.entries) for batch in batches for m in batch.messages)
        await until(lambda: any(m.index >= last for batch in leader.told for m in batch.messages if not m.reject))
        assert member.machine.level.now == FIRST
        ended.set()
        await call


def test_messages_of_the_older_build_are_the_same_when_they_are_written_again(tmp_path: Path) -> None:
    told = json.loads((unpacked(tmp_path) / "messages.json").read_text())
    for recorded in (*told["to_follower"], *told["from_follower"]):
        batch = wire.Batch.FromString(base64.b64decode(recorded))
        assert batch.messages
        for message in batch.messages:
            again = wire.Message()
            message_to_wire(message_from_wire(message), again)
            assert again == message
