"""Endpoints of Services with a selector.

Source: Kubernetes API reference core/v1 Endpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import (
    Create,
    Delete,
    Event,
    Update,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
    spec_or_meta_changed,
)
from rayplane.control_plane.controllers.service_targets import (
    HEADLESS,
    LEADER,
    Port,
    Target,
    families_of,
    is_headless,
    is_managed,
    pod_target_changed,
    port_object,
    services_of_pod,
    targets_of,
)

MOST_ADDRESSES = 1000  # Kubernetes cuts Endpoints there; EndpointSlices go on
_OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
_MANAGED_BY = "endpoints.kubernetes.io/managed-by"


_GONE = "gone:"
"""Before the key of a service that was deleted."""


def _service_keys(service: Object, view: View) -> Iterable[str]:
    space, name = meta.namespace(service), meta.name(service)
    return (meta.key(service),) if view.get("services", space, name) else (f"{_GONE}{meta.key(service)}",)


class EndpointsController(BaseController):
    name = "endpoints"
    component = "endpoint-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch("services", _service_keys, changed=spec_or_meta_changed),
            Watch("pods", services_of_pod, delay_s=coalesce_s, changed=pod_target_changed),
            Watch("endpoints", own_key, delay_s=coalesce_s),
            Watch("nodes", None),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        was_served = key.startswith(_GONE)
        space, name = meta.split_key(key.removeprefix(_GONE))
        service = view.get("services", space, name)
        current = view.get("endpoints", space, name)
        if service is None:
            # Endpoints that users made for themselves have no such label; they go with the service they were for.
            if current is not None and (was_served or _MANAGED_BY in meta.labels(current)):
                return NOTHING if LEADER in meta.annotations(current) else result([Delete("endpoints", current)])
            return NOTHING
        if was_served or not is_managed(service) or meta.is_deleting(service):
            return NOTHING
        targets = [t for t in targets_of(service, view, families_of(service)[0]) if t.ready or not t.terminating]
        wanted = _endpoints(service, targets)
        if current is None:
            text = f"Failed to create endpoint for service {key}: {{error}}"
            failed = Event(service, "Warning", "FailedToCreateEndpoint", text)
            return result([Create("endpoints", wanted, failed=failed, exists_ok=True)])
        if _same(current, wanted):
            return NOTHING
        changed = meta.copy_for_write(current)
        changed["subsets"] = wanted.get("subsets", [])
        notes = changed["metadata"].setdefault("annotations", {})
        notes.pop(_OVER_CAPACITY, None)
        notes.update(meta.annotations(wanted))
        changed["metadata"]["labels"] = dict(meta.labels(wanted))
        text = f"Failed to update endpoint {key}: {{error}}"
        failed = Event(current, "Warning", "FailedToUpdateEndpoint", text)
        return result([Update("endpoints", changed, failed=failed)])


def _same(current: Object, wanted: Object) -> bool:
    return (
        (current.get("subsets") or []) == wanted["subsets"]
        and meta.labels(current) == meta.labels(wanted)
        and meta.annotations(current).get(_OVER_CAPACITY) == meta.annotations(wanted).get(_OVER_CAPACITY)
    )


def _endpoints(service: Object, targets: list[Target]) -> Object:
    labels = {**meta.labels(service), _MANAGED_BY: "endpoint-controller"}
    if is_headless(service):
        labels[HEADLESS] = ""
    own: dict[str, Any] = {
        "name": meta.name(service),
        "namespace": meta.namespace(service),
        "labels": labels,
    }
    if len(targets) > MOST_ADDRESSES:
        own["annotations"] = {_OVER_CAPACITY: "truncated"}
        targets = sorted(targets, key=lambda t: not t.ready)[:MOST_ADDRESSES]
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": own,
        "subsets": _subsets(targets, headless=is_headless(service)),
    }


def _subsets(targets: list[Target], *, headless: bool) -> list[dict[str, Any]]:
    groups: dict[tuple[Port, ...], tuple[list[Target], list[Target]]] = {}
    for target in targets:
        if not target.ports and not headless:
            continue
        ready, waiting = groups.setdefault(target.ports, ([], []))
        (ready if target.ready else waiting).append(target)
    subsets = []
    for ports, (ready, waiting) in sorted(groups.items()):
        subset: dict[str, Any] = {}
        for field, members in (("addresses", ready), ("notReadyAddresses", waiting)):
            if members:
                subset[field] = [_address(t) for t in sorted(members, key=lambda t: t.address)]
        if ports:
            subset["ports"] = [port_object(p) for p in ports]
        subsets.append(subset)
    return subsets


def _address(target: Target) -> dict[str, Any]:
    found: dict[str, Any] = {"ip": target.address, "targetRef": target.reference}
    if target.hostname:
        found["hostname"] = target.hostname
    if target.node:
        found["nodeName"] = target.node
    return found
