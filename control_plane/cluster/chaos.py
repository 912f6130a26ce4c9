"""Killing actors of a running cluster, chosen by what they are doing."""

import asyncio

from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.readiness import LEADERS
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

KILL_TIMEOUT_S = 60.0
LOOK_UP_S = 1.0
LEADER_S = 10.0
ROLES = {
    "leader": Role.MEMBER,
    "member": Role.MEMBER,
    "apiserver": Role.APISERVER,
    "scheduler": Role.SCHEDULER,
    "controllers": Role.CONTROLLERS,
    "node": Role.NODE_HOST,
}


async def kill(admin: Access, target: str, name: str, signal: str) -> tuple[str, int]:
    """Send `signal` to the actor `name` of kind `target`, or to the one in charge; its name and process id."""
    topology = await _topology(admin)
    victim = await _victim(admin, topology, target, name)
    answer = await admin.supervisor.Kill(pb.KillRequest(name=victim.name, signal=signal), timeout=KILL_TIMEOUT_S)
    return victim.name, int(answer.pid)


async def _topology(admin: Access) -> Topology:
    """As wanted now; as of `up` or the last change from here when etcd is busy with electing a leader."""
    try:
        async with asyncio.timeout(LOOK_UP_S):
            return await current_topology(admin)
    except TimeoutError:
        return admin.state.topology


async def _victim(admin: Access, topology: Topology, target: str, name: str) -> Instance:
    role = ROLES[target]
    if name:
        victim = topology.node_host(name) if role is Role.NODE_HOST else topology.get(name)
        if victim.role is not role:
            raise UsageError(f"{name} is no {target}")
        return victim
    candidates = topology.of(role)
    if not candidates:
        raise UsageError(f"the cluster has no {target}")
    if target == "leader":
        return await _leading_member(admin, candidates)
    if role in LEADERS:
        lease = await admin.api.get(LEASES, LEADERS[role], "kube-system")
        holder = str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]
        return next((c for c in candidates if c.name == holder), candidates[0])
    return candidates[0]


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
