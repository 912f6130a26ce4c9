"""A whole cluster of cells: the topology of a real one, its network, and who brings back what died.

The supervisor's work on a real cluster (start a killed actor again, on the same machine with the same data) is done
here with a seeded delay; everything else is the components' own code.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.cluster.components import Component, Spec, build
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.topology import PORTS, Instance, Machine, Role, Topology, founding
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.identities import ADMINISTRATOR, MASTERS
from rayplane.control_plane.rpc import Identity, Network, RpcError
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.control_plane.rpc.memory_sockets import Wires
from rayplane.control_plane.rpc.sockets import Sockets
from rayplane.control_plane.simulation.cell import Cell, Killed, derived_rng
from rayplane.control_plane.simulation.trace import Trace
from rayplane.control_plane.simulation.weather import Climate, Weather
from rayplane.node.host import NodeHost
from rayplane.storage.env import Disk, Env

log = logging.getLogger(__name__)

CLIENT, KUBECTL = "client", "kubectl"
ADMIN = Identity(ADMINISTRATOR, (MASTERS,))
_NUMBERS = {"client": 2379, "peer": 2380, "grpc": 7443, "https": 6443}
_SIMULATED = (Role.MEMBER, Role.APISERVER, Role.LOAD_BALANCER, Role.SCHEDULER, Role.CONTROLLERS, Role.NODE_HOST)
# How long the supervisor and the operating system take to have a killed actor run again.
RESTART_MIN_S, RESTART_MAX_S = 0.3, 2.0
RETRIES = Backoff(0.5, 30.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """Faults put into a cluster on purpose, so that tests can see the checks fail."""

    disks: Mapping[str, Callable[[], Disk]] = field(default_factory=dict)
    """Disks of actors, by name, in place of honest ones."""
    wrap: Callable[[str, Component], None] | None = None
    """Called with each actor's name and its component before it starts."""


