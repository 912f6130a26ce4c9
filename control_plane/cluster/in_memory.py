"""A cluster in this process and in memory: the components themselves, over a network and disks of memory, no sockets.

Nothing is restarted and nobody supervises: what is to be killed is a matter of clusters and of the simulation.
"""

import asyncio
import contextlib
import random
from dataclasses import replace
from types import TracebackType
from typing import Self

from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.cluster.components import Component, Spec, build
from rayplane.control_plane.cluster.config import PROCESS, AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.pki import identity_of_actor
from rayplane.control_plane.cluster.topology import PORTS, Instance, Machine, Role, Topology, founding
from rayplane.control_plane.durations import parse_span
from rayplane.control_plane.identities import ADMINISTRATOR, MASTERS
from rayplane.control_plane.rpc import Identity
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.storage.env import Env, SimulatedDisk, growing_heap
from rayplane.storage.env.leaps import LeapingLoop, clock_of

#: As kube-apiserver of envtest is started: nobody makes the accounts that pods would need.
_NO_ACCOUNTS = "ServiceAccount"
#: What runs, in the order in which it is started: each finds there what it needs.
_ROLES = (Role.MEMBER, Role.APISERVER, Role.CONTROLLERS, Role.SCHEDULER, Role.NODE_HOST)

_NUMBERS = {"client": 2379, "peer": 2380, "grpc": 7443, "https": 6443, "metrics": 10250}
_ADMIN = Identity(ADMINISTRATOR, (MASTERS,))


class AsyncFake:
    """An API server over an etcd member in this process, for programs of asyncio. Use it in an `async with` block.

        async with AsyncFake() as fake:
            await fake.api.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})

    It stores, validates, defaults, admits, watches and forbids as API servers do. With `nodes` there are a scheduler,
    the controllers and so many simulated nodes, too.
    """

    def __init__(self, *, nodes: int = 0) -> None:
        others = 1 if nodes else 0
        self._config = ClusterConfig(
            name="fake",
            host=PROCESS,
            members=1,
            apiservers=1,
            schedulers=others,
            controllers=others,
            nodes=nodes,
            timing="kubernetes",
            disable_admission_plugins="" if nodes else _NO_ACCOUNTS,
        )
        if nodes < 0:
            raise UsageError(f"nodes={nodes}: use 0 for an API server alone, or as many as there should be")
        self._topology = simulated_topology(self._config)
        self._fabric = Fabric()
        self._components: list[Component] = []
        self.network = MemoryNetwork(self._fabric, "tester", _ADMIN)
        self._networks = [self.network]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all of it; what was started is ended where that fails."""
        try:
            with growing_heap():
                for role in _ROLES:
                    for instance in self._topology.of(role):
                        await self._start(instance)
        except BaseException:
            await self.stop()
            raise
        self.api = self.client()
        self.etcd = EtcdClient(self.network, self._topology.endpoints(Role.MEMBER, "client"))

    async def _start(self, instance: Instance) -> None:
        loop = asyncio.get_running_loop()
        spec = simulated_spec(instance, self._config, self._topology)
        network = self._network(identity_of_actor(instance), instance.machine.address)
        component = build(spec, Env(clock_of(loop), random.Random(), SimulatedDisk()), network, tls_dir=None)
        self._components.append(component)
        # A member alone is its own majority, and need not wait for the time to stand for election.
        with loop.leaps() if isinstance(loop, LeapingLoop) else contextlib.nullcontext():
            await component.start()

    async def stop(self) -> None:
        """End all of it; nothing when it was never started."""
        while self._components:
            await self._components.pop().stop()
        while self._networks:
            await self._networks.pop().close()

    def client(self, user: str = ADMINISTRATOR, groups: tuple[str, ...] = (MASTERS,)) -> ApiClient:
        """A client of its API, as somebody."""
        return ApiClient(
            self._network(Identity(user, groups), "tester"), self._topology.endpoints(Role.APISERVER, "grpc")
        )

    async def advance(self, span: str | float) -> None:
        """Let time pass: "2h", or seconds. Every timer that falls due meanwhile goes off in its turn."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, LeapingLoop):
            raise UsageError(
                "this event loop's time is the machine's: run with asyncio.Runner(loop_factory=LeapingLoop)"
            )
        await loop.advance(parse_span(str(span)))

    def _network(self, identity: Identity, host: str) -> MemoryNetwork:
        made = MemoryNetwork(self._fabric, host, identity)
        self._networks.append(made)
        return made


def simulated_spec(instance: Instance, config: ClusterConfig, topology: Topology) -> Spec:
    """What a component of such a cluster is told: without certificates, its data on a disk of its own."""
    return Spec(
        instance=instance,
        config=config,
        plan=AddressPlan(0),
        topology=topology,
        credentials=None,
        secrets=None,
        data_dir=instance.name,
        log_file="",
    )


def simulated_topology(config: ClusterConfig) -> Topology:
    """A new cluster's actors, each on a machine of its own."""
    return Topology(tuple(_placed(i, number) for number, i in enumerate(founding(config, (Machine(),)).instances)))


def _placed(instance: Instance, number: int) -> Instance:
    """On a machine of its own, the `number`th."""
    # Nobody scrapes a simulated cluster: components without a port for metrics serve none.
    ports = {label: _NUMBERS[label] for label in PORTS[instance.role] if label in _NUMBERS}
    machine = Machine(f"10.{number >> 8}.{number & 255}.1", instance.name)
    return replace(instance, machine=machine, ports=ports)
