"""A host whose members are real, over an in-memory network, and whose other actors only exist by name."""

import asyncio
import random
from typing import Any

import orjson

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.apiserver.grpc.objects import rpc_error
from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.cluster.components import Component, Spec, build
from rayplane.control_plane.cluster.config import PROCESS, SLOTS, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import StartFailed
from rayplane.control_plane.cluster.failures import Failure
from rayplane.control_plane.cluster.host import STANDS_STILL, Disturbance, HostSocket, Runs, not_started
from rayplane.control_plane.cluster.pki import Secrets, identity_of_actor
from rayplane.control_plane.cluster.ports import with_ports
from rayplane.control_plane.cluster.slots import is_taken
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.supervisor.component import Supervisor
from rayplane.control_plane.cluster.topology import Instance, Machine, Role, Topology, founding
from rayplane.control_plane.rpc import Identity, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.proto.rayplane.v1 import objects_pb2, supervisor_pb2
from rayplane.storage.env import Env, SystemClock
from rayplane.storage.env.simulated import SimulatedDisk
from tests.rpc.open_service import open_service

A, B = Machine("127.0.0.1", "a"), Machine("127.0.0.1", "b")


class FakeHost:
    """A `Host`. Tests read `actors` (what runs), `starts` (who was started, when) and set `broken` and
    `hanging` (whose start never ends), `still` (who was stopped by a signal) or `mute` (nothing is said of what runs).
    """

    def __init__(self, machines: tuple[Machine, ...] = (A,)) -> None:
        self.fabric = Fabric()
        self.actors: dict[str, Spec] = {}
        self.starts: list[tuple[str, float]] = []
        self.stopped: list[str] = []
        self.broken: set[str] = set()
        self.hanging: set[str] = set()
        self.still: set[str] = set()
        self.mute = False
        self.deleted_nodes: list[str] = []
        self._machines = machines
        self._disks: dict[str, Any] = {}
        self._members: dict[str, Component] = {}
        self._networks: dict[str, MemoryNetwork] = {}

    async def start(self, spec: Spec) -> int:
        name = spec.instance.name
        assert name not in self.actors, f"{name} is started twice"
        self.starts.append((name, asyncio.get_running_loop().time()))
        if name in self.broken:
            raise StartFailed(f"{name} is broken")
        if name in self.hanging:
            await asyncio.Event().wait()
        network = MemoryNetwork(self.fabric, name, identity_of_actor(spec.instance))
        if spec.instance.role is Role.MEMBER:
            disk = self._disks.setdefault(name, SimulatedDisk())
            env = Env(clock=SystemClock(), rng=random.Random(name), disk=disk)
            self._members[name] = build(spec, env, network, tls_dir=None)
            try:
                await self._members[name].start()
            except Exception as e:
                raise not_started(spec, Failure.of(e)) from e
        if spec.instance.role is Role.APISERVER:
            service = open_service(objects_pb2.DESCRIPTOR.services_by_name["Objects"], self)
            await network.serve(spec.instance.endpoint("grpc"), [service])
        self._networks[name] = network
        self.actors[name] = spec
        return 1

    async def stop(self, name: str) -> None:
        if self.actors.pop(name, None) is None:
            return
        self.stopped.append(name)
        member = self._members.pop(name, None)
        if member is not None:
            await member.stop()
        await self._networks.pop(name).close()

    async def halt(self, name: str) -> None:
        await self.stop(name)

    async def builds(self) -> dict[str, Runs]:
        return {name: Runs("1.0", spec.instance.python) for name, spec in self.actors.items()}

    async def running(self) -> set[str]:
        while self.mute:
            await asyncio.sleep(0.01)
        return set(self.actors)

    async def absent(self) -> dict[str, str]:
        return dict.fromkeys(self.still, STANDS_STILL)

    async def machines(self) -> list[Machine]:
        return list(self._machines)

    async def disturb(self, weather: Disturbance, holds_s: float) -> None:
        """Nothing of its network can be held back."""

    async def room(self) -> dict[str, dict[str, float]]:
        return {m.address: {"CPU": 2.0} for m in self._machines}

    async def sockets(self) -> list[HostSocket]:
        return [HostSocket("fake", "127.0.0.1:1", "nothing")]

    ahead_s = 0.0

    async def advance(self, span_s: float) -> None:
        self.ahead_s += span_s

    async def kill(self, name: str, signal: str) -> int:
        self._networks[name].detach()
        await self.stop(name)
        return 1

    async def lose(self, machine: Machine) -> None:
        """The machine is gone with all that ran there."""
        self._machines = tuple(m for m in self._machines if m != machine)
        for name in [n for n, s in self.actors.items() if s.instance.machine == machine]:
            self._disks.pop(name, None)
            if name in self.actors:
                await self.kill(name, "KILL")

    async def Delete(self, request: objects_pb2.DeleteRequest, context: object) -> objects_pb2.Object:
        """The part of the API that a supervisor uses."""
        if request.ref.name in self.deleted_nodes:
            raise rpc_error(NotFound.of("nodes", request.ref.name))
        self.deleted_nodes.append(request.ref.name)
        return objects_pb2.Object(json=orjson.dumps({}))


