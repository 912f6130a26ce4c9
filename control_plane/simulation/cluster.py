"""A whole cluster of cells: the topology of a real one, its network, its machines, and what becomes of them.

`SimulatedHost` is to the supervisor what Ray or the one process is. All else is the components' own code.
"""

import asyncio
import contextvars
import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.cluster.components import Component, Spec, StopsItself, build
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import StartFailed
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.host import not_started
from rayplane.control_plane.cluster.in_memory import simulated_spec, simulated_topology
from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.supervisor.component import Supervisor
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.identities import ADMINISTRATOR, MASTERS
from rayplane.control_plane.rpc import Identity, Network, RpcError
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.control_plane.rpc.memory_sockets import Wires
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.rpc.weather import Climate, Weather
from rayplane.control_plane.simulation.cell import Cell, Killed, run_rng
from rayplane.control_plane.simulation.host import SimulatedHost
from rayplane.control_plane.simulation.loop import LIFE
from rayplane.control_plane.simulation.trace import Trace
from rayplane.node.host import NodeHost
from rayplane.storage.env import Disk, Env

log = logging.getLogger(__name__)

CLIENT, KUBECTL = "client", "kubectl"
ADMIN = Identity(ADMINISTRATOR, (MASTERS,))
SUPERVISOR = Role.SUPERVISOR.value
SPARE_MACHINES = 12
_FIRST_PORT = 10_000
# How long a supervisor's host takes to have it run again.
RESTART_MIN_S, RESTART_MAX_S = 0.3, 2.0
RETRIES = Backoff(0.5, 30.0)
# How long an actor may take to end by itself.
STOP_S = 10.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Faults put into a cluster on purpose, so that tests can see the checks fail."""

    disks: Mapping[str, Callable[[], Disk]] = field(default_factory=dict)
    """Disks of actors, by name, in place of honest ones."""
    wrap: Callable[[str, Component], None] | None = None
    """Called with each actor's name and its component before it starts."""


