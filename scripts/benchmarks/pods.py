"""How fast the pods of one Deployment come to run on simulated nodes, and go again."""

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import milli
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.options import run
from rayplane.control_plane.client import Informer
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.tasks import cancel_and_wait
from scripts.benchmarks import clusters
from scripts.benchmarks.account import counts, rows_of
from scripts.benchmarks.clusters import Running, cluster, say, whole
from scripts.benchmarks.idle import resting
from scripts.benchmarks.ledger import Ledger
from scripts.benchmarks.machine import cpu_between, cpu_by_name, description
from scripts.benchmarks.report import Hosts, Json, hosts, percentile, show, table

NAME = "bench"
LABELS = {"app": NAME}
FORBIDDEN = ("lost", "doubled", "bound_twice", "overcommitted")
"""Figures that must be 0: see `ledger`."""
FULL = 0.8
"""Part of the nodes' cores that pods ask for while members are killed."""


def pods(
    pods: Annotated[int, typer.Option(help="Replicas of the Deployment.")] = 1000,
    nodes: Annotated[int, typer.Option(help="Simulated nodes in all.")] = 100,
    node_hosts: Annotated[int, typer.Option(help="Actors that carry them.")] = 3,
    timeout: Annotated[float, typer.Option(help="Give up after so many seconds.")] = 300,
    kill_leader: Annotated[
        float, typer.Option(metavar="SECONDS", help="Kill the leading etcd member every so many seconds meanwhile.")
    ] = 0,
    idle: Annotated[
        float, typer.Option(help="Then leave the cluster alone for so many seconds, and measure the second half.")
    ] = 0,
    account: Annotated[bool, typer.Option("--account", help="Also what each part did for a pod.")] = False,
    host: Hosts = "ray,process",
    json: Json = "",
) -> None:
    """Pods created, bound, Running and gone again per second, and CPU seconds per 1000 pods."""
    machine = description()
    chosen = hosts(host)
    per_host = -(-nodes // node_hosts)

    async def measure() -> list[dict[str, Any]]:
        rows = []
        for one in chosen:
            async with cluster(one, nodes=node_hosts, nodes_per_host=per_host) as running:
                with say.status(f"{pods} pods on {node_hosts * per_host} nodes ({one})"):
                    before = await counts(running) if account else None
                    registered = _registration((await running.admin.api.list("nodes")).items)
                    row = await _deploy(running, pods, timeout, kill_leader)
                    if before is not None:
                        row["account"] = rows_of(before, await counts(running), pods)
                    row |= await resting(running, idle) if idle else {}
                    before = await counts(running) if account else None
                    row |= await _delete(running, pods, timeout)
                    if before is not None:
                        row["account_of_deletion"] = rows_of(before, await counts(running), pods)
                rows.append({"host": one, "pods": pods, "nodes": node_hosts * per_host} | registered | row)
        return rows

    notes = [
        "CPU is that of all the cluster's processes, from the Deployment's creation until 1 s after all pods run.",
        "Gone: after the Deployment was deleted in the background; their CPU until 1 s after the last.",
    ]
    if kill_leader:
        told = f"{', '.join(FORBIDDEN)} must be 0"
        notes.append(f"The leading member was killed {kill_leader:g} s after all were back, again and again; {told}.")
    found = run(measure())
    for row in found if account else ():
        say.print(table(f"what each part does for a pod ({row['host']})", row["account"]))
        say.print(table(f"what each part does for a pod that goes ({row['host']})", row["account_of_deletion"]))
    show("pods", found, machine, target=json, notes=notes)
    if any(row.get(what) for row in found for what in FORBIDDEN):
        raise typer.Exit(1)


@dataclass
class Course:
    """When each pod was first seen in each state (seconds of the monotonic clock)."""

    created: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    wanted: int = 0
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, kind: str, old: Object | None, pod: Object) -> None:
        now, key = time.monotonic(), meta.key(pod)
        self.created.setdefault(key, now)
        if pod["spec"].get("nodeName"):
            self.bound.setdefault(key, now)
        if pod.get("status", {}).get("phase") == "Running":
            self.running.setdefault(key, now)
            if len(self.running) >= self.wanted:
                self.done.set()


