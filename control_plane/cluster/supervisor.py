"""Keeps the actors that exist equal to the topology that is wanted.

The topology lives in etcd. The supervisor is itself an actor that its host restarts; a new one reads the topology
and goes on. Hosts restart a killed actor's process by themselves, on the same machine with the same data; the
supervisor starts what is missing altogether, and moves what was on a machine that is gone. A member whose machine is
gone, or whose data is not what it acknowledged, is replaced (another is added as a learner under a new name and
promoted, it is removed): its data is lost, so its identity must be.
"""

import asyncio
import contextlib
import logging
import os
import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import orjson

from rayplane.control_plane.api.errors import ApiError, NotFound
from rayplane.control_plane.client import ApiClient, EtcdClient
from rayplane.control_plane.cluster import callers
from rayplane.control_plane.cluster.components import Spec
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.host import Host
from rayplane.control_plane.cluster.patience import is_passing, until
from rayplane.control_plane.cluster.pki import Secrets, identity_of_actor, issue, renewed
from rayplane.control_plane.cluster.ports import free_port
from rayplane.control_plane.cluster.starting import Starter
from rayplane.control_plane.cluster.state import ClusterState
from rayplane.control_plane.cluster.topology import (
    PORTS,
    RETIRED_PREFIX,
    TOPOLOGY_KEY,
    Instance,
    Machine,
    Role,
    Topology,
)
from rayplane.control_plane.rpc import Context, Network, RpcError, Server, Service
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import Clock, Disk, SystemClock

log = logging.getLogger(__name__)
# The class below has a method `Topology`, which hides the type inside it.
_Topology = Topology
T = TypeVar("T")

CHECK_EVERY_S = 1.0
# How long a call of the host that only looks may take; one that hangs must not keep the rest from being done.
LOOK_TIMEOUT_S = 15.0
# The same for somebody who waits for an answer: then what was seen last counts.
GLANCE_TIMEOUT_S = 2.0
STOP_TIMEOUT_S = 30.0
# A new member copies the data before it may vote.
PROMOTE_TIMEOUT_S = 60.0
# How long a change waits for etcd to have a leader again.
CHANGE_TIMEOUT_S = 30.0
LOAD_TIMEOUT_S = 3.0
# Whoever talks to members and API servers asks this often who they are; one may go only when all know its successor.
LEARN_S = 4.0

REMEMBERED = "topology.json"
_STILL = "its process stands still (SIGSTOP)"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def spec_for(
    instance: Instance,
    topology: Topology,
    *,
    config: ClusterConfig,
    plan: AddressPlan,
    secrets: Secrets,
    state_dir: str,
    restarted: bool,
) -> Spec:
    """What an actor gets to start with. Only who needs a secret gets it."""
    keeps = secrets if instance.role in (Role.SUPERVISOR, Role.APISERVER) else None
    if keeps is not None and instance.role is Role.APISERVER:
        keeps = replace(keeps, ca_key=b"")
    return Spec(
        instance=instance,
        config=config,
        plan=plan,
        topology=topology,
        credentials=issue(secrets.authority, instance, plan.first_service),
        secrets=keeps,
        data_dir=str(Path(state_dir) / "data" / instance.name),
        log_file=str(Path(state_dir) / "logs" / f"{instance.name}.log"),
        restarted=restarted,
    )


def founding_specs(state: ClusterState, secrets: Secrets, directory: Path) -> list[Spec]:
    """The specs of all actors when a cluster is brought up; those that have data go on from it."""
    return [
        spec_for(
            instance,
            state.topology,
            config=state.config,
            plan=state.plan,
            secrets=secrets,
            state_dir=str(directory.resolve()),
            restarted=(directory / "data" / instance.name).exists(),
        )
        for instance in state.topology.instances
    ]


