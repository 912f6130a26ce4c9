"""What the supervisor needs of whatever runs the actors."""

from dataclasses import dataclass
from typing import Protocol

from control_plane.cluster.components import Spec
from control_plane.cluster.topology import Machine


@dataclass(frozen=True, slots=True)
class HostSocket:
    """A socket that a host's own processes listen on, beside those of the actors."""

    owner: str
    address: str
    """host:port"""
    speaks: str


class Host(Protocol):
    """Starts, stops and finds actors. Calls may take seconds; none may be made from two tasks for one name."""

    async def start(self, spec: Spec) -> int:
        """Start an actor and wait until its component serves; its process id. Raises StartFailed."""

    async def stop(self, name: str) -> None:
        """End an actor for good; nothing when there is none."""

    async def running(self) -> set[str]:
        """Names of the actors that exist, those being restarted by the host itself included."""

    async def machines(self) -> list[Machine]:
        """Machines that are alive."""

    async def kill(self, name: str, signal: str) -> int:
        """Send KILL, STOP or CONT to an actor's process; its id."""

    async def sockets(self) -> list[HostSocket]:
        """Where the host itself listens."""