async def _deploy(running: Running, count: int, timeout: float, kill_leader: float) -> dict[str, Any]:
    course, api = Course(wanted=count), running.admin.api
    nodes = (await api.list("nodes")).items
    ledger = Ledger(count, nodes)
    informer = Informer(api, "pods", namespace="default")
    informer.add_handler(course.see)
    informer.add_handler(ledger.saw)
    informer.start()
    checked: dict[str, int] = {}
    try:
        await informer.synced()
        before, start = running.usage(), time.monotonic()
        await api.create("deployments.apps", _deployment(count, cpu_m=_share(count, nodes) if kill_leader else 0))
        killer = Killer(running.admin, kill_leader)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout), killer:
                await course.done.wait()
        end = time.monotonic()
        if kill_leader:
            await whole(running.admin)
            left = (await api.list("pods", "default")).items
            checked = {"kills": killer.kills, **ledger.figures(left)}
        # What is written after the last pod runs (statuses, endpoints, events) belongs to the price.
        await asyncio.sleep(1.0)
        after = running.usage()
        cpu = cpu_between(before, after)
    finally:
        await informer.stop()

    def rate(seen: dict[str, float]) -> float:
        return round(len(seen) / max((max(seen.values()) if seen else end) - start, 1e-3), 1)

    waits = [at - course.created[key] for key, at in course.running.items()] or [0.0]
    return {
        "ran": len(course.running),
        **checked,
        "seconds": round(end - start, 2),
        "created_per_s": rate(course.created),
        "bound_per_s": rate(course.bound),
        "running_per_s": rate(course.running),
        "wait_p50_s": round(percentile(waits, 50), 2),
        "wait_p99_s": round(percentile(waits, 99), 2),
        "cpu_s_per_1000": round(cpu * 1000 / count, 2),
        "cpu_s_of_each": cpu_by_name(before, after),
    }


async def _delete(running: Running, count: int, timeout: float) -> dict[str, Any]:
    """Delete the Deployment, and see its pods go."""
    api, left, gone = running.admin.api, dict[str, None](), asyncio.Event()
    done = 0

    def see(kind: str, old: Object | None, pod: Object) -> None:
        nonlocal done
        if kind != "DELETED":
            left[meta.key(pod)] = None
        elif meta.key(pod) in left:
            del left[meta.key(pod)]
            done += 1
            if not left:
                gone.set()

    informer = Informer(api, "pods", namespace="default", label_selector=f"app={NAME}")
    informer.add_handler(see)
    informer.start()
    try:
        await informer.synced()
        before, start = running.usage(), time.monotonic()
        await api.delete("deployments.apps", NAME, "default", propagation="Background")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await gone.wait()
        seconds = time.monotonic() - start
        await asyncio.sleep(1.0)
        after = running.usage()
    finally:
        await informer.stop()
    return {
        "gone": done,
        "gone_per_s": round(done / seconds, 1),
        "gone_cpu_s_per_1000": round(cpu_between(before, after) * 1000 / count, 2),
        "gone_cpu_s_of_each": cpu_by_name(before, after),
    }


def _registration(nodes: Sequence[Object]) -> dict[str, Any]:
    """How long it took from the first Node to the last that is ready (their stamps are whole seconds), and the rate."""
    made = [meta.parse_time(meta.metadata(node)["creationTimestamp"]) for node in nodes]
    ready = [
        meta.parse_time(condition["lastTransitionTime"])
        for node in nodes
        if (condition := meta.get_condition(node, "Ready") or {}).get("status") == "True"
    ]
    seconds = max(1.0, (max(ready) - min(made)).total_seconds()) if ready else 0.0
    return {
        "nodes_ready": len(ready),
        "nodes_ready_s": seconds,
        "nodes_ready_per_s": round(len(ready) / seconds, 1) if seconds else 0.0,
    }


class Killer:
    """A context in which the leading member is killed again and again, each time once all members are back."""

    def __init__(self, admin: Access, every_s: float) -> None:
        """`every_s`: 0 for never."""
        self._admin = admin
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self.kills = 0

    async def __aenter__(self) -> None:
        if self._every_s:
            self._task = asyncio.create_task(self._run())

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            await clusters.kill_leader(self._admin)
            self.kills += 1
            await whole(self._admin)


def _share(count: int, nodes: Sequence[Object]) -> int:
    """Thousandths of a core for each pod, so that all fit and no node has room for many more."""
    least = min(milli(meta.status(node)["allocatable"]["cpu"]) for node in nodes)
    return max(1, int(least * FULL / -(-count // len(nodes))))


def _deployment(count: int, *, cpu_m: int = 0) -> Object:
    container: Object = {"name": "c", "image": "registry.k8s.io/pause:3.10"}
    if cpu_m:
        container["resources"] = {"requests": {"cpu": f"{cpu_m}m"}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "replicas": count,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [container]}},
        },
    }
