"""Faults of a simulated cluster: of its cells, its network and its disks."""

import asyncio
import math
from dataclasses import dataclass, replace
from typing import get_args

from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.replicas import Replicas
from rayplane.control_plane.cluster.topology import Machine, Role
from rayplane.control_plane.cluster.trial.replica_watch import ReplicaWatch
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.faults import injector
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import (
    FOLLOWER,
    LEADER,
    NEVER_S,
    POD,
    SUPERVISOR,
    ClockJump,
    Continue,
    CorruptDisk,
    Cut,
    ExpireCertificate,
    Failpoint,
    Fault,
    Flood,
    FullDisk,
    Heal,
    Jumble,
    Kill,
    LoseMachine,
    Partition,
    PowerLoss,
    Reset,
    SlowCpu,
    SlowDisk,
    SlowNetwork,
    StalledDisk,
    Stop,
    Target,
    is_of_replicas,
    lasts,
)
from rayplane.control_plane.simulation.cell import Cell
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.flooding import Floods
from rayplane.control_plane.simulation.jumble import Jumbler
from rayplane.control_plane.simulation.points import Points
from rayplane.storage.env import failpoints

_IN_CHARGE = {"scheduler": Role.SCHEDULER, "controllers": Role.CONTROLLERS}
_ANY = {"member": Role.MEMBER, "apiserver": Role.APISERVER, "node": Role.NODE_HOST}
_LB = "lb"
#: Of these each process, or the network, has one: the last that began is the one that holds.
_ONE_AT_A_TIME = (Partition, SlowNetwork, Stop, FullDisk, SlowDisk, Jumble, ExpireCertificate)


