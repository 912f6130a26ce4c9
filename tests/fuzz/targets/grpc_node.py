"""Bodies of a node host's services: logs, exec and port-forward, CSI, replicas of volumes."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from rayplane.control_plane.identities import API_SERVERS, CONTROLLER_MANAGER, MASTERS, NODE_HOSTS, NODES
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.node.config import NodeConfig, NodeHostConfig
from rayplane.node.host import NodeHost
from rayplane.proto.csi import csi_pb2
from rayplane.proto.rayplane.v1 import node_pb2, volumes_pb2
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.fakes import FakeClient
from tests.fuzz import mutate
from tests.fuzz.targets._grpc import Call, Served, make_calls
from tests.fuzz.targets._wire import RecordingNetwork, calling
from tests.node.conftest import make_pod

CASES = 50
CASES_PER_WORLD = 80
_SERVICES = [
    *node_pb2.DESCRIPTOR.services_by_name.values(),
    *csi_pb2.DESCRIPTOR.services_by_name.values(),
    *volumes_pb2.DESCRIPTOR.services_by_name.values(),
]
_WORDS = (
    "default",
    "p",
    "main",
    "a",
    "v1",
    "local-v1",
    "/",
    "..",
    "../..",
    "a/b",
    "n1",
    b"\0",
    "kubernetes.io/hostname",
)
#: Their paths are the machine's, and their caller the machine's owner.
_OF_THE_MACHINE = ("NodePublishVolume", "NodeUnpublishVolume")
_DRIVERS = ("rayplane.io/local", "rayplane.io/replicated")
REF = node_pb2.ContainerRef(node="n1", namespace="default", pod="p", container="main")

Case = tuple[str, list[Call]]
"""The CSI driver that is spoken to, and the calls."""


def make(rng: random.Random) -> Case:
    driver = rng.choice((*_DRIVERS, "no.such"))
    calls = make_calls(rng, _SERVICES, _WORDS, _OF_THE_MACHINE)
    if rng.random() < 0.3:
        request = csi_pb2.CreateVolumeRequest(name=rng.choice(("a", "b", "../x", "a" * 300)))
        request.capacity_range.required_bytes = rng.choice(mutate.INTEGERS) % (1 << 63)
        mode = rng.choice((*csi_pb2.VolumeCapability.AccessMode.Mode.values(), 77))
        request.volume_capabilities.add().access_mode.mode = mode  # type: ignore[assignment]
        calls.insert(0, ("/csi.v1.Controller/CreateVolume", (request.SerializeToString(),), True))
    if rng.random() < 0.5:
        calls.insert(0, _of_the_pod(rng))
    return driver, calls


def _of_the_pod(rng: random.Random) -> Call:
    """One that finds its container."""
    name, kind = rng.choice(
        (("Logs", node_pb2.LogsRequest), ("Exec", node_pb2.ExecRequest), ("PortForward", node_pb2.PortForwardRequest))
    )
    bodies = []
    for _ in range(1 if name == "Logs" else rng.randrange(1, 4)):
        message = mutate.fill(rng, kind(), ("2026-01-01T00:00:00Z", "sh", "-c", "1"))
        message.ref.CopyFrom(REF)
        bodies.append(message.SerializeToString())
    return f"/rayplane.v1.Node/{name}", tuple(bodies), True


class OneHost(Served):
    def __init__(self, network: RecordingNetwork, directory: Path) -> None:
        groups = (API_SERVERS, MASTERS, NODES, NODE_HOSTS)
        services = [s for served in network.served.values() for s in served]
        super().__init__(services, Identity(CONTROLLER_MANAGER, groups))
        self._directory = directory
        self._outside = {*directory.iterdir()}

    async def run(self, case: Case) -> None:  # type: ignore[override]
        driver, calls = case
        self.metadata = {b"csi-driver": driver.encode()}
        await super().run(calls)
        assert {*self._directory.iterdir()} == self._outside, "a file was made beside the host's directory"

    async def good(self) -> None:
        request = node_pb2.LogsRequest(ref=REF)
        async with calling(self.registry, self.identity) as caller:
            status = await caller.call("/rayplane.v1.Node/Logs", [request.SerializeToString()], limit=b"60S")
        assert status == "0 ", status


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[OneHost]:
    directory = Path(tempfile.mkdtemp(prefix="fuzz-node-"))
    network = RecordingNetwork(Fabric(), "host")
    api = FakeClient()
    api.put("nodes", {"metadata": {"name": "n1", "uid": "uid-n1"}, "spec": {"podCIDR": "127.77.1.0/24"}})
    env = Env(SystemClock(), random.Random(1), LocalDisk(directory / "host"))
    config = NodeHostConfig(nodes=(NodeConfig("n1"),), apiservers=("fake:1",), address="host:10250", proxy=False)
    host = NodeHost(config, env, network, client=api)  # type: ignore[arg-type]
    try:
        await host.start()
        api.put("pods", make_pod("p"))
        async with asyncio.timeout(60):
            await api.until(lambda: api.objects["pods"]["default/p"]["status"].get("phase") == "Running")
        made = OneHost(network, directory)
        # Their stores are opened when they are first asked for something.
        for driver in _DRIVERS:
            await made.run((driver, [("/csi.v1.Node/NodeGetVolumeStats", (b"\n\1a",), True)]))
        yield made
    finally:
        await host.stop()
        shutil.rmtree(directory, ignore_errors=True)
