"""Faults of a simulated cluster: of its cells, its network and its disks."""

import asyncio

from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.faults import injector
from rayplane.control_plane.faults.vocabulary import (
    LEADER,
    NEVER_S,
    Continue,
    Cut,
    Fault,
    Heal,
    Kill,
    LoseMachine,
    Partition,
    PowerLoss,
    Reset,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
)
from rayplane.control_plane.simulation.cluster import SimulatedCluster

_IN_CHARGE = {"scheduler": Role.SCHEDULER, "controllers": Role.CONTROLLERS}
_ANY = {"member": Role.MEMBER, "apiserver": Role.APISERVER, "node": Role.NODE_HOST}
_LB = "lb"


class NobodyThere(ClusterError):
    """None of those that a fault could hit runs now."""


class CellInjector:
    """An injector that does faults to the cells of a cluster.

    A killed cell loses power too: what it has not synced may be torn.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster

    def refusal(self, fault: Fault) -> str:
        """Why it cannot be; raises UsageError that names an actor the cluster has not."""
        can = {Kill, PowerLoss, Stop, Continue, Partition, Cut, Heal, Reset, SlowNetwork, StalledDisk, LoseMachine}
        return injector.refusal(fault, can)

    def check_names(self, fault: Fault) -> None:
        """Raise UsageError when a fault names who is not there."""
        match fault:
            case Partition(groups):
                named = [host for group in groups for host in group]
            case Cut(sources, sinks):
                named = [*sources, *sinks]
            case Heal() | SlowNetwork():
                named = []
            case _:
                named = [fault.target.name] if fault.target.name else []
        for name in named:
            self._actor(name)

    async def strike(self, fault: Fault) -> None:
        """Begin a fault and see to its end, without waiting for that. Raises NobodyThere."""
        hit = await self.begin(fault)
        for_s: float = getattr(fault, "for_s", 0.0)
        if for_s:
            asyncio.get_running_loop().call_later(for_s, self._end, fault, hit)

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        cluster = self._cluster
        match fault:
            case Partition(groups):
                cluster.partition(groups)
                return tuple(host for group in groups for host in group)
            case Cut(sources, sinks):
                cluster.cut(sources, sinks)
                return sources
            case Heal():
                cluster.heal()
            case SlowNetwork(delay_s):
                cluster.slow(delay_s)
            case _:
                hit = self._chosen(fault.target)
                for name in hit:
                    self._hit(fault, name)
                return hit
        return ()

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        self._end(fault, hit)

    def _end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        match fault:
            case Partition():
                self._cluster.heal()
            case Stop():
                for name in hit:
                    self._cluster.resume(name)

    def _hit(self, fault: Fault, name: str) -> None:
        cluster = self._cluster
        match fault:
            case Kill(_, back_s):
                cluster.kill(name, back=back_s != NEVER_S, after_s=None if back_s == NEVER_S else back_s)
            case PowerLoss():
                cluster.kill(name)
            case LoseMachine():
                cluster.lose(name)
            case Stop():
                cluster.pause(name)
            case Continue():
                cluster.resume(name)
            case Reset():
                cluster.reset(name)
            case StalledDisk(_, for_s):
                cluster.cells[name].stall(asyncio.get_running_loop().time() + for_s)

    def _chosen(self, target: Target) -> tuple[str, ...]:
        """Who it is now. Raises NobodyThere."""
        names = self._named(target) or self._drawn(target)
        if not names:
            raise NobodyThere(f"there is no {target} to hit now")
        return names

    def _named(self, target: Target) -> tuple[str, ...]:
        if target.name:
            return (self._actor(target.name),)
        if target.role == LEADER:
            leader = self._cluster.leader()
            return (leader,) if leader else ()
        if target.role == _LB:
            return (self._actor(_LB),)
        if target.role in _IN_CHARGE and not target.count:
            leader = self._cluster.in_charge(_IN_CHARGE[target.role])
            return (leader,) if leader else ()
        return ()

    def _drawn(self, target: Target) -> tuple[str, ...]:
        role = (_ANY | _IN_CHARGE if target.count else _ANY).get(target.role)
        living = [name for name, _ in self._cluster.components(role)] if role else []
        return target.choose(living, self._cluster.rng)

    def _actor(self, name: str) -> str:
        """An actor by its own name or by that of one of its nodes. Raises UsageError."""
        topology = self._cluster.topology
        if any(name in i.nodes for i in topology.instances):
            return topology.node_host(name).name
        return topology.get(name).name
