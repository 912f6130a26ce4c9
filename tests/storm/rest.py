"""Coming to rest: what must be true once nothing is broken any more, and soon."""

import asyncio
from collections.abc import Awaitable, Callable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.resources import LEASES
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.cluster import patience
from rayplane.control_plane.cluster.access import Access, current_topology
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.readiness import LEADERS
from rayplane.control_plane.cluster.status import status
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2
from rayplane.proto.rayplane.v1 import node_pb2
from tests.storm import workload

#: Without progress, in fair time.
REST_S = 30.0
CALL_TIMEOUT_S = 15.0
POLL_S = 0.2


class Restless(AssertionError):
    """Something is not as it must be, and does not get so."""


async def at_rest(admin: Access, wanted: dict[str, int]) -> float:
    """Wait until everything is well; how long that took. Restless says what is not."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    # At first only: a status that says so too early is found out by what follows.
    await _until("status", lambda: _unhealthy(admin))
    await _until("workload", lambda: workload.missing(admin, wanted))
    before = await _until_known(lambda: _renewals(admin))
    await _until("leases", lambda: _not_renewed(admin, before))
    await _until("members", lambda: _unequal(admin))
    await _until("nodes", lambda: _not_on_nodes(admin))
    await _until("files", lambda: _half_written(admin))
    took = loop.time() - began
    if still := await _unhealthy(admin):
        raise Restless(f"everything is at rest, but status says: {still}")
    return took


async def _until(what: str, missing: Callable[[], Awaitable[str]]) -> None:
    loop = asyncio.get_running_loop()
    left = patience.Patience(REST_S, loop.time())
    while found := await _ask(missing):
        left.passed(loop.time(), patience.slowdown())
        if left.over:
            raise Restless(f"{what}: {found}")
        await asyncio.sleep(POLL_S)


async def _ask(missing: Callable[[], Awaitable[str]]) -> str:
    try:
        async with asyncio.timeout(patience.stretched(CALL_TIMEOUT_S, times_max=4)):
            return await missing()
    except (ApiError, RpcError, ClusterError, TimeoutError) as e:
        return f"{type(e).__name__} {e}"


async def _until_known(ask: Callable[[], Awaitable[dict[str, str]]]) -> dict[str, str]:
    found: dict[str, str] = {}

    async def answered() -> str:
        found.update(await ask())
        return ""

    await _until("an answer", answered)
    return found


async def _unhealthy(admin: Access) -> str:
    return "; ".join((await status(admin))["faults"])


async def _renewals(admin: Access) -> dict[str, str]:
    """When each leader and each node has renewed its Lease."""
    nodes = await admin.api.list(LEASES, "kube-node-lease")
    leaders = [await admin.api.get(LEASES, name, "kube-system") for name in LEADERS.values()]
    return {meta.name(o): str(o["spec"].get("renewTime")) for o in (*nodes.items, *leaders)}


async def _not_renewed(admin: Access, before: dict[str, str]) -> str:
    now = await _renewals(admin)
    nodes = {n for i in (await current_topology(admin)).of(Role.NODE_HOST) for n in i.nodes}
    wanted = {*nodes, *LEADERS.values()}
    return ", ".join(sorted(n for n in wanted if now.get(n) in (None, before.get(n))))


async def _unequal(admin: Access) -> str:
    """Members have one leader, and hold the same at the same revision."""
    topology = await current_topology(admin)
    ends = topology.endpoints(Role.MEMBER, "client")
    said = [await admin.etcd.status(e) for e in ends]
    leaders = {(s.leader, s.raftTerm) for s in said}
    if len(leaders) != 1 or not all(s.leader for s in said):
        return f"leaders and terms {leaders}"
    revision = (await admin.etcd.range(b"/")).header.revision
    hashes = {}
    for end in ends:
        kv = Stub(admin.network.channel(end), rpc_pb2.DESCRIPTOR.services_by_name["KV"])
        # A linearizable read brings the member up to that revision.
        await kv.Range(rpc_pb2.RangeRequest(key=b"/"), timeout=CALL_TIMEOUT_S)
        stub = Stub(admin.network.channel(end), rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"])
        answer = await stub.HashKV(rpc_pb2.HashKVRequest(revision=revision), timeout=CALL_TIMEOUT_S)
        hashes[end] = (answer.hash, answer.compact_revision)
    if len({compacted for _, compacted in hashes.values()}) != 1:
        return f"compacted revisions differ: {hashes}"
    return "" if len(set(hashes.values())) == 1 else f"hashes at revision {revision} differ: {hashes}"


async def _not_on_nodes(admin: Access) -> str:
    """Every pod that is there runs on its node and on no other, and nothing else does."""
    topology = await current_topology(admin)
    pods = (await admin.api.list("pods")).items
    wanted = sorted((meta.node_name(p), meta.namespace(p), meta.name(p)) for p in pods if not pod_is_terminated(p))
    found = await _running(admin, topology)
    return "" if found == wanted else f"on the nodes are {found}, wanted are {wanted}"


async def _running(admin: Access, topology: Topology) -> list[tuple[str, str, str]]:
    found = []
    for instance in topology.of(Role.NODE_HOST):
        stub = Stub(admin.network.channel(instance.endpoint("grpc")), node_pb2.DESCRIPTOR.services_by_name["Node"])
        for node in instance.nodes:
            stats = await stub.Stats(node_pb2.StatsRequest(node=node), timeout=CALL_TIMEOUT_S)
            found += [(node, c.namespace, c.pod) for c in stats.containers]
    return sorted(found)


async def _half_written(admin: Access) -> str:
    """No file keeps a name that was only meant for a moment."""
    data = admin.directory.path / "data"
    return ", ".join(str(p.relative_to(data)) for p in data.rglob("*") if ".tmp" in p.name or p.name.endswith("~"))
