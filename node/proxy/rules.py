"""Rules of the service proxy: the sockets a host needs for a service, and the endpoints behind each. Pure.

Where all endpoints carry hints, traffic stays on the node or in the zone of whoever asks while there is an endpoint.
With a traffic policy of `Local` nobody answers where there is none on the node; pods of a machine reach the external
addresses of such a service as they reach its cluster address. What a service has beyond the limits below is left out.
Source: Kubernetes documentation, "Virtual IPs and Service Proxies" and "EndpointSlices".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object

SERVICE_LABEL = "kubernetes.io/service-name"
SLICES = "endpointslices.discovery.k8s.io"
SLICES_BY_SERVICE = "service"
"""Index of an informer of slices: by `services_of`."""
DEFAULT_AFFINITY_S = 10800
TCP, UDP, SCTP = "TCP", "UDP", "SCTP"
PORTS_MAX = 1000
"""Of one service that are served."""
PLACES_MAX = 50_000
"""Ports of one service times its endpoints."""
NAMED_MAX = 5
"""Ports that are named where more are left out."""
SOURCES_MAX = 1000
"""Ranges of sources of one service."""


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

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """Destination of connections to one socket; without endpoints they get no answer.

    `affinity_s`: how long a client keeps its endpoint; 0: not at all. `sources`: networks of who may connect; empty:
    everybody. `inside`: the endpoints for pods of this machine, where those are others. `health`: how many endpoints
    are here, for a socket that tells just that; None for all others.
    """

    service: str  # namespace/name
    endpoints: tuple[Endpoint, ...]
    affinity_s: int = 0
    sources: tuple[str, ...] = ()
    inside: tuple[Endpoint, ...] | None = None
    health: int | None = None

    @property
    def for_pods(self) -> tuple[Endpoint, ...]:
        return self.endpoints if self.inside is None else self.inside


class Socket(NamedTuple):
    """An address that a service is asked at."""

    ip: str
    port: int
    protocol: str = TCP

    def __str__(self) -> str:
        return f"{self.ip}:{self.port}/{self.protocol}"


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
    return address._replace(ip=outside_ip(address.ip))


def outside_ip(ip: str) -> str:
    return f"127.{ip.removeprefix('10.')}" if ip.startswith("10.") else ip


def cluster_ip(service: Object) -> str:
    """Empty for headless services, and for those that have none yet."""
    ip = meta.spec(service).get("clusterIP") or ""
    return "" if ip == "None" else str(ip)


def services_of(one: Object) -> list[str]:
    """The service namespace/name of an endpoint slice."""
    name = meta.labels(one).get(SERVICE_LABEL)
    return [f"{meta.namespace(one)}/{name}"] if name else []


def plan_service(service: Object, slices: Iterable[Object], view: HostView) -> dict[Socket, Target]:
    """Sockets of one service on this host. None for headless services and for those without a real endpoint."""
    spec = meta.spec(service)
    if spec.get("type") == "ExternalName" or not cluster_ip(service):
        return {}
    slices = list(slices)
    plan: dict[Socket, Target] = {}
    for port in served_ports(service, slices):
        endpoints = endpoints_of(slices, port.get("name") or "", view, protocol=_protocol(port))
        if not endpoints:
            continue
        plan.update(_cluster_sockets(service, port, endpoints, view))
        plan.update(_external_sockets(service, port, endpoints, view))
    return plan | _health_sockets(service, slices, view)


def _health_sockets(service: Object, slices: list[Object], view: HostView) -> dict[Socket, Target]:
    """Where balancers ask whether a node has endpoints of a service that they keep to."""
    spec = meta.spec(service)
    number = spec.get("healthCheckNodePort")
    if not number or spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
        return {}
    return {
        Socket(ip, number): Target(meta.key(service), (), health=local_endpoints(slices, view.of_node(node)))
        for node, ip in view.node_ips.items()
        if ip
    }


def served_ports(service: Object, slices: Iterable[Object]) -> list[dict[str, Any]]:
    """The ports of a service that are served: as many as the limits let."""
    endpoints = sum(len(one.get("endpoints") or ()) for one in slices)
    return (meta.spec(service).get("ports") or [])[: min(PORTS_MAX, max(1, PLACES_MAX // max(1, endpoints)))]


def left_out(service: Object, slices: Iterable[Object], without_rules: Iterable[Socket] = ()) -> str:
    """What of a service is not served, in words; empty when all of it is. `without_rules`: sockets of SCTP for which
    there are no packet rules.
    """
    ports = meta.spec(service).get("ports") or ()
    missing = len(ports) - len(served_ports(service, slices))
    sources = len(meta.spec(service).get("loadBalancerSourceRanges") or ()) - SOURCES_MAX
    words = [f"{missing} of its ports: a service has at most {PORTS_MAX}, fewer with many endpoints"] if missing else []
    words += [f"{sources} of its source ranges: a service has at most {SOURCES_MAX}"] if sources > 0 else []
    return "; ".join([*words, *by_rules_alone(without_rules)])


def by_rules_alone(without_rules: Iterable[Socket]) -> list[str]:
    """What is to be said of sockets of SCTP for which there are no packet rules; nothing of none."""
    numbers = sorted({one.port for one in without_rules})
    named = ", ".join([*map(str, numbers[:NAMED_MAX]), *(["..."] if numbers[NAMED_MAX:] else [])])
    return [f"ports of SCTP ({named}), which lead to isolated pods alone"] if numbers else []


def _protocol(port: Mapping[str, Any]) -> str:
    return port.get("protocol") or TCP


def endpoints_of(
    slices: Iterable[Object], port_name: str, view: HostView, *, protocol: str = TCP
) -> tuple[Endpoint, ...]:
    """Ready endpoints that can be connected to, sorted; while none is ready, those that end but still serve."""
    ready: dict[Endpoint, None] = {}
    ending: dict[Endpoint, None] = {}
    for one in slices:
        number = _slice_port(one, port_name, protocol)
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
    return tuple(sorted(ready or ending))[:PLACES_MAX]


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
    target = Target(meta.key(service), endpoints, _affinity(spec))
    addresses = spec.get("clusterIPs") or [spec["clusterIP"]]
    return {Socket(address, port["port"], _protocol(port)): target for address in addresses if ":" not in address}


def _external_sockets(
    service: Object, port: dict[str, Any], endpoints: tuple[Endpoint, ...], view: HostView
) -> dict[Socket, Target]:
    spec, key, protocol = meta.spec(service), meta.key(service), _protocol(port)
    local_only = spec.get("externalTrafficPolicy") == "Local"
    plan: dict[Socket, Target] = {}
    balanced = [one for one in (meta.status(service).get("loadBalancer") or {}).get("ingress") or () if one.get("ip")]
    sources = source_ranges(spec) if spec.get("type") == "LoadBalancer" else ()
    near = preferred(endpoints, view)
    here = tuple(e for e in endpoints if e.node in view.node_ips) if local_only else near
    target = Target(key, here, _affinity(spec), (), near)
    for address in spec.get("externalIPs") or ():
        plan[Socket(address, port["port"], protocol)] = target
    for one in balanced:
        # Of a balancer that is a proxy of its own, packets must go through it.
        if one.get("ipMode") != "Proxy":
            plan[Socket(one["ip"], port["port"], protocol)] = replace(target, sources=sources)
    if port.get("nodePort"):
        for node, address in sorted(view.node_ips.items()):
            of_node = view.of_node(node)
            own = tuple(e for e in endpoints if e.node == node) if local_only else preferred(endpoints, of_node)
            if address:
                inside = preferred(endpoints, of_node)
                plan[Socket(address, port["nodePort"], protocol)] = Target(key, own, _affinity(spec), (), inside)
    return plan


def source_ranges(spec: Mapping[str, Any]) -> tuple[str, ...]:
    """Networks that may use a balancer's address. Where all that is written is none, nobody may."""
    written = (spec.get("loadBalancerSourceRanges") or ())[:SOURCES_MAX]
    found = tuple(network for network in map(_ipv4_network, written) if network)
    return found or (("255.255.255.255/32",) if written else ())


def _ipv4_network(text: str) -> str:
    """Empty for what is none, or was written past the API's validation."""
    try:
        network = ip_network(text.strip(), strict=False)
    except ValueError:
        return ""
    return str(network) if network.version == 4 else ""


def local_endpoints(slices: Iterable[Object], view: HostView) -> int:
    """How many ready endpoints this host's nodes have, as whoever checks a node's health is told."""
    found = {
        (entry.get("nodeName"), *(entry.get("addresses") or ()))
        for one in slices
        for entry in one.get("endpoints") or ()
        if entry.get("nodeName") in view.node_ips and (entry.get("conditions") or {}).get("ready") is not False
    }
    return len(found)


def _affinity(spec: dict[str, Any]) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(config.get("timeoutSeconds") or DEFAULT_AFFINITY_S)


def _slice_port(one: Object, name: str, protocol: str) -> int | None:
    for port in one.get("ports") or ():
        if (port.get("name") or "") == name and _protocol(port) == protocol:
            number = port.get("port")
            return int(number) if number else None
    return None
