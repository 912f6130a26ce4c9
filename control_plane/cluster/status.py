"""Measurements for `status`: each part of a running cluster is used, in parallel, with a limit of its own.

Every API server is asked directly to write a Lease of its own name and to give it back from its watch cache; members,
leaders' and nodes' Leases, the supervisor and the load balancer are asked what they are for. `diagnosis` judges.
However much hangs, the answer comes within two limits: the supervisor's, which tells what there is, and one for the
rest.
"""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from google.protobuf.json_format import MessageToDict

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_identity import NODE_LEASES
from rayplane.control_plane.api.errors import AlreadyExists, ApiError, Conflict, NotFound
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import NO_SERVICES, heartbeat_of, isolation_of
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.diagnosis import (
    ActorFacts,
    Facts,
    LeadFacts,
    MemberFacts,
    NodeFacts,
    ServerFacts,
    judge,
)
from rayplane.control_plane.cluster.patience import stretched
from rayplane.control_plane.cluster.readiness import LEADERS, ask_ready, client_ssl
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.rayplane.v1 import chaos_pb2
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb
from rayplane.storage.env import SystemClock

# Of each part, on an idle machine; on a busy one more, up to a limit.
LIMIT_S = 5.0
VERSIONS_S = 2.0
SLOWDOWN_MAX = 4.0
PROBE_TRIES = 5
POLL_S = 0.05
NAMESPACE = "kube-system"


@dataclass(frozen=True, slots=True)
class _Row:
    """An actor, where it is, and what the supervisor says of it (what was founded, when it says nothing)."""

    facts: ActorFacts
    ports: dict[str, int]

    def endpoint(self, port: str) -> str:
        return f"{self.facts.machine}:{self.ports[port]}"


async def status(admin: Access) -> dict[str, Any]:
    """The answer of `rayplane status -o json`."""
    facts, versions = await asyncio.gather(measure(admin), _versions(admin))
    facts = replace(facts, actors=[replace(a, version=versions.get(a.name, "")) for a in facts.actors])
    faults = judge(facts)
    holders = {lead.holder.partition("_")[0] for lead in facts.leads}
    return {
        "name": admin.state.config.name,
        "host": admin.state.config.host,
        "healthy": not faults,
        "faults": [str(f) for f in faults],
        "drained": list(admin.state.topology.drained),
        "members": [_member_row(m, facts.actors) for m in facts.members],
        "actors": [
            _actor_row(a, a.name in holders) | _cri_of(a, admin.directory)
            for a in facts.actors
            if a.role != Role.MEMBER.value
        ],
        "nodes": [
            {"name": n.name, "ready": n.ready, "runtime": n.runtime, "isolation": n.isolation}
            for n in facts.nodes
            if n.registered
        ],
    }


async def glance(admin: Access) -> dict[str, Any]:
    """Members, actors and leaders as they are told without writing anything, for who looks all the time."""
    limit = stretched(LIMIT_S, times_max=SLOWDOWN_MAX)
    answer, error = await _topology(admin, limit, machines=True)
    rows = _rows(admin, answer)
    members, leads, faults = await asyncio.gather(
        asyncio.gather(*(_member(admin, r, limit) for r in rows if r.facts.role == Role.MEMBER.value)),
        asyncio.gather(*(_lead(admin, name, limit) for name in LEADERS.values())),
        _faults(admin, limit),
    )
    answered = {m.name for m in members if not m.error}
    actors = [_seen(r.facts, answered) for r in rows]
    holders = {lead.holder.partition("_")[0] for lead in leads}
    return {
        "name": admin.state.config.name,
        "error": error,
        "members": [_member_row(m, actors) for m in members],
        "actors": [_actor_row(a, a.name in holders) for a in actors if a.role != Role.MEMBER.value],
        "leases": [
            {"name": lead.name, "holder": lead.holder, "age_s": lead.age_s, "duration_s": lead.duration_s}
            | {"error": lead.error}
            for lead in leads
        ],
        "machines": [
            {"address": m.address, "resources": dict(m.resources), "drained": m.drained}
            for m in (answer.machines if answer is not None else ())
        ],
        "faults": faults,
    }


