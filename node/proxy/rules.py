"""Rules of the service proxy: the sockets a host needs for a service, and the endpoints behind each. Pure.

Where all endpoints carry hints, traffic stays on the node or in the zone of whoever asks while there is an endpoint.
Source: Kubernetes documentation, "Virtual IPs and Service Proxies" and "EndpointSlices".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

SERVICE_LABEL = "kubernetes.io/service-name"
SLICES = "endpointslices.discovery.k8s.io"
SLICES_BY_SERVICE = "service"
"""Index of an informer of slices: by `services_of`."""
DEFAULT_AFFINITY_S = 10800


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One address behind a service. `node` and `pod` (namespace/name) are empty when nobody says.

    `for_nodes` and `for_zones` hint at where its traffic should come from.
    """

    ip: str
    port: int
    node: str = ""
    pod: str = ""
    for_nodes: tuple[str, ...] = ()
    for_zones: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """Destination of connections to one socket. `affinity_s`: how long a client keeps its endpoint; 0: not at all."""

    service: str  # namespace/name
    endpoints: tuple[Endpoint, ...]
    affinity_s: int = 0


Socket = tuple[str, int]
"""Address and port to listen on."""


@dataclass(frozen=True, slots=True)
class HostView:
    """Facts that the rules must know of this host: its nodes with their addresses and zones, and which nodes only
    simulate."""

    node_ips: Mapping[str, str] = field(default_factory=dict)
    simulated: frozenset[str] = frozenset()
    node_zones: Mapping[str, str] = field(default_factory=dict)

    def of_node(self, name: str) -> HostView:
        """What there is to know of one of the nodes."""
        return replace(self, node_ips={name: self.node_ips[name]})

    @property
    def zones(self) -> set[str]:
        return {self.node_zones[name] for name in self.node_ips if self.node_zones.get(name)}


def outside(address: Socket) -> Socket:
    """The same numbers in 127/8, where people at the machine find what is in the pods' own network (10/8)."""
    ip, port = address
    return (f"127.{ip.removeprefix('10.')}" if ip.startswith("10.") else ip), port


def services_of(one: Object) -> list[str]:
    """The service namespace/name of an endpoint slice."""
    name = meta.labels(one).get(SERVICE_LABEL)
    return [f"{meta.namespace(one)}/{name}"] if name else []


def plan_service(service: Object, slices: Iterable[Object], view: HostView) -> dict[Socket, Target]:
    """Sockets of one service on this host. None for headless services and for those without a real endpoint."""
    spec = meta.spec(service)
    if spec.get("type") == "ExternalName" or spec.get("clusterIP") in (None, "", "None"):
        return {}
    slices = list(slices)
    plan: dict[Socket, Target] = {}
    for port in spec.get("ports") or ():
        if (port.get("protocol") or "TCP") != "TCP":
            continue
        endpoints = endpoints_of(slices, port.get("name") or "", view)
        if not endpoints:
            continue
        plan.update(_cluster_sockets(service, port, endpoints, view))
        plan.update(_external_sockets(service, port, endpoints, view))
    return plan


def endpoints_of(slices: Iterable[Object], port_name: str, view: HostView) -> tuple[Endpoint, ...]:
    """Ready endpoints that can be connected to, sorted; while none is ready, those that end but still serve."""
    ready: dict[Endpoint, None] = {}
    ending: dict[Endpoint, None] = {}
    for one in slices:
        number = _slice_port(one, port_name)
        if number is None or one.get("addressType", "IPv4") != "IPv4":
            continue
        for entry in one.get("endpoints") or ():
            node = entry.get("nodeName") or ""
            if node in view.simulated:
                continue
            conditions = entry.get("conditions") or {}
            ref = entry.get("targetRef") or {}
            pod = f"{ref.get('namespace', '')}/{ref['name']}" if ref.get("kind") == "Pod" else ""
            hints = _hints(entry)
            for ip in entry.get("addresses") or ():
                endpoint = Endpoint(ip, number, node, pod, *hints)
                if conditions.get("ready") is not False:
                    ready[endpoint] = None
                elif conditions.get("serving") and conditions.get("terminating"):
                    ending[endpoint] = None
    return tuple(sorted(ready or ending))


def _hints(entry: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    hints = entry.get("hints")
    if not hints:
        return (), ()
    nodes, zones = (hints.get(field) or () for field in ("forNodes", "forZones"))
    return tuple(one["name"] for one in nodes), tuple(one["name"] for one in zones)


def preferred(endpoints: tuple[Endpoint, ...], view: HostView) -> tuple[Endpoint, ...]:
    """Endpoints for traffic from here, as hints say; all of them where one has no hint or none is for here."""
    for hinted, here in (
        ([e.for_nodes for e in endpoints], set(view.node_ips)),
        ([e.for_zones for e in endpoints], view.zones),
    ):
        near = tuple(e for e, hints in zip(endpoints, hinted, strict=True) if not here.isdisjoint(hints))
        if near and all(hinted):
            return near
    return endpoints


def service_port(service: Object, port: int | str) -> dict[str, Any] | None:
    """The port of a service with that number or name."""
    for known in meta.spec(service).get("ports") or ():
        if port in (known["port"], known.get("name")):
            found: dict[str, Any] = known
            return found
    return None


def _cluster_sockets(
    service: Object, port: dict[str, Any], endpoints: tuple[Endpoint, ...], view: HostView
) -> dict[Socket, Target]:
    spec = meta.spec(service)
    if spec.get("internalTrafficPolicy") == "Local":
        endpoints = tuple(e for e in endpoints if e.node in view.node_ips)
    else:
        endpoints = preferred(endpoints, view)
    if not endpoints:
        return {}
    target = Target(meta.key(service), endpoints, _affinity(spec))
    addresses = spec.get("clusterIPs") or [spec["clusterIP"]]
    return {(address, port["port"]): target for address in addresses if ":" not in address}


def _external_sockets(
    service: Object, port: dict[str, Any], endpoints: tuple[Endpoint, ...], view: HostView
) -> dict[Socket, Target]:
    spec, key = meta.spec(service), meta.key(service)
    local_only = spec.get("externalTrafficPolicy") == "Local"
    affinity = _affinity(spec)
    plan: dict[Socket, Target] = {}
    balancer = (meta.status(service).get("loadBalancer") or {}).get("ingress") or ()
    addresses = [*(spec.get("externalIPs") or ()), *(i["ip"] for i in balancer if i.get("ip"))]
    here = tuple(e for e in endpoints if e.node in view.node_ips) if local_only else preferred(endpoints, view)
    if here:
        plan.update({(address, port["port"]): Target(key, here, affinity) for address in addresses})
    if port.get("nodePort"):
        for node, address in sorted(view.node_ips.items()):
            own = (
                tuple(e for e in endpoints if e.node == node)
                if local_only
                else preferred(endpoints, view.of_node(node))
            )
            if own and address:
                plan[address, port["nodePort"]] = Target(key, own, affinity)
    return plan


def _affinity(spec: dict[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(config.get("timeoutSeconds") or DEFAULT_AFFINITY_S)


def _slice_port(one: Object, name: str) -> int | None:
    for port in one.get("ports") or ():
        if (port.get("name") or "") == name and (port.get("protocol") or "TCP") == "TCP":
            number = port.get("port")
            return int(number) if number else None
    return None
