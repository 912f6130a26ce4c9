"""A large cluster in memory, for benchmarks.

Its workloads are as users write them, and the rest is what controllers make of them; pods run as soon as they exist.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds import defaulting
from rayplane.control_plane.api.machinery import patching, schema
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, ObjectList, WatchEvent
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    IfAbsent,
    IfAlive,
    Patch,
    Update,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import Controller, Moment
from rayplane.control_plane.controllers.manager.caches import Caches

DEPLOYMENTS, SETS, JOBS = "deployments.apps", "statefulsets.apps", "jobs.batch"
LEASES, NODE_LEASES = "leases.coordination.k8s.io", "kube-node-lease"
REPLICAS = {DEPLOYMENTS: 10, SETS: 5, JOBS: 5}
#: Parts of the pods that are each kind's, of ten.
SHARES = {DEPLOYMENTS: 7, SETS: 2, JOBS: 1}
KINDS = {DEPLOYMENTS: ("apps/v1", "Deployment"), SETS: ("apps/v1", "StatefulSet"), JOBS: ("batch/v1", "Job")}
OF_NAMESPACE = 50
"""Workloads in a namespace, each with a Service; one in ten with a disruption budget."""
BUILDERS = ("deployment", "replicaset", "statefulset", "job", "disruption", "endpoints", "endpointslice", "ttl")
"""Controllers that make what is in the caches of a cluster at rest."""
ROUNDS_MAX = 12


# The class below has a method `list`, which hides the type inside it.
_Events = list[WatchEvent]


class World:
    """Objects by resource, and what a controller's actions make of them; caches follow it as they follow a server."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Object]] = {}
        self._changes: dict[str, asyncio.Queue[_Events]] = {}
        self._number = 0
        self._started = datetime.now(UTC) - timedelta(hours=1)
        self.caches = Caches(cast(ApiClient, self))

    # --- as a client ----------------------------------------------------------------------------

    async def list(self, resource: str, namespace: str = "", **_: Any) -> ObjectList:
        self._changes[resource] = asyncio.Queue()
        return ObjectList([*self.objects.get(resource, {}).values()], str(self._number))

    async def watch(self, resource: str, namespace: str = "", **_: Any) -> AsyncIterator[_Events]:
        changes = self._changes[resource]
        while True:
            yield await changes.get()
            changes.task_done()

    # --- changes --------------------------------------------------------------------------------

    def put(self, resource: str, o: Object) -> Object:
        """Store a new or changed object, which becomes the callee's."""
        self._number += 1
        about = o.setdefault("metadata", {})
        if not about.get("name"):
            about["name"] = f"{about['generateName']}{self._number}"
        about.setdefault("uid", f"uid-{self._number}")
        about.setdefault("generation", 1)
        about.setdefault("creationTimestamp", meta.format_time(self._started))
        about["resourceVersion"] = str(self._number)
        known = self.objects.setdefault(resource, {})
        key = meta.key(o)
        self._tell(resource, "MODIFIED" if key in known else "ADDED", o)
        known[key] = o
        return o

    def add(self, resource: str, api_version: str, kind: str, **parts: Any) -> Object:
        made = {"apiVersion": api_version, "kind": kind, **parts}
        defaulting.default(made)
        return self.put(resource, made)

    def remove(self, resource: str, o: Object) -> None:
        gone = self.objects.get(resource, {}).pop(meta.key(o), None)
        if gone is not None:
            self._number += 1
            self._tell(
                resource, "DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._number)}}
            )

    def _tell(self, resource: str, kind: str, o: Object) -> None:
        if resource in self._changes:
            self._changes[resource].put_nowait([WatchEvent(kind, o)])

    async def shown(self) -> None:
        """Return when the caches show all changes."""
        for changes in self._changes.values():
            await changes.join()

    def do(self, actions: Iterable[Action]) -> int:
        """Do what a controller wants; how much of it was a write."""
        done = 0
        for action in actions:
            match action:
                case Create(resource, o):
                    made = copy.deepcopy(o)
                    defaulting.default(made)
                    self.put(resource, made)
                case Update(resource, o) | UpdateStatus(resource, o):
                    self.put(resource, copy.deepcopy(o))
                case Patch():
                    self._patch(action)
                case Delete(resource, o):
                    self.remove(resource, o)
                case IfAbsent() | IfAlive():
                    done += self.do(action.writes) - 1
                case _:
                    continue
            done += 1
        return done

    def _patch(self, wanted: Patch) -> None:
        known = self.objects[wanted.resource][f"{wanted.namespace}/{wanted.name}" if wanted.namespace else wanted.name]
        definition = schema.definition(builtin_registry().by_name(wanted.resource).definition)
        self.put(wanted.resource, patching.apply_patch(wanted.kind, known, wanted.patch, definition))  # type: ignore[arg-type]

    def now(self) -> Moment:
        return Moment(datetime.now(UTC), asyncio.get_running_loop().time())


