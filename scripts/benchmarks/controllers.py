"""What each controller costs in a large cluster: CPU of an event, of a reconcile, and of a pod from birth to death.

The catalogue's controllers, their runners and their caches over a synthetic cluster at rest (`synthetic`), without
servers. An event goes through all watches of a controller as in the controller manager: mapped to keys that are queued.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, cast

import typer

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.options import run
from rayplane.control_plane.client import Informer
from rayplane.control_plane.controllers.catalog import build_controllers
from rayplane.control_plane.controllers.config import ControllersConfig, Timing
from rayplane.control_plane.controllers.core import Controller, View
from rayplane.control_plane.controllers.manager.caches import Caches
from rayplane.control_plane.controllers.manager.executor import Executor
from rayplane.control_plane.controllers.manager.runner import ControllerRunner
from rayplane.control_plane.controllers.story import Story
from rayplane.control_plane.timings import FAST
from rayplane.storage.env import Env, SystemClock, settle_heap
from scripts.benchmarks.clusters import say
from scripts.benchmarks.machine import description
from scripts.benchmarks.report import Json, show
from scripts.benchmarks.synthetic import LEASES, World, bound, populate, running, settle

Change = tuple[str, Object | None, Object]
"""Type, old and new object, as handlers of informers get them."""
POD, LEASE, NODE, LOST = "pod", "lease", "node", "lost node"
"""What changes: a pod from its creation to its end, a Lease by a heartbeat, a Node by a report, or as it is lost."""
CACHES = "(caches)"


def controllers(
    nodes: Annotated[int, typer.Option(help="Nodes, each with its Lease.")] = 5000,
    pods: Annotated[int, typer.Option(help="Pods that run.")] = 30_000,
    events: Annotated[int, typer.Option(help="Objects whose changes are measured.")] = 200,
    json: Json = "",
) -> None:
    """CPU microseconds of events, reconciles and a pod's life for each controller, over caches of a large cluster."""
    machine = description()
    rows = run(_measure(nodes, pods, events))
    notes = [
        f"{nodes} nodes, {pods} pods; {events} of each event, one after the other, before each key is reconciled once.",
        "pod: its five changes from creation to end and the reconciles after them; lost node: the same of one that is",
        "not ready. idle and busy: a reconcile that wants nothing or something done. start: all objects, as a new",
        "leader is told them; resync: the work that comes again and again, whatever changes.",
    ]
    show("controllers", rows, machine, target=json, notes=notes)


async def _measure(nodes: int, pods: int, events: int) -> list[dict[str, Any]]:
    world = World()
    # No node is lost because the measurement takes its time.
    timing = Timing(nodes=dataclasses.replace(FAST.nodes, grace_s=3600.0, fence_s=3600.0))
    config = ControllersConfig(identity="bench", timing=timing)
    subjects = [Subject(one, world.caches) for one in build_controllers(config)]
    with say.status(f"making {pods} pods on {nodes} nodes"):
        populate(world, nodes, pods)
        await world.caches.start(watch.resource for s in subjects for watch in s.controller.watches)
        await settle(world, [s.controller for s in subjects])
    settle_heap()
    course = Course(world, subjects)
    try:
        with say.status("measuring"):
            await course.start()
            await course.run(LEASE, LEASES, _heartbeats(world, events))
            await course.run(NODE, "nodes", _reports(world, events))
            for pods_now in _lives(world, events):
                await course.run(POD, "pods", pods_now)
            await course.run(LOST, "nodes", _losses(world, events))
    finally:
        for subject in subjects:
            await subject.runner.stop()
        await world.caches.stop()
    rows = sorted((subject.row(events) for subject in subjects), key=lambda row: -row["pod_us"])
    return [_row(CACHES, course.caches, events), *rows]


@dataclass(slots=True)
class Cost:
    """CPU of something that was done several times."""

    ns: int = 0
    times: int = 0

    def add(self, ns: int, times: int = 1) -> None:
        self.ns += ns
        self.times += times


