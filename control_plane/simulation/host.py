"""A host whose machines and processes are simulated."""

import asyncio
from typing import TYPE_CHECKING

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.host import HostSocket
from rayplane.control_plane.cluster.topology import Machine

if TYPE_CHECKING:
    from rayplane.control_plane.simulation.cluster import SimulatedCluster


class SimulatedHost:
    """A `Host` whose actors are cells."""

    def __init__(self, cluster: "SimulatedCluster") -> None:
        self._cluster = cluster

    async def start(self, spec: Spec) -> int:
        failed = await asyncio.shield(self._cluster.launch(spec))
        if failed is not None:
            raise failed
        return 1

    async def stop(self, name: str) -> None:
        await asyncio.shield(self._cluster.end(name))

    async def running(self) -> set[str]:
        return {name for name, cell in self._cluster.cells.items() if cell.alive}

    async def suspended(self) -> set[str]:
        return set()

    async def machines(self) -> list[Machine]:
        return list(self._cluster.machines)

    async def sockets(self) -> list[HostSocket]:
        return []

    async def kill(self, name: str, signal: str) -> int:
        self._cluster.kill(name)
        return 1