# --- what users and kubelets write ----------------------------------------------------------------


def populate(world: World, nodes: int, pods: int) -> None:
    """Nodes with their Leases, and workloads of so many pods."""
    for number in range(nodes):
        _node(world, f"node-{number}", number)
    number = 0
    for resource, share in SHARES.items():
        for _ in range(-(-pods * share // (10 * REPLICAS[resource]))):
            _workload(world, resource, number)
            number += 1


def _node(world: World, name: str, number: int) -> None:
    beat = meta.format_time(world.now().wall)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": beat}
    world.add(
        "nodes",
        "v1",
        "Node",
        metadata={"name": name, "labels": {"topology.kubernetes.io/zone": f"zone-{number % 3}"}},
        spec={"podCIDR": f"10.{number // 256}.{number % 256}.0/24"},
        status={"conditions": [ready], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    )
    lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": meta.format_micro_time(world.now().wall)}
    world.add(LEASES, "coordination.k8s.io/v1", "Lease", metadata={"name": name, "namespace": NODE_LEASES}, spec=lease)


def _workload(world: World, resource: str, number: int) -> None:
    space, name = f"team-{number // OF_NAMESPACE}", f"app-{number}"
    if not number % OF_NAMESPACE:
        world.add("namespaces", "v1", "Namespace", metadata={"name": space}, status={"phase": "Active"})
    about = {"name": name, "namespace": space}
    labels = {"app": name}
    container = {"name": "c", "image": "registry.k8s.io/pause:3.10", "ports": [{"containerPort": 80}]}
    template: Object = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    count = REPLICAS[resource]
    if resource == JOBS:
        template["spec"]["restartPolicy"] = "Never"
        # As the API server completes it.
        selected = {"batch.kubernetes.io/controller-uid": name}
        template["metadata"]["labels"] = {**labels, **selected}
        spec = {"parallelism": count, "completions": count, "selector": {"matchLabels": selected}}
    else:
        spec = {"replicas": count, "selector": {"matchLabels": labels}}
    if resource == SETS:
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    world.add(resource, *KINDS[resource], metadata={**about, "labels": labels}, spec={**spec, "template": template})
    service = {"selector": labels, "ports": [{"port": 80, "protocol": "TCP"}], "clusterIP": "None"}
    world.add("services", "v1", "Service", metadata=dict(about), spec=service)
    if not number % 10:
        budget = {"minAvailable": 1, "selector": {"matchLabels": labels}}
        world.add("poddisruptionbudgets.policy", "policy/v1", "PodDisruptionBudget", metadata=dict(about), spec=budget)


def bound(pod: Object, node: str) -> Object:
    """The pod once a scheduler has placed it."""
    made: Object = copy.deepcopy(pod)
    made["spec"]["nodeName"] = node
    made["status"] = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
    return made


def running(pod: Object, number: int, since: str) -> Object:
    """The pod once its kubelet has reported it ready."""
    made: Object = copy.deepcopy(pod)
    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    ready = [{"type": kind, "status": "True", "lastTransitionTime": since} for kind in ("PodScheduled", "Ready")]
    state = {"name": "c", "ready": True, "restartCount": 0, "state": {"running": {"startedAt": since}}}
    made["status"] = {
        "phase": "Running",
        "conditions": ready,
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": since,
        "containerStatuses": [state],
    }
    return made


async def settle(world: World, controllers: Sequence[Controller]) -> None:
    """Let controllers and kubelets do their work until nothing is left to do."""
    builders = [one for one in controllers if one.name in BUILDERS]
    for _ in range(ROUNDS_MAX):
        await world.shown()
        done = sum(_round(world, one) for one in builders)
        nodes = [*world.objects["nodes"]]
        since = meta.format_time(world.now().wall)
        for number, pod in enumerate([*world.objects.get("pods", {}).values()]):
            if not meta.node_name(pod):
                world.put("pods", running(bound(pod, nodes[number % len(nodes)]), number, since))
                done += 1
        if not done:
            return
    raise RuntimeError(f"controllers still write after {ROUNDS_MAX} rounds")


def _round(world: World, controller: Controller) -> int:
    """One reconcile of each key of what the controller watches but pods."""
    view = world.caches.view
    keys = dict.fromkeys(controller.resync_keys)
    for watch in controller.watches:
        if watch.keys is not None and watch.resource != "pods":
            keys |= {key: None for o in view.list(watch.resource) for key in watch.keys(o, view)}
    return sum(world.do(controller.reconcile(key, view, world.now()).actions) for key in keys)