class SimulatedCluster:
    """`topology` names the actors; each is a cell of that name on a machine of that name."""

    def __init__(
        self, config: ClusterConfig, seed: int, trace: Trace, *, climate: Climate, planted: Planted | None = None
    ) -> None:
        self.config = config
        self.trace = trace
        self.topology = simulated_topology(config)
        self._seed = seed
        self._names = {i.machine.address: i.name for i in self.topology.instances}
        self.weather = Weather(derived_rng(seed, "weather"), climate, self._names)
        self.fabric = Fabric(self.weather, tap=trace.message)
        self.wires = Wires(self.weather, tap=trace.message)
        self.weather.sever = self._sever
        self.rng = derived_rng(seed, "faults")
        self._planted = planted or Planted()
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._started: dict[str, None] = {}
        self._away: dict[str, None] = {}
        self.cells = {i.name: self._cell(i) for i in self.topology.instances}
        """Of every actor there has been: a name is used once."""
        self.client = Cell(CLIENT, self.fabric, self.wires, ADMIN, seed=seed)
        self.kubectl = Cell(KUBECTL, self.fabric, self.wires, ADMIN, seed=seed)
        self.failures: list[str] = []
        """Actors that cannot run for a reason that is not a fault of the scenario."""

    def _cell(self, instance: Instance) -> Cell:
        name = instance.name
        identity = identity_of_actor(instance)
        return Cell(name, self.fabric, self.wires, identity, seed=self._seed, disk=self._disk(name))

    def _disk(self, name: str) -> Disk | None:
        make = self._planted.disks.get(name)
        return make() if make is not None else None

    # Life

    async def start(self) -> None:
        """Start every actor, all at the same time, as `up` does; they may not be ready yet."""
        for instance in self.topology.instances:
            self._spawn(self._bring_up(instance), f"start {instance.name}")

    async def stop(self) -> None:
        """Everything dies at once."""
        for task in [*self._tasks]:
            task.cancel()
        for cell in (*self.cells.values(), self.client, self.kubectl):
            cell.kill()
        await asyncio.sleep(0)

    def kill(self, name: str, *, back: bool = True, after_s: float | None = None) -> None:
        """SIGKILL; the supervisor brings the actor back after a while, or after `after_s`, or not."""
        self.trace.event("kill", name)
        self.cells[name].kill()
        if not back:
            self._away[name] = None
            return
        pause = self.rng.uniform(RESTART_MIN_S, RESTART_MAX_S) if after_s is None else after_s
        self._spawn(self._bring_up(self.topology.get(name), pause), f"restart {name}")

    # Who there is

    def add(self, role: Role) -> Instance:
        """Another actor, on a new machine; not started yet. A member joins those there are."""
        instance = Instance(self.topology.next_name(role, self.cells), role, Machine(), joins=role is Role.MEMBER)
        instance = _placed(instance, len(self.cells))
        self.topology = self.topology.with_instance(instance)
        self._names[instance.machine.address] = instance.name
        self.cells[instance.name] = self._cell(instance)
        return instance

    def begin(self, instance: Instance) -> None:
        """Start an actor that was added."""
        self._spawn(self._bring_up(instance), f"start {instance.name}")

    def remove(self, name: str) -> None:
        """End an actor for good."""
        self.trace.event("remove", name)
        self.topology = self.topology.without(name)
        self._away[name] = None
        self.cells[name].kill()

    async def _bring_up(self, instance: Instance, pause: float = 0.0) -> None:
        cell = self.cells[instance.name]
        await asyncio.sleep(pause)
        pauses = Pauses(RETRIES)
        while not cell.alive and instance.name not in self._away:
            spec = self._spec(instance, restarted=instance.name in self._started)
            self.trace.event("start", instance.name)
            try:
                await cell.start(functools.partial(self._build, spec))
            except Killed:
                return
            except Exception as e:
                self.trace.event("no-start", instance.name, f"{type(e).__name__}: {e}")
                log.warning("%s did not start", instance.name, exc_info=e)
                if instance.role is Role.MEMBER and not isinstance(e, RpcError):
                    # A member needs nothing but its disk, and what it left there must be good enough.
                    self.failures.append(f"{instance.name} does not start again: {type(e).__name__}: {e}")
                    return
                await asyncio.sleep(pauses.next_s())
            else:
                self._started[instance.name] = None
                self.trace.event("started", instance.name)

    def _build(self, spec: Spec, env: Env, network: Network, sockets: Sockets) -> Component:
        component = build(spec, env, network, tls_dir=None, sockets=sockets)
        if self._planted.wrap is not None:
            self._planted.wrap(spec.instance.name, component)
        return component

    def _spec(self, instance: Instance, *, restarted: bool) -> Spec:
        return Spec(
            instance=instance,
            config=self.config,
            plan=AddressPlan(0),
            topology=self.topology,
            credentials=None,
            secrets=None,
            data_dir=instance.name,
            log_file="",
            restarted=restarted,
        )

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda t: self._tasks.pop(t, None))

    # Who is who

    def components(self, role: Role) -> list[tuple[str, Any]]:
        """Name and component of the running actors of a role."""
        found = [(i.name, self.cells[i.name].component) for i in self.topology.of(role)]
        return [(name, component) for name, component in found if component is not None]

    def members(self) -> list[tuple[str, Member]]:
        return self.components(Role.MEMBER)

    def node_hosts(self) -> list[tuple[str, NodeHost]]:
        return self.components(Role.NODE_HOST)

    def leader(self) -> str | None:
        """The member that leads, by its own account and at the highest term."""
        leading = [(m.term, name) for name, m in self.members() if m.is_leader]
        return max(leading)[1] if leading else None

    def in_charge(self, role: Role) -> str | None:
        """The scheduler or controller manager that leads."""
        return next((name for name, c in self.components(role) if c.is_leader), None)

    def _sever(self, parted: Callable[[str, str], bool]) -> None:
        self.fabric.sever(parted)
        self.wires.sever(parted)

    def partition(self, groups: Iterable[Iterable[str]]) -> None:
        sides = [list(g) for g in groups]
        self.trace.event("partition", sides)
        self.weather.part(*sides)

    def heal(self) -> None:
        """Nobody is parted or cut off any more."""
        self.trace.event("heal")
        self.weather.heal()

    def cut(self, sources: Iterable[str], sinks: Iterable[str]) -> None:
        self.trace.event("cut", sources, sinks)
        self.weather.cut(sources, sinks)

    def slow(self, delay_s: float) -> None:
        """Every message takes up to so long besides its latency; 0 ends that."""
        self.trace.event("slow", delay_s)
        self.weather.slow_s = delay_s

    def reset(self, name: str) -> None:
        """All connections of an actor break."""
        self.trace.event("reset", name)
        self._sever(lambda a, b: name in (self._names.get(a, a), self._names.get(b, b)))

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.trace.event("pause", name)
        self.cells[name].pause()

    def resume(self, name: str) -> None:
        """SIGCONT; nothing when it runs."""
        self.trace.event("resume", name)
        self.cells[name].resume()

    @property
    def balancer(self) -> str:
        """host:port of the load balancer."""
        [instance] = self.topology.of(Role.LOAD_BALANCER)
        return instance.endpoint("https")

    def endpoints(self, role: Role) -> tuple[str, ...]:
        """Where clients reach the actors of a role."""
        return self.topology.endpoints(role, "client" if role is Role.MEMBER else "grpc")


def simulated_topology(config: ClusterConfig) -> Topology:
    """A new cluster's actors, each on a machine of its own, without what only real clusters need."""
    instances: list[Instance] = []
    for instance in founding(config, (Machine(),)).instances:
        if instance.role in _SIMULATED:
            instances.append(_placed(instance, len(instances)))
    if not instances:
        raise ClusterError("a cluster without actors cannot be simulated")
    return Topology(tuple(instances))


def _placed(instance: Instance, number: int) -> Instance:
    """On a machine of its own, the `number`th."""
    ports = {label: _NUMBERS[label] for label in PORTS[instance.role]}
    machine = Machine(f"10.{number >> 8}.{number & 255}.1", instance.name)
    return replace(instance, machine=machine, ports=ports)