async def glances(
    way: Callable[[], contextlib.AbstractAsyncContextManager[Access]], every_s: float
) -> AsyncGenerator[dict[str, Any], None]:
    """A glance after the other, with the load of who has metrics; those come more rarely.

    With the supervisor's machine gone it is elsewhere: the way in is found anew.
    """
    # It needs what no command line loads.
    from rayplane.control_plane.cluster.scraping import loads

    while True:
        async with way() as admin, loads(admin) as known:
            found: dict[str, Any] = {"error": ""}
            while not found["error"]:
                found = await glance(admin) | {"loads": known}
                yield found
                await asyncio.sleep(every_s)


async def measure(admin: Access, limit_s: float = LIMIT_S) -> Facts:
    """Ask everybody, but not for builds. Raises nothing of what it finds. `limit_s`: of each, on an idle machine."""
    limit = stretched(limit_s, times_max=SLOWDOWN_MAX)
    answer, supervisor_error = await _topology(admin, limit)
    rows = _rows(admin, answer)

    def of(role: Role) -> list[_Row]:
        return [r for r in rows if r.facts.role == role.value]

    servers = of(Role.APISERVER)
    context = client_ssl(admin.shown())
    members, probes, faces, front, leads, nodes = await asyncio.gather(
        asyncio.gather(*(_member(admin, r, limit) for r in of(Role.MEMBER))),
        asyncio.gather(*(_probe(admin, r, limit) for r in servers)),
        asyncio.gather(*(ask_ready(context, r.endpoint("https"), limit) for r in servers)),
        asyncio.gather(*(ask_ready(context, r.endpoint("https"), limit) for r in of(Role.LOAD_BALANCER))),
        asyncio.gather(*(_lead(admin, name, limit) for name in LEADERS.values())),
        _nodes(admin, rows, limit),
    )
    told = [
        ServerFacts(name=row.facts.name, error=error, https_error=face)
        for row, error, face in zip(servers, probes, faces, strict=True)
    ]
    answered = {m.name for m in members if not m.error}
    answered |= {s.name for s in told if not (s.error and s.https_error)}
    answered |= {r.facts.name for r, error in zip(of(Role.LOAD_BALANCER), front, strict=True) if not error}
    return Facts(
        actors=[_seen(r.facts, answered) for r in rows],
        members=members,
        servers=told,
        leads=leads,
        nodes=nodes[0],
        supervisor_error=supervisor_error,
        nodes_error=nodes[1],
        front_error=next((f for f in front if f), ""),
        disk_free=_disk_free(admin.directory),
    )


async def _topology(admin: Access, limit: float, *, machines: bool = False) -> tuple[pb.TopologyResponse | None, str]:
    """What the supervisor says, or why it does not."""
    try:
        async with asyncio.timeout(limit):
            return await admin.supervisor.Topology(pb.TopologyRequest(machines=machines), timeout=limit), ""
    except (RpcError, TimeoutError) as e:
        return None, _why(e)


async def _faults(admin: Access, limit: float) -> list[dict[str, Any]] | None:
    """The faults that stand; None where nobody says."""
    try:
        async with asyncio.timeout(limit):
            found = await admin.faults.List(chaos_pb2.ListFaultsRequest(), timeout=limit)
    except (RpcError, TimeoutError):
        return None
    return [MessageToDict(one) for one in found.faults]


def _rows(admin: Access, answer: pb.TopologyResponse | None) -> list[_Row]:
    if answer is None:
        return [
            _Row(ActorFacts(name=i.name, role=i.role.value, machine=i.machine.address, running=None), dict(i.ports))
            for i in admin.state.topology.instances
        ]
    return [
        _Row(
            ActorFacts(
                name=r.name,
                role=r.role,
                machine=r.machine,
                running=r.running,
                starts=r.starts,
                failures=r.failures,
                reason=r.reason,
            ),
            dict(r.ports),
        )
        for r in answer.instances
    ]


