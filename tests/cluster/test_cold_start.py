"""A cluster that was down comes up as it was, whatever has become of addresses and ports meanwhile."""

import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from rayplane.control_plane.cluster import ending
from rayplane.control_plane.cluster.access import access, refresh
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.ending import latest
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.launch import going_on
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.cluster.readiness import await_ready
from rayplane.control_plane.cluster.specs import founders
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.supervisor.etcd import REMEMBERED
from rayplane.control_plane.cluster.supervisor.observed import MemberStatus
from rayplane.control_plane.cluster.supervisor.plan import plan
from rayplane.control_plane.cluster.topology import TIED, TOPOLOGY_KEY, Machine, Phase, Role, Topology, on_machines
from tests.cluster.harness import cluster
from tests.cluster.test_supervisor_plan import TOPOLOGY, seen

BEFORE = [Machine(f"192.0.2.{n}", f"old{n}") for n in range(3)]
AFTER = [Machine(f"198.51.100.{n}", f"new{n}") for n in range(3)]
SPREAD = replace(TOPOLOGY, instances=tuple(replace(i, machine=BEFORE[n % 3]) for n, i in enumerate(TOPOLOGY.instances)))


def test_machines_are_found_again_by_their_addresses_whatever_the_host_calls_them_now() -> None:
    again = [replace(m, id=f"again{n}") for n, m in enumerate(BEFORE)]
    at = {i.name: again[BEFORE.index(i.machine)] for i in SPREAD.instances}
    # What lies elsewhere from before its actor moved says nothing.
    placed = on_machines(SPREAD, again, {name: [again[2], machine] for name, machine in at.items()})
    assert {i.name: i.machine for i in placed.instances} == at
    assert on_machines(SPREAD, again, {}) == placed, "nor do those that do not tell what lies on them"


def test_machines_that_have_each_others_addresses_now_keep_what_lies_on_them() -> None:
    swapped = [replace(m, id=f"was at {BEFORE[n - 1].address}") for n, m in enumerate(BEFORE)]
    holders = {i.name: [swapped[(BEFORE.index(i.machine) + 1) % 3]] for i in SPREAD.instances if i.role in TIED}
    placed = on_machines(SPREAD, swapped, holders)
    assert all(
        placed.get(i.name).machine.id == f"was at {i.machine.address}" for i in SPREAD.instances if i.role in TIED
    )


def test_actors_go_where_their_data_lies_and_the_rest_anywhere() -> None:
    holders = {i.name: [AFTER[BEFORE.index(i.machine)], AFTER[0]] for i in SPREAD.instances if i.role in TIED}
    placed = on_machines(SPREAD, AFTER, holders)
    assert {i.name: i.machine for i in placed.instances if i.role in TIED} == {
        n: held[0] for n, held in holders.items()
    }
    rest = [i for i in placed.instances if i.role not in TIED]
    assert all(i.machine in AFTER for i in rest)
    assert [i.ports for i in placed.instances] == [i.ports for i in SPREAD.instances]


def test_who_has_data_that_lies_nowhere_cannot_be_started() -> None:
    with pytest.raises(ClusterError, match=r"member-0 ran on 192\.0\.2\.\d, .* add that machine"):
        on_machines(SPREAD, AFTER, {})


def test_members_that_come_or_go_need_no_data_to_come_up_again() -> None:
    """One that has not started yet has none anywhere; the machine of one that goes may be the one that was lost."""
    holders = {i.name: [AFTER[0]] for i in SPREAD.instances if i.role in TIED}
    for phase in (Phase.JOINING, Phase.LEAVING):
        member = replace(SPREAD.of(Role.MEMBER)[0], phase=phase)
        placed = on_machines(SPREAD.replaced(member), AFTER, {n: h for n, h in holders.items() if n != member.name})
        assert placed.get(member.name).machine in AFTER
        assert member.name not in {i.name for i in founders(placed)}


def test_another_ray_cluster_may_be_named_for_one_that_had_joined_one() -> None:
    joined, own = ClusterConfig(address="192.0.2.1:6379", nodes=7), ClusterConfig(nodes=7)
    asked = ClusterConfig(address="198.51.100.1:6379")
    assert going_on(joined, asked) == replace(joined, address=asked.address)
    assert going_on(joined, ClusterConfig()) == joined
    assert going_on(own, asked) == own


def test_a_member_that_started_at_another_address_is_the_one_of_its_name() -> None:
    """Before all have said where they are now, who has not is listed at its old address."""
    members = tuple(
        MemberStatus(number, (f"192.0.2.9:{number}" if number else m.endpoint("peer"),), healthy=True, name=m.name)
        for number, m in enumerate(TOPOLOGY.of(Role.MEMBER))
    )
    assert plan(TOPOLOGY, seen(members=members), 0.0) == []


