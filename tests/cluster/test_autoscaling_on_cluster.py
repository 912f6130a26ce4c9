"""A cluster whose nodes come when pods find none, and go when nobody needs them."""

from typing import Any

from rayplane.control_plane.api import meta
from tests.cluster.harness import Cluster, cluster, deployment


async def events(c: Cluster, kind: str) -> set[str]:
    """Reasons of the autoscaler's events about objects of a kind."""
    found = (await c.api.list("events")).items
    told = [e for e in found if e["source"].get("component") == "cluster-autoscaler"]
    return {e["reason"] for e in told if e["involvedObject"]["kind"] == kind}


async def scale(c: Cluster, replicas: int) -> None:
    await c.api.patch("deployments.apps", "web", "default", {"spec": {"replicas": replicas}})


async def nodes(c: Cluster) -> int:
    return len((await c.api.list("nodes")).items)


async def actors(c: Cluster) -> int:
    return len((await c.current()).instances)


async def test_nodes_come_for_pods_and_go_when_they_are_needless() -> None:
    requests: dict[str, Any] = {"requests": {"cpu": "3"}}
    async with cluster(nodes=1, members=1, apiservers=1, autoscale="1:3", unneeded_time="2s") as c:
        await c.api.create("deployments.apps", deployment("web", 5, resources=requests))
        await c.until(lambda: nodes(c), "as many nodes as there may be", wanted=3)

        async def running() -> int:
            return sum(meta.status(pod).get("phase") == "Running" for pod in await c.pods())

        await c.until(running, "a pod on each node", wanted=3)
        await c.until(lambda: events(c, "Pod"), "pods are told", wanted={"TriggeredScaleUp", "NotTriggerScaleUp"})
        status = (await c.api.get("configmaps", "cluster-autoscaler-status", "kube-system"))["data"]["status"]
        assert "maxSize: 3" in status and "&" not in status  # nor anchors, which not every reader knows
        # What is left of one pod lives on one node, whichever that is.
        await scale(c, 1)
        await c.until(lambda: nodes(c), "no more nodes than are needed", wanted=1)
        await c.rolled_out("web", 1)
        await c.until(lambda: events(c, "Node"), "nodes are told", wanted={"ScaleDown"})
        await c.until(lambda: actors(c), "their hosts are gone", wanted=len(c.topology.instances))
