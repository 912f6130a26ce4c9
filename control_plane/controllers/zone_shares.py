"""Zones share out a Service's endpoints by the CPUs of their nodes (`service.kubernetes.io/topology-mode: Auto`).

Each zone is to get its share of the endpoints' traffic, and no endpoint much more than its part: where a zone has more
endpoints than its share, hints give some of them to zones that have fewer. Slices that are not written anyway keep the
hints they have, as long as those leave every zone its minimum. Without what it takes there are no hints at all.
Source: Kubernetes KEP-2433 (Topology Aware Hints); concepts "Topology Aware Routing".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.controllers.slice_packing import Endpoint

_OVERLOAD = 0.2
"""So much more than its part an endpoint may get."""
_LEAST = 1 / (1 + _OVERLOAD)
_EXCLUDED = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")
_NO_NODES = "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
_TOO_FEW = "Insufficient number of endpoints"
_OVERLOADED = "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold"
_NO_ZONE = "One or more endpoints do not have a zone specified"


class NoShares(Exception):
    """Zones cannot share; the text says why."""


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a node: so many CPUs of a zone, or the lack of one of both."""

    zone: str
    milli: int

    @property
    def known(self) -> bool:
        return bool(self.zone) and self.milli > 0


def part_of(node: Object | None) -> _Part | None:
    """A node's part; None for one that does not count."""
    if node is None or not meta.condition_is(node, "Ready") or any(one in meta.labels(node) for one in _EXCLUDED):
        return None
    cpu = (meta.status(node).get("allocatable") or {}).get("cpu")
    return _Part(meta.labels(node).get(ZONE, ""), quantity.milli(cpu) if cpu else 0)


class ZoneCpus:
    """The CPUs of each zone, kept up node by node."""

    def __init__(self) -> None:
        self._parts: dict[str, _Part] = {}
        self._milli: Counter[str] = Counter()
        self._nodes: Counter[str] = Counter()
        self._unknown = 0

    def put(self, name: str, node: Object | None) -> None:
        """A node as it is now; None when it is gone."""
        before, part = self._parts.pop(name, None), part_of(node)
        for one, count in ((before, -1), (part, 1)):
            if one is None:
                continue
            if not one.known:
                self._unknown += count
                continue
            self._milli[one.zone] += count * one.milli
            self._nodes[one.zone] += count
            if not self._nodes[one.zone]:
                del self._nodes[one.zone], self._milli[one.zone]
        if part is not None:
            self._parts[name] = part

    def shares(self) -> dict[str, float]:
        """Each zone's share, in the order of their names; none where there are no two zones, or a node says too little
        of itself."""
        if self._unknown or len(self._milli) < 2:
            return {}
        total = sum(self._milli.values())
        return {zone: milli / total for zone, milli in sorted(self._milli.items())}


@dataclass(slots=True)
class Slices:
    """The endpoints of slices of one address family: those that are written anyway, and those that need not be."""

    written: list[list[Endpoint]] = field(default_factory=list)
    untouched: list[list[Endpoint]] = field(default_factory=list)

    def all(self) -> Iterable[Endpoint]:
        return (endpoint for members in (*self.written, *self.untouched) for endpoint in members)


@dataclass(frozen=True, slots=True)
class _Allocation:
    least: int
    most: int
    wanted: float


def is_overloaded(hinted: Mapping[str, int], shares: Mapping[str, float]) -> bool:
    """Whether the hints, counted by zone, leave a zone less than its minimum of endpoints."""
    if not hinted:
        return False
    total = sum(hinted.values())
    return not shares or any(
        zone not in hinted or hinted[zone] < math.ceil(total * share * _LEAST) for zone, share in shares.items()
    )


