"""Sums of what nodes hold: pods of one workload as one, kept change by change. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import Quantity, QuantityError, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import pod_requests
from rayplane.control_plane.api.pods.state import pod_is_terminated

PENDING_MAX = 200
"""Pods without a node that are named; all are counted."""
REMOVED_MAX = 10_000
"""Nodes that are gone and still told of; who has not looked for longer gets everything anew."""
_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Need:
    """An amount that pods ask for: cores by the thousand, and bytes."""

    pods: int = 0
    cpu: int = 0
    memory: int = 0

    def __add__(self, other: "Need") -> "Need":
        return Need(self.pods + other.pods, self.cpu + other.cpu, self.memory + other.memory)

    def __sub__(self, other: "Need") -> "Need":
        return Need(self.pods - other.pods, self.cpu - other.cpu, self.memory - other.memory)


@dataclass(slots=True)
class _Node:
    room: Need = Need()
    registered: bool = False
    ready: bool = False
    cordoned: bool = False
    held: dict[str, Need] = field(default_factory=dict)
    changed: int = 0


@dataclass(frozen=True, slots=True)
class _Pod:
    node: str
    workload: str
    need: Need


class Packing:
    """The sums of all nodes. Whoever has seen them up to a serial gets what changed after it."""

    def __init__(self) -> None:
        self.serial = 0
        self._nodes: dict[str, _Node] = {}
        self._pods: dict[str, _Pod] = {}
        self._pending: dict[str, str] = {}
        self._removed: dict[str, int] = {}
        self._forgotten = 0
        self._needed = Need()

    def node_event(self, kind: str, _: Object | None, node: Object) -> None:
        name = meta.name(node)
        if kind == "DELETED":
            found = self._touch(name)
            found.registered = found.ready = found.cordoned = False
            found.room = Need()
            self._forget_empty(name)
            return
        found, status = self._touch(name), node.get("status") or {}
        found.registered = True
        found.room = _amounts(status.get("allocatable") or {})
        found.ready = meta.condition_is(node, "Ready")
        found.cordoned = bool((node.get("spec") or {}).get("unschedulable"))

    def pod_event(self, kind: str, _: Object | None, pod: Object) -> None:
        key = f"{meta.namespace(pod)}/{meta.name(pod)}"
        ended = kind == "DELETED" or pod_is_terminated(pod)
        now, before = None if ended else _pod(pod), self._pods.pop(key, None)
        self.serial += self._pending.pop(key, None) is not None
        if now is not None and not now.node:
            self._pending[key] = _why(pod)
            self.serial += 1
            now = None
        if now is not None:
            self._pods[key] = now
        if now == before:
            return
        if before is not None:
            self._put(before.node, before.workload, Need() - before.need)
        if now is not None:
            self._put(now.node, now.workload, now.need)

    def since(self, serial: int) -> dict[str, Any]:
        """What changed after it, made of JSON; nodes that are gone have no value. `whole`: it is all there is."""
        whole = serial <= self._forgotten
        nodes: dict[str, Any] = {} if whole else {name: None for name, at in self._removed.items() if at > serial}
        serial = 0 if whole else serial
        nodes |= {name: _shown(one) for name, one in self._nodes.items() if one.changed > serial}
        pending = [[key, why] for key, why in islice(self._pending.items(), PENDING_MAX)]
        return {
            "serial": self.serial,
            "whole": whole,
            "nodes": nodes,
            "pending": pending,
            "pendingCount": len(self._pending),
            "used": sum(1 for one in self._nodes.values() if one.held),
            "lowerBound": self.lower_bound(),
        }

    def lower_bound(self) -> int:
        """The fewest nodes that the placed pods could possibly be on, by the room of the largest."""
        room = [one.room for one in self._nodes.values() if one.registered]
        if not room:
            return 0
        pairs = (
            (n, max(r)) for n, r in zip(_numbers(self._needed), zip(*map(_numbers, room), strict=True), strict=True)
        )
        return max((ceil(n / most) for n, most in pairs if most), default=0)

    def _touch(self, name: str) -> _Node:
        self.serial += 1
        self._removed.pop(name, None)
        found = self._nodes.setdefault(name, _Node())
        found.changed = self.serial
        return found

    def _put(self, name: str, workload: str, more: Need) -> None:
        self._needed += more
        held = self._touch(name).held
        held[workload] = held.get(workload, Need()) + more
        if not held[workload].pods:
            del held[workload]
        self._forget_empty(name)

    def _forget_empty(self, name: str) -> None:
        found = self._nodes[name]
        if not found.registered and not found.held:
            del self._nodes[name]
            self._removed[name] = self.serial
            if len(self._removed) > REMOVED_MAX:
                self._forgotten = self._removed.pop(next(iter(self._removed)))


def packed(nodes: Iterable[Object], pods: Iterable[Object]) -> dict[str, Any]:
    """The sums of these alone."""
    found = Packing()
    for node in nodes:
        found.node_event("ADDED", None, node)
    for pod in pods:
        found.pod_event("ADDED", None, pod)
    return found.since(0)


def workload_of(pod: Object) -> str:
    """What made the pod, as kind/namespace/name; a Deployment stands for its ReplicaSets, a bare pod for itself."""
    owner = meta.controller_of(pod)
    if owner is None:
        return f"Pod/{meta.namespace(pod)}/{meta.name(pod)}"
    kind, name = str(owner.get("kind")), str(owner.get("name"))
    suffix = f"-{meta.labels(pod).get(_HASH, '')}"
    if kind == "ReplicaSet" and len(suffix) > 1 and name.endswith(suffix):
        kind, name = "Deployment", name.removesuffix(suffix)
    return f"{kind}/{meta.namespace(pod)}/{name}"


def _pod(pod: Object) -> _Pod:
    try:
        asked = _amounts(pod_requests(pod))
    except QuantityError:
        asked = Need()
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    return _Pod(node, workload_of(pod), Need(1, asked.cpu, asked.memory))


def _amounts(amounts: Any) -> Need:
    def of(name: str) -> Quantity:
        return parse(amounts.get(name, "0"))

    return Need(of("pods").nano // 10**9, of("cpu").nano // 10**6, of("memory").nano // 10**9)


def _numbers(need: Need) -> tuple[int, int, int]:
    return need.pods, need.cpu, need.memory


def _why(pod: Object) -> str:
    found = meta.get_condition(pod, "PodScheduled") or {}
    return str(found.get("message") or found.get("reason") or "not looked at yet")


def _shown(node: _Node) -> dict[str, Any]:
    return {
        "registered": node.registered,
        "ready": node.ready,
        "cordoned": node.cordoned,
        "room": _numbers(node.room),
        "held": {workload: _numbers(need) for workload, need in _largest_first(node.held.items())},
    }


def _largest_first(held: Iterable[tuple[str, Need]]) -> list[tuple[str, Need]]:
    return sorted(held, key=lambda one: (-one[1].cpu, -one[1].memory, one[0]))
