"""Devices that nodes offer, and the claims of pods to them: what there is, and what is taken.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 ResourceSlice, ResourceClaim.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import NodeTerm, admits, node_terms
from rayplane.control_plane.api.taints import HARD_EFFECTS, Taint
from rayplane.control_plane.scheduler.changes import ChangeLog
from rayplane.control_plane.scheduler.device_expressions import DeviceExpressions, device_value
from rayplane.control_plane.scheduler.nodes import NodeInfo

RESERVED_MAX = 256
MATCHED_MAX = 1 << 16


class DeviceId(NamedTuple):
    """A device's name in the cluster."""

    driver: str
    pool: str
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """One device of a slice."""

    id: DeviceId
    value: Mapping[str, Any]
    """As expressions see it."""
    attributes: Mapping[str, Any]
    """By name with its domain."""
    taints: tuple[Taint, ...]
    counters: tuple[tuple[str, str, int], ...]
    """(counter set, counter, how much of it the device takes)."""
    node: str
    """The node that alone has it; empty for a device that several can reach."""
    terms: tuple[NodeTerm, ...] | None
    selector: Mapping[str, Any] | None
    """The nodes that can reach it, as parsed and as written; None for all."""

    def is_on(self, node: NodeInfo) -> bool:
        return self.node == node.name if self.node else admits(self.terms, node.labels, node.name)


@dataclass(frozen=True, slots=True)
class _Slice:
    pool: tuple[str, str]
    generation: int
    count: int
    devices: tuple[Device, ...]
    counters: Mapping[tuple[str, str], int]


def _parsed(obj: Object) -> _Slice:
    spec = meta.spec(obj)
    pool, driver = spec.get("pool") or {}, spec.get("driver") or ""
    name = pool.get("name") or ""
    counters = {
        (one.get("name") or "", counter): _nano(value)
        for one in spec.get("sharedCounters") or ()
        for counter, value in (one.get("counters") or {}).items()
    }
    devices = tuple(_device(spec, driver, name, one) for one in spec.get("devices") or ())
    return _Slice(
        (driver, name), int(pool.get("generation") or 0), int(pool.get("resourceSliceCount") or 1), devices, counters
    )


def _nano(counter: Mapping[str, Any]) -> int:
    return quantity.parse(counter.get("value") or "0").nano


def _device(spec: Mapping[str, Any], driver: str, pool: str, one: Mapping[str, Any]) -> Device:
    where = one if spec.get("perDeviceNodeSelection") else spec
    attributes: dict[str, Any] = {}
    for name, attribute in (one.get("attributes") or {}).items():
        value = next((v for v in attribute.values() if v is not None), None)
        attributes[name if "/" in name else f"{driver}/{name}"] = tuple(value) if isinstance(value, list) else value
    node = where.get("nodeName") or ""
    selector = None if node or where.get("allNodes") else where.get("nodeSelector")
    return Device(
        id=DeviceId(driver, pool, one.get("name") or ""),
        value=device_value(driver, one),
        attributes=attributes,
        taints=tuple(t for t in map(Taint.of, one.get("taints") or ()) if t.effect in HARD_EFFECTS),
        counters=tuple(
            (used.get("counterSet") or "", counter, _nano(value))
            for used in one.get("consumesCounters") or ()
            for counter, value in (used.get("counters") or {}).items()
        ),
        node=node,
        terms=node_terms(selector),
        selector=selector,
    )