class SimulatedCluster:
    """Each actor is a cell of its name on a machine of its own; there are spare machines. The real supervisor starts,
    moves and replaces actors; only itself is brought back by the simulation, as its host does on real machines.
    """

    def __init__(
        self, config: ClusterConfig, seed: int, trace: Trace, *, climate: Climate, planted: Planted | None = None
    ) -> None:
        self.config = config
        self.trace = trace
        self._topology = simulated_topology(config)
        self._seed = seed
        self._names = {i.machine.address: i.name for i in self._topology.instances}
        self.weather = Weather(run_rng(seed, "weather"), climate, self._names)
        self.fabric = Fabric(self.weather, tap=trace.message)
        self.wires = Wires(self.weather, tap=trace.message)
        self.weather.sever = self._sever
        self.rng = run_rng(seed, "faults")
        self.effects = run_rng(seed, "effects")
        """What faults do to those whom they hit; whom they hit is drawn from `rng`."""
        self._restarts = run_rng(seed, "restarts")
        self._planted = planted or Planted()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._launches: dict[str, asyncio.Task[StartFailed | None]] = {}
        self._started: dict[str, None] = {}
        self._away: dict[str, float] = {}  # until when
        self._lost: list[Cell] = []  # what is dead must not be collected
        spares = [Machine(f"10.9.0.{n}", f"spare-{n}") for n in range(1, SPARE_MACHINES + 1)]
        self.machines = [*(i.machine for i in self._topology.instances), *spares]
        self.cells = {i.name: self._cell(i) for i in self._topology.instances}
        """Of every actor there has been."""
        self.client = Cell(CLIENT, self.fabric, self.wires, ADMIN, seed=seed)
        self.kubectl = Cell(KUBECTL, self.fabric, self.wires, ADMIN, seed=seed)
        self.guests: dict[str, Cell] = {}
        """Processes of others, that no supervisor keeps."""
        # Members that may give up, as their disk is broken: of how many faults.
        self._excused: Counter[str] = Counter()
        self.failures: list[str] = []
        """Actors that cannot run for a reason that is not a fault of the scenario."""

    def add_guest(self, name: str, guard: Callable[[str], None]) -> Cell:
        """A process that is not of the cluster. `guard`: told of what it asks for and cannot have."""
        cell = Cell(name, self.fabric, self.wires, ADMIN, seed=self._seed, guard=guard)
        self.guests[name] = cell
        return cell

    def away_until(self, name: str) -> float:
        """When an actor that was killed may be started again."""
        return self._away.get(name, 0.0)

    def cell(self, name: str) -> Cell:
        """The cell of an actor or a guest."""
        return self.processes[name]

    @property
    def processes(self) -> dict[str, Cell]:
        """Cells by name: of actors, also of those that have left, and of guests."""
        return {**self.cells, **self.guests}

    def _cell(self, instance: Instance) -> Cell:
        """A cell on an empty disk; what it draws is not what one of that name drew before it."""
        name, seed = instance.name, self._seed + (len(self._lost) << 32)
        make = self._planted.disks.get(name)
        disk = make() if make is not None else None
        return Cell(name, self.fabric, self.wires, identity_of_actor(instance), seed=seed, disk=disk)

    @property
    def topology(self) -> Topology:
        """What the supervisor wants, as far as it has been heard of."""
        supervisor = self.cells[SUPERVISOR].component
        if isinstance(supervisor, Supervisor):
            self._follow(supervisor.topology)
        return self._topology

    @property
    def known(self) -> tuple[Instance, ...]:
        """The actors of now as they were heard of last; who only looks on must not hear first."""
        return self._topology.instances

    def _follow(self, topology: Topology) -> None:
        if topology is self._topology:
            return
        self._topology = topology
        for instance in topology.instances:
            self._names[instance.machine.address] = instance.name
            if instance.name not in self.cells:
                self.cells[instance.name] = self._cell(instance)

    # Life

    async def start(self) -> None:
        """Start every actor, all at the same time, as `up` does; they may not be ready yet."""
        for instance in self._topology.instances:
            if instance.role is not Role.SUPERVISOR:
                self.launch(self._spec(instance))
        self._spawn(self._keep_supervisor(), "start the supervisor")

    async def stop(self) -> None:
        """Everything dies at once."""
        for task in [*self._tasks, *self._launches.values()]:
            task.cancel()
        for cell in (*self.processes.values(), self.client, self.kubectl):
            cell.kill()
        await asyncio.sleep(0)

    def kill(self, name: str, *, back: bool = True, after_s: float | None = None) -> None:
        """SIGKILL; the supervisor brings the actor back, not before `after_s`, or not at all."""
        self.trace.event("kill", name)
        self.cell(name).kill()
        if not back:
            self._away[name] = math.inf
        elif name == SUPERVISOR:
            pause = self._restarts.uniform(RESTART_MIN_S, RESTART_MAX_S) if after_s is None else after_s
            self._spawn(self._keep_supervisor(pause), "restart the supervisor")
        elif after_s is not None:
            self._away[name] = asyncio.get_running_loop().time() + after_s

    def lose(self, name: str) -> Machine:
        """The machine of an actor is gone, with all that ran and lay there; which one it was."""
        machine = self.topology.get(name).machine
        self.trace.event("lose", machine.id)
        self.machines.remove(machine)
        for instance in self.topology.instances:
            if instance.machine == machine:
                self.cells[instance.name].kill()
                self._lost.append(self.cells[instance.name])
                self._excused.pop(instance.name, None)
                self.cells[instance.name] = self._cell(instance)
                self._started.pop(instance.name, None)
        return machine

    def find(self, machine: Machine) -> None:
        """A machine that was lost is there again, with an empty disk."""
        self.trace.event("find", machine.id)
        self.machines.append(machine)

    async def _keep_supervisor(self, pause_s: float = 0.0) -> None:
        await asyncio.sleep(pause_s)
        pauses = Pauses(RETRIES)
        instance = self._topology.get(SUPERVISOR)
        while not self.cells[SUPERVISOR].alive and await self._start(self._spec(instance)) is not None:
            await asyncio.sleep(pauses.next_s())

    def launch(self, spec: Spec) -> "asyncio.Task[StartFailed | None]":
        """Start an actor, whatever becomes of the supervisor that asks for it; why it did not start."""
        name = spec.instance.name
        self._follow(spec.topology)
        if name not in self._launches:
            task = self._launches[name] = self._outside(self._launch(spec), f"launch {name}")
            task.add_done_callback(lambda _: self._launches.pop(name, None))
        return self._launches[name]

    async def _launch(self, spec: Spec) -> StartFailed | None:
        name = spec.instance.name
        loop = asyncio.get_running_loop()
        while (pause := self.away_until(name) - loop.time()) > 0:
            if pause == math.inf:
                return StartFailed(f"the machine of {name} is off")
            await asyncio.sleep(pause)
        if self.cells[name].alive or spec.instance.machine not in self.machines:
            return StartFailed(f"{name} runs already, or its machine is gone")
        return await self._start(spec)

    async def _start(self, spec: Spec) -> StartFailed | None:
        name = spec.instance.name
        self.trace.event("start", name)
        spec = replace(spec, restarted=spec.restarted or name in self._started)
        try:
            await self.cells[name].start(functools.partial(self._build, spec))
        except Killed:
            return StartFailed(f"{name} was killed while it started")
        except Exception as e:
            self.trace.event("no-start", name, f"{type(e).__name__}: {e}")
            log.warning("%s did not start", name, exc_info=e)
            if spec.instance.role is Role.MEMBER and not isinstance(e, RpcError) and not self._excused[name]:
                # A member needs nothing but its disk, and what it left there must be good enough.
                self.failures.append(f"{name} does not start again: {type(e).__name__}: {e}")
            return not_started(spec, Failure.of(e))
        self._started[name] = None
        self.trace.event("started", name)
        component = self.cells[name].component
        if isinstance(component, StopsItself):
            self._spawn(self._bury(name, component), f"the end of {name}")
        return None

    async def _bury(self, name: str, component: StopsItself) -> None:
        """A component that gave up because of its disk ends its process, and is started again."""
        await component.wait_stopped()
        cell = self.cells[name]
        if cell.component is component and self._excused[name] and component.failure is not None:
            self.trace.event("gave-up", name, component.failure)
            cell.kill()

    def excuse(self, name: str, excused: bool = True) -> None:
        """From now on a member may give up, or not start, for one reason more; or for one less."""
        self._excused[name] += 1 if excused else -1

    def end(self, name: str) -> "asyncio.Task[None]":
        """SIGTERM for good, whatever becomes of the supervisor that asks for it."""
        return self._outside(self._end(name), f"end {name}")

    async def _end(self, name: str) -> None:
        launch = self._launches.get(name)
        if launch is not None:
            launch.cancel()
        if self.cells[name].alive:
            self.trace.event("stop", name)
            await self.cells[name].stop(STOP_S)
            self.trace.event("stopped", name)

    def _build(self, spec: Spec, env: Env, network: Network, sockets: Sockets) -> Component:
        if spec.instance.role is Role.SUPERVISOR:
            component: Component = self._supervisor(spec, env, network)
        else:
            component = build(spec, env, network, tls_dir=None, sockets=sockets)
        if self._planted.wrap is not None:
            self._planted.wrap(spec.instance.name, component)
        return component

    def _supervisor(self, spec: Spec, env: Env, network: Network) -> Supervisor:
        return Supervisor(
            spec,
            network,
            SimulatedHost(self),
            disk=env.disk,
            clock=env.clock,
            allot=lambda address, taken: next(p for p in itertools.count(_FIRST_PORT) if p not in taken),
            slowdown=lambda: 1.0,
        )

    def _spec(self, instance: Instance) -> Spec:
        return simulated_spec(instance, self.config, self._topology)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda t: self._tasks.pop(t, None))

    @staticmethod
    def _outside(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that belongs to no cell."""
        context = contextvars.copy_context()
        context.run(LIFE.set, None)
        return asyncio.get_running_loop().create_task(work, name=name, context=context)

    # Who is who

    def components(self, role: Role) -> list[tuple[str, Any]]:
        """Name and component of the running actors of a role."""
        found = [(i.name, self.cells[i.name].component) for i in self.topology.of(role)]
        return [(name, component) for name, component in found if component is not None]

    def members(self) -> list[tuple[str, Member]]:
        """Those that run; not who has given up because its disk is broken."""
        found: list[tuple[str, Member]] = self.components(Role.MEMBER)
        return [(name, m) for name, m in found if m.failure is None or not self._excused[name]]

    def node_hosts(self) -> list[tuple[str, NodeHost]]:
        return self.components(Role.NODE_HOST)

    def leader(self) -> str | None:
        """The member that leads, by its own account and at the highest term."""
        leading = [(m.term, name) for name, m in self.members() if m.is_leader]
        return max(leading)[1] if leading else None

    def in_charge(self, role: Role) -> str | None:
        """The scheduler or controller manager that leads."""
        return next((name for name, c in self.components(role) if c.is_leader), None)

    def _sever(self, parted: Callable[[str, str], bool], *, part: Callable[[int], int] = lambda size: 0) -> None:
        self.fabric.sever(parted)
        self.wires.sever(parted, part=part)

    def partition(self, groups: Iterable[Iterable[str]]) -> None:
        sides = [list(g) for g in groups]
        self.trace.event("partition", sides)
        self.weather.part(*sides)

    def join(self) -> None:
        """The partition is over; what was cut off still is."""
        self.trace.event("join")
        self.weather.join()

    def heal(self) -> None:
        """Nobody is parted or cut off any more."""
        self.trace.event("heal")
        self.weather.heal()

    def cut(self, sources: Iterable[str], sinks: Iterable[str]) -> None:
        self.trace.event("cut", sources, sinks)
        self.weather.cut(sources, sinks)

    def mend(self, sources: Iterable[str], sinks: Iterable[str]) -> None:
        """What was cut off is no longer."""
        self.trace.event("mend", sources, sinks)
        self.weather.mend(sources, sinks)

    def slow(self, delay_s: float) -> None:
        """Every message takes up to so long besides its latency; 0 ends that."""
        self.trace.event("slow", delay_s)
        self.weather.slow_s = delay_s

    def reset(self, name: str) -> None:
        """All connections of an actor break."""
        self.trace.event("reset", name)
        self._sever(
            lambda a, b: name in (self._names.get(a, a), self._names.get(b, b)),
            part=lambda size: self.effects.randrange(size + 1),
        )

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.trace.event("pause", name)
        self.cell(name).pause()

    def resume(self, name: str) -> None:
        """SIGCONT; nothing when it runs."""
        self.trace.event("resume", name)
        self.cell(name).resume()

    @property
    def balancer(self) -> str:
        """host:port of the load balancer."""
        [instance] = self.topology.of(Role.LOAD_BALANCER)
        return instance.endpoint("https")

    def endpoints(self, role: Role) -> tuple[str, ...]:
        """Where clients reach the actors of a role."""
        return self.topology.endpoints(role, "client" if role is Role.MEMBER else "grpc")
