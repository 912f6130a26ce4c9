"""Sums of what nodes hold: pods of one workload as one, kept change by change. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import ceil
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.resources import pod_requests
from rayplane.control_plane.api.pods.state import pod_is_terminated

PENDING_MAX = 200
"""Pods without a node that are named; all are counted."""
REMOVED_MAX = 10_000
"""Nodes that are gone and still told of; who has not looked for longer gets everything anew."""
_HASH = "pod-template-hash"
_USUAL = ("pods", "cpu", "memory")


@dataclass(frozen=True, slots=True)
class Need:
    """An amount that pods ask for: cores by the thousand, bytes, and others by their names in whole units."""

    pods: int = 0
    cpu: int = 0
    memory: int = 0
    others: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: "Need") -> "Need":
        return self._with(other, 1)

    def __sub__(self, other: "Need") -> "Need":
        return self._with(other, -1)

    def _with(self, other: "Need", sign: int) -> "Need":
        others = self.others
        if other.others:
            names = {**others, **other.others}
            sums = {name: others.get(name, 0) + sign * other.others.get(name, 0) for name in names}
            others = {name: amount for name, amount in sums.items() if amount}
        return Need(
            self.pods + sign * other.pods, self.cpu + sign * other.cpu, self.memory + sign * other.memory, others
        )


@dataclass(slots=True)
class _Node:
    room: Need = field(default_factory=Need)
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
        most: dict[str, int] = {}
        for one in self._nodes.values():
            if one.registered:
                for name, amount in _named(one.room):
                    most[name] = max(most.get(name, 0), amount)
        return max((ceil(amount / most[name]) for name, amount in _named(self._needed) if most.get(name)), default=0)

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
    return _Pod(node, workload_of(pod), replace(asked, pods=1))


def _amounts(amounts: Mapping[str, Any]) -> Need:
    def of(name: str, unit: int) -> int:
        return parse(amounts.get(name, "0")).nano // unit

    others = {name: amount for name in amounts if name not in _USUAL and (amount := of(name, 10**9))}
    return Need(of("pods", 10**9), of("cpu", 10**6), of("memory", 10**9), others)


def _named(need: Need) -> Iterable[tuple[str, int]]:
    return chain(zip(_USUAL, _numbers(need), strict=True), need.others.items())


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
        "others": {
            "room": node.room.others,
            "held": {workload: need.others for workload, need in node.held.items() if need.others},
        },
    }


def _largest_first(held: Iterable[tuple[str, Need]]) -> list[tuple[str, Need]]:
    return sorted(held, key=lambda one: (-one[1].cpu, -one[1].memory, one[0]))
