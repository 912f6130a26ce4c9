"""A host whose machines and processes are simulated."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.errors import TimeStands
from rayplane.control_plane.cluster.host import Disturbance, HostSocket, Runs
from rayplane.control_plane.cluster.topology import Machine
from rayplane.control_plane.simulation.cell import Cell


class Cells(Protocol):
    """Simulated machines and the cells on them."""

    @property
    def machines(self) -> Sequence[Machine]: ...

    @property
    def cells(self) -> Mapping[str, Cell]: ...

    def launch(self, spec: Spec) -> Awaitable[BaseException | None]:
        """Start a cell; why it did not start, or None."""

    def end(self, name: str) -> Awaitable[None]:
        """End a cell in order."""

    def kill(self, name: str) -> None:
        """End a cell at once."""


class SimulatedHost:
    """A `Host` whose actors are cells."""

    def __init__(self, cluster: Cells) -> None:
        self._cluster = cluster

    async def start(self, spec: Spec) -> int:
        failed = await asyncio.shield(self._cluster.launch(spec))
        if failed is not None:
            raise failed
        return 1

    async def stop(self, name: str) -> None:
        await asyncio.shield(self._cluster.end(name))

    async def halt(self, name: str) -> None:
        await self.stop(name)

    async def builds(self) -> dict[str, Runs]:
        """One, everywhere."""
        return {}

    async def running(self) -> set[str]:
        return {name for name, cell in self._cluster.cells.items() if cell.alive}

    async def absent(self) -> dict[str, str]:
        return {}

    async def machines(self) -> list[Machine]:
        return list(self._cluster.machines)

    async def room(self) -> dict[str, dict[str, float]]:
        return {m.address: {} for m in self._cluster.machines}

    async def sockets(self) -> list[HostSocket]:
        return []

    ahead_s = 0.0

    async def advance(self, span_s: float) -> None:
        raise TimeStands("the time of a simulation is led by its scenario: write `wait: SPAN` there")

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        """Nobody asks for it: the weather is the simulation's own."""

    async def kill(self, name: str, signal: str) -> int:
        self._cluster.kill(name)
        return 1
