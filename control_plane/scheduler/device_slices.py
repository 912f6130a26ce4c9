"""Devices as ResourceSlices offer them, read once, and the pools that slices make.

Source: Kubernetes concepts "Dynamic Resource Allocation"; API reference resource/v1 ResourceSlice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_affinity import NodeTerm, admits, node_terms
from rayplane.control_plane.api.taints import HARD_EFFECTS, Taint
from rayplane.control_plane.scheduler.device_capacity import Capacity, capacities, full_name
from rayplane.control_plane.scheduler.device_expressions import device_value
from rayplane.control_plane.scheduler.nodes import NodeInfo

PoolId = tuple[str, str]
"""Driver and name."""


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
    attributes: Mapping[str, tuple[str, Any]]
    """(type, value), by name with its domain."""
    capacity: Mapping[str, Capacity]
    shared: bool
    """Several claims may have it, each so much of its capacity."""
    taints: tuple[Taint, ...]
    counters: tuple[tuple[str, str, int], ...]
    """(counter set, counter, how much of it the device takes)."""
    node: str
    """The node that alone has it; empty for a device that several can reach."""
    terms: tuple[NodeTerm, ...] | None
    selector: Mapping[str, Any] | None
    """The nodes that can reach it, as parsed and as written; None for all."""
    binds: bool
    """Whoever has it is bound to the node that it was allocated for."""
    conditions: tuple[str, ...]
    failures: tuple[str, ...]
    """Conditions that the device must reach before a pod is bound, and those with which it never will."""

    def is_on(self, node: NodeInfo) -> bool:
        return self.node == node.name if self.node else admits(self.terms, node.labels, node.name)


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice."""

    pool: PoolId
    generation: int
    count: int
    devices: tuple[Device, ...]
    counters: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Pool:
    """The slices of a pool's newest generation."""

    id: PoolId
    devices: tuple[Device, ...]
    counters: Mapping[tuple[str, str], int]
    nodes: frozenset[str]
    """Those that have devices of their own, and "" where some can be reached by several."""
    problem: str
    """Why nothing can be allocated of it now; empty when nothing is wrong."""
    waits: bool
    """Some of its devices have conditions to reach: others come first."""

    @staticmethod
    def of(pool: PoolId, slices: Iterable[Slice]) -> Pool:
        """A pool of all its slices, in the order of names."""
        known = [*slices]
        newest = max((one.generation for one in known), default=0)
        current = [one for one in known if one.generation == newest]
        devices = tuple(device for one in current for device in one.devices)
        problem = ""
        if not current or len(current) != current[0].count:
            problem = "currently being updated"
        elif len({device.id for device in devices}) < len(devices):
            problem = "currently invalid"
        return Pool(
            pool,
            devices,
            {key: amount for one in current for key, amount in one.counters.items()},
            frozenset(device.node for device in devices),
            problem,
            any(device.conditions for device in devices),
        )


def parsed(obj: Object) -> Slice:
    """A slice of the API."""
    spec = meta.spec(obj)
    pool, driver = spec.get("pool") or {}, spec.get("driver") or ""
    name = pool.get("name") or ""
    counters = {
        (one.get("name") or "", counter): _nano(value)
        for one in spec.get("sharedCounters") or ()
        for counter, value in (one.get("counters") or {}).items()
    }
    devices = tuple(_device(spec, driver, name, one) for one in spec.get("devices") or ())
    return Slice(
        (driver, name), int(pool.get("generation") or 0), int(pool.get("resourceSliceCount") or 1), devices, counters
    )


def _nano(counter: Mapping[str, Any]) -> int:
    return quantity.parse(counter.get("value") or "0").nano


def _device(spec: Mapping[str, Any], driver: str, pool: str, one: Mapping[str, Any]) -> Device:
    where = one if spec.get("perDeviceNodeSelection") else spec
    node = where.get("nodeName") or ""
    selector = None if node or where.get("allNodes") else where.get("nodeSelector")
    return Device(
        id=DeviceId(driver, pool, one.get("name") or ""),
        value=device_value(driver, one),
        attributes=_attributes(driver, one.get("attributes") or {}),
        capacity=capacities(driver, one.get("capacity")),
        shared=bool(one.get("allowMultipleAllocations")),
        taints=hard_taints(one.get("taints") or ()),
        counters=tuple(
            (used.get("counterSet") or "", counter, _nano(value))
            for used in one.get("consumesCounters") or ()
            for counter, value in (used.get("counters") or {}).items()
        ),
        node=node,
        terms=node_terms(selector),
        selector=selector,
        binds=bool(one.get("bindsToNode")),
        conditions=tuple(one.get("bindingConditions") or ()),
        failures=tuple(one.get("bindingFailureConditions") or ()),
    )


def _attributes(driver: str, given: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Attributes by full name: of two spellings the one with the driver's domain counts."""
    found: dict[str, tuple[str, Any]] = {}
    for name, attribute in sorted(given.items(), key=lambda item: "/" in item[0]):
        for kind, value in attribute.items():
            if value is not None:
                found[full_name(driver, name)] = kind, tuple(value) if isinstance(value, list) else value
    return found


def hard_taints(written: Iterable[Mapping[str, Any]]) -> tuple[Taint, ...]:
    """Those that keep claims off a device, unless tolerated: `None` only tells."""
    return tuple(taint for taint in map(Taint.of, written) if taint.effect in HARD_EFFECTS)