class _Ear:
    """What a runner takes for an informer: keeps who wants to be told."""

    def __init__(self) -> None:
        self.handlers: list[Callable[[str, Object | None, Object], None]] = []

    def add_handler(self, handler: Callable[[str, Object | None, Object], None]) -> None:
        self.handlers.append(handler)


class _Tap(Caches):
    """The caches as one runner has them: it is told only what is meant for it."""

    def __init__(self, caches: Caches) -> None:
        self.view = caches.view
        self.ears: dict[str, _Ear] = {}
        self._caches = caches
        self.shown = caches.shown
        self._list_handlers = []

    def informer(self, resource: str) -> Informer:
        return cast(Informer, self.ears.setdefault(resource, _Ear()))

    def watches(self, resource: str) -> bool:
        return self._caches.watches(resource)


class Subject:
    """A controller with its runner, whose workers do not run, and what it has cost."""

    def __init__(self, controller: Controller, caches: Caches) -> None:
        self.controller = controller
        self._tap = _Tap(caches)
        executor = Executor(cast(Any, None), cast(Any, None), caches.view, batch_size=1)
        env = Env(SystemClock(), random.Random(1), cast(Any, None))
        self.runner = ControllerRunner(
            *(controller, self._tap, executor), env=env, workers=0, barrier_timeout_s=30.0, story=Story()
        )
        self.runner.attach()
        self.costs: dict[str, Cost] = defaultdict(Cost)

    def hear(self, what: str, resource: str, changes: Sequence[Change]) -> None:
        ear = self._tap.ears.get(resource)
        if ear is None:
            return
        started = time.process_time_ns()
        for handler in ear.handlers:
            for change in changes:
                handler(*change)
        self.costs[what].add(time.process_time_ns() - started, len(changes))

    def reconcile(self, keys: Iterable[str], world: World, more: str = "") -> None:
        """One reconcile of each key; `more`: to whose cost it is added as well."""
        for key in keys:
            now = world.now()
            started = time.process_time_ns()
            wanted = self.controller.reconcile(key, world.caches.view, now)
            ns = time.process_time_ns() - started
            self.costs["busy" if wanted.actions else "idle"].add(ns)
            if more:
                self.costs[more].add(ns, 0)

    def keys(self, resource: str, changes: Sequence[Change], view: View) -> dict[str, None]:
        """What the changes concern."""
        found: dict[str, None] = {}
        for watch in self.controller.watches:
            if watch.resource != resource or watch.keys is None:
                continue
            for kind, old, new in changes:
                if kind == "MODIFIED" and old is not None and not watch.changed(old, new):
                    continue
                found |= {key: None for o in (old, new) if o is not None for key in watch.keys(o, view)}
        return found

    def row(self, pods: int) -> dict[str, Any]:
        return _row(self.controller.name, self.costs, pods)


def _row(name: str, costs: Mapping[str, Cost], pods: int) -> dict[str, Any]:
    def us(what: str) -> float | None:
        cost = costs.get(what)
        return round(cost.ns / cost.times / 1000, 2) if cost and cost.times else None

    def all_of(what: str) -> int:
        return costs[what].ns if what in costs else 0

    return {
        "controller": name,
        "pod_us": round((all_of(POD) + all_of(f"after {POD}")) / pods / 1000, 1),
        "pod_event_us": us(POD),
        "lease_event_us": us(LEASE),
        "node_event_us": us(NODE),
        "idle_us": us("idle"),
        "busy_us": us("busy"),
        "lost_node_us": round((all_of(LOST) + all_of(f"after {LOST}")) / pods / 1000, 1),
        "start_ms": round(all_of("start") / 1e6, 1),
        "resync_ms": round(all_of("resync") / 1e6, 2),
    }


