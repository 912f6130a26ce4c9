"""EndpointSlices that mirror the Endpoints which users write for Services without a selector.

Each subset of addresses with the same ports is one slice for each address family.
Source: Kubernetes concepts "Services" (EndpointSlice mirroring), KEP-752.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.addresses import address_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Delete, Event
from rayplane.control_plane.controllers.core import (
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
)
from rayplane.control_plane.controllers.endpointslice import slice_keys, slices_of
from rayplane.control_plane.controllers.service_targets import LEADER, family_of
from rayplane.control_plane.controllers.slice_packing import (
    MANAGED_BY,
    SERVICE_NAME,
    SLICES,
    Endpoint,
    Group,
    Packing,
    group_of,
    is_told_otherwise,
    pack,
    port_of,
    writes,
)

MIRROR = "endpointslicemirroring-controller.k8s.io"
MOST_ADDRESSES = 1000
_SKIP = "endpointslice.kubernetes.io/skip-mirror"
_NOT_MIRRORED = frozenset({
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
})  # fmt: skip


def _selector_changed(old: Object, new: Object) -> bool:
    return bool(meta.spec(old).get("selector")) != bool(meta.spec(new).get("selector"))


class EndpointSliceMirroringController(BaseController):
    name = "endpointslicemirroring"
    component = "endpoint-slice-mirroring-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch("services", own_key, changed=_selector_changed),
            Watch("endpoints", own_key, delay_s=coalesce_s),
            Watch(SLICES, slice_keys, delay_s=coalesce_s),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        space, name = meta.split_key(key)
        slices = slices_of(view, space, name, MIRROR)
        service, endpoints = view.get("services", space, name), view.get("endpoints", space, name)
        if service is None or meta.spec(service).get("selector") or endpoints is None or not _is_mirrored(endpoints):
            return result([Delete(SLICES, s) for s in slices])
        if meta.is_deleting(endpoints):
            return Result()
        wanted, warnings = _wanted(endpoints)
        labels = {**meta.labels(endpoints), SERVICE_NAME: name, MANAGED_BY: MIRROR}
        notes = {k: v for k, v in meta.annotations(endpoints).items() if k not in _NOT_MIRRORED}
        packings: dict[Group, Packing] = {
            group: pack(
                [s for s in slices if group_of(s) == group],
                addresses,
                identity=_address_of,
                is_stale=lambda s: is_told_otherwise(s, labels, notes),
                most=MOST_ADDRESSES,
            )
            for group, addresses in wanted.items()
        }
        for one in slices:
            if group_of(one) not in wanted:
                packings.setdefault(group_of(one), Packing()).emptied.append(one)
        text = f"Error mirroring Endpoints {key}: {{error}}"
        failed = Event(endpoints, "Warning", "FailedToUpdateEndpointSlices", text)
        steps = writes(endpoints, packings, labels=labels, failed=failed, annotations=notes)
        return result([*warnings, *steps])


def _is_mirrored(endpoints: Object) -> bool:
    return meta.labels(endpoints).get(_SKIP) != "true" and LEADER not in meta.annotations(endpoints)


def _address_of(endpoint: Endpoint) -> str:
    return str(endpoint["addresses"][0])


def _wanted(endpoints: Object) -> tuple[dict[Group, dict[str, Endpoint]], list[Event]]:
    """What the Endpoints say, in terms of slices, and events about what is left out."""
    found: dict[Group, dict[str, Endpoint]] = {}
    strange = left_out = 0
    for subset in endpoints.get("subsets") or ():
        ports = tuple(port_of(p) for p in subset.get("ports") or ())
        added = 0
        members = [(a, True) for a in subset.get("addresses") or ()]
        members += [(a, False) for a in subset.get("notReadyAddresses") or ()]
        for address, ready in members:
            if added == MOST_ADDRESSES:
                left_out += 1
                continue
            parsed = address_of(address.get("ip") or "")
            if parsed is None:
                strange += 1
                continue
            added, text = added + 1, str(parsed)
            group = found.setdefault((family_of(text), ports), {})
            group[text] = _endpoint(address, text, ready=ready)
    events = []
    if strange:
        text = f"Skipped {strange} invalid IP addresses when mirroring to EndpointSlices"
        events.append(Event(endpoints, "Warning", "InvalidIPAddress", text))
    if left_out:
        text = (
            f"A max of {MOST_ADDRESSES} addresses can be mirrored to EndpointSlices per Endpoints subset. "
            f"{strange + left_out} addresses were skipped"
        )
        events.append(Event(endpoints, "Warning", "TooManyAddressesToMirror", text))
    return found, events


def _endpoint(address: Mapping[str, Any], text: str, *, ready: bool) -> Endpoint:
    endpoint: Endpoint = {"addresses": [text], "conditions": {"ready": ready}}
    for name in ("hostname", "nodeName", "targetRef"):
        if address.get(name):
            endpoint[name] = address[name]
    return endpoint