async def _versions(admin: Access) -> dict[str, str]:
    """The builds of the actors that say so soon. Each is asked itself: nobody else need wait for one that is away."""
    limit = stretched(VERSIONS_S, times_max=SLOWDOWN_MAX)
    with contextlib.suppress(RpcError, TimeoutError):
        async with asyncio.timeout(limit):
            answer = await admin.supervisor.Topology(pb.TopologyRequest(builds=True), timeout=limit)
        return {r.name: r.build for r in answer.instances}
    return {}


def _seen(actor: ActorFacts, answered: Collection[str]) -> ActorFacts:
    """Who answers runs, also when the supervisor cannot be asked."""
    return replace(actor, running=True) if actor.running is None and actor.name in answered else actor


async def _member(admin: Access, row: _Row, limit: float) -> MemberFacts:
    name, endpoint = row.facts.name, row.endpoint("client")
    try:
        async with asyncio.timeout(limit):
            s = await admin.etcd.status(endpoint, timeout=limit)
    except (RpcError, TimeoutError) as e:
        return MemberFacts(name=name, endpoint=endpoint, error=_why(e))
    return MemberFacts(
        name=name,
        endpoint=endpoint,
        id=s.header.member_id,
        leader=s.leader,
        term=s.raftTerm,
        revision=s.header.revision,
        raft_index=s.raftIndex,
        raft_applied=s.raftAppliedIndex,
        db_bytes=s.dbSize,
        errors=tuple(s.errors),
    )


async def _probe(admin: Access, row: _Row, limit: float) -> str:
    """Write and read through one API server; why that does not work, or nothing."""
    now = admin.directory.clock.now()
    api = ApiClient(admin.network, [row.endpoint("grpc")], follow=False)
    step = "a Lease is not written"
    try:
        async with asyncio.timeout(limit):
            written = await _renew(api, f"rayplane-status-{row.facts.name}", now)
            step = "its watch cache does not see what it wrote"
            await _cached(api, written)
    except TimeoutError:
        return f"{step} within {limit:.0f} s"
    except ApiError as e:
        return f"{step}: {e.message}"
    return ""


async def _renew(api: ApiClient, name: str, now: datetime) -> Object:
    """Write the probe's Lease, over and over the same object. Two commands at once may both do so."""
    stamp = meta.format_micro_time(now)
    spec = {"holderIdentity": "rayplane-status", "leaseDurationSeconds": 1, "renewTime": stamp}
    for _ in range(PROBE_TRIES):
        with contextlib.suppress(Conflict, AlreadyExists):
            try:
                lease = await api.get(LEASES, name, NAMESPACE)
            except NotFound:
                lease = {"metadata": {"name": name, "namespace": NAMESPACE}}
                kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
                return await api.create(LEASES, kind | lease | {"spec": spec})
            return await api.update(LEASES, lease | {"spec": spec})
    raise Conflict(f"{name} is written by others all the time")


async def _cached(api: ApiClient, written: Object) -> None:
    """Return when the server's watch cache has come to that version. ApiError when it does not."""
    selector, version = f"metadata.name={meta.name(written)}", meta.resource_version(written)
    await api.list(LEASES, NAMESPACE, field_selector=selector, resource_version=version)


async def _lead(admin: Access, name: str, limit: float) -> LeadFacts:
    try:
        async with asyncio.timeout(limit):
            lease = await admin.api.get(LEASES, name, NAMESPACE)
    except NotFound:
        return LeadFacts(name=name)
    except (ApiError, TimeoutError) as e:
        return LeadFacts(name=name, error=_why(e))
    spec = lease.get("spec", {})
    return LeadFacts(
        name=name,
        holder=str(spec.get("holderIdentity") or ""),
        age_s=_age(spec, admin.directory.clock.now()),
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
    )


