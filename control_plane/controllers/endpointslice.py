"""EndpointSlices of Services with a selector, and mirrors of Endpoints that users write for those without.

Slices are changed as little as possible: an endpoint stays in its slice; only new ones fill up the slices that
have room. Source: Kubernetes API reference discovery/v1 EndpointSlice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Result,
    Update,
    View,
    Watch,
    own_key,
    result,
    spec_or_meta_changed,
)
from rayplane.control_plane.controllers.service_targets import (
    HEADLESS,
    Port,
    Target,
    is_headless,
    is_managed,
    pod_target_changed,
    services_of_pod,
    targets_of,
)

SLICES = "endpointslices.discovery.k8s.io"
SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
MOST_ENDPOINTS = 100
Group = tuple[str, tuple[Port, ...]]
"""(address type, ports): what all endpoints of a slice have in common."""


def _slice_keys(o: Object, _view: View) -> Iterable[str]:
    name = meta.labels(o).get(SERVICE_NAME)
    return (f"{meta.namespace(o)}/{name}",) if name else ()


class EndpointSliceController(BaseController):
    name = "endpointslice"
    component = "endpoint-slice-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self.watches = (
            Watch("services", own_key, changed=spec_or_meta_changed),
            Watch("pods", services_of_pod, delay_s=coalesce_s, changed=pod_target_changed),
            Watch(SLICES, _slice_keys, delay_s=coalesce_s),
            Watch("endpoints", own_key, delay_s=coalesce_s),
            Watch("nodes", None),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        space, name = meta.split_key(key)
        service = view.get("services", space, name)
        labelled = view.indexed(SLICES, "label", f"{space}/{SERVICE_NAME}={name}")
        ours = [s for s in labelled if meta.labels(s).get(MANAGED_BY) in (MANAGER, MIRROR)]
        slices = [s for s in ours if not meta.is_deleting(s)]
        if service is None or meta.spec(service).get("type") == "ExternalName":
            return result([Delete(SLICES, s) for s in slices])
        if meta.is_deleting(service):
            return NOTHING
        manager = MANAGER if is_managed(service) else MIRROR
        stale = [Delete(SLICES, s) for s in slices if meta.labels(s)[MANAGED_BY] != manager]
        slices = [s for s in slices if meta.labels(s)[MANAGED_BY] == manager]
        if manager == MANAGER:
            wanted = _wanted(service, targets_of(service, view))
        else:
            wanted = _mirrored(view.get("endpoints", space, name))
        return result([*stale, *_plan(service, manager, slices, wanted=wanted)])


Endpoint = dict[str, Any]
Wanted = dict[Group, dict[str, Endpoint]]
"""Per group, endpoints by their identity."""


def _wanted(service: Object, targets: Sequence[Target]) -> Wanted:
    found: Wanted = {}
    for target in targets:
        if not target.ports and not is_headless(service):
            continue
        kind = "IPv6" if ":" in target.address else "IPv4"
        found.setdefault((kind, target.ports), {})[meta.uid(target.pod)] = _endpoint(target)
    # A Service without endpoints still shows one (empty) slice.
    return found or {("IPv4", ()): {}}


def _endpoint(target: Target) -> Endpoint:
    found: Endpoint = {
        "addresses": [target.address],
        "conditions": {
            "ready": target.ready,
            "serving": target.serving,
            "terminating": target.terminating,
        },
        "targetRef": target.reference,
    }
    if target.hostname:
        found["hostname"] = target.hostname
    if target.node:
        found["nodeName"] = target.node
    if target.zone:
        found["zone"] = target.zone
    return found


def _mirrored(endpoints: Object | None) -> Wanted:
    """What Endpoints written by a user say, in terms of slices."""
    found: Wanted = {}
    if endpoints is None or meta.labels(endpoints).get(SKIP_MIRROR) == "true":
        return found
    for subset in endpoints.get("subsets") or ():
        ports = tuple(_port_of(p) for p in subset.get("ports") or ())
        for field, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(field) or ():
                endpoint: Endpoint = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                for name in ("hostname", "nodeName", "targetRef"):
                    if address.get(name):
                        endpoint[name] = address[name]
                kind = "IPv6" if ":" in address["ip"] else "IPv4"
                found.setdefault((kind, ports), {})[address["ip"]] = endpoint
    return found


def _port_of(port: dict[str, Any]) -> Port:
    return (
        port.get("name") or "",
        port.get("port") or 0,
        port.get("protocol") or "TCP",
        port.get("appProtocol") or "",
    )


def _identity(endpoint: Endpoint, manager: str) -> str:
    ref = endpoint.get("targetRef") or {}
    return (ref.get("uid") or "") if manager == MANAGER else endpoint["addresses"][0]


def _plan(service: Object, manager: str, slices: Sequence[Object], *, wanted: Wanted) -> list[Action]:
    """Writes that turn `slices` into what is wanted."""
    labels = _labels(service, manager)
    steps: list[Action] = []
    groups: dict[Group, list[Object]] = {}
    for s in sorted(slices, key=meta.name):
        group = (s.get("addressType") or "IPv4", tuple(_port_of(p) for p in s.get("ports") or ()))
        groups.setdefault(group, []).append(s)
    for group, existing in groups.items():
        if group not in wanted:
            steps += [Delete(SLICES, s) for s in existing]
    for group, endpoints in wanted.items():
        have = groups.get(group, [])
        missing = dict(endpoints)
        kept: list[list[Endpoint]] = []
        for s in have:
            identities = [_identity(e, manager) for e in s.get("endpoints") or ()]
            kept.append([missing.pop(i) for i in identities if i in missing])
        fresh = list(missing.values())
        for members in kept:
            room = max(0, MOST_ENDPOINTS - len(members))
            members.extend(fresh[:room])
            del fresh[:room]
        empty_needed = not endpoints and have  # keep one placeholder
        for index, (s, members) in enumerate(zip(have, kept, strict=True)):
            if not members and not (empty_needed and index == 0):
                steps.append(Delete(SLICES, s))
            elif members != (s.get("endpoints") or []) or labels != meta.labels(s):
                changed = meta.copy_for_write(s)
                changed["endpoints"] = members
                changed["metadata"]["labels"] = labels
                steps.append(Update(SLICES, changed))
        while fresh or (not endpoints and not have):
            steps.append(_create(service, group, fresh[:MOST_ENDPOINTS], labels=labels))
            del fresh[:MOST_ENDPOINTS]
            if not endpoints:
                break
    return steps


def _labels(service: Object, manager: str) -> dict[str, str]:
    labels = {
        **meta.labels(service),
        SERVICE_NAME: meta.name(service),
        MANAGED_BY: manager,
    }
    if is_headless(service):
        labels[HEADLESS] = ""
    return labels


def _create(service: Object, group: Group, endpoints: list[Endpoint], *, labels: dict[str, str]) -> Create:
    kind, ports = group
    own = {
        "generateName": meta.name(service)[:57] + "-",
        "namespace": meta.namespace(service),
        "labels": labels,
        "ownerReferences": [meta.owner_reference(service)],
    }
    obj = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": own,
        "addressType": kind,
        "endpoints": endpoints,
        "ports": [_slice_port(p) for p in ports],
    }
    key = f"{meta.namespace(service)}/{meta.name(service)}"
    text = f"Error updating Endpoint Slices for Service {key}: {{error}}"
    failed = Event(service, "Warning", "FailedToUpdateEndpointSlices", text)
    return Create(SLICES, obj, failed=failed)


def _slice_port(port: Port) -> dict[str, Any]:
    name, number, protocol, application = port
    found: dict[str, Any] = {"name": name, "port": number, "protocol": protocol}
    if application:
        found["appProtocol"] = application
    return found