def share_out(slices: Slices, shares: Mapping[str, float]) -> dict[str, int]:
    """Put hints on the endpoints, in place; the number of hints for each zone. NoShares, with no hint left."""
    try:
        allocations = _allocations(shares, sum(map(_is_ready, slices.all())))
        hinted, written = _kept(slices, allocations)
        for endpoint in (e for members in written for e in members if _is_ready(e)):
            if not endpoint.get("zone"):
                raise NoShares(_NO_ZONE)
            hinted[endpoint["zone"]] += 1
            _hint(endpoint, endpoint["zone"])
    except NoShares:
        remove_hints(slices.all())
        raise
    _redistribute(written, hinted, *_exchanges(allocations, hinted))
    return dict(hinted)


def remove_hints(endpoints: Iterable[Endpoint]) -> None:
    for endpoint in endpoints:
        endpoint.pop("hints", None)


def _is_ready(endpoint: Endpoint) -> bool:
    return bool(endpoint["conditions"].get("ready"))


def _hint(endpoint: Endpoint, zone: str) -> None:
    endpoint["hints"] = {"forZones": [{"name": zone}]}


def _allocations(shares: Mapping[str, float], count: int) -> dict[str, _Allocation]:
    if not shares:
        raise NoShares(_NO_NODES)
    if len(shares) > count:
        raise NoShares(f"{_TOO_FEW} ({count} endpoints, {len(shares)} zones)")
    least = {zone: math.ceil(share * count * _LEAST) for zone, share in shares.items()}
    spare = count - sum(least.values())
    if spare < 0:
        raise NoShares(f"{_OVERLOADED} ({count} endpoints, {len(shares)} zones)")
    return {zone: _Allocation(few, few + spare, max(shares[zone] * count, float(few))) for zone, few in least.items()}


def _kept(slices: Slices, allocations: Mapping[str, _Allocation]) -> tuple[Counter[str], list[list[Endpoint]]]:
    """Hints by zone of slices that may keep theirs, and the slices that need new ones."""
    hinted: Counter[str] = Counter()
    written = list(slices.written)
    for members in slices.untouched:
        own = _hints_of(members)
        if own is None or any(
            zone not in allocations or hinted[zone] + count > allocations[zone].most for zone, count in own.items()
        ):
            remove_hints(members)
            written.append(members)
        else:
            hinted += own
    return hinted, written


def _hints_of(members: Sequence[Endpoint]) -> Counter[str] | None:
    """Hints by zone; None where a ready endpoint has none."""
    found: Counter[str] = Counter()
    for endpoint in filter(_is_ready, members):
        zones = (endpoint.get("hints") or {}).get("forZones") or ()
        if not zones:
            return None
        found.update(one["name"] for one in zones)
    return found


def _exchanges(allocations: Mapping[str, _Allocation], hinted: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """How many endpoints zones are to give, and to get: each its minimum, and then no more than makes things better."""
    over: dict[str, float] = {zone: hinted.get(zone, 0) - one.wanted for zone, one in allocations.items()}
    spare: dict[str, float] = {zone: hinted.get(zone, 0) - one.least for zone, one in allocations.items()}
    giving: Counter[str] = Counter()
    getting: Counter[str] = Counter()
    while True:
        short = [zone for zone in spare if spare[zone] < 0]
        giver = max((zone for zone in spare if spare[zone] > 0 or not short), key=lambda z: over[z])
        getter = min(short or over, key=lambda z: over[z])
        much, little = over[giver], -over[getter]
        if not short and ((much < 1 and little < 1) or much < 0.5 or little < 0.5):
            return giving, getting
        giving[giver] += 1
        getting[getter] += 1
        for counts in (over, spare):
            counts[giver] -= 1
            counts[getter] += 1


def _redistribute(
    written: Iterable[Sequence[Endpoint]], hinted: Counter[str], giving: Counter[str], getting: Counter[str]
) -> None:
    waiting = sorted(getting.elements())
    for endpoint in (e for members in written for e in members if _is_ready(e)):
        zone = endpoint["zone"]
        if waiting and giving[zone] > 0:
            giving[zone] -= 1
            getter = waiting.pop(0)
            _hint(endpoint, getter)
            hinted[zone] -= 1
            hinted[getter] += 1