async def _nodes(admin: Access, rows: Sequence[_Row], limit: float) -> tuple[list[NodeFacts], str]:
    """The nodes that are there or should be, and why they cannot be listed."""
    try:
        async with asyncio.timeout(limit):
            nodes, leases = await asyncio.gather(admin.api.list("nodes"), admin.api.list(LEASES, NODE_LEASES))
    except (ApiError, TimeoutError) as e:
        return [], _why(e)
    spans = {meta.name(o): o.get("spec", {}) for o in leases.items}
    hosts = {r.facts.name for r in rows}
    wanted = {n for i in admin.state.topology.of(Role.NODE_HOST) if i.name in hosts for n in i.nodes}
    missing = sorted(wanted - {meta.name(n) for n in nodes.items})
    # Nobody leads the clock of a node that has joined from outside.
    led, machine = admin.directory.clock.now(), SystemClock().now()
    found = [_node(n, spans, led if meta.name(n) in wanted else machine) for n in nodes.items]
    return found + [NodeFacts(name=n, registered=False) for n in missing], ""


def _node(node: Object, leases: Mapping[str, Object], now: datetime) -> NodeFacts:
    """`leases`: their specs, by name; `now`: by the clock of who renews them."""
    lease = _latest((leases.get(name) for name in (meta.name(node), heartbeat_of(node))), now)
    ready, services = (meta.get_condition(node, kind) or {} for kind in ("Ready", NO_SERVICES))
    return NodeFacts(
        name=meta.name(node),
        ready=meta.condition_is(node, "Ready"),
        reason=str(ready.get("message") or ready.get("reason") or ""),
        lease_age_s=_age(lease, now) if lease else None,
        lease_duration_s=float((lease or {}).get("leaseDurationSeconds") or 0),
        runtime=str((meta.status(node).get("nodeInfo") or {}).get("containerRuntimeVersion") or ""),
        isolation=isolation_of(node),
        no_services=str(services.get("message") or "") if meta.condition_is(node, NO_SERVICES) else "",
    )


def _latest(leases: Iterable[Object | None], now: datetime) -> Object | None:
    """The Lease renewed last, of a node's own and the one that stands for it."""
    return min((lease for lease in leases if lease is not None), key=lambda one: _age(one, now), default=None)


def _age(lease_spec: Object, now: datetime) -> float:
    """Seconds since the renewal."""
    try:
        renewed = datetime.fromisoformat(str(lease_spec.get("renewTime")))
    except ValueError:
        return float("inf")
    return max(0.0, (now - renewed).total_seconds())


def _disk_free(directory: StateDir) -> int | None:
    try:
        return shutil.disk_usage(directory.path).free
    except OSError:
        return None


def _why(error: BaseException) -> str:
    text = " ".join(str(getattr(error, "message", "") or error).split())
    return text.partition(";")[0] or "no answer in time"


def _member_row(member: MemberFacts, actors: Sequence[ActorFacts]) -> dict[str, Any]:
    actor = next((a for a in actors if a.name == member.name), None)
    base = {
        "name": member.name,
        "endpoint": member.endpoint,
        "running": actor.running if actor is not None else None,
        "healthy": member.healthy,
        "version": actor.version if actor is not None else "",
    }
    if member.error:
        return base | {"error": member.error}
    return base | {
        "id": f"{member.id:x}",
        "leader": member.leader == member.id,
        "follows": f"{member.leader:x}" if member.leader else "",
        "term": member.term,
        "revision": member.revision,
        "raft_index": member.raft_index,
        "raft_applied": member.raft_applied,
        "db_bytes": member.db_bytes,
    }


def _cri_of(actor: ActorFacts, directory: StateDir) -> dict[str, str]:
    """Where a node host serves CRI; nothing for others."""
    if actor.role != Role.NODE_HOST.value:
        return {}
    return {"cri": f"unix://{directory.cri_socket(actor.name)}"}


def _actor_row(actor: ActorFacts, leads: bool) -> dict[str, Any]:
    return {
        "name": actor.name,
        "role": actor.role,
        "machine": actor.machine,
        "running": actor.running,
        "leader": leads,
        "starts": actor.starts,
        "reason": actor.reason,
        "version": actor.version,
    }
