"""The supervisor, on a host where only members are real."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.cluster.supervisor import etcd, reconciler, service, starts
from rayplane.control_plane.cluster.topology import TOPOLOGY_KEY, Instance, Role, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.fake_host import A, B, World

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "CHECK_EVERY_S", 0.02)
    monkeypatch.setattr(reconciler, "LEARN_S", 0.0)
    monkeypatch.setattr(etcd, "LOAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(starts, "RESTARTS", Backoff(0.04, 30.0))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.start_members()
    yield made
    await made.close()


async def _until(ask: Callable[..., Any]) -> Any:
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = ask()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)


async def _wanted(world: World) -> Topology:
    found = await world.etcd.range(TOPOLOGY_KEY)
    return Topology.from_json(orjson.loads(found.kvs[0].value))


async def _members(world: World) -> list[tuple[str, bool]]:
    """Name and learner of each member, as the members themselves see it."""
    return sorted((m.name, m.isLearner) for m in (await world.etcd.member_list()).members)


async def test_what_is_missing_is_started_and_what_is_unwanted_is_stopped(world: World) -> None:
    stray = Instance("stray-0", Role.SCHEDULER, A)
    await world.host.start(world.spec(stray))
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    assert world.host.stopped == ["stray-0"]
    assert await _wanted(world) == world.topology


async def test_a_killed_actor_comes_back_and_knows_that_it_has_run_before(world: World) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    await world.etcd.put(b"/k", b"v")
    victim = world.host.actors["member-1"]
    await world.stub.Kill(pb.KillRequest(name="member-1", signal="KILL"))
    again = await _until(lambda: world.host.actors.get("member-1"))
    assert again.restarted and again.instance == victim.instance
    found = await _until(lambda: _value(world, again.instance.endpoint("client")))
    assert found == b"v"


async def _value(world: World, endpoint: str) -> bytes | None:
    from rayplane.control_plane.client import EtcdClient

    try:
        return bytes((await EtcdClient(world.network, [endpoint]).range(b"/k")).kvs[0].value)
    except RpcError:
        return None


async def test_an_actor_that_does_not_start_is_tried_ever_more_rarely(world: World) -> None:
    world.host.broken = {"scheduler-0"}
    await world.supervise()
    times = await _until(lambda: t if len(t := [t for n, t in world.host.starts if n == "scheduler-0"]) > 4 else None)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(gap >= 0.02 * 2**n for n, gap in enumerate(gaps, 1))
    world.host.broken = set()
    await _until(lambda: "scheduler-0" in world.host.actors)
    assert set(world.host.actors) == world.names


async def test_a_start_that_hangs_holds_up_no_other(world: World) -> None:
    world.host.hanging = {"scheduler-0"}
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names - {"scheduler-0"})
    await world.host.kill("apiserver-0", "KILL")
    await _until(lambda: "apiserver-0" in world.host.actors)
    assert [n for n, _ in world.host.starts].count("scheduler-0") == 1


async def test_the_reason_of_a_failed_start_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "LIFE_S", 0.1)
    world.host.broken = {"scheduler-0"}
    await world.supervise()

    async def row() -> Any:
        rows = (await world.stub.Topology(pb.TopologyRequest())).instances
        return next(r for r in rows if r.name == "scheduler-0")

    async with asyncio.timeout(10):
        while (found := await row()).failures < 2:
            await asyncio.sleep(0.01)
    assert not found.running and "scheduler-0 is broken" in found.reason
    world.host.broken = set()
    async with asyncio.timeout(10):
        while (found := await row()).failures or not found.running:
            await asyncio.sleep(0.01)
    assert found.reason == ""


async def test_the_topology_is_told_and_actors_are_killed_while_the_host_hangs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "GLANCE_TIMEOUT_S", 0.05)
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    assert {r.name for r in (await world.stub.Topology(pb.TopologyRequest())).instances if r.running} == world.names
    world.host.mute = True
    assert {r.name for r in (await world.stub.Topology(pb.TopologyRequest())).instances if r.running} == world.names
    await asyncio.wait_for(world.stub.Kill(pb.KillRequest(name="lb", signal="KILL")), 5)
    assert "lb" not in world.host.actors
    world.host.mute = False
    await _until(lambda: "lb" in world.host.actors)


async def test_time_goes_forward_alone(world: World) -> None:
    await world.supervise()
    for span_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(RpcError, match="goes forward"):
            await anext(world.stub.Advance(pb.AdvanceRequest(span_s=span_s)))
    assert (await anext(world.stub.Advance(pb.AdvanceRequest(span_s=60.0)))).ahead_s == 60.0


async def test_who_stands_still_is_told(world: World) -> None:
    world.host.still = {"scheduler-0"}
    await world.supervise()
    told = await world.stub.Topology(pb.TopologyRequest())
    rows = {r.name: (r.running, r.reason) for r in told.instances}
    assert rows["scheduler-0"] == (False, "its process stands still (SIGSTOP)")
    assert rows["member-0"] == (True, "")


async def test_what_ends_soon_after_each_start_is_started_ever_more_rarely(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    for count in range(5):
        await _until(lambda: "scheduler-0" in world.host.actors)
        await _until(lambda count=count: len([n for n, _ in world.host.starts if n == "scheduler-0"]) == count + 1)
        await world.host.stop("scheduler-0")
    times = [t for n, t in world.host.starts if n == "scheduler-0"]
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert all(gap >= 0.02 * 2**n for n, gap in enumerate(gaps[1:], 2)), gaps


async def test_members_that_all_stopped_are_started_before_etcd_can_be_asked(world: World) -> None:
    await world.etcd.put(b"/k", b"v")
    for name in ("member-0", "member-1", "member-2"):
        await world.host.stop(name)
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    assert await _until(lambda: _value(world, world.topology.of(Role.MEMBER)[0].endpoint("client"))) == b"v"


async def test_a_new_supervisor_goes_on_with_the_topology_in_etcd(world: World) -> None:
    await world.supervise()
    added = await world.stub.Add(pb.AddRequest(role="apiserver"))
    assert added.name == "apiserver-1"
    await world.end_supervisor()
    await world.supervise(world.topology)
    await world.host.kill("apiserver-1", "KILL")
    await _until(lambda: "apiserver-1" in world.host.actors)


async def test_a_member_joins_without_stopping_writes_and_leaves_again(world: World) -> None:
    await world.supervise()
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            # The member that was asked may be the one that goes: whether it wrote is unknown then.
            with contextlib.suppress(RpcError):
                await world.etcd.put(b"/w/%d" % written, b"")
                written += 1

    writer = asyncio.create_task(write())
    try:
        added = await world.stub.Add(pb.AddRequest(role="member"), timeout=LIMIT_S)
        before = written
        await _until(lambda: written > before)
        names = ["member-0", "member-1", "member-2", "member-3"]
        assert (added.name, await _members(world)) == ("member-3", [(n, False) for n in names])
        assert [i.name for i in (await _wanted(world)).of(Role.MEMBER)] == names
        removed = await world.stub.Remove(pb.RemoveRequest(role="member", name="member-0"), timeout=LIMIT_S)
        before = written
        await _until(lambda: written > before)
    finally:
        await cancel_and_wait(writer)
    assert (removed.name, await _members(world)) == ("member-0", [(n, False) for n in names[1:]])
    assert "member-0" not in world.host.actors
    # Its data may still be where it was: the name is not given again.
    with pytest.raises(RpcError, match="'member-0' is a name of members that were removed"):
        await world.stub.Add(pb.AddRequest(role="member", name="member-0"))
    assert (await world.stub.Add(pb.AddRequest(role="member"), timeout=LIMIT_S)).name == "member-4"
    assert (await world.stub.Remove(pb.RemoveRequest(role="member"), timeout=LIMIT_S)).name == "member-4"
    kept = await world.etcd.range(b"/w/", b"/w0", count_only=True)
    assert kept.count >= written


async def test_a_member_that_cannot_start_leaves_no_trace(world: World) -> None:
    await world.supervise()
    world.host.broken = {"member-3"}
    with pytest.raises(RpcError, match="member-3 could not join"):
        await world.stub.Add(pb.AddRequest(role="member"), timeout=LIMIT_S)
    assert await _members(world) == [(f"member-{i}", False) for i in range(3)]
    assert (await _wanted(world)) == world.topology


async def test_nodes_come_and_go_with_their_objects(world: World) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    assert (await world.stub.Add(pb.AddRequest(role="node"))).name == "node-1"
    assert world.host.actors["node-host-1"].instance.nodes == ("node-1",)
    assert (await world.stub.Add(pb.AddRequest(role="node", name="big"))).name == "big"
    assert (await world.stub.Remove(pb.RemoveRequest(role="node", name="node-1"))).name == "node-1"
    assert world.host.deleted_nodes == ["node-1"]
    assert "node-host-1" not in world.host.actors
    assert (await world.stub.Remove(pb.RemoveRequest(role="node"))).name == "big"


@pytest.mark.parametrize(
    ("method", "role", "name", "said"),
    [
        ("Add", "scheduler", "", "'scheduler' cannot be added or removed; use member, apiserver, node"),
        ("Add", "apiserver", "member-1", "an actor called 'member-1' already"),
        ("Add", "node", "node-0", "a node called 'node-0' already"),
        ("Add", "member", "member-0", "an actor called 'member-0' already"),
        ("Add", "apiserver", "../etc", "'../etc'"),
        ("Add", "node", "Not A Name", "'Not A Name'"),
        ("Remove", "apiserver", "", "apiserver-0 is the last apiserver"),
        ("Remove", "member", "scheduler-0", "scheduler-0 is a scheduler"),
        ("Remove", "node", "node-9", "no node is called 'node-9'"),
        ("Remove", "member", "member-9", "no actor is called 'member-9'"),
    ],
)
async def test_changes_that_make_no_sense_are_refused(
    world: World, method: str, role: str, name: str, said: str
) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    request = pb.AddRequest if method == "Add" else pb.RemoveRequest
    with pytest.raises(RpcError) as raised:
        await getattr(world.stub, method)(request(role=role, name=name))
    assert said in raised.value.message
    assert raised.value.code.name == "INVALID_ARGUMENT"
    assert await _wanted(world) == world.topology
    assert len(await _members(world)) == 3


async def test_what_was_on_a_lost_machine_comes_back_on_another() -> None:
    world = World(machines=(A, B), apiservers=2, schedulers=2, controllers=2, nodes=2)
    await world.start_members()
    try:
        await world.supervise()
        await _until(lambda: set(world.host.actors) == world.names)
        await world.etcd.put(b"/k", b"v")
        await world.host.lose(B)
        # member-1's data is lost with it: another takes its place.
        wanted = world.names - {"member-1"} | {"member-3"}
        await _until(lambda: set(world.host.actors) == wanted)
        await _until(lambda: _settled(world))
        assert all(s.instance.machine == A for s in world.host.actors.values())
        moved = world.host.actors["member-3"].instance
        assert await _value(world, moved.endpoint("client")) == b"v"
    finally:
        await world.close()


async def _settled(world: World) -> bool:
    return await _members(world) == [(f"member-{i}", False) for i in (0, 2, 3)]


async def test_a_new_supervisor_finds_members_that_were_all_replaced(world: World) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    for old in ("member-0", "member-1", "member-2"):
        await world.stub.Add(pb.AddRequest(role="member"))
        await world.stub.Remove(pb.RemoveRequest(role="member", name=old))
    await world.end_supervisor()
    started = len(world.host.starts)
    await world.supervise(world.topology)
    await world.host.kill("scheduler-0", "KILL")
    await _until(lambda: "scheduler-0" in world.host.actors)
    assert [name for name, _ in world.host.starts[started:]] == ["scheduler-0"]


async def test_a_join_that_a_dead_supervisor_began_is_finished_by_the_next(world: World) -> None:
    """It may die between telling etcd of the learner and promoting it, or before the topology says so."""
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    await world.end_supervisor()
    begun = Instance("member-3", Role.MEMBER, A, {"client": 29_990, "peer": 29_991}, joins=True)
    await world.etcd.member_add(f"https://{begun.endpoint('peer')}", learner=True)
    await world.etcd.put(TOPOLOGY_KEY, orjson.dumps(world.topology.with_instance(begun).to_json()))
    await world.supervise()
    await _until(lambda: _four(world))
    await world.end_supervisor()
    await world.etcd.member_add("https://127.0.0.1:29992", learner=True)
    await world.supervise()
    await _until(lambda: _four(world))


async def _four(world: World) -> bool:
    return await _members(world) == [(f"member-{i}", False) for i in range(4)]


async def test_what_another_supervisor_stored_meanwhile_is_not_overwritten(world: World) -> None:
    await world.supervise()
    await _until(lambda: set(world.host.actors) == world.names)
    by_another = world.topology.with_instance(Instance("scheduler-7", Role.SCHEDULER, A))
    await world.etcd.put(TOPOLOGY_KEY, orjson.dumps(by_another.to_json()))
    assert (await world.stub.Add(pb.AddRequest(role="apiserver"), timeout=LIMIT_S)).name == "apiserver-1"
    names = {i.name for i in by_another.instances} | {"apiserver-1"}
    assert {i.name for i in (await _wanted(world)).instances} == names
    await _until(lambda: set(world.host.actors) == names)


async def test_a_replacement_is_finished_by_supervisors_of_which_each_takes_one_step() -> None:
    world = World(machines=(A, B), members=3)
    await world.start_members()
    try:
        await world.supervise()
        await _until(lambda: set(world.host.actors) == world.names)
        await world.host.lose(B)
        while not await _settled(world):
            before = await _reached(world)
            await _until(lambda before=before: _further(world, before))
            await world.end_supervisor()
            await world.supervise()
    finally:
        await world.close()


async def _reached(world: World) -> tuple[Topology, list[tuple[str, bool]]]:
    return await _wanted(world), await _members(world)


async def _further(world: World, before: object) -> bool:
    return await _reached(world) != before or await _settled(world)
