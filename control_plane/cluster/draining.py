"""The draining of a machine: pods are evicted from its nodes, and what can live elsewhere goes there.

The supervisor moves members, API servers, schedulers, controller managers and the load balancer by itself once it knows
that the machine is drained (`supervisor.plan`). Here are the rest: nodes are cordoned and emptied as disruption budgets
let them, and the supervisor is moved, which nobody else would do. Node hosts stay, with the volumes that lie there.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, NotFound, ServiceUnavailable, Timeout
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import stays_with_node
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.access import Access, access, answers, current_topology, refresh
from rayplane.control_plane.cluster.ending import Progress
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.patience import Patience, is_passing, slowdown, until
from rayplane.control_plane.cluster.ray_driven import CONNECT_TIMEOUT_S, ray_driver, while_ray_lives
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.topology import Role, Topology
from rayplane.control_plane.tasks import finished
from rayplane.proto.rayplane.v1 import supervisor_pb2 as pb

#: Of a node: the machine that it was cordoned for.
DRAINED = "rayplane.io/drained"
POLL_S = 0.5
CALL_TIMEOUT_S = 60.0
# So many evictions are asked for at a time.
EVICTIONS_MAX = 16
_API = "the API"


@dataclass(slots=True)
class Left:
    """Leftovers of a machine, each with why it is there."""

    going: dict[str, str] = field(default_factory=dict)
    """Those that are waited for."""
    staying: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        return [f"{what}: {why}" for what, why in {**self.going, **self.staying}.items()]


def why_kept(pod: Object, *, force: bool) -> str:
    """Why a pod is not evicted; empty when it is. Pure."""
    owner = meta.controller_of(pod)
    if owner is None and not force:
        return "nothing would make it again: delete it, or drain with --force"
    return ""


async def drain(directory: StateDir, address: str, say: Progress, *, force: bool, patience_s: float) -> list[str]:
    """Empty a machine; what is left there, and why. `patience_s`: fair time without progress until it is given up.

    Raises ClusterError, UsageError as from the supervisor.
    """
    if await _is_left_without(directory, address):
        say("moving the supervisor")
        await _move_supervisor(directory)
    async with access(directory) as admin:
        await admin.supervisor.Drain(pb.DrainRequest(machine=address), timeout=CALL_TIMEOUT_S)
        await refresh(directory, admin)
        nodes = nodes_on(await current_topology(admin), address)
        await cordon(admin.api, nodes, address)
        left = await until_empty(admin, address, nodes, say, force=force, patience_s=patience_s)
        await refresh(directory, admin)
    state = directory.read_running()
    if any(i.machine.address == address for i in state.topology.of(Role.SUPERVISOR)):
        say("moving the supervisor")
        if await _move_supervisor(directory) == address:
            left.staying["supervisor"] = "Ray brought it back where it was: drain the machine again"
    return left.lines()


async def undrain(directory: StateDir, address: str) -> None:
    """Let what comes use a machine again, and pods its nodes."""
    async with access(directory) as admin:
        await admin.supervisor.Drain(pb.DrainRequest(machine=address, undo=True), timeout=CALL_TIMEOUT_S)
        await uncordon(admin.api, address)
        await refresh(directory, admin)


def nodes_on(topology: Topology, address: str) -> list[str]:
    return [n for i in topology.of(Role.NODE_HOST) if i.machine.address == address for n in i.nodes]


async def cordon(api: ApiClient, nodes: Sequence[str], address: str) -> None:
    """Let no pod come to nodes, and write on each that it is so for this machine, but where somebody did it before."""
    for name in nodes:
        try:
            node = await api.get("nodes", name)
        except NotFound:
            continue  # it has never registered
        if not meta.spec(node).get("unschedulable"):
            await _mark(api, name, True, address)


async def uncordon(api: ApiClient, address: str) -> None:
    """Let pods come to the nodes that were cordoned for this machine, wherever they are by now."""
    for node in (await api.list("nodes")).items:
        if meta.annotations(node).get(DRAINED) == address:
            await _mark(api, meta.name(node), None, None)


async def _mark(api: ApiClient, node: str, unschedulable: bool | None, drained: str | None) -> None:
    await api.patch(
        "nodes",
        node,
        "",
        {"metadata": {"annotations": {DRAINED: drained}}, "spec": {"unschedulable": unschedulable}},
    )


async def until_empty(
    admin: Access, address: str, nodes: Sequence[str], say: Progress, *, force: bool, patience_s: float
) -> Left:
    loop = asyncio.get_running_loop()
    patience = Patience(patience_s, loop.time())
    while True:
        left = Left()
        for node in nodes:
            await _evict(admin.api, node, left, force=force)
        await _look_at_actors(admin, address, left)
        if not left.going:
            return left
        what, why = next(iter(left.going.items()))
        say(f"{len(left.going)} left on {address}; {what}: {why}")
        if _API not in left.going:  # what it does not tell of may be more
            patience.reached(-len(left.going))
        patience.passed(loop.time(), slowdown())
        if patience.over:
            return left
        await asyncio.sleep(POLL_S)


async def _evict(api: ApiClient, node: str, left: Left, *, force: bool) -> None:
    try:
        pods = (await api.list("pods", field_selector=f"spec.nodeName={node}")).items
    except (ServiceUnavailable, Timeout) as e:
        # The only API server may be on its way from here.
        left.going[_API] = e.message
        return
    asked = 0
    for pod in pods:
        name = f"pod {meta.namespace(pod)}/{meta.name(pod)}"
        if stays_with_node(pod):
            continue
        if meta.is_deleting(pod):
            left.going[name] = "it is ending"
        elif why := why_kept(pod, force=force):
            left.staying[name] = why
        elif asked < EVICTIONS_MAX:
            asked += 1
            left.going[name] = await evicted(api, pod)
        else:
            left.going[name] = "others go first"


async def evicted(api: ApiClient, pod: Object) -> str:
    """What came of an eviction that was asked for."""
    place = {"name": meta.name(pod), "namespace": meta.namespace(pod)}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": place}
    try:
        await api.create("pods", eviction, subresource="eviction")
    except NotFound:
        pass
    except ApiError as e:
        return e.message
    return "it is ending"


async def _look_at_actors(admin: Access, address: str, left: Left) -> None:
    answer: pb.TopologyResponse = await admin.supervisor.Topology(pb.TopologyRequest(), timeout=CALL_TIMEOUT_S)
    for row in answer.instances:
        if row.machine == address and row.role not in (Role.NODE_HOST, Role.SUPERVISOR):
            left.going[row.name] = row.reason or "it has not moved yet"


async def _is_left_without(directory: StateDir, address: str) -> bool:
    """Whether there is no supervisor since a move of it from a drained machine did not end: it is not started again."""
    async with access(directory) as admin:
        topology = await current_topology(admin)
        leaves = [i for i in topology.of(Role.SUPERVISOR) if address == i.machine.address in topology.drained]
        # Who moves it reads what is remembered.
        return bool(leaves) and not await answers(leaves[0], "grpc") and await refresh(directory, admin)


async def _move_supervisor(directory: StateDir) -> str:
    """Move it; the machine where it is then."""
    state = directory.read_running()
    async with ray_driver(directory, "move") as driver:
        try:
            await while_ray_lives(state.host, driver.line(), CONNECT_TIMEOUT_S)
            driver.go_on()
            await finished(driver.ended())
        except ClusterError as e:
            raise ClusterError(f"the supervisor does not move: {e}; try again") from e
    return await until(lambda: _find_supervisor(directory), CALL_TIMEOUT_S, is_passing)


async def _find_supervisor(directory: StateDir) -> str:
    """Remember where it is, and tell. RpcError while it has not said so itself."""
    async with access(directory) as admin:
        answer: pb.TopologyResponse = await admin.supervisor.Topology(pb.TopologyRequest(), timeout=CALL_TIMEOUT_S)
        await refresh(directory, admin)
    return next((row.machine for row in answer.instances if row.role == Role.SUPERVISOR), "")
