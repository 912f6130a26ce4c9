"""A member that lost what it acknowledged is replaced, by itself as long as the others are a majority."""

import asyncio
import copy
import errno
import pickle
import shutil
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.errors import DataLost, PortTaken, StartFailed
from rayplane.control_plane.cluster.failures import ComponentFailed, Failure, failure_in
from rayplane.control_plane.cluster.host import not_started, start_all
from rayplane.control_plane.cluster.specs import founding_specs
from rayplane.control_plane.cluster.supervisor import reconciler, starts
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.etcd.server.errors import DataLost as MemberLost
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.wal.errors import CorruptLog
from tests.cluster.fake_host import World
from tests.cluster.harness import Cluster, cluster

LIMIT_S = 120.0


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(reconciler, "CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(reconciler, "LEARN_S", 0.0)
    monkeypatch.setattr(starts, "RESTARTS", Backoff(0.04, 30.0))
    made = World()
    await made.start_members()
    yield made
    await made.close()


async def members(world: World) -> list[tuple[str, bool]]:
    return sorted((m.name, m.isLearner) for m in (await world.etcd.member_list()).members)


async def settle(world: World, wanted: list[tuple[str, bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while True:
            try:
                if await members(world) == wanted:
                    return
            except RpcError:
                pass
            await asyncio.sleep(0.02)


async def put_back(world: World, name: str) -> None:
    """End a member, and give it back the disk of an earlier end."""
    (instance,) = (i for i in world.topology.of(Role.MEMBER) if i.name == name)
    await world.host.stop(name)
    before = copy.deepcopy(world.host._disks[name])
    await world.host.start(world.spec(instance))
    for number in range(20):
        written = (await world.etcd.put(b"/k%d" % number, b"v")).header.revision
    async with asyncio.timeout(LIMIT_S):
        while (await world.etcd.status(instance.endpoint("client"))).header.revision < written:
            await asyncio.sleep(0.01)
    await world.host.kill(name, "KILL")
    world.host._disks[name] = before


async def test_a_member_whose_data_was_put_back_is_replaced(world: World) -> None:
    await put_back(world, "member-1")
    await world.supervise()
    await settle(world, [("member-0", False), ("member-2", False), ("member-3", False)])
    found = await world.etcd.range(b"/k19")
    assert found.kvs[0].value == b"v"
    async with asyncio.timeout(LIMIT_S):
        while "member-1" in {i.name for i in (await world.stub.Topology(pb.TopologyRequest())).instances}:
            await asyncio.sleep(0.02)
    assert set(world.host.actors) >= {"member-0", "member-2", "member-3"}


async def test_a_damaged_log_is_lost_data_too_and_other_errors_are_not(world: World) -> None:
    (instance,) = (i for i in world.topology.of(Role.MEMBER) if i.name == "member-1")
    spec = world.spec(instance)
    lost = Failure.of(MemberLost("it was put back"))
    assert type(not_started(spec, lost)) is DataLost
    assert type(not_started(spec, Failure.of(CorruptLog("wal/1", 3, "a bit")))) is DataLost
    # Whatever its words are.
    assert type(not_started(spec, Failure.of(OSError("DataLost: cannot write: No space left")))) is StartFailed
    other = world.spec(world.topology.of(Role.SCHEDULER)[0])
    assert type(not_started(other, lost)) is StartFailed
    taken = Failure.of(OSError(errno.EADDRINUSE, "cannot listen on 127.0.0.1:80"))
    assert type(not_started(other, taken)) is PortTaken


_FAILURES = [
    MemberLost("a\nb: {}"),
    OSError("no space"),
    OSError(errno.EADDRINUSE, "x"),
    CorruptLog("wal/1", 3, "ComponentFailed: x"),
]


@pytest.mark.parametrize("error", _FAILURES)
def test_a_failure_crosses_the_end_of_a_process_as_text(error: Exception) -> None:
    raised = ComponentFailed(Failure.of(error))
    text = "".join(traceback.format_exception(raised))
    assert failure_in(f"The actor died because of an error raised in its creation task, {text}") == Failure.of(error)
    assert pickle.loads(pickle.dumps(raised)).failure == Failure.of(error), "Ray takes it along, too"
    assert failure_in("Traceback\nModuleNotFoundError: DataLost: no module") == Failure(
        "ModuleNotFoundError: DataLost: no module"
    )


def flip(path: Path, at: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


async def test_a_cluster_comes_up_though_one_of_its_members_cannot() -> None:
    """In one process, from real files: the log of a member has a flipped bit."""
    async with cluster(members=3, nodes=0) as c:
        await c.etcd.put(b"/k", b"v")
        await c.host.stop_all()
        (log_file,) = (c.state_dir / "data" / "member-1" / "wal").glob("*.wal")
        flip(log_file, 40)
        await comes_up_with_another_member(c)


async def test_a_member_whose_directory_went_away_while_the_cluster_was_down_is_replaced() -> None:
    """It would forget whom it voted for and what it acknowledged, if it were founded anew under its old id."""
    async with cluster(members=3, nodes=0) as c:
        await c.etcd.put(b"/k", b"v")
        await c.host.stop_all()
        shutil.rmtree(c.state_dir / "data" / "member-1")
        await comes_up_with_another_member(c)


async def test_a_lone_member_whose_directory_went_away_is_refused() -> None:
    async with cluster(members=1, nodes=0) as c:
        await c.host.stop_all()
        shutil.rmtree(c.state_dir / "data" / "member-0")
        specs = founding_specs(replace(c.state, founded=True), c.secrets, c.state_dir)
        with pytest.raises(StartFailed, match="restore a backup"):
            await c.host.start(next(s for s in specs if s.instance.role is Role.MEMBER))


async def comes_up_with_another_member(c: Cluster) -> None:
    started: list[str] = []
    specs = founding_specs(replace(c.state, founded=True), c.secrets, c.state_dir)
    await start_all(c.host, specs, started.append)
    assert len(started) == len(c.topology.instances)

    async def names() -> set[str]:
        return {m.name for m in (await c.etcd.member_list()).members if not m.isLearner}

    await c.until(names, "another member", wanted={"member-0", "member-2", "member-3"}, within=60)
    assert (await c.etcd.range(b"/k")).kvs[0].value == b"v"
