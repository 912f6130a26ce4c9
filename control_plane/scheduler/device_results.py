"""Allocations as they are written into the status of claims.

Source: API reference resource/v1 AllocationResult, DeviceRequestAllocationResult.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.quantity import Quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler.device_requests import ClaimWishes, Wish
from rayplane.control_plane.scheduler.device_slices import Device


@dataclass(frozen=True, slots=True)
class Pick:
    """A device for a request; of one that is shared, what the request takes of it."""

    claim: int
    wish: Wish
    device: Device
    taken: Mapping[str, Quantity]


def allocation_of(
    claim: ClaimWishes, picks: Sequence[Pick], node: str, classes: Mapping[str, Object]
) -> dict[str, Any]:
    """What a claim got on a node."""
    found: dict[str, Any] = {"devices": {"results": [_result(claim, pick, at) for at, pick in enumerate(picks)]}}
    configs = [*_of_classes(classes, picks), *_of_claim(claim, picks)]
    for config in configs:
        if len(config.get("requests") or ()) == len(claim.requests):
            config.pop("requests", None)  # of all
    if configs:
        found["devices"]["config"] = configs
    selector = _reachable(node, picks)
    if selector is not None:
        found["nodeSelector"] = selector
    return found


def _result(claim: ClaimWishes, pick: Pick, at: int) -> dict[str, Any]:
    device, wish = pick.device, pick.wish
    found: dict[str, Any] = {"request": wish.request, **device.id._asdict()}
    if wish.admin:
        found["adminAccess"] = True
    if wish.written_tolerations:
        found["tolerations"] = list(wish.written_tolerations)
    if device.conditions:
        found["bindingConditions"], found["bindingFailureConditions"] = [*device.conditions], [*device.failures]
    if device.shared:
        found["shareID"] = _share_id(f"{claim.seed}/{at}/{'/'.join(device.id)}")
        if pick.taken:
            found["consumedCapacity"] = {
                device.capacity[name].written: str(amount) for name, amount in pick.taken.items()
            }
    return found


def _share_id(seed: str) -> str:
    """A UUID: the same for the same claim, request and device, so that a decision can be taken again."""
    digits = hashlib.sha256(seed.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-a{digits[17:20]}-{digits[20:32]}"


def _of_classes(classes: Mapping[str, Object], picks: Sequence[Pick]) -> Iterator[dict[str, Any]]:
    """The configurations of each class once, with the requests that they are for."""
    requests: dict[str, dict[str, None]] = {}
    for pick in picks:
        requests.setdefault(pick.wish.of_class, {})[pick.wish.request] = None
    for of_class, names in requests.items():
        for config in meta.spec(classes.get(of_class) or {}).get("config") or ():
            yield {"source": "FromClass", "requests": [*names], **config}


def _of_claim(claim: ClaimWishes, picks: Sequence[Pick]) -> Iterator[dict[str, Any]]:
    chosen = {name for pick in picks for name in (pick.wish.request, pick.wish.request.partition("/")[0])}
    for config in claim.configs:
        if not config.get("requests") or chosen & set(config["requests"]):
            yield {"source": "FromClaim", **config}


def _reachable(node: str, picks: Sequence[Pick]) -> dict[str, Any] | None:
    """The nodes that reach all the devices; None for all nodes."""
    if any(pick.device.node or pick.device.binds for pick in picks):
        field = {"key": "metadata.name", "operator": "In", "values": [node]}
        return {"nodeSelectorTerms": [{"matchFields": [field]}]}
    term: dict[str, list[Any]] = {}
    for pick in picks:
        for one in (pick.device.selector or {}).get("nodeSelectorTerms") or ():
            for kind in ("matchExpressions", "matchFields"):
                term.setdefault(kind, []).extend(r for r in one.get(kind) or () if r not in term.get(kind, ()))
    term = {kind: rules for kind, rules in term.items() if rules}
    return {"nodeSelectorTerms": [term]} if term else None
