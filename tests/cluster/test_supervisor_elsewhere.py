"""A supervisor whose machine is lost goes on elsewhere: it says where, the one of before is silent, all find it."""

import asyncio
from dataclasses import replace
from pathlib import Path
from unittest import mock

import orjson
import pytest
from cryptography import x509

from rayplane.control_plane.cli.cluster import _repointed
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.specs import SpecMaker, brought_back
from rayplane.control_plane.cluster.supervisor.actions import StoreTopology
from rayplane.control_plane.cluster.supervisor.etcd import REMEMBERED, Clients
from rayplane.control_plane.cluster.supervisor.plan import plan
from rayplane.control_plane.cluster.supervisor.reconciler import Superseded
from rayplane.control_plane.cluster.topology import Role, Topology, newest_of
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import LocalDisk
from tests.cluster.harness import cluster
from tests.cluster.test_reconciler import TOPOLOGY, World, play, until
from tests.cluster.test_supervisor_plan import MACHINES, seen

ELSEWHERE = replace(TOPOLOGY.of(Role.SUPERVISOR)[0], machine=MACHINES[1], ports={"grpc": 1})


def supervisor_in(topology: Topology | None) -> object:
    return topology and topology.of(Role.SUPERVISOR)[0]


def addresses_of(credentials: Credentials | None) -> set[str]:
    assert credentials is not None
    names = x509.load_pem_x509_certificate(credentials.cert).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {str(address) for address in names.value.get_values_for_type(x509.IPAddress)}


def test_it_says_where_it_is_and_the_one_of_before_claims_nothing_back() -> None:
    async def scene(world: World) -> None:
        (before, task) = world._running[0]
        world.founded = TOPOLOGY.replaced(ELSEWHERE)
        after = world.supervise()
        await until(lambda: supervisor_in(world.stored) == ELSEWHERE, 5.0)
        assert after.topology.get("scheduler-0") == TOPOLOGY.get("scheduler-0"), "the rest is as it was"
        with pytest.raises(Superseded, match=ELSEWHERE.machine.address):
            await before.change(lambda topology, _: topology.without("scheduler-0"), "a change by the wrong one")
        await until(task.done, 5.0)
        with pytest.raises(Superseded):
            async with asyncio.timeout(5):
                await before.turn()
        assert supervisor_in(world.stored) == ELSEWHERE
        await world.end()

    play(scene)


def test_one_that_is_restarted_where_it_was_changes_nothing() -> None:
    async def scene(world: World) -> None:
        revision = world.revision
        await world.end()
        world.supervise()
        await asyncio.sleep(5)
        assert world.revision == revision

    play(scene)


@pytest.fixture(scope="module")
def maker() -> SpecMaker:
    return SpecMaker(config=ClusterConfig(), plan=AddressPlan(0), secrets=Secrets.create("x"), state_dir="/x")


def test_its_spec_holds_on_the_other_machine(maker: SpecMaker) -> None:
    spec = maker.make(TOPOLOGY.of(Role.SUPERVISOR)[0], TOPOLOGY, restarted=True)
    moved = brought_back(spec, replace(MACHINES[1], address="192.0.2.7"), 1)
    assert (moved.instance.endpoint("grpc"), moved.topology.endpoints(Role.SUPERVISOR, "grpc")) == (
        "192.0.2.7:1",
        ("192.0.2.7:1",),
    )
    assert "192.0.2.7" in addresses_of(moved.credentials)


def test_a_load_balancer_on_any_machine_leads_to_servers_that_are_taken_for_themselves(maker: SpecMaker) -> None:
    machines = [replace(m, address=f"192.0.2.{n}") for n, m in enumerate(MACHINES)]
    spread = tuple(replace(i, machine=machines[n % len(machines)]) for n, i in enumerate(TOPOLOGY.instances))
    topology = replace(TOPOLOGY, instances=spread)
    server = maker.make(topology.of(Role.APISERVER)[0], topology, restarted=False)
    assert {m.address for m in machines} <= addresses_of(server.credentials)
    member = maker.make(topology.of(Role.MEMBER)[0], topology, restarted=False)
    assert {m.address for m in machines} - addresses_of(member.credentials), "nobody else speaks for a member"


async def test_commands_and_kubectl_find_what_has_moved_since_they_looked_last() -> None:
    async with cluster(nodes=0, members=1, schedulers=1, controllers=1) as c:
        right = c.directory.read_running()
        kubeconfig = c.kubeconfig.read_text()
        gone = {"grpc": 1, "https": 1, "metrics": 1}
        lost = [replace(right.topology.of(r)[0], ports=gone) for r in (Role.SUPERVISOR, Role.LOAD_BALANCER)]
        stale = replace(right, topology=right.topology.replaced(lost[0]).replaced(lost[1]))

        c.directory.write(stale)
        async with access(c.directory) as admin:
            answer = await admin.supervisor.Topology(pb.TopologyRequest(), timeout=10)
        assert {row.name for row in answer.instances} == {i.name for i in right.topology.instances}
        assert c.directory.read_running().topology == right.topology
        where = list(right.topology.endpoints(Role.SUPERVISOR, "grpc"))

        async def servers_tell() -> bool:
            told = await c.api.discover()
            return (list(told.supervisors), list(told.machines)) == (where, ["127.0.0.1"])

        await c.until(servers_tell, "API servers tell all others where the supervisor is")

        c.directory.write(stale)
        c.kubeconfig.write_text("of the lost machine")
        await _repointed(c.directory, stale)
        assert c.kubeconfig.read_text() == kubeconfig


def test_of_what_others_know_the_last_member_counts(tmp_path: Path) -> None:
    heir = replace(TOPOLOGY.of(Role.MEMBER)[0], name="member-7")
    later = TOPOLOGY.without("member-0").with_instance(heir)
    assert newest_of([TOPOLOGY, later, TOPOLOGY.without("scheduler-0")]) == later
    assert newest_of([TOPOLOGY, TOPOLOGY.without("scheduler-0")]) == TOPOLOGY
    # What it wrote down when it was on this machine before may be older than what it is told now.
    disk = LocalDisk(tmp_path)
    (tmp_path / REMEMBERED).write_bytes(orjson.dumps(TOPOLOGY.to_json()))
    with mock.patch.object(Clients, "_call") as calls:
        clients = Clients(mock.Mock(), mock.Mock(), disk)
        assert clients.recall(later) == later
        assert clients.recall(TOPOLOGY.without("scheduler-0")) == TOPOLOGY, "its own counts where neither is newer"
    assert [call.args for call in calls.call_args_list] == [(later,), (TOPOLOGY,)]


def test_a_load_balancer_moves_to_a_machine_that_the_api_servers_know() -> None:
    fresh = replace(MACHINES[0], id="fresh")
    topology = replace(TOPOLOGY, instances=tuple(i for i in TOPOLOGY.instances if i.role is not Role.NODE_HOST))
    lost = topology.of(Role.LOAD_BALANCER)[0].machine
    left = tuple(m for m in MACHINES if m != lost)
    for machines, wanted in (((fresh, *left), set(left)), ((fresh,), {fresh})):
        running = frozenset(i.name for i in topology.instances if i.machine in machines)
        (stored,) = [
            a for a in plan(topology, seen(running=running, machines=machines), 0.0) if isinstance(a, StoreTopology)
        ]
        assert stored.topology.of(Role.LOAD_BALANCER)[0].machine in wanted
