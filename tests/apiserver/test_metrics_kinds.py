"""Metrics of nodes and pods: which node hosts are asked for them, and their tables."""

from datetime import UTC, datetime

from rayplane.control_plane.apiserver.registry.metrics_kinds import PRINTER
from rayplane.control_plane.rpc import Context
from rayplane.proto.rayplane.v1 import node_pb2
from tests.apiserver.conftest import Stack
from tests.rpc.open_service import open_service

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_pod_uses_what_its_containers_use() -> None:
    node = {"metadata": {"name": "n"}, "usage": {"cpu": "250m", "memory": "1Gi"}, "window": "10s"}
    assert PRINTER.row(node, NOW) == ["n", "250m", "1Gi", "10s"]
    containers = [{"name": c, "usage": {"cpu": "100m", "memory": "64Mi"}} for c in "ab"]
    pod = {"metadata": {"name": "p"}, "containers": containers, "window": "10s"}
    assert PRINTER.row(pod, NOW) == ["p", "200m", "128Mi", "10s"]


class Host:
    """A node host that notes which of its nodes are asked; each has a pod `web` of its own name as namespace."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def Stats(self, request: node_pb2.StatsRequest, context: Context) -> node_pb2.StatsResponse:
        self.asked.append(request.node)
        used = node_pb2.ContainerStats(namespace=request.node, pod="web", container="c", cpu_nanocores=5)
        return node_pb2.StatsResponse(cpu_nanocores=7, containers=[used])

    def taken(self) -> list[str]:
        """Who was asked since this was looked at last."""
        found, self.asked = sorted(self.asked), []
        return found


async def test_only_nodes_that_can_tell_something_are_asked(stack: Stack) -> None:
    host, client = Host(), stack.client()
    await stack.network.serve("host-0:10250", [open_service(node_pb2.DESCRIPTOR.services_by_name["Node"], host)])
    for name in ("a", "b", "idle"):
        metadata = {"name": name, "annotations": {"rayplane.io/host-address": "host-0:10250"}}
        await client.create("nodes", {"metadata": metadata})
        await client.create("namespaces", {"metadata": {"name": name}})
    for name in ("a", "b"):
        own = {"name": "web", "namespace": name, "labels": {"app": name}}
        spec = {"nodeName": name, "containers": [{"name": "c", "image": "i"}]}
        await client.create("serviceaccounts", {"metadata": {"name": "default", "namespace": name}})
        await client.create("pods", {"metadata": own, "spec": spec})

    async def told(namespace: str = "", labels: str = "") -> list[str]:
        found = await client.list("pods.metrics.k8s.io", namespace, label_selector=labels)
        return [pod["metadata"]["namespace"] for pod in found.items]

    assert await told() == ["a", "b", "idle"] and host.taken() == ["a", "b", "idle"]
    assert await told("a") == ["a"] and host.taken() == ["a"]
    assert await told(labels="app=b") == ["b"] and host.taken() == ["b"]
    assert await told("idle") == [] and host.taken() == []
    assert (await client.get("pods.metrics.k8s.io", "web", "b"))["containers"] and host.taken() == ["b"]
    assert (await client.get("nodes.metrics.k8s.io", "idle"))["usage"]["cpu"] == "7n" and host.taken() == ["idle"]