class World:
    """A cluster's topology, a fake host, and supervisors that come and go."""

    def __init__(self, *, machines: tuple[Machine, ...] = (A,), **flags: Any) -> None:
        sizes = {"members": 3, "apiservers": 1, "schedulers": 1, "controllers": 1, "nodes": 1}
        self.config = ClusterConfig(**{"name": "test", "host": PROCESS} | sizes | flags)
        self.topology = with_ports(founding(self.config, machines), random.Random())
        self.host = FakeHost(machines)
        self.secrets = Secrets.create("test")
        self.network = MemoryNetwork(self.host.fabric, "admin", Identity("admin", ("system:masters",)))
        self.etcd = EtcdClient(self.network, self.topology.endpoints(Role.MEMBER, "client"))
        endpoint = self.topology.of(Role.SUPERVISOR)[0].endpoint("grpc")
        services = supervisor_pb2.DESCRIPTOR.services_by_name
        self.stub: Any = Stub(self.network.channel(endpoint), services["Supervisor"])
        self._disk = SimulatedDisk()
        self._supervisor: Supervisor | None = None
        self._supervisor_network: MemoryNetwork | None = None

    def spec(self, instance: Instance, topology: Topology | None = None) -> Spec:
        slot = next(s for s in range(SLOTS - 1, -1, -1) if not is_taken(AddressPlan(s)))
        maker = SpecMaker(config=self.config, plan=AddressPlan(slot), secrets=self.secrets, state_dir="/nowhere")
        return maker.make(instance, topology or self.topology, restarted=False)

    async def start_members(self) -> None:
        await asyncio.gather(*(self.host.start(self.spec(m)) for m in self.topology.of(Role.MEMBER)))

    async def supervise(self, topology: Topology | None = None) -> None:
        """Start a supervisor that has been told of `topology`."""
        instance = self.topology.of(Role.SUPERVISOR)[0]
        self._supervisor_network = MemoryNetwork(self.host.fabric, "supervisor", Identity("s", ("system:masters",)))
        self._supervisor = Supervisor(
            self.spec(instance, topology), self._supervisor_network, self.host, disk=self._disk
        )
        self.host.actors[instance.name] = self.spec(instance)
        self.host._networks[instance.name] = self._supervisor_network
        await self._supervisor.start()

    async def end_supervisor(self) -> None:
        if self._supervisor is not None:
            await self._supervisor.stop()
            self._supervisor = None
            await self.host.stop("supervisor")

    async def close(self) -> None:
        await self.end_supervisor()
        for name in list(self.host.actors):
            await self.host.stop(name)

    @property
    def names(self) -> set[str]:
        """Every actor that is wanted at first."""
        return {i.name for i in self.topology.instances}
