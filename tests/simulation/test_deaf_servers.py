"""API servers that hear nothing of etcd's members: clients learn of it soon, and others serve them, where there are."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.loadbalancer import LoadBalancerConfig
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets, streams
from rayplane.control_plane.rpc.weather import Climate
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.run import bury
from rayplane.control_plane.simulation.trace import Trace
from rayplane.storage.env import Env

pytestmark = pytest.mark.timeout(600)
GET = "GET /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"a-"}}'
POST = (
    "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\n\r\n{BODY}"
)
PATIENCE_S = 2.2
"""Of a server, and of its last slice."""
CHECKS = LoadBalancerConfig()
NEXT_CHECK_S = CHECKS.check_ready_every * CHECKS.check_interval_s + CHECKS.check_timeout_s


class Client:
    """A client of the load balancer that keeps its connection for as long as the server does."""

    def __init__(self, cluster: SimulatedCluster, sockets: Sockets) -> None:
        self._cluster, self._sockets = cluster, sockets
        self._kept: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: str) -> tuple[int, bytes, float]:
        """The status, the body, and how long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, writer = self._kept or await streams(self._sockets, self._cluster.balancer)
        self._kept = None
        writer.write(request.encode())
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        if b"connection: close" in head:
            writer.close()
        else:
            self._kept = reader, writer
        return int(head.split()[1]), body, loop.time() - began

    def close(self) -> None:
        if self._kept is not None:
            self._kept[1].close()


def in_cluster(story: Callable[[SimulatedCluster, Sockets], Awaitable[None]]) -> None:
    loop = VirtualLoop()
    kept = []  # what is dead must not be collected before it is buried

    async def main() -> None:
        config = ClusterConfig(name="deaf", host=PROCESS, apiservers=2, schedulers=0, controllers=0, nodes=0)
        cluster = SimulatedCluster(config, 1, Trace(loop.time), climate=Climate())
        kept.append(cluster)
        await cluster.start()
        while ready(cluster) < 2:
            await asyncio.sleep(0.1)

        async def told(env: Env, network: Network, sockets: Sockets) -> None:
            await story(cluster, sockets)

        await cluster.kubectl.run(told)
        await cluster.stop()

    bury()
    gc.disable()  # it would begin in the midst of the end
    try:
        loop.run(main())
    finally:
        kept.clear()
        bury()
        gc.enable()


def ready(cluster: SimulatedCluster) -> int:
    return sum(b.ready for _, lb in cluster.components(Role.LOAD_BALANCER) for b in lb.backends())


def deafen(cluster: SimulatedCluster, *servers: str) -> None:
    members = [i.name for i in cluster.topology.of(Role.MEMBER)]
    cluster.cut(members, servers)
    cluster.cut(servers, members)


def test_clients_of_a_server_that_hears_nothing_are_served_by_another() -> None:
    async def story(cluster: SimulatedCluster, sockets: Sockets) -> None:
        clients = [Client(cluster, sockets) for _ in range(4)]
        assert [(await c.ask(r))[0] for c in clients for r in (GET, POST)] == [200, 201] * 4
        deafen(cluster, "apiserver-0")
        reads = await asyncio.gather(*(c.ask(GET) for c in clients))
        assert sorted({status for status, _, _ in reads}) == [200, 503]
        assert max(took_s for _, _, took_s in reads) <= PATIENCE_S
        assert all(b"rayplane status" in body for status, body, _ in reads if status == 503)
        # Those are told to connect anew, as the balancer knows within its next check at the latest.
        async with asyncio.timeout(NEXT_CHECK_S):
            while ready(cluster) != 1:
                await asyncio.sleep(0.1)
        again = [await c.ask(r) for c in clients for r in (GET, POST)]
        assert [status for status, _, _ in again] == [200, 201] * 4
        assert max(took_s for _, _, took_s in again) <= 1.0
        cluster.heal()
        async with asyncio.timeout(10):
            while ready(cluster) < 2:
                await asyncio.sleep(0.1)
        for one in clients:
            one.close()

    in_cluster(story)


def test_when_no_server_hears_anything_clients_are_told_what_to_do() -> None:
    async def story(cluster: SimulatedCluster, sockets: Sockets) -> None:
        deafen(cluster, "apiserver-0", "apiserver-1")
        # Only the balancer asks anything: an answer may be a second old, and two rounds of its checks wait.
        async with asyncio.timeout(1.0 + 2 * 1.5 + PATIENCE_S + 0.1):
            while ready(cluster):
                await asyncio.sleep(0.1)
        client = Client(cluster, sockets)
        for request in (GET, POST):
            status, body, took_s = await client.ask(request)
            assert status == 503 and b"rayplane status" in body
            assert took_s <= 1.1
        cluster.heal()
        async with asyncio.timeout(10):
            while (await client.ask(POST))[0] != 201:
                await asyncio.sleep(0.1)
        client.close()

    in_cluster(story)
