"""Faults of a running cluster: signals to actors, chosen by name, by chance or by what they are doing."""

import asyncio
import random
from dataclasses import replace

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.readiness import LEADERS
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.faults import injector
from rayplane.control_plane.faults.form import as_step
from rayplane.control_plane.faults.vocabulary import LEADER, SUPERVISOR, Continue, Fault, Kill, Stop, Target
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

KILL_TIMEOUT_S = 60.0
LOOK_UP_S = 1.0
LEADER_S = 10.0
ROLES = {
    LEADER: Role.MEMBER,
    "member": Role.MEMBER,
    "apiserver": Role.APISERVER,
    "lb": Role.LOAD_BALANCER,
    "scheduler": Role.SCHEDULER,
    "controllers": Role.CONTROLLERS,
    "node": Role.NODE_HOST,
}
SIGNALS: dict[type[Fault], str] = {Kill: "KILL", Stop: "STOP", Continue: "CONT"}


class LiveInjector:
    """An injector that does faults to a real cluster through its supervisor; whom chance hits is drawn from `rng`."""

    def __init__(self, admin: Access, rng: random.Random) -> None:
        self._admin = admin
        self._rng = rng

    def refusal(self, fault: Fault) -> str:
        if isinstance(fault, Kill) and fault.back_s is not None:
            return "kill: on a live cluster the supervisor decides when an actor comes back"
        if isinstance(fault, Stop | Continue) and self._admin.state.config.host == PROCESS:
            return f"{as_step(fault)}: in one process an actor can only be killed; use --host ray"
        if getattr(fault, "target", None) == Target(name=SUPERVISOR):
            return f"{as_step(fault)}: signals go through the supervisor; `rayplane status` shows its process"
        return injector.refusal(fault, SIGNALS)

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        return tuple(name for name, _ in await self.strike(fault))

    async def strike(self, fault: Fault) -> list[tuple[str, int]]:
        """Those hit, with their process ids. Raises ClusterError when nobody can be hit now, UsageError when nobody
        ever can."""
        signal = SIGNALS[type(fault)]
        target: Target = fault.target  # type: ignore[union-attr]
        try:
            return [await send(self._admin, one, signal) for one in await self._drawn(target)]
        except (RpcError, ApiError) as e:
            if isinstance(e, RpcError) and e.code.name == UsageError.code:
                raise UsageError(e.message) from e
            raise ClusterError(f"{signal} {target}: {e}") from e

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        if isinstance(fault, Stop):
            for name in hit:
                await self.begin(Continue(Target(name=name)))

    async def _drawn(self, target: Target) -> list[Target]:
        """By name, where chance decides."""
        if not target.count:
            return [target]
        topology = await current_topology(self._admin)
        names = sorted(i.name for i in topology.of(ROLES[target.role]))
        if not names:
            raise UsageError(f"the cluster has no {target.role}")
        return [replace(target, name=name, count=0) for name in target.choose(names, self._rng)]


async def send(admin: Access, target: Target, signal: str) -> tuple[str, int]:
    """Send `signal` to the actor of that name, or to the one in charge; its name and process id."""
    victim = await _victim(admin, await _topology(admin), target)
    answer = await admin.supervisor.Kill(pb.KillRequest(name=victim.name, signal=signal), timeout=KILL_TIMEOUT_S)
    return victim.name, int(answer.pid)


async def _topology(admin: Access) -> Topology:
    """As wanted now; as of `up` or the last change from here when etcd is busy with electing a leader."""
    try:
        async with asyncio.timeout(LOOK_UP_S):
            return await current_topology(admin)
    except TimeoutError:
        return admin.state.topology


async def _victim(admin: Access, topology: Topology, target: Target) -> Instance:
    if target.name:
        return _named(topology, target)
    role = ROLES[target.role]
    candidates = topology.of(role)
    if not candidates:
        raise UsageError(f"the cluster has no {target.role}")
    if target.role == LEADER:
        return await _leading_member(admin, candidates)
    if role in LEADERS:
        lease = await admin.api.get(LEASES, LEADERS[role], "kube-system")
        holder = str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]
        return next((c for c in candidates if c.name == holder), candidates[0])
    return candidates[0]


def _named(topology: Topology, target: Target) -> Instance:
    """A node's name stands for its host."""
    name = target.name
    hosts_node = any(name in i.nodes for i in topology.instances)
    victim = topology.node_host(name) if hosts_node or target.role == "node" else topology.get(name)
    if target.role and victim.role is not ROLES[target.role]:
        raise UsageError(f"{name} is no {target.role}")
    return victim


async def _leading_member(admin: Access, members: tuple[Instance, ...]) -> Instance:
    """All are asked at once, and the first that says it leads counts: one that hangs holds up nobody."""

    async def leads(member: Instance) -> Instance | None:
        try:
            status = await admin.etcd.status(member.endpoint("client"), timeout=LEADER_S)
        except RpcError:
            return None
        return member if status.leader == status.header.member_id else None

    asked = [asyncio.ensure_future(leads(m)) for m in members]
    try:
        for answer in asyncio.as_completed(asked):
            leader = await answer
            if leader is not None:
                return leader
    finally:
        for task in asked:
            task.cancel()
    raise ClusterError("no member leads now; try again in a second")