class Supervisor:
    """The topology is first the one of the spec, or the last one that `disk` remembers of the same `up`: by then every
    member of the first may have been replaced. The one in etcd counts as soon as it can be read."""

    def __init__(
        self, spec: Spec, network: Network, host: Host, *, disk: Disk | None = None, clock: Clock | None = None
    ) -> None:
        assert spec.secrets is not None
        self._spec = spec
        self._secrets = spec.secrets
        self._network = network
        self._host = host
        self._disk = disk
        self._clock = clock or SystemClock()
        self._topology = spec.topology
        self._state_dir = str(Path(spec.data_dir).parent.parent)
        self._etcd = EtcdClient(network, spec.topology.endpoints(Role.MEMBER, "client"))
        self._api = ApiClient(network, spec.topology.endpoints(Role.APISERVER, "grpc"))
        self._server: Server | None = None
        self._claim: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._joined_at = -LEARN_S
        # A supervisor before this one may have died in the middle of a change of members.
        self._unfinished = True
        self._starter = Starter(host)
        self._heirs: dict[str, str] = {}  # of members that are being replaced
        self._seen: set[str] = set()  # what ran when the host was asked last
        self._rng = random.Random()

    async def start(self) -> None:
        self._recall()
        self._claim = await asyncio.start_server(_hang_up, *self._spec.plan.claim_address)
        service = Service(pb.DESCRIPTOR.services_by_name["Supervisor"], self, callers=callers.SUPERVISOR)
        self._server = await self._network.serve(self._spec.instance.endpoint("grpc"), [service])
        self._task = asyncio.get_running_loop().create_task(self._run(), name="supervisor")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        await self._starter.stop()
        if self._server is not None:
            await self._server.stop()
        if self._claim is not None:
            self._claim.close()

    async def Topology(self, request: pb.TopologyRequest, context: Context) -> pb.TopologyResponse:
        with contextlib.suppress(TimeoutError):
            await self._look(GLANCE_TIMEOUT_S)
        still = await self._host.suspended()
        rows = []
        for instance in self._topology.instances:
            name = instance.name
            rows.append(
                pb.InstanceStatus(
                    name=name,
                    role=instance.role.value,
                    machine=instance.machine.address,
                    running=(name in self._seen and name not in still) or instance.role is Role.SUPERVISOR,
                    pid=os.getpid() if instance.role is Role.SUPERVISOR else 0,
                    starts=self._starter.starts.get(name, 0),
                    ports=dict(instance.ports),
                    failures=self._starter.failures.get(name, 0),
                    reason=_STILL if name in still else self._starter.reasons.get(name, ""),
                )
            )
        sockets = await self._host.sockets() if request.host_sockets else []
        return pb.TopologyResponse(instances=rows, host_sockets=[pb.HostSocket(**asdict(s)) for s in sockets])

    async def Add(self, request: pb.AddRequest, context: Context) -> pb.ChangeResponse:
        await self._loaded.wait()
        async with self._changing:
            name = await self._add(request.role, request.name)
        return pb.ChangeResponse(name=name)

    async def Remove(self, request: pb.RemoveRequest, context: Context) -> pb.ChangeResponse:
        await self._loaded.wait()
        async with self._changing:
            name = await self._remove(request.role, request.name)
        return pb.ChangeResponse(name=name)

    async def Kill(self, request: pb.KillRequest, context: Context) -> pb.KillResponse:
        instance = self._topology.get(request.name)
        self._starter.forgive(instance.name)
        pid = await self._host.kill(instance.name, request.signal or "KILL")
        return pb.KillResponse(name=instance.name, pid=pid)

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        instance = self._topology.get(request.name)
        if context.identity != identity_of_actor(instance):
            raise RpcError(Code.PERMISSION_DENIED, f"only {instance.name} itself may renew its certificate")
        authority, service = self._secrets.authority, self._spec.plan.first_service
        try:
            cert = renewed(authority, instance, service, request=request.csr, now=self._clock.now())
        except ValueError as e:
            raise RpcError(Code.INVALID_ARGUMENT, f"this is no request for a certificate: {e}") from e
        return pb.RenewResponse(certificate=cert)

    async def _run(self) -> None:
        await self._load()
        self._loaded.set()
        while True:
            try:
                async with self._changing:
                    await self._reconcile()
            except TimeoutError:
                log.warning("the host does not answer in time")
            except (ClusterError, RpcError, ApiError) as e:
                log.warning("the topology is not as wanted yet: %s", e)
            except Exception:
                log.exception("reconciling the topology failed")
            await asyncio.sleep(CHECK_EVERY_S)

    async def _load(self) -> None:
        """Take the topology from etcd, or put it there when the cluster has just been brought up."""
        while True:
            try:
                found = await self._etcd.range(TOPOLOGY_KEY, timeout=LOAD_TIMEOUT_S)
                stored = _Topology.from_json(orjson.loads(found.kvs[0].value)) if found.kvs else None
                if stored is not None and stored.run == self._topology.run:
                    await self._adopt(stored)
                else:
                    await self._save(self._topology)
                return
            except RpcError as e:
                # Members may be missing just because nobody started them: do what can be done meanwhile.
                log.info("the topology cannot be read yet: %s", e)
                try:
                    await self._start_missing(await self._look(LOOK_TIMEOUT_S))
                except (ClusterError, TimeoutError) as missed:
                    log.warning("what is missing could not be started: %s", missed or "the host does not answer")
                await asyncio.sleep(CHECK_EVERY_S)

    async def _save(self, topology: _Topology) -> None:
        data = orjson.dumps(topology.to_json())
        await until(lambda: self._etcd.put(TOPOLOGY_KEY, data), CHANGE_TIMEOUT_S, is_passing)
        await self._adopt(topology)

    async def _adopt(self, topology: _Topology) -> None:
        self._use(topology)
        if self._disk is not None:
            await self._disk.write_atomic(REMEMBERED, orjson.dumps(topology.to_json()))

    def _recall(self) -> None:
        if self._disk is not None and self._disk.exists(REMEMBERED):
            last = _Topology.from_json(orjson.loads(self._disk.read(REMEMBERED)))
            if last.run == self._topology.run:
                self._use(last)

    def _use(self, topology: _Topology) -> None:
        self._topology = topology
        self._etcd.endpoints.replace(topology.endpoints(Role.MEMBER, "client"))
        self._api.endpoints.replace(topology.endpoints(Role.APISERVER, "grpc"))

    async def _reconcile(self) -> None:
        running = await self._look(LOOK_TIMEOUT_S)
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            machines = await self._host.machines()
        alive = {m.id for m in machines}
        homeless = [i for i in self._topology.instances if machines and i.machine.id not in alive]
        for name in sorted(running - {i.name for i in self._topology.instances}):
            log.warning("%s is not wanted: stopping it", name)
            await self._stop_actor(name)
        # Before the rest, which may need a member that is only missing.
        await self._start_missing(running | {i.name for i in homeless})
        for instance in homeless:
            if instance.role not in (Role.MEMBER, Role.SUPERVISOR):
                await self._move(instance, machines)
        members = self._topology.of(Role.MEMBER)
        for instance in members:
            if instance in homeless:
                await self._replace(instance, f"its machine {instance.machine.address} is gone")
            elif instance.name in self._starter.lost and len(members) > 2:
                await self._replace(instance, "it lost its data")
        if self._unfinished:
            await self._finish_changes()
            self._unfinished = False

    async def _finish_changes(self) -> None:
        """Make etcd's members and the topology's the same, where another supervisor has died between the two."""
        listed = (await self._etcd.member_list()).members
        wanted = {_peer_url(i): i for i in self._topology.of(Role.MEMBER)}
        for member in listed:
            if member.isLearner and wanted.keys() & set(member.peerURLs):
                await self._etcd.member_promote(member.ID)
            elif member.isLearner:
                await self._etcd.member_remove(member.ID)
        known = {url for member in listed for url in member.peerURLs}
        for url, instance in wanted.items():
            if url not in known and wanted.keys() & known:
                log.warning("%s is a member no more", instance.name)
                await self._save(self._topology.without(instance.name))

    async def _look(self, timeout: float) -> set[str]:
        """The names of the actors that exist. TimeoutError when the host does not say."""
        async with asyncio.timeout(timeout):
            self._seen = await self._host.running()
        return self._seen

    async def _stop_actor(self, name: str) -> None:
        """End an actor for good. TimeoutError when the host does not do it."""
        await self._starter.settled(name)
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await self._host.stop(name)

    async def _start_missing(self, running: set[str]) -> None:
        self._starter.settle(running)
        missing = [
            self._spec_for(i, restarted=not i.joins)
            for i in self._topology.instances
            if i.name not in running and i.role is not Role.SUPERVISOR and self._starter.may_start(i.name)
        ]
        await self._starter.start(missing)

    def _spec_for(self, instance: Instance, *, restarted: bool) -> Spec:
        return spec_for(
            instance,
            self._topology,
            config=self._spec.config,
            plan=self._spec.plan,
            secrets=self._secrets,
            state_dir=self._state_dir,
            restarted=restarted,
        )

    async def _move(self, instance: Instance, machines: list[Machine]) -> None:
        """Give an actor whose machine is gone a new place."""
        log.warning("the machine of %s (%s) is gone", instance.name, instance.machine.address)
        target = self._least_used(machines)
        moved = replace(instance, machine=target, ports=self._ports(instance.role, target))
        await self._save(self._topology.replaced(moved))
        # The host may have brought it back elsewhere by itself, at an address that is wrong there.
        await self._stop_actor(instance.name)

    async def _replace(self, member: Instance, why: str) -> None:
        """Put another in the place of a member that cannot come back."""
        log.warning("another member takes the place of %s: %s", member.name, why)
        if member.name not in self._heirs:
            self._heirs[member.name] = await self._add("member", "")
        await self._remove("member", member.name)
        self._heirs.pop(member.name, None)
        self._starter.lost.discard(member.name)

    def _least_used(self, machines: list[Machine]) -> Machine:
        load = {m: 0 for m in machines}
        for i in self._topology.instances:
            if i.machine in load:
                load[i.machine] += 1
        return min(machines, key=lambda m: load[m])

    def _ports(self, role: Role, machine: Machine) -> dict[str, int]:
        taken = {p for i in self._topology.instances if i.machine == machine for p in i.ports.values()}
        ports: dict[str, int] = {}
        for label in PORTS[role]:
            ports[label] = free_port(machine.address, taken | set(ports.values()), self._rng)
        return ports

    async def _add(self, kind: str, name: str) -> str:
        role = _role(kind)
        if name and not _NAME.fullmatch(name):
            raise UsageError(f"{name!r}: use lower-case letters, digits and '-', at most 63")
        machine = self._least_used(await self._host.machines())
        node: tuple[str, ...] = ()
        if role is Role.NODE_HOST:
            node = (name or self._topology.next_node(),)
            name = self._topology.next_name(role)
            if any(node[0] in i.nodes for i in self._topology.instances):
                raise UsageError(f"there is a node called {node[0]!r} already; choose another name")
        retired = await self._retired() if role is Role.MEMBER else ()
        if name in retired:
            raise UsageError(f"{name!r} was a member that was removed; choose another name")
        instance = Instance(
            name=name or self._topology.next_name(role, retired),
            role=role,
            machine=machine,
            ports=self._ports(role, machine),
            nodes=node,
            joins=role is Role.MEMBER,
        )
        wanted = self._topology.with_instance(instance)
        if role is Role.MEMBER:
            await self._join(instance, wanted)
        else:
            await self._save(wanted)
            await self._host.start(self._spec_for(instance, restarted=False))
        self._joined_at = asyncio.get_running_loop().time()
        return node[0] if node else instance.name

    async def _join(self, instance: Instance, wanted: _Topology) -> None:
        """Add a member as a learner, start it, promote it when it has caught up."""
        url = _peer_url(instance)
        member = await until(lambda: self._enlist(url), CHANGE_TIMEOUT_S, is_passing)
        try:
            await self._save(wanted)
            await self._host.start(self._spec_for(instance, restarted=False))
            await until(lambda: self._etcd.member_promote(member), PROMOTE_TIMEOUT_S)
        except (ClusterError, RpcError) as e:
            await self._retire(instance)
            await self._stop_actor(instance.name)
            await self._save(wanted.without(instance.name))
            raise ClusterError(f"{instance.name} could not join: {e}") from e

    async def _enlist(self, url: str) -> int:
        """The id of a member, made a learner if there is none. May be called again when nobody knows if it worked."""
        return await self._member_id(url) or (await self._etcd.member_add(url, learner=True)).member.ID

    async def _retire(self, instance: Instance) -> None:
        """End a membership for good, name included."""

        async def attempt() -> None:
            await self._expel(_peer_url(instance))
            await self._etcd.put(RETIRED_PREFIX + instance.name.encode(), b"")

        await until(attempt, CHANGE_TIMEOUT_S, is_passing)

    async def _retired(self) -> set[str]:
        found = await self._etcd.range(RETIRED_PREFIX, RETIRED_PREFIX[:-1] + b"0")
        return {kv.key.removeprefix(RETIRED_PREFIX).decode() for kv in found.kvs}

    async def _expel(self, url: str) -> None:
        """Take a member out. May be called again too."""
        member = await self._member_id(url)
        if member:
            await self._etcd.member_remove(member)

    async def _member_id(self, url: str) -> int:
        """0 when there is no such member."""
        members = (await self._etcd.member_list()).members
        return next((int(m.ID) for m in members if url in m.peerURLs), 0)

    async def _remove(self, kind: str, name: str) -> str:
        role = _role(kind)
        instance = self._choose(role, name)
        left = len(self._topology.of(role)) - 1
        if role in (Role.MEMBER, Role.APISERVER) and left < 1:
            raise UsageError(f"{instance.name} is the last {kind}; a cluster needs one")
        if role in (Role.MEMBER, Role.APISERVER):
            await asyncio.sleep(self._joined_at + LEARN_S - asyncio.get_running_loop().time())
        if role is Role.MEMBER:
            await self._retire(instance)
        await self._save(self._topology.without(instance.name))
        await self._stop_actor(instance.name)
        for node in instance.nodes:
            try:
                await self._api.delete("nodes", node)
            except NotFound:
                log.debug("%s was never registered", node)
        return instance.nodes[0] if instance.nodes else instance.name

    def _choose(self, role: Role, name: str) -> Instance:
        if not name:
            found = self._topology.of(role)
            if not found:
                raise UsageError("there is none to remove")
            return found[-1]
        instance = self._topology.node_host(name) if role is Role.NODE_HOST else self._topology.get(name)
        if instance.role is not role:
            raise UsageError(f"{name} is a {instance.role.value}")
        if len(instance.nodes) > 1:
            raise UsageError(f"{instance.name} carries {len(instance.nodes)} nodes, which go only together")
        return instance


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The claim on the address plan is only that somebody listens."""
    writer.close()


def _role(kind: str) -> Role:
    roles = {"member": Role.MEMBER, "apiserver": Role.APISERVER, "node": Role.NODE_HOST}
    if kind not in roles:
        raise UsageError(f"{kind!r} cannot be added or removed; use {', '.join(roles)}")
    return roles[kind]


def _peer_url(member: Instance) -> str:
    return f"https://{member.endpoint('peer')}"
