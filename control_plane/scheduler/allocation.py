"""The allocation of devices of one node to claims: a search for a choice that meets all requests and constraints.

Pure, and bounded: a search that takes too many steps finds nothing. Devices are tried in the order of pools and slices.

Source: Kubernetes concepts "Dynamic Resource Allocation" ; API reference resource/v1 DeviceClaim.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.taints import Toleration, any_tolerates
from rayplane.control_plane.scheduler.devices import Device, DeviceId, DeviceIndex
from rayplane.control_plane.scheduler.nodes import NodeInfo

STEPS_MAX = 20_000
ALL = -1
ALTERNATIVES_MAX = 8


@dataclass(frozen=True, slots=True, eq=False)
class _Wish:
    """One request, or one of the alternatives of a request."""

    request: str
    """Its name; `request/alternative` for an alternative."""
    expressions: tuple[str, ...]
    count: int
    tolerations: tuple[Toleration, ...]
    written_tolerations: tuple[Mapping[str, Any], ...]
    admin: bool
    of_class: str


@dataclass(frozen=True, slots=True)
class _Constraint:
    attribute: str
    requests: frozenset[str]
    must_match: bool

    def concerns(self, request: str) -> bool:
        return not self.requests or request in self.requests or request.partition("/")[0] in self.requests


@dataclass(frozen=True, slots=True)
class ClaimWishes:
    """Requests of a claim, each with its alternatives in order of preference."""

    key: str
    requests: tuple[tuple[_Wish, ...], ...]
    constraints: tuple[_Constraint, ...]
    configs: tuple[Mapping[str, Any], ...]


def missing_class(claim: Object, classes: Mapping[str, Object]) -> str:
    """What is wrong with the classes that a claim names; empty when nothing is."""
    for request in (meta.spec(claim).get("devices") or {}).get("requests") or ():
        for one in (request.get("exactly"), *(request.get("firstAvailable") or ())):
            if one is not None and one.get("deviceClassName") not in classes:
                return f"request {request.get('name')}: device class {one.get('deviceClassName')} does not exist"
    return ""


def wishes_of(claim: Object, classes: Mapping[str, Object]) -> ClaimWishes:
    """A claim as it is searched for; its classes are there."""
    asked = meta.spec(claim).get("devices") or {}
    requests: list[tuple[_Wish, ...]] = []
    for request in asked.get("requests") or ():
        name = request.get("name") or ""
        exactly = request.get("exactly")
        if exactly is not None:
            requests.append((_wish(name, exactly, classes),))
        else:
            alternatives = request.get("firstAvailable") or ()
            requests.append(tuple(_wish(f"{name}/{one.get('name')}", one, classes) for one in alternatives))
    constraints = tuple(
        _Constraint(one.get("matchAttribute") or one.get("distinctAttribute") or "",
                    frozenset(one.get("requests") or ()), bool(one.get("matchAttribute")))
        for one in asked.get("constraints") or ()
    )  # fmt: skip
    return ClaimWishes(meta.key(claim), tuple(requests), constraints, tuple(asked.get("config") or ()))


def _wish(name: str, request: Mapping[str, Any], classes: Mapping[str, Object]) -> _Wish:
    of_class = request.get("deviceClassName") or ""
    selectors = [*(meta.spec(classes[of_class]).get("selectors") or ()), *(request.get("selectors") or ())]
    is_all = request.get("allocationMode") == "All"
    written = tuple(request.get("tolerations") or ())
    return _Wish(
        request=name,
        expressions=tuple(e for s in selectors if (e := (s.get("cel") or {}).get("expression"))),
        count=ALL if is_all else int(request.get("count") or 1),
        tolerations=tuple(Toleration.of(t) for t in written),
        written_tolerations=written,
        admin=bool(request.get("adminAccess")),
        of_class=of_class,
    )


@dataclass(frozen=True, slots=True)
class _Pick:
    claim: int
    wish: _Wish
    device: Device


class _Search:
    """Depth first over claims, their requests and the devices of each request."""

    def __init__(self, index: DeviceIndex, node: NodeInfo, claims: Sequence[ClaimWishes]) -> None:
        self._index = index
        self._claims = claims
        self._devices = index.devices_on(node)
        self._left = index.counters_left(node)
        self._order = [(c, r) for c, claim in enumerate(claims) for r in range(len(claim.requests))]
        self._picked: list[_Pick] = []
        self._mine: set[DeviceId] = set()
        self._steps = 0
        self._fit: dict[_Wish, list[Device]] = {}

    def run(self) -> list[_Pick] | None:
        return self._picked if self._request(0) else None

    def _request(self, at: int) -> bool:
        if at == len(self._order):
            return True
        claim, number = self._order[at]
        return any(self._wished(at, claim, wish) for wish in self._claims[claim].requests[number])

    def _wished(self, at: int, claim: int, wish: _Wish) -> bool:
        fitting = self._fitting(wish)
        if wish.count != ALL:
            return self._devices_from(at, claim, wish, fitting, 0, wish.count)
        # Every one, or nothing: there must be one at least.
        return bool(fitting) and self._devices_from(at, claim, wish, fitting, 0, len(fitting))

    def _devices_from(
        self, at: int, claim: int, wish: _Wish, fitting: Sequence[Device], first: int, wanted: int
    ) -> bool:
        """So many more of the devices from `first` on, and then the requests that follow."""
        if not wanted:
            return self._request(at + 1)
        for place in range(first, len(fitting) - wanted + 1):
            self._steps += 1
            if self._steps > STEPS_MAX:
                return False
            device = fitting[place]
            if not self._may_pick(claim, wish, device):
                if wish.count == ALL:
                    return False
                continue
            self._pick(claim, wish, device, 1)
            if self._devices_from(at, claim, wish, fitting, place + 1, wanted - 1):
                return True
            self._pick(claim, wish, device, -1)
            if wish.count == ALL:
                return False
        return False

    def _fitting(self, wish: _Wish) -> list[Device]:
        """Devices that the selectors of request and class want, and whose taints are tolerated."""
        found = self._fit.get(wish)
        if found is None:
            found = self._fit[wish] = [
                device
                for device in self._devices
                if all(any_tolerates(wish.tolerations, taint) for taint in device.taints)
                and all(self._index.matches(expression, device) for expression in wish.expressions)
            ]
        return found

    def _may_pick(self, claim: int, wish: _Wish, device: Device) -> bool:
        if not wish.admin:
            if device.id in self._mine or self._index.is_taken(device.id):
                return False
            pool = device.id[:2]
            if any(self._left.get((*pool, s, c), 0) < amount for s, c, amount in device.counters):
                return False
        return all(self._keeps(one, claim, wish, device) for one in self._claims[claim].constraints)

    def _keeps(self, constraint: _Constraint, claim: int, wish: _Wish, device: Device) -> bool:
        if not constraint.concerns(wish.request):
            return True
        value = device.attributes.get(constraint.attribute)
        if value is None:
            return False
        others = [
            pick.device.attributes.get(constraint.attribute)
            for pick in self._picked
            if pick.claim == claim and constraint.concerns(pick.wish.request)
        ]
        if constraint.must_match:
            return not others or others[0] == value
        return value not in others

    def _pick(self, claim: int, wish: _Wish, device: Device, sign: int) -> None:
        if sign > 0:
            self._picked.append(_Pick(claim, wish, device))
        else:
            self._picked.pop()
        if wish.admin:
            return
        if sign > 0:
            self._mine.add(device.id)
        else:
            self._mine.discard(device.id)
        for of_set, counter, amount in device.counters:
            key = (*device.id[:2], of_set, counter)
            self._left[key] = self._left.get(key, 0) - sign * amount


def allocate(index: DeviceIndex, node: NodeInfo, claims: Sequence[ClaimWishes]) -> dict[str, dict[str, Any]] | None:
    """An allocation for each claim, by key, of devices that the node can reach; None when there is none.

    Raises DeviceExpressionError.
    """
    picked = _Search(index, node, claims).run()
    if picked is None:
        return None
    return {
        claim.key: _result(index, node, claim, [pick for pick in picked if pick.claim == number])
        for number, claim in enumerate(claims)
    }


def worth(claims: Sequence[ClaimWishes], allocations: Mapping[str, Mapping[str, Any]]) -> int:
    """How much an allocation is what was wanted most: for each request with alternatives, the earlier the more."""
    total = 0
    for claim in claims:
        taken = {result["request"] for result in allocations[claim.key]["devices"]["results"]}
        for alternatives in claim.requests:
            if "/" in alternatives[0].request:
                total += sum(ALTERNATIVES_MAX - at for at, w in enumerate(alternatives) if w.request in taken)
    return total


def _result(index: DeviceIndex, node: NodeInfo, claim: ClaimWishes, picks: Sequence[_Pick]) -> dict[str, Any]:
    results = [
        {
            "request": pick.wish.request,
            **pick.device.id._asdict(),
            **({"adminAccess": True} if pick.wish.admin else {}),
            **({"tolerations": list(pick.wish.written_tolerations)} if pick.wish.written_tolerations else {}),
        }
        for pick in picks
    ]
    found: dict[str, Any] = {"devices": {"results": results}}
    configs = [*_configs(index, claim, picks)]
    if configs:
        found["devices"]["config"] = configs
    selector = _reachable(node, picks)
    if selector is not None:
        found["nodeSelector"] = selector
    return found


def _configs(index: DeviceIndex, claim: ClaimWishes, picks: Sequence[_Pick]) -> Iterator[dict[str, Any]]:
    """Those of the classes, then the claim's own."""
    for wish in dict.fromkeys(pick.wish for pick in picks):
        for config in meta.spec(index.classes.get(wish.of_class) or {}).get("config") or ():
            yield {"source": "FromClass", "requests": [wish.request], **config}
    chosen = {name for pick in picks for name in (pick.wish.request, pick.wish.request.partition("/")[0])}
    for config in claim.configs:
        if not config.get("requests") or chosen & set(config["requests"]):
            yield {"source": "FromClaim", **config}


def _reachable(node: NodeInfo, picks: Sequence[_Pick]) -> dict[str, Any] | None:
    """The nodes that reach all the devices; None for all nodes."""
    if any(pick.device.node for pick in picks):
        field = {"key": "metadata.name", "operator": "In", "values": [node.name]}
        return {"nodeSelectorTerms": [{"matchFields": [field]}]}
    term: dict[str, list[Any]] = {}
    for pick in picks:
        for one in (pick.device.selector or {}).get("nodeSelectorTerms") or ():
            for kind in ("matchExpressions", "matchFields"):
                term.setdefault(kind, []).extend(r for r in one.get(kind) or () if r not in term.get(kind, ()))
    term = {kind: rules for kind, rules in term.items() if rules}
    return {"nodeSelectorTerms": [term]} if term else None
