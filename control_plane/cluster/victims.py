"""Victims of faults: whom a target means in a running cluster now."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.pods.state import pod_phase
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.readiness import LEADERS
from rayplane.control_plane.cluster.topology import Instance, Role, Topology
from rayplane.control_plane.faults.vocabulary import FOLLOWER, LEADER, POD, Target
from rayplane.control_plane.rpc import RpcError

LOOK_UP_S = 1.0
LEADER_S = 10.0
NAMESPACE = "default"
ROLES = {
    LEADER: Role.MEMBER,
    FOLLOWER: Role.MEMBER,
    "member": Role.MEMBER,
    "apiserver": Role.APISERVER,
    "lb": Role.LOAD_BALANCER,
    "scheduler": Role.SCHEDULER,
    "controllers": Role.CONTROLLERS,
    "node": Role.NODE_HOST,
}


async def victims(admin: Access, target: Target, rng: random.Random) -> tuple[str, ...]:
    """Names of actors, or of pods. Raises ClusterError when there is nobody now, UsageError when there never is."""
    if target.role == POD:
        return await _pods(admin, target, rng)
    topology = await _topology(admin)
    if target.name:
        return (_named(topology, target).name,)
    candidates = topology.of(ROLES[target.role])
    if not candidates:
        raise UsageError(f"the cluster has no {target.role}")
    if target.role == FOLLOWER:
        leader = await _leading_member(admin, candidates)
        names = [c.name for c in candidates if c != leader]
        if not names:
            raise UsageError("the only member leads")
        return replace(target, count=max(1, target.count)).choose(names, rng)
    if target.count:
        return target.choose(sorted(c.name for c in candidates), rng)
    return ((await _in_charge(admin, target, candidates)).name,)


async def called(admin: Access, names: Sequence[str]) -> tuple[str, ...]:
    """Actors of these names, not of those of their nodes. Raises UsageError for one that the cluster has not."""
    topology = await _topology(admin)
    return tuple(topology.get(name).name for name in names)


async def _pods(admin: Access, target: Target, rng: random.Random) -> tuple[str, ...]:
    if target.name:
        return (target.name,)
    pods = (await admin.api.list("pods", NAMESPACE)).items
    running = sorted(meta.name(p) for p in pods if pod_phase(p) == "Running" and not meta.is_deleting(p))
    if not running:
        raise ClusterError(f"no pod of the namespace {NAMESPACE} runs now")
    return target.choose(running, rng)


async def _topology(admin: Access) -> Topology:
    """As wanted now; as it was read last when etcd is busy with electing a leader."""
    try:
        async with asyncio.timeout(LOOK_UP_S):
            return await current_topology(admin)
    except TimeoutError:
        return admin.topology


async def _in_charge(admin: Access, target: Target, candidates: tuple[Instance, ...]) -> Instance:
    role = ROLES[target.role]
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