class Course:
    """The changes of a world, one kind after the other, before all controllers."""

    def __init__(self, world: World, subjects: Sequence[Subject]) -> None:
        self._world = world
        self._subjects = subjects
        self.caches: dict[str, Cost] = defaultdict(Cost)

    async def start(self) -> None:
        """What is there already, as a new leader is told it, and the work that is done again and again."""
        for subject in self._subjects:
            for resource, known in self._world.objects.items():
                subject.hear("start", resource, [("ADDED", None, o) for o in known.values()])
            for what in ("first", "resync"):
                subject.reconcile(subject.controller.resync_keys, self._world, what)
        await self._rest()

    async def _rest(self) -> None:
        """Nobody works on the keys that are queued: let their timers not fire amid what is measured."""
        for subject in self._subjects:
            await subject.runner.stop()
        await asyncio.sleep(0)

    async def run(self, what: str, resource: str, changed: Sequence[tuple[str, Object]]) -> None:
        """Let objects change, and have all controllers told and look at what it concerns."""
        known = self._world.objects[resource]
        changes: list[Change] = []
        for kind, o in changed:
            old = known.get(meta.key(o))
            if kind == "DELETED":
                self._world.remove(resource, o)
            else:
                self._world.put(resource, o)
            changes.append((kind, old, o))
        started = time.process_time_ns()
        await self._world.shown()
        self.caches[what].add(time.process_time_ns() - started, len(changes))
        for subject in self._subjects:
            subject.hear(what, resource, changes)
            subject.reconcile(subject.keys(resource, changes, self._world.caches.view), self._world, f"after {what}")
        await self._rest()


# --- what changes -------------------------------------------------------------------------------


def _some(objects: Iterable[Object], count: int) -> list[Object]:
    """So many of them, from all over."""
    found = [*objects]
    return [copy.deepcopy(o) for o in found[:: max(1, len(found) // count)][:count]]


def _heartbeats(world: World, count: int) -> list[tuple[str, Object]]:
    leases = _some(world.objects[LEASES].values(), count)
    for lease in leases:
        lease["spec"]["renewTime"] = meta.format_micro_time(world.now().wall)
    return [("MODIFIED", lease) for lease in leases]


def _reports(world: World, count: int) -> list[tuple[str, Object]]:
    nodes = _some(world.objects["nodes"].values(), count)
    for node in nodes:
        node["status"]["conditions"][0]["lastHeartbeatTime"] = meta.format_time(world.now().wall + timedelta(seconds=1))
    return [("MODIFIED", node) for node in nodes]


def _losses(world: World, count: int) -> list[tuple[str, Object]]:
    """Nodes that say of themselves that they are not ready."""
    nodes = _some(world.objects["nodes"].values(), count)
    for node in nodes:
        node["status"]["conditions"][0]["status"] = "False"
    return [("MODIFIED", node) for node in nodes]


def _lives(world: World, count: int) -> Iterator[list[tuple[str, Object]]]:
    """Pods beside those that are there, like them, through their lives; one step after the other."""
    models = _some(world.objects["pods"].values(), count)
    places = [meta.node_name(pod) for pod in models]
    stamp = meta.format_time(world.now().wall)
    pods = []
    for number, pod in enumerate(models):
        about = pod["metadata"]
        pod["metadata"] = {**about, "name": f"{about['name']}-more", "uid": f"more-{number}"}
        pod["spec"].pop("nodeName", None)
        pod["status"] = {"phase": "Pending"}
        pods.append(pod)
    yield [("ADDED", pod) for pod in pods]
    pods = [bound(pod, place) for pod, place in zip(pods, places, strict=True)]
    yield [("MODIFIED", pod) for pod in pods]
    pods = [running(pod, number, stamp) for number, pod in enumerate(pods)]
    yield [("MODIFIED", pod) for pod in pods]
    pods = [copy.deepcopy(pod) for pod in pods]
    for pod in pods:
        pod["metadata"] |= {"deletionTimestamp": stamp, "deletionGracePeriodSeconds": 30}
    yield [("MODIFIED", pod) for pod in pods]
    yield [("DELETED", pod) for pod in pods]