class NobodyThere(ClusterError):
    """None of those that a fault could hit runs now."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """A fault that lasts, and the machines that it hit: what has their names later may be others."""

    fault: Fault
    hit: tuple[str, ...]
    cells: tuple[Cell, ...]


class CellInjector:
    """An injector that does faults to the cells of a cluster.

    A killed cell loses power too: what it has not synced may be torn.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster = cluster
        self._floods = Floods(cluster)
        self._jumblers: dict[str, Jumbler] = {}
        self._held: list[_Held] = []
        """In the order in which they began."""
        self._gone: dict[tuple[Fault, str], list[Machine]] = {}
        """Machines by the fault that lost them and the actor that it hit."""
        self._volumes: ReplicaWatch | None = None
        """From the first replica on that is lost."""
        self.points = Points(cluster.kill, cluster.pause, cluster.excuse)

    def refusal(self, fault: Fault) -> str:
        """Why it cannot be; raises UsageError that names an actor the cluster has not."""
        if isinstance(fault, Failpoint) and fault.point not in failpoints.POINTS:
            return f"there is no failpoint {fault.point!r}"
        if isinstance(fault, LoseMachine) and fault.target == Target(name=SUPERVISOR):
            return f"{as_step(fault)}: the supervisor makes up for lost machines; it can be killed"
        if _target_of(fault).role == POD:
            return f"{as_step(fault)}: here a pod cannot be hit"
        if is_of_replicas(fault) and not isinstance(fault, Kill):
            return f"{as_step(fault)}: a replica can only be killed"
        return injector.refusal(fault, get_args(Fault))

    def check_names(self, fault: Fault) -> None:
        """Raise UsageError when a fault names who is not there."""
        match fault:
            case Partition(groups):
                named = [host for group in groups for host in group]
            case Cut(sources, sinks):
                named = [*sources, *sinks]
            case Heal() | SlowNetwork() | Flood():
                named = []
            case _:
                named = [fault.target.name] if fault.target.name and not is_of_replicas(fault) else []
        for name in named:
            self._actor(name)

    async def strike(self, fault: Fault) -> tuple[str, ...]:
        """Begin a fault and see to its end, without waiting for that; whom it hit. Raises NobodyThere."""
        hit = await self.begin(fault)
        for_s: float = getattr(fault, "for_s", 0.0)
        if for_s:
            asyncio.get_running_loop().call_later(for_s, self._end, fault, hit)
        return hit

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        hit = await self._lose_replicas(fault) if is_of_replicas(fault) else self._begin(fault)
        if lasts(fault):
            everybody = self._cluster.processes
            self._held.append(_Held(fault, hit, tuple(everybody[name] for name in hit if name in everybody)))
        return hit

    async def _lose_replicas(self, fault: Fault) -> tuple[str, ...]:
        """As an administrator of a live cluster does it. Raises NobodyThere."""
        cluster = self._cluster
        with cluster.client.inside() as network:
            replicas = Replicas(ApiClient(network, cluster.endpoints(Role.APISERVER)), network)
            if self._volumes is None:
                self._volumes = ReplicaWatch(replicas, cluster.failures.append, lambda text: None)
            try:
                hit = await replicas.chosen(_target_of(fault), cluster.rng)
                held = await self._volumes.acknowledged(hit)
                for name in hit:
                    cluster.trace.event("replica-lost", name)
                    await replicas.lose(name)
            except ClusterError as e:
                raise NobodyThere(str(e)) from e
            self._volumes.watch(held)
        return hit

    async def volumes_are_whole(self) -> bool:
        """Whether each volume that lost a replica has it again; asked in a client's cell."""
        return self._volumes is None or not await self._volumes.missing()

    def _begin(self, fault: Fault) -> tuple[str, ...]:
        cluster = self._cluster
        match fault:
            case Partition(groups):
                cluster.partition(groups)
                return tuple(host for group in groups for host in group)
            case Cut(sources, sinks):
                cluster.cut(sources, sinks)
                return sources
            case Heal():
                self._heal()
            case SlowNetwork(delay_s):
                cluster.slow(delay_s)
            case Flood():
                return (self._floods.begin(fault),)
            case _:
                hit = self._chosen(fault.target)
                for name in hit:
                    self._hit(fault, name)
                return hit
        return ()

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        self._end(fault, hit)

    def _end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        held = next((one for one in self._held if (one.fault, one.hit) == (fault, hit)), None)
        if held is None:
            return
        later = self._held[self._held.index(held) + 1 :]
        self._held.remove(held)
        cluster = self._cluster
        match fault:
            case Cut(sources, sinks):
                self._mend(sources, sinks)
            case Partition() | SlowNetwork() if any(type(one.fault) is type(fault) for one in later):
                return  # what holds now is another's
            case Partition():
                cluster.join()
            case SlowNetwork():
                cluster.slow(0.0)
            case Flood():
                for name in hit:
                    self._floods.end(name)
            case LoseMachine():
                for machine in (lost.pop(0) for name in hit if (lost := self._gone.get((fault, name)))):
                    cluster.find(machine)
            case _:
                for cell in held.cells:
                    if cluster.processes.get(cell.name) is cell:
                        self._end_of(fault, cell, [one.fault for one in later if cell in one.cells])

    def _mend(self, sources: tuple[str, ...], sinks: tuple[str, ...]) -> None:
        self._cluster.mend(sources, sinks)
        for one in self._held:
            if isinstance(one.fault, Cut):
                self._cluster.weather.cut(one.fault.sources, one.fault.sinks)

    def _heal(self) -> None:
        self._cluster.heal()
        self._held = [one for one in self._held if not isinstance(one.fault, Partition | Cut)]

    def _end_of(self, fault: Fault, cell: Cell, later: list[Fault]) -> None:
        """To one machine that is still there; `later`: what has begun there since, and goes on."""
        cluster, name = self._cluster, cell.name
        if isinstance(fault, FullDisk):
            cluster.excuse(name, False)
        if isinstance(fault, _ONE_AT_A_TIME) and any(type(other) is type(fault) for other in later):
            return
        match fault:
            case Stop():
                cluster.resume(name)
            case FullDisk():
                cluster.trace.event("disk-free", name)
                cell.free_disk()
            case SlowDisk():
                cell.slow_disk(0.0)
            case ExpireCertificate():
                cell.expire(False)
            case ClockJump(_, by_s):
                cluster.trace.event("clock-back", name)
                cell.jump(-by_s)
            case Jumble() if name in self._jumblers:
                self._jumblers.pop(name).end()
            case CorruptDisk() if cluster.topology.has(name):
                cluster.lose(name)

    def calm(self) -> None:
        """Whatever lasts ends: everybody reaches everybody, nobody stands still, disks have room."""
        cluster = self._cluster
        if cluster.weather.troubles():
            self._heal()
            cluster.slow(0.0)
        for machine in [one for lost in self._gone.values() for one in lost]:
            cluster.find(machine)
        self._gone.clear()
        self._floods.calm()
        for jumbler in self._jumblers.values():
            jumbler.end()
        self._jumblers.clear()
        for name, cell in cluster.processes.items():
            if cell.paused:
                cluster.resume(name)
            cell.throttle(1.0, 0.0)
            cell.free_disk()
            cell.slow_disk(0.0)
            cell.expire(False)

    def _hit(self, fault: Fault, name: str) -> None:
        cluster = self._cluster
        match fault:
            case Kill(_, back_s):
                cluster.kill(name, back=back_s != NEVER_S, after_s=None if back_s == NEVER_S else back_s)
            case PowerLoss():
                cluster.kill(name)
            case LoseMachine() if name in cluster.guests:
                cluster.kill(name)
            case LoseMachine() if cluster.topology.get(name).machine in cluster.machines:
                self._gone.setdefault((fault, name), []).append(cluster.lose(name))
            case LoseMachine():
                pass  # lost already, and nobody has moved
            case Stop():
                cluster.pause(name)
            case Continue():
                cluster.resume(name)
            case Reset():
                cluster.reset(name)
            case Failpoint():
                cluster.trace.event("failpoint", name, fault.rule)
                self.points.set(name, fault)
            case _:
                cluster.trace.event(type(fault).__name__.lower(), name)
                self._hurt(fault, name)

    def _hurt(self, fault: Fault, name: str) -> None:
        """Faults under which a process goes on."""
        cluster, now = self._cluster, asyncio.get_running_loop().time()
        cell = cluster.cell(name)
        match fault:
            case StalledDisk(_, for_s):
                cell.stall(now + for_s)
            case SlowDisk(_, delay_s):
                cell.slow_disk(delay_s)
            case FullDisk():
                cluster.excuse(name)
                cell.fill_disk()
            case CorruptDisk():
                cluster.excuse(name)
                cluster.kill(name)
                cluster.trace.event("corrupt", name, cell.corrupt_disk())
            case SlowCpu(_, share, for_s):
                cell.throttle(share, now + (for_s or math.inf))
            case ClockJump(_, by_s):
                cell.jump(by_s)
            case ExpireCertificate(_, in_s) if not in_s:
                cell.expire(True)  # one that still lasts a while is renewed in time
            case Jumble(_, twice, late) if isinstance(cell.component, Member) and name not in self._jumblers:
                self._jumblers[name] = Jumbler(cell.component, cluster.effects, twice=twice, late=late)

    def _chosen(self, target: Target) -> tuple[str, ...]:
        """Who it is now. Raises NobodyThere."""
        names = self._named(target) or self._drawn(target)
        if not names:
            raise NobodyThere(f"there is no {target} to hit now")
        return names

    def _named(self, target: Target) -> tuple[str, ...]:
        if target.name:
            return (self._there(target.name),)
        if target.role == LEADER:
            leader = self._cluster.leader()
            return (leader,) if leader else ()
        if target.role == FOLLOWER:
            led = self._cluster.leader()
            others = [name for name, _ in self._cluster.members() if name != led]
            return replace(target, count=max(1, target.count)).choose(others, self._cluster.rng) if led else ()
        if target.role == _LB:
            return (self._there(_LB),)
        if target.role in _IN_CHARGE and not target.count:
            leader = self._cluster.in_charge(_IN_CHARGE[target.role])
            return (leader,) if leader else ()
        return ()

    def _drawn(self, target: Target) -> tuple[str, ...]:
        role = (_ANY | _IN_CHARGE if target.count else _ANY).get(target.role)
        living = [name for name, _ in self._cluster.components(role)] if role else []
        return target.choose(living, self._cluster.rng)

    def _there(self, name: str) -> str:
        """The same while the cluster runs: whoever was there may have left. Raises NobodyThere."""
        try:
            return self._actor(name)
        except UsageError as e:
            raise NobodyThere(str(e)) from e

    def _actor(self, name: str) -> str:
        """An actor by its own name or by that of one of its nodes. Raises UsageError."""
        topology = self._cluster.topology
        if name in self._cluster.guests:
            return name
        if any(name in i.nodes for i in topology.instances):
            return topology.node_host(name).name
        return topology.get(name).name


def _target_of(fault: Fault) -> Target:
    """Whom it hits; an empty target for what hits nobody by itself."""
    target: Target = getattr(fault, "target", Target())
    return target
