"""Runtimes that single nodes have beside the cluster's: kept, told, and refused where they cannot be."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.cli.app import app
from rayplane.control_plane.cluster import launch
from rayplane.control_plane.cluster.components import build
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.launch import going_on
from rayplane.control_plane.cluster.node_runtime import check_fits, check_serves
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.cluster.supervisor.changes import added
from rayplane.control_plane.cluster.topology import Instance, Machine, Phase, Role, Topology, of_one_build, on_machines
from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.node.host import NodeHost
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.cluster.harness import cluster
from tests.node.fake_runtime import FakeRuntime

CRI = "cri:unix:///run/containerd/containerd.sock"
MACHINE = Machine("10.0.0.1", "a")
SERVER = Instance("apiserver-0", Role.APISERVER, MACHINE, {"grpc": 2, "https": 3})
MEMBER = Instance("member-0", Role.MEMBER, MACHINE, {"client": 8, "peer": 9})
HOSTS = tuple(
    Instance(f"node-host-{n}", Role.NODE_HOST, MACHINE, {"grpc": 4 + n}, nodes=(f"node-{n}",), runtime=runtime)
    for n, runtime in enumerate(("", CRI, "process"))
)


def brought_back(config: ClusterConfig) -> ClusterState:
    """The state of a cluster with a node of each kind, after a restart by the same build or another, elsewhere."""
    state = ClusterState(config, AddressPlan(0), Topology((*HOSTS, SERVER, MEMBER), "run"), running=True, host={})
    state = ClusterState.from_json(state.to_json())
    other = Machine("10.0.0.2", "b")
    placed = on_machines(of_one_build(state.topology), [other], {i.name: [other] for i in state.topology.instances})
    return replace(state, config=going_on(state.config, ClusterConfig()), topology=placed)


def test_each_node_keeps_its_runtime_wherever_it_is_brought_back(tmp_path: Path) -> None:
    state = brought_back(ClusterConfig())
    maker = SpecMaker(config=state.config, plan=state.plan, secrets=None, state_dir=str(tmp_path))
    env, network = Env(SystemClock(), random.Random(1), LocalDisk(tmp_path)), MemoryNetwork(Fabric(), "a")
    found = []
    for host in state.topology.of(Role.NODE_HOST):
        made = build(maker.make(host, state.topology, restarted=True), env, network, tls_dir=None)
        assert isinstance(made, NodeHost)
        found.append(made.config.nodes[0].runtime)
    assert found == ["simulated", CRI, "process"]
    server = build(maker.make(SERVER, state.topology, restarted=True), env, network, tls_dir=None)
    assert isinstance(server, ApiServer)
    assert server.config.dns_address == state.plan.dns, "there are processes that ask for names"


def test_a_state_of_an_earlier_version_has_nodes_of_the_clusters_runtime() -> None:
    told = Topology((*HOSTS, SERVER), "run").to_json()
    for instance in told["instances"]:
        del instance["runtime"]
    assert Topology.from_json(told).runtimes("process") == {"process"}


def test_what_moves_a_node_keeps_its_runtime() -> None:
    leaving = Topology((replace(HOSTS[1], phase=Phase.LEAVING), SERVER), "run")
    assert leaving.runtimes("simulated") == {"simulated", CRI}


def test_only_nodes_have_runtimes() -> None:
    topology = Topology((SERVER,), "run")
    assert added(topology, "node", "", [MACHINE], [], runtime=CRI).runtime == CRI
    with pytest.raises(UsageError, match="a member runs no pods"):
        added(topology, "member", "", [MACHINE], [], runtime=CRI)


@pytest.mark.parametrize("runtime", ["docker", "cri:unix://relative", "cri:tcp://127.0.0.1:1"])
def test_what_is_no_runtime_is_refused(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use simulated or process or mixed or cri:unix:///PATH"):
        check_fits(runtime, ClusterConfig(), isolated=False)
    found = CliRunner().invoke(app, ["add", "node", "--runtime", runtime, "--state-dir", str(tmp_path / "s")])
    assert f"--runtime {runtime!r}: use" in str(found.exception)


def test_nodes_that_keep_no_policies_are_not_let_into_a_cluster_that_wants_them_kept() -> None:
    wants = ClusterConfig(runtime="process", network_policy="on")
    check_fits("process", wants, isolated=True)
    check_fits("simulated", wants, isolated=False)
    check_fits(CRI, ClusterConfig(runtime="process"), isolated=True)
    for runtime, isolated in ((CRI, True), ("process", False), ("mixed", False)):
        with pytest.raises(UsageError, match=f"--runtime {runtime}: with --network-policy on no pod runs where"):
            check_fits(runtime, wants, isolated=isolated)


async def test_policies_cannot_be_asked_for_where_a_node_that_there_is_keeps_none(tmp_path: Path) -> None:
    """It would never start again."""
    directory = StateDir(tmp_path / "x")
    before = ClusterState(
        ClusterConfig(name="x", host="process", runtime="process"),
        AddressPlan(2, isolated=True),
        Topology((*HOSTS[:2], SERVER, MEMBER), "run"),
        running=False,
        host={"pid": 0},
    )
    directory.create()
    Secrets.create("x").write(directory.pki)
    directory.write(before)
    # A node of its own in a cluster that there is; all nodes of a new one.
    for asked, runtime in ((directory, "simulated"), (StateDir(tmp_path / "new"), CRI)):
        config = ClusterConfig(name="x", host="process", network_policy="on", runtime=runtime)
        with pytest.raises(UsageError, match=f"--runtime {CRI}: with --network-policy on"):
            await launch.up(config, asked, lambda _: None)
    assert directory.read() == before


async def test_a_socket_at_which_nobody_listens_is_told_before_a_node_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, why in (("gone", "No such file"), ("file", "Connection refused")):
        with pytest.raises(ClusterError, match=f"no runtime is reached at {tmp_path}/{name} .{why}"):
            await check_serves(f"cri:unix://{tmp_path}/{name}")
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), str(tmp_path / "s"))
    async with server:
        await check_serves(f"cri:unix://{tmp_path}/s")
    await check_serves("process")


async def test_a_node_of_another_runtime_stands_beside_the_others_and_is_told(tmp_path: Path) -> None:
    fake = FakeRuntime(tmp_path / "s")
    await fake.start()
    try:
        async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=1) as c:
            with pytest.raises(RpcError, match="no runtime is reached at"):
                await c.supervisor.Add(pb.AddRequest(role="node", runtime=f"cri:unix://{tmp_path}/none"))
            request = pb.AddRequest(role="node", name="foreign", runtime=f"cri:unix://{fake.path}")
            assert (await c.supervisor.Add(request)).name == "foreign"
            await c.nodes_ready({"node-0", "foreign"})
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default"},
                "spec": {"nodeName": "foreign", "containers": [{"name": "c", "image": "app:1"}]},
            }
            await c.api.create("pods", pod)
            await c.pods_ready(1)

            async def told() -> dict[str, str]:
                return {n["name"]: n["runtime"] for n in (await status(c.access))["nodes"]}

            wanted = {"node-0": "rayplane-simulated://1.0.0", "foreign": "fake://9"}
            await c.until(told, "the status says so", wanted=wanted)
            before = c.host._actors["node-host-1"][0]
            await c.supervisor.Kill(pb.KillRequest(name="node-host-1"))

            async def is_back() -> bool:
                return "node-host-1" in c.host._actors and c.host._actors["node-host-1"][0] is not before

            await c.until(is_back, "the killed host is back")
            await c.until(told, "and has the runtime that it had", wanted=wanted)
    finally:
        await fake.stop()
