"""Packing of endpoints into EndpointSlices with few writes.

An endpoint stays in the slice it is in. New ones go first into slices that are written anyway (the fullest first), then
together into one slice that has room for them all, and only then into slices of their own. Slices that nobody needs any
more are rewritten where others would have to be created.
Source: Kubernetes KEP-752 (EndpointSlices), section "EndpointSlice Controller".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    Update,
)
from rayplane.control_plane.controllers.service_targets import Port

SLICES = "endpointslices.discovery.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
_NAME_MAX = 253
Endpoint = dict[str, Any]
Group = tuple[str, tuple[Port, ...]]
"""(address type, ports): what all endpoints of a slice have in common."""


@dataclass(slots=True)
class Packing:
    """The slices of one group: what each will hold, and what needs slices of its own."""

    kept: list[tuple[Object, list[Endpoint]]] = field(default_factory=list)
    """Slices that stay, with all their endpoints."""
    emptied: list[Object] = field(default_factory=list)
    fresh: list[list[Endpoint]] = field(default_factory=list)
    """Contents of slices to create."""


def port_of(port: Mapping[str, Any]) -> Port:
    """A port of Endpoints or of a slice."""
    return (
        port.get("name") or "",
        port.get("port") or 0,
        port.get("protocol") or "TCP",
        port.get("appProtocol") or "",
    )


def group_of(one: Object) -> Group:
    return (one.get("addressType") or "IPv4", tuple(port_of(p) for p in one.get("ports") or ()))


def pack(
    slices: Iterable[Object],
    wanted: Mapping[str, Endpoint],
    *,
    identity: Callable[[Endpoint], str],
    is_stale: Callable[[Object], bool],
    most: int,
) -> Packing:
    """Distribute `wanted` (by identity) over slices of one group. `is_stale`: the slice is to be written anyway."""
    missing = dict(wanted)
    packing = Packing()
    written: list[list[Endpoint]] = []
    untouched: list[list[Endpoint]] = []
    for one in slices:
        before = one.get("endpoints") or []
        members = [missing.pop(i) for i in map(identity, before) if i in missing]
        if not members:
            packing.emptied.append(one)
            continue
        packing.kept.append((one, members))
        (written if members != before or is_stale(one) else untouched).append(members)
    fresh = list(missing.values())
    for members in sorted(written, key=len, reverse=True):
        room = max(0, most - len(members))
        members += fresh[:room]
        del fresh[:room]
    while fresh:
        room_for_all = [members for members in untouched if len(members) + len(fresh) <= most]
        if room_for_all:
            max(room_for_all, key=len).extend(fresh)
            break
        packing.fresh.append(fresh[:most])
        del fresh[:most]
    return packing


def writes(
    owner: Object,
    packings: Mapping[Group, Packing],
    *,
    labels: Mapping[str, str],
    failed: Event,
    annotations: Mapping[str, str] | None = None,
) -> list[Action]:
    """Writes that make slices be as packed. `annotations`: None where those of slices are not looked at."""

    def stale(one: Object) -> bool:
        return is_told_otherwise(one, labels, annotations)

    steps: list[Action] = []
    notes = {} if annotations is None else {"annotations": dict(annotations)}
    for group, packing in packings.items():
        for one, members in packing.kept:
            if members != (one.get("endpoints") or []) or stale(one):
                steps.append(_rewritten(one, group, members, labels=labels, notes=notes, failed=failed))
    spare: dict[str, list[Object]] = {}
    for (family, _), packing in packings.items():
        spare.setdefault(family, []).extend(packing.emptied)
    for group, packing in packings.items():
        for members in packing.fresh:
            reused = spare[group[0]].pop(0) if spare[group[0]] else None
            if reused is None:
                steps.append(_created(owner, group, members, labels=labels, notes=notes, failed=failed))
            elif members or reused.get("endpoints") or group_of(reused) != group or stale(reused):
                steps.append(_rewritten(reused, group, members, labels=labels, notes=notes, failed=failed))
    return [*steps, *(Delete(SLICES, one) for rest in spare.values() for one in rest)]


def is_told_otherwise(one: Object, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None) -> bool:
    """Whether a slice's labels, or annotations where those matter, differ from these."""
    return meta.labels(one) != labels or (annotations is not None and meta.annotations(one) != annotations)


def _rewritten(
    one: Object, group: Group, members: Sequence[Endpoint], *, labels: Any, notes: Any, failed: Event
) -> Update:
    changed = meta.copy_for_write(one)
    changed["endpoints"] = list(members)
    changed["ports"] = [_slice_port(p) for p in group[1]]
    changed["metadata"] |= {"labels": dict(labels), **notes}
    return Update(SLICES, changed, failed=failed)


def _created(
    owner: Object, group: Group, members: Sequence[Endpoint], *, labels: Any, notes: Any, failed: Event
) -> Create:
    prefix = f"{meta.name(owner)}-"
    own = {
        "generateName": prefix if len(prefix) <= _NAME_MAX else meta.name(owner),
        "namespace": meta.namespace(owner),
        "labels": dict(labels),
        **notes,
        "ownerReferences": [meta.owner_reference(owner)],
    }
    obj = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": own,
        "addressType": group[0],
        "endpoints": list(members),
        "ports": [_slice_port(p) for p in group[1]],
    }
    return Create(SLICES, obj, failed=failed)


def _slice_port(port: Port) -> dict[str, Any]:
    name, number, protocol, application = port
    found: dict[str, Any] = {"name": name, "port": number, "protocol": protocol}
    if application:
        found["appProtocol"] = application
    return found
