"""What a cluster's nodes are given: settings of a file, of a node's own, and time to end their pods when they go."""

import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rayplane.control_plane.api import meta
from rayplane.control_plane.cli.app import app
from rayplane.control_plane.cluster.components import build
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.ending import shutdown_s
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.launch import going_on
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import ClusterState
from rayplane.control_plane.cluster.supervisor.changes import added
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.node.config import NodeHostConfig
from rayplane.node.host import NodeHost
from rayplane.node.kubelet.shutdown import MESSAGE
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.cluster.harness import cluster

FILE = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"
MACHINE = Machine("10.0.0.1", "a")
SERVER = Instance("apiserver-0", Role.APISERVER, MACHINE, {"grpc": 2, "https": 3})


def placed(text: str = "") -> Instance:
    return Instance("node-host-0", Role.NODE_HOST, MACHINE, {"grpc": 4}, nodes=("node-0",), kubelet_config=text)


def given(config: ClusterConfig, tmp_path: Path, own: str = "") -> NodeHostConfig:
    """What a node host of such a cluster is made with, after a restart of all there is."""
    topology = Topology.from_json(Topology((placed(own), SERVER), "run").to_json())
    maker = SpecMaker(
        config=ClusterConfig.from_json(config.to_json()), plan=AddressPlan(0), secrets=None, state_dir=str(tmp_path)
    )
    spec = maker.make(topology.get("node-host-0"), topology, restarted=True)
    made = build(
        spec, Env(SystemClock(), random.Random(1), LocalDisk(tmp_path)), MemoryNetwork(Fabric(), "a"), tls_dir=None
    )
    assert isinstance(made, NodeHost)
    return made.config


def test_nodes_have_what_the_file_says_and_one_of_its_own_what_its_own_says(tmp_path: Path) -> None:
    config = ClusterConfig(kubelet_config=FILE + "maxPods: 9\n")
    config.validate()
    assert given(config, tmp_path).nodes[0].max_pods == 9
    assert given(config, tmp_path, FILE + "podPidsLimit: 5\n").nodes[0].max_pods == 110
    assert given(config, tmp_path, FILE + "podPidsLimit: 5\n").pod_pids_limit == 5
    assert going_on(config, ClusterConfig()).kubelet_config == config.kubelet_config, "a restart keeps it"
    assert going_on(config, ClusterConfig(kubelet_config="none")).kubelet_config == ""


def test_a_node_takes_no_more_pods_than_it_has_addresses() -> None:
    with pytest.raises(UsageError, match=r"--kubelet-config is no KubeletConfiguration: line 3: maxPods.* has 253"):
        ClusterConfig(kubelet_config=FILE + "maxPods: 254\n").validate()


def test_only_nodes_have_kubelets() -> None:
    topology = Topology((SERVER,), "run")
    assert added(topology, "node", "", [MACHINE], [], kubelet_config=FILE).kubelet_config == FILE
    with pytest.raises(UsageError, match="a member has no kubelet"):
        added(topology, "member", "", [MACHINE], [], kubelet_config=FILE)
    with pytest.raises(UsageError, match="line 3: maxPods"):
        added(topology, "node", "", [MACHINE], [], kubelet_config=FILE + "maxPods: x\n")


@pytest.mark.parametrize("command", [["up"], ["add", "node"]])
def test_the_command_line_names_the_file_and_the_line(command: list[str], tmp_path: Path) -> None:
    file = tmp_path / "kubelet.yaml"
    file.write_text(FILE + "maxPods: 3\nevictionHrd: {}\n")
    state = ["--state-dir", str(tmp_path / "s")]
    found = CliRunner().invoke(app, [*command, *state, "--kubelet-config", str(file)])
    assert f"--kubelet-config {file}: line 4: evictionHrd" in str(found.exception)


def test_taking_a_cluster_down_waits_for_the_longest_of_its_nodes() -> None:
    state = ClusterState(
        config=ClusterConfig(kubelet_config=FILE + "shutdownGracePeriod: 20s\n"),
        plan=AddressPlan(0),
        topology=Topology((placed(), placed(FILE + "shutdownGracePeriod: 30s\n")), "run"),
        running=True,
        host={},
    )
    assert shutdown_s(state) == 30.0


async def test_pods_of_a_node_that_is_removed_end_in_order_and_those_of_a_killed_one_are_not_told() -> None:
    async with cluster(members=1, apiservers=1, schedulers=1, controllers=1, nodes=2) as c:
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "default", "finalizers": ["example.com/keep"]},
            "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}]},
        }
        await c.api.create("pods", pod)

        async def told() -> str | None:
            status = meta.status(await c.api.get("pods", "p", "default"))
            return status.get("message") or status.get("phase")

        await c.until(told, "the pod runs", wanted="Running")
        before = c.host._actors["node-host-1"][0]
        await c.supervisor.Kill(pb.KillRequest(name="node-host-1"))

        async def is_back() -> bool:
            return "node-host-1" in c.host._actors and c.host._actors["node-host-1"][0] is not before

        await c.until(is_back, "the killed host is back")
        assert await told() == "Running"
        await c.supervisor.Remove(pb.RemoveRequest(role="node", name="node-1"))
        assert await told() == MESSAGE
