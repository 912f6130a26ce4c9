"""The supervisor as an actor's component: its parts put together."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster import callers
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.components import Spec, scheduler_config
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.cluster.node_runtime import check_fits
from rayplane.control_plane.cluster.patience import slowdown as of_this_machine
from rayplane.control_plane.cluster.pki import issue, renewed, renewed_front_proxy
from rayplane.control_plane.cluster.ports import free_port, share
from rayplane.control_plane.cluster.specs import SpecMaker
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.supervisor.etcd import ApiNodes, Clients, EtcdMembers, EtcdTopologyStore
from rayplane.control_plane.cluster.supervisor.faults import FaultsService
from rayplane.control_plane.cluster.supervisor.looking import ViewsService
from rayplane.control_plane.cluster.supervisor.notes import Notes
from rayplane.control_plane.cluster.supervisor.ports import AllotPort, Ports
from rayplane.control_plane.cluster.supervisor.reconciler import Reconciler
from rayplane.control_plane.cluster.supervisor.service import DiscoveryService, SupervisorService
from rayplane.control_plane.cluster.supervisor.signing import CertificateSigning
from rayplane.control_plane.cluster.supervisor.standing import StandingFaults
from rayplane.control_plane.cluster.supervisor.trials import Trials
from rayplane.control_plane.cluster.supervisor.weathering import Weathering, names
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.cluster.views import Views
from rayplane.control_plane.component_base.debugging import Debugging
from rayplane.control_plane.component_base.metrics import Family, counter, gauge
from rayplane.control_plane.rpc import Network, Server, Service, Stub
from rayplane.control_plane.rpc.sockets import stop_listening
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.tasks import cancel_and_wait, end_each
from rayplane.proto.rayplane.v1 import chaos_pb2, objects_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Clock, Disk, Env, SystemClock

if TYPE_CHECKING:
    from rayplane.control_plane.cluster.autoscaling.loop import Autoscaler

Claim = Callable[[], Awaitable[asyncio.Server]]


class Supervisor:
    """The supervisor: it reconciles the cluster that its spec is of, on a host, and serves its API.

    `disk` remembers the topology over a restart. `claim` keeps the cluster's addresses from being given to another.
    """

    def __init__(
        self,
        spec: Spec,
        network: Network,
        host: Host,
        *,
        disk: Disk | None = None,
        clock: Clock | None = None,
        claim: Claim | None = None,
        allot: AllotPort | None = None,
        slowdown: Callable[[], float] = of_this_machine,
    ) -> None:
        self._spec = spec
        self._network = network
        self._host = host
        self._clock = clock or SystemClock()
        self._claim = claim
        self._claimed: asyncio.Server | None = None
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._remembering: asyncio.Task[None] | None = None
        etcd = EtcdClient(network, spec.topology.endpoints(Role.MEMBER, "client"))
        api = ApiClient(network, spec.topology.endpoints(Role.APISERVER, "grpc"))
        now = asyncio.get_running_loop().time
        rng = random.Random()
        clients = Clients(etcd, api, disk)
        self._state_dir = Path(spec.data_dir).parent.parent
        ports = Ports(
            host=host,
            store=EtcdTopologyStore(etcd),
            members=EtcdMembers(etcd, "https" if spec.credentials else "http"),
            nodes=ApiNodes(api),
            specs=SpecMaker(
                config=spec.config,
                plan=spec.plan,
                secrets=spec.secrets,
                state_dir=str(self._state_dir),
            ),
            directory=clients,
            allot=allot or (lambda address, taken: free_port(address, taken, rng, share(spec.plan))),
            now=now,
            slowdown=slowdown,
            leisure=spec.config.timings.leisure,
        )
        # What was remembered may say of this one where it was before.
        self._reconciler = Reconciler(clients.recall(spec.topology).replaced(spec.instance), ports)
        signing = CertificateSigning(api, spec.secrets, self._machine_now, self._ahead)
        access = self._own_access(etcd, api)
        striker = LiveInjector(access, rng, standing=True, patience_s=0)
        self._weather = Weathering(host, lambda: names(self.topology), self._expiring)
        self._standing = StandingFaults(striker, Notes(disk, etcd), self._clock, rng, run=spec.topology.run)
        self._trials = Trials(access, self._standing)
        self._views = Views(lambda: contextlib.nullcontext(access), self._clock.now)
        self._autoscaler = self._scales(api, host, disk) if spec.config.autoscales else None
        self._service = SupervisorService(
            self._reconciler, host, self._renew, signing, self._weather, self._fits, now=now, slowdown=slowdown
        )

    def _fits(self, runtime: str) -> None:
        check_fits(runtime, self._spec.config, isolated=self._spec.plan.isolated)

    @property
    def topology(self) -> Topology:
        """The topology that is wanted, as far as this supervisor knows."""
        return self._reconciler.topology

    def collect(self) -> Iterable[Family]:
        """For Prometheus."""
        reconciler, topology = self._reconciler, self.topology
        wanted = Counter((i.role.value,) for i in topology.instances)
        running = Counter((i.role.value,) for i in topology.instances if i.name in reconciler.running)
        actions = {(kind,): count for kind, count in reconciler.actions.items()}
        yield gauge("supervisor_actors", "Actors that are wanted.", wanted, "role")
        yield gauge("supervisor_running_actors", "Actors that were running when last looked.", running, "role")
        yield counter("supervisor_actions_total", "Actions carried out.", actions, "action")
        yield counter("supervisor_replacements_total", "Members that got a successor.", reconciler.replacements)
        yield gauge("supervisor_failing_actors", "Actors whose last starts failed.", len(reconciler.records.failures))

    async def start(self) -> None:
        if self._claim is not None:
            self._claimed = await self._claim()
        services = [
            Service(pb.DESCRIPTOR.services_by_name["Supervisor"], self._service, callers=callers.SUPERVISOR),
            Service(
                objects_pb2.DESCRIPTOR.services_by_name["Discovery"],
                DiscoveryService(lambda: self.topology),
                callers=callers.DISCOVERY,
            ),
            Service(
                chaos_pb2.DESCRIPTOR.services_by_name["Faults"],
                FaultsService(self._standing, self._trials, lambda: self.topology),
                callers=callers.FAULTS,
            ),
            Service(pb.DESCRIPTOR.services_by_name["Views"], ViewsService(self._views), callers=callers.VIEWS),
        ]
        self._server = await self._network.serve(
            self._spec.instance.endpoint("grpc"), services, web=Debugging(self.collect)
        )
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._reconciler.run(), name="supervisor")
        self._remembering = loop.create_task(self._views.remember(self._spec.config.timings.leisure), name="past")
        self._standing.start()
        self._trials.start()
        if self._autoscaler is not None:
            self._autoscaler.start()

    async def stop(self) -> None:
        await end_each(
            *([self._autoscaler.stop] if self._autoscaler is not None else []),
            partial(cancel_and_wait, self._remembering),
            self._views.stop,
            self._trials.stop,
            self._standing.stop,
            self._weather.stop,
            partial(cancel_and_wait, self._task),
            self._reconciler.stop,
            *([self._server.stop] if self._server is not None else []),
            *([partial(stop_listening, self._claimed)] if self._claimed is not None else []),
        )

    def _scales(self, api: ApiClient, host: Host, disk: Disk | None) -> "Autoscaler":
        # With it comes all of the scheduler.
        from rayplane.control_plane.cluster.autoscaling.loop import Autoscaler

        assert disk is not None
        spec, env = self._spec, Env(self._clock, random.Random(self._spec.topology.run), disk)
        scheduler = scheduler_config(spec, env)
        return Autoscaler(spec.config, scheduler, api=api, env=env, host=host, control=self._reconciler)

    def _own_access(self, etcd: EtcdClient, api: ApiClient) -> Access:
        """The way to itself and to the others that a command of its administrator has."""
        spec, channel = self._spec, self._network.channel(self._spec.instance.endpoint("grpc"))
        return Access(
            directory=StateDir(self._state_dir),
            state=ClusterState(config=spec.config, plan=spec.plan, topology=self.topology, running=True, host={}),
            network=self._network,
            etcd=etcd,
            api=api,
            supervisor=Stub(channel, pb.DESCRIPTOR.services_by_name["Supervisor"]),
            faults=Stub(channel, chaos_pb2.DESCRIPTOR.services_by_name["Faults"]),
            shown=self._shown,
        )

    def _shown(self) -> Credentials:
        """A certificate of its own, made when it is asked for. Raises ClusterError."""
        if self._spec.secrets is None:
            raise ClusterError("this cluster has no certificates")
        return issue(self._spec.secrets.authority, self._spec.instance, self._spec.plan.first_service)

    def _expiring(self, name: str, lasts_s: float) -> Credentials:
        """A certificate as an actor has it, which it shows while that is what is broken. Raises ClusterError."""
        if self._spec.secrets is None:
            raise ClusterError("this cluster has no certificates")
        topology, now = self.topology, self._clock.now()
        life = (now - timedelta(seconds=0 if lasts_s else 60), now + timedelta(seconds=lasts_s))
        authority, service = self._spec.secrets.authority, self._spec.plan.first_service
        return issue(authority, topology.get(name), service, topology.addresses, life=life)

    def _renew(self, instance: Instance, request: bytes, front_proxy: bool) -> bytes:
        if self._spec.secrets is None:
            raise ValueError("this cluster has no certificates")
        authority, service = self._spec.secrets.authority, self._spec.plan.first_service
        if front_proxy:
            if instance.role is not Role.APISERVER:
                raise ValueError("only API servers are front proxies")
            return renewed_front_proxy(authority, request=request, now=self._machine_now(), ahead=self._ahead())
        machines, now = self.topology.addresses, self._machine_now()
        return renewed(authority, instance, service, machines, request=request, now=now, ahead=self._ahead())

    def _ahead(self) -> timedelta:
        return timedelta(seconds=self._host.ahead_s)

    def _machine_now(self) -> datetime:
        """The time of others on the machine: what begins to hold by the cluster's clock alone, they would refuse."""
        return self._clock.now() - self._ahead()