class DeviceIndex:
    """Classes, slices and claims as last seen, and what was allocated to pods placed since."""

    def __init__(self) -> None:
        self.classes: dict[str, Object] = {}
        self.claims: dict[str, Object] = {}
        self.expressions = DeviceExpressions()
        self._slices: dict[str, _Slice] = {}
        self._pools: dict[tuple[str, str], set[str]] = {}
        self._by_node: dict[str, set[tuple[str, str]]] = {}  # pools of one node; "" has those that several reach
        self._taken: dict[str, tuple[DeviceId, ...]] = {}  # by claim
        self._users: dict[DeviceId, int] = {}
        self._promised: dict[str, dict[str, Any]] = {}  # by claim
        self._holders: dict[str, set[str]] = {}  # uids of the pods that a claim is promised to
        self._matched: dict[tuple[str, Device], bool] = {}
        #: Nodes whose own devices were taken or given back.
        self.node_changes = ChangeLog[str]()
        #: Grows with every change that any node may feel.
        self.version = 0

    # -- objects -------------------------------------------------------------------------------------------

    def set_slice(self, obj: Object) -> None:
        name = meta.name(obj)
        self.remove_slice(name)
        self.version += 1
        found = self._slices[name] = _parsed(obj)
        self._pools.setdefault(found.pool, set()).add(name)
        for device in found.devices:
            self._by_node.setdefault(device.node, set()).add(found.pool)

    def remove_slice(self, name: str) -> None:
        old = self._slices.pop(name, None)
        if old is None:
            return
        self._matched.clear()
        self.version += 1
        names = self._pools[old.pool]
        names.discard(name)
        if not names:
            del self._pools[old.pool]
            for node in {device.node for device in old.devices}:
                self._by_node.get(node, set()).discard(old.pool)

    def set_claim(self, claim: Object) -> None:
        key = meta.key(claim)
        self.claims[key] = claim
        allocation = meta.status(claim).get("allocation")
        if allocation:
            self._drop_promise(key)
        if allocation or key not in self._promised:
            self._take(key, allocation)

    def remove_claim(self, key: str) -> None:
        self.claims.pop(key, None)
        self._drop_promise(key)
        self._take(key, None)

    def promise(self, key: str, allocation: dict[str, Any]) -> None:
        """A pod that was placed gets these devices: others may not count on them."""
        self._promised[key] = allocation
        self._take(key, allocation)

    def hold(self, keys: Iterable[str], uid: str) -> None:
        """A pod that was placed counts on what its claims were promised, also where another pod asked for it first."""
        for key in keys:
            if key in self._promised:
                self._holders.setdefault(key, set()).add(uid)

    def forget(self, keys: Iterable[str], uid: str) -> None:
        """A placed pod came to nothing: what it alone counted on is free again."""
        for key in keys:
            holders = self._holders.get(key, set())
            holders.discard(uid)
            if not holders and self._drop_promise(key):
                self._take(key, None)

    def _drop_promise(self, key: str) -> bool:
        self._holders.pop(key, None)
        return self._promised.pop(key, None) is not None

    def _take(self, key: str, allocation: Mapping[str, Any] | None) -> None:
        before = self._taken.pop(key, ())
        for device in before:
            self._users[device] -= 1
            if not self._users[device]:
                del self._users[device]
        results = ((allocation or {}).get("devices") or {}).get("results") or ()
        taken = tuple(
            DeviceId(r.get("driver") or "", r.get("pool") or "", r.get("device") or "")
            for r in results
            if not r.get("adminAccess")
        )
        if taken:
            self._taken[key] = taken
        for device in taken:
            self._users[device] = self._users.get(device, 0) + 1
        if before != taken:
            self._tell({device[:2] for device in (*before, *taken)})

    def _tell(self, pools: Iterable[tuple[str, str]]) -> None:
        """Devices of these pools were taken or given back."""
        for pool in pools:
            nodes = {d.node for name in self._pools.get(pool, ()) for d in self._slices[name].devices}
            if "" in nodes:
                self.version += 1
            for node in nodes - {""}:
                self.node_changes.add(node)

    def set_class(self, obj: Object) -> None:
        self.classes[meta.name(obj)] = obj
        self.version += 1

    def remove_class(self, name: str) -> None:
        self.classes.pop(name, None)
        self.version += 1

    # -- questions -----------------------------------------------------------------------------------------

    def allocation(self, key: str) -> dict[str, Any] | None:
        """What a claim has, or was promised."""
        claim = self.claims.get(key)
        found: dict[str, Any] | None = (meta.status(claim).get("allocation") if claim else None) or None
        return found or self._promised.get(key)

    def is_taken(self, device: DeviceId) -> bool:
        return device in self._users

    def matches(self, expression: str, device: Device) -> bool:
        """Whether an expression selects a device; remembered until slices change, or there is too much to remember."""
        key = (expression, device)
        found = self._matched.get(key)
        if found is None:
            if len(self._matched) >= MATCHED_MAX:
                self._matched.clear()
            found = self._matched[key] = self.expressions.matches(expression, device.value)
        return found

    def pools_of(self, node: NodeInfo) -> Iterator[list[_Slice]]:
        """The slices of each pool with devices that a node can reach, in order of names; only pools that are whole."""
        for pool in sorted(self._by_node.get(node.name, set()) | self._by_node.get("", set())):
            slices = [self._slices[name] for name in sorted(self._pools.get(pool, ()))]
            newest = max((one.generation for one in slices), default=0)
            current = [one for one in slices if one.generation == newest]
            if current and len(current) == current[0].count:
                yield current

    def devices_on(self, node: NodeInfo) -> list[Device]:
        return [d for slices in self.pools_of(node) for one in slices for d in one.devices if d.is_on(node)]

    def counters_left(self, node: NodeInfo) -> dict[tuple[str, str, str, str], int]:
        """(driver, pool, counter set, counter): what devices in use leave of it."""
        left: dict[tuple[str, str, str, str], int] = {}
        for slices in self.pools_of(node):
            pool = slices[0].pool
            for one in slices:
                for (of_set, counter), amount in one.counters.items():
                    left[*pool, of_set, counter] = amount
            for device in (d for one in slices for d in one.devices if self.is_taken(d.id)):
                for of_set, counter, amount in device.counters:
                    left[*pool, of_set, counter] = left.get((*pool, of_set, counter), 0) - amount
        return left
