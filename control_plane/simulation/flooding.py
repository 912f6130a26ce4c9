"""Floods of requests in a simulated cluster: clients in processes of their own, that no supervisor keeps."""

import asyncio
import contextlib
import itertools

from rayplane.control_plane.cluster.flood import flood
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults.vocabulary import Flood
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cell import Cell, Killed
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.storage.env import Env


class Floods:
    """The floods of a run that go on, each a guest of the cluster."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._numbers = itertools.count()
        self._dead: list[Cell] = []  # what is dead must not be collected
        self._running: dict[str, tuple[Flood, asyncio.Task[None]]] = {}

    def begin(self, fault: Flood) -> str:
        """The name of the guest."""
        name = f"flood-{next(self._numbers)}"
        cell = self._cluster.add_guest(name, lambda _: None)
        endpoints = self._cluster.endpoints(Role.APISERVER)

        async def work(env: Env, network: Network, sockets: Sockets) -> None:
            await flood(network, lambda: endpoints, fault.rate)

        async def run() -> None:
            with contextlib.suppress(Killed):
                await cell.run(work)

        self._cluster.trace.event("flood", name, fault.rate)
        self._running[name] = fault, asyncio.get_running_loop().create_task(run(), name=name)
        return name

    def end(self, name: str) -> None:
        """Nobody asks any more; nothing when that is over already."""
        if self._running.pop(name, None) is not None:
            self._cluster.trace.event("flood-over", name)
            cell = self._cluster.guests.pop(name)
            cell.kill()
            self._dead.append(cell)

    def calm(self) -> None:
        """All of them end."""
        for name in [*self._running]:
            self.end(name)
