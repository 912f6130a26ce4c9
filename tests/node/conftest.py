"""A node host on a fake API, and builders of objects."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.identities import MASTERS, NODE_HOSTS, NODES
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.node.config import NAMESPACES, NodeConfig, NodeHostConfig
from rayplane.node.host import NodeHost
from rayplane.storage.env import Env, LocalDisk, SystemClock
from tests.fakes import FakeClient
from tests.tiers import todays_part

#: Of the host under test and of its test, who calls it as an API server and as another node would.
CREDENTIALS = Authority.create("test").issue(
    "system:node:n1", [NODES, NODE_HOSTS, MASTERS, "system:node:n2"], hosts=["127.0.0.1"]
)
_MakeHost = Callable[..., Awaitable[NodeHost]]


#: Hosts of a cluster on Ray have the second, and its transports are of classes of their own.
LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
ON_BOTH = ("test_ingress_traffic.py", "test_process_streams.py")


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    loops = [*LOOPS.items()]
    return dict(todays_part(2, loops) if item.path.name in ON_BOTH else loops[:1])


def make_pod(name: str, *, node: str = "n1", uid: str = "", **spec: Any) -> Object:
    annotations = spec.pop("annotations", {})
    container = {"name": "main", "image": "app:1", **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": uid or f"uid-{name}", "annotations": annotations},
        "spec": {"nodeName": node, "containers": [container], **spec},
        "status": {"phase": "Pending"},
    }


@pytest.fixture
def api() -> FakeClient:
    return FakeClient()


@pytest.fixture
async def make_host(api: FakeClient, tmp_path: Any) -> AsyncIterator[_MakeHost]:
    """`await make_host(NodeConfig(...), ...)`; pod CIDRs are given out as the controller manager would."""
    network = GrpcNetwork(CREDENTIALS)
    hosts: list[NodeHost] = []

    async def make(*nodes: NodeConfig, cidr: bool = True, directory: str = "", **config: Any) -> NodeHost:
        for node in nodes:
            if cidr and node.name not in api.objects.get("nodes", {}):
                body = {"metadata": {"name": node.name, "uid": f"uid-{node.name}"}}
                number = len(api.objects.get("nodes", {})) + 1
                first = 10 if config.get("isolation") == NAMESPACES else 127
                api.put("nodes", body | {"spec": {"podCIDR": f"{first}.77.{number}.0/24"}})
        env = Env(
            SystemClock(), random.Random(len(hosts) + 1), LocalDisk(tmp_path / (directory or f"host{len(hosts)}"))
        )
        host = NodeHost(
            NodeHostConfig(nodes=nodes, apiservers=("fake:1",), **config),
            env,
            network,
            client=api,  # type: ignore[arg-type]
        )
        hosts.append(host)
        await host.start()
        return host

    yield make
    for host in hosts:
        await host.stop()
    await network.close()
