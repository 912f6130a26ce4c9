"""A simulated cluster whose actors the real supervisor starts, moves and replaces.

`SimulatedHost` is to the supervisor what Ray or the one process is. Only the supervisor's own cell is brought back by
the simulation, as its host does on real machines. Actors stand on machines that can be lost with all their data;
there are spare ones.
"""

import asyncio
import contextvars
import functools
import itertools
from dataclasses import replace
from typing import Any

from rayplane.control_plane.cluster.components import Component, Spec
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import StartFailed
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.host import HostSocket, not_started
from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.supervisor.component import Supervisor
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cell import Cell, Killed
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.control_plane.simulation.loop import LIFE
from rayplane.control_plane.simulation.trace import Trace
from rayplane.control_plane.simulation.weather import Climate
from rayplane.storage.env import Env

SUPERVISOR = Role.SUPERVISOR.value
SPARE_MACHINES = 12
_FIRST_PORT = 10_000


class SupervisedCluster(SimulatedCluster):
    """`topology` is the supervisor's, as it was heard of last. Actors that are killed are its to bring back."""

    def __init__(self, config: ClusterConfig, seed: int, trace: Trace, *, climate: Climate) -> None:
        super().__init__(config, seed, trace, climate=climate)
        self._origin = seed
        self._lost: list[Cell] = []  # what is dead must not be collected
        own = Machine("10.8.0.1", SUPERVISOR)
        spares = [Machine(f"10.9.0.{n}", f"spare-{n}") for n in range(1, SPARE_MACHINES + 1)]
        self.machines = [own, *(i.machine for i in self.topology.instances), *spares]
        supervisor = Instance(SUPERVISOR, Role.SUPERVISOR, own, {"grpc": 7443})
        self.topology = self.topology.with_instance(supervisor)
        self.cells[SUPERVISOR] = self._fresh(supervisor)

    def kill(self, name: str, *, back: bool = True, after_s: float | None = None) -> None:
        """SIGKILL; the supervisor brings the actor back, and the simulation the supervisor."""
        if name == SUPERVISOR:
            super().kill(name, back=back, after_s=after_s)
            return
        self.trace.event("kill", name)
        self.cells[name].kill()

    def lose(self, name: str) -> None:
        """The machine of an actor is gone for good, with all that ran and lay there."""
        machine = self.topology.get(name).machine
        self.trace.event("lose", machine.id)
        self.machines.remove(machine)
        for instance in self.topology.instances:
            if instance.machine == machine:
                self.cells[instance.name].kill()
                self._lost.append(self.cells[instance.name])
                self.cells[instance.name] = self._fresh(instance)
                self._started.pop(instance.name, None)

    def follow(self, topology: Topology) -> None:
        """Another topology is wanted."""
        self.topology = topology
        for instance in topology.instances:
            if instance.name not in self.cells:
                self.cells[instance.name] = self._fresh(instance)

    def launch(self, spec: Spec) -> "asyncio.Task[StartFailed | None]":
        """Start an actor, whatever becomes of the supervisor that asks for it; why it did not start."""
        self.follow(spec.topology)
        context = contextvars.copy_context()
        context.run(LIFE.set, None)
        name = f"launch {spec.instance.name}"
        return asyncio.get_running_loop().create_task(self._launch(spec), name=name, context=context)

    async def _launch(self, spec: Spec) -> StartFailed | None:
        name = spec.instance.name
        cell = self.cells[name]
        if cell.alive or spec.instance.machine not in self.machines:
            return StartFailed(f"{name} runs already, or its machine is gone")
        self.trace.event("start", name)
        spec = replace(spec, restarted=spec.restarted or name in self._started)
        try:
            await cell.start(functools.partial(self._build, spec))
        except Killed:
            return StartFailed(f"{name} was killed while it started")
        except Exception as e:
            self.trace.event("no-start", name, f"{type(e).__name__}: {e}")
            return not_started(spec, Failure.of(e))
        self._started[name] = None
        self.trace.event("started", name)
        return None

    def _build(self, spec: Spec, env: Env, network: Network, sockets: Sockets) -> Component:
        if spec.instance.role is not Role.SUPERVISOR:
            return super()._build(spec, env, network, sockets)
        return Supervisor(
            spec,
            network,
            SimulatedHost(self),
            disk=env.disk,
            clock=env.clock,
            allot=lambda address, taken: next(p for p in itertools.count(_FIRST_PORT) if p not in taken),
            slowdown=lambda: 1.0,
        )

    def _fresh(self, instance: Instance) -> Cell:
        """A cell on an empty disk; what it draws is not what one of that name drew before it."""
        seed = self._origin + (len(self._lost) << 32)
        return Cell(instance.name, self.fabric, self.wires, identity_of_actor(instance), seed=seed)


class SimulatedHost:
    """A `Host` whose actors are cells."""

    def __init__(self, cluster: SupervisedCluster) -> None:
        self._cluster = cluster

    async def start(self, spec: Spec) -> int:
        failed = await asyncio.shield(self._cluster.launch(spec))
        if failed is not None:
            raise failed
        return 1

    async def stop(self, name: str) -> None:
        cell = self._cluster.cells.get(name)
        if cell is not None and cell.alive:
            self._cluster.trace.event("stop", name)
            cell.kill()

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


def settled(cluster: SupervisedCluster, listed: Any) -> str:
    """What is not yet as it should be, by etcd's list of members; empty when all is."""
    supervisor = cluster.cells[SUPERVISOR].component
    if isinstance(supervisor, Supervisor):
        cluster.follow(supervisor.topology)
    wanted = {i.name for i in cluster.topology.instances}
    alive = {name for name, cell in cluster.cells.items() if cell.component is not None}
    members = {(m.name, m.isLearner) for m in listed}
    voting = {(i.name, False) for i in cluster.topology.of(Role.MEMBER)}
    if alive != wanted:
        return f"running and wanted are not the same: {sorted(alive ^ wanted)}"
    return "" if members == voting else f"members are {sorted(members)}"
