"""Faults of a cluster that a program has brought up, as `rayplane chaos` does them: the cluster ends them by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.chaos import KILL_TIMEOUT_S
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.faults.form import parse_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was begun: whom it hit, and the `id` to end it by where it lasts."""

    fault: str
    hit: tuple[str, ...]
    id: str


class AsyncChaos:
    """A hand that breaks a cluster on purpose. Raises ClusterError where nobody can be hit, UsageError for nonsense."""

    def __init__(self, directory: Callable[[], StateDir]) -> None:
        self._directory = directory

    async def kill(self, target: str) -> Struck:
        """SIGKILL: of "leader", "apiserver", "scheduler", "node node-0", "pod web-0", ... What should comes back."""
        return await self.inject(f"kill: {{target: {target}}}")

    async def stop(self, target: str, span: str) -> Struck:
        """Let an actor's process stand still for a `span` such as "9s"; on Ray only."""
        return await self.inject(f"stop: {{target: {target}, for: {span}}}")

    async def inject(self, fault: str) -> Struck:
        """Begin any fault, as a step of a scenario file says it: "stop: {target: leader, for: 9s}"."""
        try:
            parse_fault(fault)
        except FormError as e:
            raise UsageError(str(e)) from e
        async with self._faults() as faults:
            return _struck(await faults.Begin(pb.BeginRequest(fault=fault), timeout=KILL_TIMEOUT_S))

    async def faults(self) -> list[Struck]:
        """The faults that last."""
        async with self._faults() as faults:
            found = await faults.List(pb.ListFaultsRequest(), timeout=KILL_TIMEOUT_S)
        return [_struck(one) for one in found.faults]

    async def end(self, struck: Struck) -> None:
        """End a fault before its time."""
        async with self._faults() as faults:
            await faults.End(pb.EndRequest(id=struck.id), timeout=KILL_TIMEOUT_S)

    async def heal(self) -> list[Struck]:
        """End all that lasts; what was."""
        async with self._faults() as faults:
            found = await faults.Heal(pb.HealRequest(), timeout=KILL_TIMEOUT_S)
        return [_struck(one) for one in found.healed]

    @asynccontextmanager
    async def _faults(self) -> AsyncIterator[Any]:
        async with access(self._directory()) as admin:
            try:
                yield admin.faults
            except RpcError as e:
                raise ClusterError(e.message) from e


class Chaos:
    """The same for programs without asyncio."""

    def __init__(self, directory: Callable[[], StateDir]) -> None:
        self._chaos = AsyncChaos(directory)

    def kill(self, target: str) -> Struck:
        """As of AsyncChaos, like all of these."""
        return asyncio.run(self._chaos.kill(target))

    def stop(self, target: str, span: str) -> Struck:
        return asyncio.run(self._chaos.stop(target, span))

    def inject(self, fault: str) -> Struck:
        return asyncio.run(self._chaos.inject(fault))

    def faults(self) -> list[Struck]:
        return asyncio.run(self._chaos.faults())

    def end(self, struck: Struck) -> None:
        asyncio.run(self._chaos.end(struck))

    def heal(self) -> list[Struck]:
        return asyncio.run(self._chaos.heal())


def _struck(fault: pb.ActiveFault) -> Struck:
    return Struck(fault.fault, tuple(fault.hit), fault.id)