def up(topology: Topology, **host: bool) -> ClusterState:
    return ClusterState(config=ClusterConfig(), plan=AddressPlan(0), topology=topology, running=True, host=host)


def test_the_supervisor_knows_more_than_the_state_of_the_same_run(tmp_path: Path) -> None:
    directory = StateDir(tmp_path)
    memory = tmp_path / "data" / "supervisor" / REMEMBERED
    memory.parent.mkdir(parents=True)
    grown = TOPOLOGY.without("scheduler-0")
    for run, known in (("", grown), ("another", TOPOLOGY)):
        memory.write_bytes(orjson.dumps(replace(grown, run=run).to_json()))
        assert latest(directory, up(TOPOLOGY, unsure=True)).topology == known
        assert latest(directory, up(TOPOLOGY)).topology == TOPOLOGY, "it was taken down in order"
    memory.write_bytes(b"{")
    assert latest(directory, up(TOPOLOGY, unsure=True)).topology == TOPOLOGY


async def test_a_state_remembers_the_members_of_its_own_run_while_it_is_up() -> None:
    async with cluster(nodes=0, members=1, schedulers=1, controllers=1) as c:
        state = c.directory.read_running()
        grown = state.topology.without("scheduler-0")
        async with access(c.directory) as admin:
            await admin.etcd.put(TOPOLOGY_KEY, orjson.dumps(replace(grown, run="before").to_json()))
            await refresh(c.directory, admin)
            assert c.directory.read() == state
            c.directory.write(replace(state, running=False))
            await admin.etcd.put(TOPOLOGY_KEY, orjson.dumps(grown.to_json()))
            await refresh(c.directory, admin)
            assert c.directory.read() == replace(state, running=False)
            c.directory.write(state)
            await refresh(c.directory, admin)
            assert c.directory.read() == replace(state, topology=grown)


async def test_up_waits_for_those_that_are_wanted_by_now() -> None:
    """A member that cannot come back may have been replaced while `up` waited for it."""
    async with cluster(nodes=0, members=1, schedulers=1, controllers=1) as c:
        state = c.directory.read_running()
        ports = {port: free_port("127.0.0.1", (), random.Random()) for port in ("client", "peer")}
        gone = replace(state.topology.of(Role.MEMBER)[0], name="member-gone", ports=ports)
        c.directory.write(replace(state, topology=state.topology.with_instance(gone)))
        async with access(c.directory) as admin:
            await await_ready(admin, c.directory, timeout=30.0, ended=str, progress=lambda _: None)
        assert c.directory.read_running() == state


@pytest.fixture
def without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    """A cluster that joined a Ray that does not answer; nobody listens at its actors' ports."""

    @contextlib.asynccontextmanager
    async def none(directory: StateDir, command: str) -> AsyncIterator[None]:
        raise ClusterError("Ray does not answer")
        yield

    monkeypatch.setattr(ending, "ray_driver", none)
    directory = StateDir(tmp_path)
    ports = {"grpc": free_port("127.0.0.1", (), random.Random())}
    supervisor = replace(TOPOLOGY.of(Role.SUPERVISOR)[0], machine=Machine(), ports=ports)
    state = replace(up(Topology((supervisor,)), owned=False), config=ClusterConfig(address="192.0.2.1:6379"))
    directory.write(state)
    return directory


async def test_down_of_a_cluster_whose_ray_has_taken_its_actors_along(without_ray: StateDir) -> None:
    said: list[str] = []
    await ending.take_down(without_ray, said.append)
    after = without_ray.read()
    assert after is not None and not after.running
    assert said[-1] == "Ray is gone, and every actor with it"


def test_machines_that_have_not_forgotten_a_cluster_are_named() -> None:
    here, gone, done = (m.address for m in BEFORE)
    told = ending.left_behind(SPREAD, {done}, lambda address: address == here)
    assert gone in told and here not in told and done not in told
    assert ending.left_behind(SPREAD, {done, gone}, lambda address: address == here) == ""


async def test_down_of_a_cluster_whose_actors_live_needs_their_ray(without_ray: StateDir) -> None:
    place = without_ray.read_running().topology.of(Role.SUPERVISOR)[0]
    with (
        socket.create_server(("127.0.0.1", place.ports["grpc"])),
        pytest.raises(ClusterError, match="Ray does not answer"),
    ):
        await ending.take_down(without_ray, lambda _: None)
    assert without_ray.read_running().running
