"""The port of hosts: the supervisor's needs of whatever runs the actors."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.errors import DataLost, PortTaken, StartFailed
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.topology import Machine, Role
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.rpc.weather import Weather
from rayplane.storage.env.troubled import Trouble

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostSocket:
    """A socket that a host's own processes listen on, beside those of the actors."""

    owner: str
    address: str
    """host:port"""
    speaks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """The weather between actors and the trouble of their machines, whole; nothing of it: calm."""

    groups: tuple[tuple[str, ...], ...] = ()
    """Actors of different groups, and of none, do not reach each other."""
    cuts: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    """What the first send does not reach the second."""
    slow_s: float = 0.0
    """Every message takes up to so long."""
    reset: tuple[str, ...] = ()
    """Actors whose connections break once."""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    """Of the machines of actors, by name."""
    certificates: Mapping[str, Credentials] = field(default_factory=dict)
    """That actors show in the place of their own, by name."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Of actors, by address (host:port)."""

    @property
    def named(self) -> set[str]:
        """Actors that it names."""
        parted = {host for group in self.groups for host in group}
        cut = {host for cut in self.cuts for hosts in cut for host in hosts}
        return parted | cut | {*self.reset} | self.troubles.keys() | self.certificates.keys()

    def shown_to(self, name: str) -> "Disturbance":
        """The same with the certificate of this actor only: with each goes its key."""
        return replace(self, certificates={n: one for n, one in self.certificates.items() if n == name})

    @property
    def of_network(self) -> bool:
        return bool(self.groups or self.cuts or self.slow_s)

    @property
    def is_calm(self) -> bool:
        """Whether nothing of it lasts."""
        return not (self.of_network or self.certificates) and all(one == Trouble() for one in self.troubles.values())


def prevail(link: Weather, told: Disturbance) -> None:
    """Let it be so on the network from now on."""
    link.heal()
    link.slow_s = told.slow_s
    if told.groups:
        link.part(*told.groups)
    for sources, sinks in told.cuts:
        link.cut(sources, sinks)


STANDS_STILL = "its process stands still (SIGSTOP)"
HAS_ENDED = "its process has ended; Ray starts another"


@dataclass(frozen=True, slots=True)
class Runs:
    """An actor's build, and the Python of the environment that it runs in; empty: that of its host."""

    version: str
    python: str = ""


class Host(Protocol):
    """A host that starts, stops and finds actors.

    Calls may take seconds; none may be made from two tasks for one name.
    """

    async def start(self, spec: Spec) -> int:
        """Start an actor and wait until its component serves; its process id. Raises StartFailed."""

    async def stop(self, name: str) -> None:
        """End an actor for good, in order where it can; nothing when there is none."""

    async def halt(self, name: str) -> None:
        """End an actor that is to come back, in order where it can; nothing when there is none."""

    async def builds(self) -> dict[str, Runs]:
        """Builds of those actors that can tell."""

    async def running(self) -> set[str]:
        """Names of the actors that exist, those being restarted by the host itself included."""

    async def absent(self) -> dict[str, str]:
        """Those of them that do nothing now, as far as the host can tell, each with why."""

    async def machines(self) -> list[Machine]:
        """Machines that are alive, first that of its head, where it has one."""

    async def room(self) -> dict[str, dict[str, float]]:
        """What each of them has, by its address, as Ray names it: CPU, memory in bytes, ..."""

    async def kill(self, name: str, signal: str) -> int:
        """Send KILL, STOP or CONT to an actor's process; its id."""

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        """Let it be so between actors and on their machines, until it is told again or so much time has passed.

        Raises ClusterError where somebody that it names cannot be told.
        """

    async def sockets(self) -> list[HostSocket]:
        """Where the host itself listens."""

    @property
    def ahead_s(self) -> float:
        """By how much the time of its actors has been led ahead of the machines'."""

    async def advance(self, span_s: float) -> None:
        """Lead it on so much further; raises TimeStands where nobody can."""


@runtime_checkable
class Elastic(Protocol):
    """A host whose machines may come when they are asked for, and go when nothing runs there."""

    async def cpus(self) -> dict[str, float] | None:
        """CPUs of each machine that is alive, by its id; None where nobody would bring another."""

    async def request(self, bundles: Sequence[Mapping[str, float]]) -> None:
        """Ask for machines on which all of these fit; in the place of what was asked for before."""


@runtime_checkable
class Losing(Protocol):
    """A host of machines that can be lost on purpose."""

    async def lose(self, address: str, for_s: float) -> None:
        """End its part of a machine, with all that runs there; it is back after so long. Returns when it is gone.

        Raises UsageError, ClusterError.
        """

    async def recall(self, address: str) -> bool:
        """Have a machine that was lost come back now; whether it is there."""


def room_here() -> dict[str, float]:
    """What this machine has."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"CPU": float(os.cpu_count() or 1), "memory": float(memory)}


def not_started(spec: Spec, failure: Failure) -> StartFailed:
    """The error of a start that failed."""
    kind = PortTaken if failure.port_taken else StartFailed
    if spec.instance.role is Role.MEMBER and failure.data_lost:
        kind = DataLost
    return kind(f"{spec.instance.name}: {failure.text}; see {spec.log_file}")


async def start_all(host: Host, specs: Sequence[Spec], started: Callable[[str], None]) -> None:
    """Start all actors of a cluster; `started` is told each. Raises StartFailed.

    Members that lost their data are left to the supervisor, as long as the others are a majority.
    """
    members = sum(spec.instance.role is Role.MEMBER for spec in specs)
    lost = 0

    async def start(spec: Spec) -> None:
        nonlocal lost
        try:
            await host.start(spec)
        except DataLost as e:
            lost += 1
            if 2 * lost >= members:
                raise
            log.error("%s", e)
        started(spec.instance.name)

    await asyncio.gather(*(start(spec) for spec in specs))
