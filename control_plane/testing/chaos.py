"""Faults of a cluster that a program has brought up, as `rayplane chaos` does them: the cluster ends them by itself."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.chaos import KILL_TIMEOUT_S, end_standing, heal_standing
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.faults.form import parse_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.testing.awaited import Awaited
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb


@dataclass(frozen=True, slots=True)
class Struck:
    """A fault that was begun: whom it hit, and the `id` to end it by where it lasts."""

    fault: str
    hit: tuple[str, ...]
    id: str


class Chaos:
    """A hand that breaks a cluster on purpose. Raises ClusterError where nobody can be hit, UsageError for nonsense."""

    def __init__(self, directory: Callable[[], StateDir]) -> None:
        self._directory = directory

    def kill(self, target: str) -> Struck:
        """SIGKILL: of "leader", "apiserver", "scheduler", "node node-0", "pod web-0", ... What should comes back."""
        return self.inject(f"kill: {{target: {target}}}")

    def stop(self, target: str, span: str) -> Struck:
        """Let an actor's process stand still for a `span` such as "9s"; on Ray only."""
        return self.inject(f"stop: {{target: {target}, for: {span}}}")

    def go_on(self, target: str) -> Struck:
        """Let an actor's process that stands still go on."""
        return self.inject(f"continue: {{target: {target}}}")

    def inject(self, fault: str) -> Struck:
        """Begin any fault, as a step of a scenario file says it: "stop: {target: leader, for: 9s}"."""
        try:
            parse_fault(fault)
        except FormError as e:
            raise UsageError(str(e)) from e
        return _struck(self._asked("Begin", pb.BeginRequest(fault=fault)))

    def faults(self) -> list[Struck]:
        """The faults that last."""
        return [_struck(one) for one in self._asked("List", pb.ListFaultsRequest()).faults]

    def end(self, struck: Struck) -> None:
        """End a fault before its time."""
        self._told(lambda faults: end_standing(faults, struck.id))

    def heal(self) -> list[Struck]:
        """End all that lasts; what was. Raises ClusterError for what does not end yet."""
        over, left = self._told(heal_standing)
        if left:
            raise ClusterError("; ".join(f"{one.fault}: {one.failed}; it is tried again" for one in left))
        return [_struck(one) for one in over]

    def _asked(self, method: str, request: Message) -> Any:
        return self._told(lambda faults: getattr(faults, method)(request, timeout=KILL_TIMEOUT_S))

    def _told(self, ask: Callable[[Any], Awaitable[Any]]) -> Any:
        async def call() -> Any:
            async with access(self._directory()) as admin:
                return await ask(admin.faults)

        try:
            return asyncio.run(call())
        except RpcError as e:
            raise ClusterError(e.message) from e


class AsyncChaos:
    """The same to be awaited."""

    def __init__(self, blocking: Chaos) -> None:
        self.blocking = blocking

    kill = Awaited(Chaos.kill)
    stop = Awaited(Chaos.stop)
    go_on = Awaited(Chaos.go_on)
    inject = Awaited(Chaos.inject)
    faults = Awaited(Chaos.faults)
    end = Awaited(Chaos.end)
    heal = Awaited(Chaos.heal)


def _struck(fault: pb.ActiveFault) -> Struck:
    return Struck(fault.fault, tuple(fault.hit), fault.id)
