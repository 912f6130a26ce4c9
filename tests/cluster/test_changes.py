"""A whole cluster that changes and loses actors while a client writes."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import AlreadyExists, ApiError
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.apiserver import endpoints as api_endpoints
from rayplane.control_plane.client import api as client_api
from rayplane.control_plane.cluster.access import access, current_topology, refresh
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.scenario import Runner, parse, unhealthy
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.cluster.supervisor import reconciler
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from tests.cluster.harness import Cluster, cluster, deployment

CHANGE_S = 180.0


class Writer:
    """A writer that creates one ConfigMap after the other; remembers which were acknowledged."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.acknowledged: list[str] = []
        self._asked = 0

    async def run(self) -> None:
        while True:
            name = f"w-{self._asked}"
            obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}
            try:
                await self._cluster.api.create("configmaps", obj)
            except AlreadyExists:
                pass  # An earlier try got through, but its answer did not.
            except ApiError:
                await asyncio.sleep(0.02)
                continue
            self.acknowledged.append(name)
            self._asked += 1

    async def progress(self) -> None:
        """Wait until more is written."""
        before = len(self.acknowledged)

        async def more() -> bool:
            return len(self.acknowledged) > before

        await self._cluster.until(more, "writes go on")


@contextlib.asynccontextmanager
async def writing(c: Cluster) -> AsyncIterator[Writer]:
    """Writes go on meanwhile; afterwards everything that was acknowledged is there."""
    writer = Writer(c)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
        await writer.progress()
    finally:
        await cancel_and_wait(task)
    names = {meta.name(o) for o in (await c.api.list("configmaps", "default")).items}
    assert set(writer.acknowledged) <= names


async def _change(c: Cluster, method: str, role: str, name: str = "") -> str:
    """What `rayplane add` and `rayplane remove` do."""
    request: Any = (pb.AddRequest if method == "Add" else pb.RemoveRequest)(role=role, name=name)
    async with access(c.directory) as admin:
        answer = await getattr(admin.supervisor, method)(request, timeout=CHANGE_S)
        await refresh(c.directory, admin)
    return str(answer.name)


async def _healthy(c: Cluster) -> None:
    async def ask() -> bool:
        return bool((await status(c.access))["healthy"])

    await c.until(ask, "healthy")


@pytest.mark.turn(0, of=2)
async def test_every_member_and_api_server_can_be_replaced_while_a_client_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reconciler, "LEARN_S", 1.5)
    monkeypatch.setattr(client_api, "DISCOVER_EVERY_S", 0.5)
    monkeypatch.setattr(api_endpoints, "_FOLLOW_S", 0.3)
    async with cluster(nodes=2, schedulers=1, controllers=1) as c:
        async with writing(c) as writer:
            for k in range(3):
                assert await _change(c, "Add", "member") == f"member-{k + 3}"
                assert await _change(c, "Remove", "member", f"member-{k}") == f"member-{k}"
                await writer.progress()
            for k in range(2):
                assert await _change(c, "Add", "apiserver", f"front-{k}") == f"front-{k}"
                await c.api.discover()
                assert await _change(c, "Remove", "apiserver", f"apiserver-{k}") == f"apiserver-{k}"
                await writer.progress()
        # The others have found the new ones: pods are made, placed and run.
        await c.api.create("deployments.apps", deployment("web", 4))
        await c.pods_ready(4, "app=web")
        # The load balancer learns of new servers by asking now and then.
        await _healthy(c)
        async with access(c.directory) as admin:
            topology = await current_topology(admin)
        names = [i.name for i in topology.instances if i.role in (Role.MEMBER, Role.APISERVER)]
        assert sorted(names) == ["front-0", "front-1", "member-3", "member-4", "member-5"]


async def test_nodes_come_and_go_and_pods_move() -> None:
    async with cluster(nodes=2, members=1, apiservers=1, schedulers=1, controllers=1) as c:
        await c.api.create("deployments.apps", deployment("web", 4))
        await c.pods_ready(4, "app=web")
        assert await _change(c, "Add", "node", "extra") == "extra"
        await c.nodes_ready({"node-0", "node-1", "extra"})
        assert await _change(c, "Remove", "node", "node-0") == "node-0"
        await c.gone("nodes", "node-0")
        await c.until(lambda: _elsewhere(c, {"node-1", "extra"}), "the pods on the nodes that are left")
        assert await _change(c, "Remove", "node", "extra") == "extra"
        await c.until(lambda: _elsewhere(c, {"node-1"}), "the pods on the last node")
        await _healthy(c)


async def _elsewhere(c: Cluster, nodes: set[str]) -> list[dict[str, Any]] | None:
    pods = [p for p in await c.pods("app=web") if not meta.is_deleting(p)]
    good = len(pods) == 4 and all(pod_is_ready(p) and meta.node_name(p) in nodes for p in pods)
    return pods if good else None


@pytest.mark.turn(1, of=2)
async def test_whatever_is_killed_comes_back_and_nothing_acknowledged_is_lost() -> None:
    steps = b"""
steps:
  - kill: leader
  - wait: healthy
  - kill: apiserver random
  - kill: scheduler
  - wait: healthy
  - kill: controllers
  - kill: member random
  - kill: node node-1
  - wait: healthy
"""
    said: list[str] = []
    async with cluster(nodes=2) as c:
        await c.api.create("deployments.apps", deployment("web", 4))
        await c.pods_ready(4, "app=web")
        async with writing(c):
            rng = random.Random(1)
            runner = Runner(LiveInjector(c.access, rng), lambda: unhealthy(c.access), rng, said.append)
            await runner.run(parse(steps, "test").steps)
        await c.rolled_out("web", 4)
        await c.api.create("deployments.apps", deployment("later", 2))
        await c.pods_ready(2, "app=later")
    killed = [line for line in said if line.startswith("kill")]
    assert len(killed) == 6 and killed[-1] == "kill: node node-1 -> node-host-1"
    assert sum(line.startswith("healthy after") for line in said) == 3
