"""The state of a simulated cluster, in lines for people; from outside, so that nothing changes."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson
import yaml

from rayplane.control_plane.api import meta
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.supervisor.component import Supervisor
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.simulation.cell import Cell
from rayplane.control_plane.simulation.cluster import SimulatedCluster
from rayplane.node.host import NodeHost

REGISTRY, REGISTRY_END = b"/registry/", b"/registry0"
TASKS_SHOWN = 30


def overview(cluster: SimulatedCluster) -> list[str]:
    """A line for each process, and what is wrong with the network."""
    lines = [f"{name:16} {_life(cell)}{_brief(cell)}" for name, cell in sorted(cluster.processes.items())]
    return [*lines, *cluster.weather.troubles()]


def _life(cell: Cell) -> str:
    if not cell.alive:
        return "dead"
    return "stands still" if cell.paused else "runs"


def _brief(cell: Cell) -> str:
    match cell.component:
        case Member() as member:
            leads = "leads in" if member.is_leader else "follows in"
            return f", {leads} term {member.term}, revision {member.store.revision}"
        case NodeHost() as host:
            return f", {sum(len(list(kubelet.workers)) for kubelet in host.kubelets.values())} pods"
        case None:
            return ""
        case component if hasattr(component, "is_leader"):
            return ", leads" if component.is_leader else ", waits"
    return ""


def state_of(cluster: SimulatedCluster, name: str) -> list[str]:
    """All that can be told of one process. Raises UsageError when there is none of that name."""
    cell = cluster.processes.get(name)
    if cell is None:
        raise UsageError(f"no {name!r:.60}; there are {', '.join(sorted(cluster.processes))}")
    tasks = [task.get_name() for task in cell.tasks()]
    counts = [f"{task} x{count}" if count > 1 else task for task, count in sorted(Counter(tasks).items())]
    lines = [f"{name} {_life(cell)}{_brief(cell)}, started {cell.starts} times, its clock shows {cell.clock}"]
    lines += _inside(cell.component)
    return [*lines, f"{len(tasks)} tasks: {', '.join(counts[:TASKS_SHOWN])}"]


def _inside(component: Any) -> list[str]:
    match component:
        case Member() as member:
            applied = member.store.applied
            names = [f"{m.name}{' (learner)' if m.isLearner else ''}" for m in member.machine.members.all()]
            return [f"applied {applied}, compacted up to {member.store.compacted_revision}", f"members {names}"]
        case Supervisor() as supervisor:
            return [f"{i.name}: {i.phase.value} on {i.machine.id}" for i in supervisor.topology.instances]
        case NodeHost() as host:
            return [line for kubelet in host.kubelets.values() for line in _pods(kubelet)]
    return []


def _pods(kubelet: Any) -> Iterator[str]:
    for worker in kubelet.workers:
        machine = worker.machine
        runs = ", ".join(f"{c.name} {c.run.value}" for c in machine.containers)
        yield f"{kubelet.name}: {meta.key(worker.pod)} {machine.stage.value}: {runs}"


def objects_now(cluster: SimulatedCluster, kind: str = "", name: str = "") -> list[str]:
    """What the member that has applied most holds of objects: counts by kind, keys of a kind, or one as YAML."""
    members = [member for _, member in cluster.members()]
    if not members:
        return ["no member runs"]
    store = max((m.store for m in members), key=lambda store: store.revision)
    found = {kv.key.decode(): kv for kv in store.range(REGISTRY, REGISTRY_END).kvs}
    if not kind:
        counts = Counter(key.split("/")[2] for key in found)
        return [f"revision {store.revision}", *(f"{what} {count}" for what, count in sorted(counts.items()))]
    chosen = {key: kv for key, kv in found.items() if kind in key.split("/")[2:4]}
    if not name:
        return [f"{key.removeprefix('/registry/')} at {kv.mod_revision}" for key, kv in sorted(chosen.items())] or [
            "none"
        ]
    of_name = [kv for key, kv in sorted(chosen.items()) if key.endswith(f"/{name}")]
    return [yaml.safe_dump(orjson.loads(kv.value), sort_keys=False).rstrip() for kv in of_name] or ["none"]
