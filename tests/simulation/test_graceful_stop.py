"""Actors of a simulated cluster that are asked to stop do so by themselves: what is under way is finished."""

import asyncio

import pytest

from rayplane.control_plane.apiserver.server import ApiServer
from rayplane.control_plane.cluster.components import Component
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets, streams
from rayplane.control_plane.rpc.weather import Climate
from rayplane.control_plane.simulation import Planted, VirtualLoop, parse_scenario, simulate
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.run import bury
from rayplane.control_plane.simulation.trace import Trace
from rayplane.storage.env import Env

pytestmark = pytest.mark.timeout(600)

REMOVAL = """
duration: 15s
cluster: {timing: fast, nodes: 1, schedulers: 1, controllers: 1}
client: {write_every: 1s, ask_every: 50ms}
steps:
  - await: {ready: cluster}
  - sleep: 5s
  - remove: apiserver-0
"""


def test_an_api_server_that_is_removed_stops_by_itself() -> None:
    stopped = []

    def watch(name: str, component: Component) -> None:
        stop = component.stop

        async def told() -> None:
            await stop()
            stopped.append(name)

        if isinstance(component, ApiServer):
            component.stop = told  # type: ignore[method-assign]

    result = simulate(parse_scenario(REMOVAL, source="removal"), 1, planted=Planted(wrap=watch))
    assert result.ok, str(result)
    assert stopped == ["apiserver-0"]


def test_a_balancer_that_stops_lets_connections_end() -> None:
    loop = VirtualLoop()
    trace = Trace(loop.time)
    kept = []  # what is dead must not be collected before it is buried

    async def main() -> tuple[bytes, bytes]:
        config = ClusterConfig(
            name="drain", host=PROCESS, members=1, apiservers=1, schedulers=0, controllers=0, nodes=0
        )
        cluster = SimulatedCluster(config, 1, trace, climate=Climate())
        kept.append(cluster)
        await cluster.start()
        while not any(b.ready for _, lb in cluster.components(Role.LOAD_BALANCER) for b in lb.backends()):
            await asyncio.sleep(0.1)
        found: list[bytes] = []

        async def ask(env: Env, network: Network, sockets: Sockets) -> None:
            reader, writer = await streams(sockets, cluster.balancer)
            idle, idle_writer = await streams(sockets, cluster.balancer)
            await asyncio.sleep(0.1)
            ending = cluster.end("lb")
            await asyncio.sleep(0.1)
            with pytest.raises(OSError):
                await streams(sockets, cluster.balancer)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            found.append(await reader.readline())
            await ending
            found.append(await idle.read())
            writer.close()
            idle_writer.close()

        await cluster.kubectl.run(ask)
        await cluster.stop()
        return found[0], found[1]

    bury()
    try:
        answer, rest = loop.run(main())
    finally:
        kept.clear()
        bury()
    assert answer.startswith(b"HTTP/1.1 200")
    assert rest == b""
