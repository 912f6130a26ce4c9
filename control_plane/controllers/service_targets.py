"""Targets of a Service's traffic, for Endpoints and EndpointSlices: its pods, their addresses, resolved ports.

Source: Kubernetes API reference core/v1 Service, Endpoints; discovery/v1 EndpointSlice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.api.pods.ports import named_port
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_is_terminated
from rayplane.control_plane.controllers.core import View, selected

HEADLESS = "service.kubernetes.io/headless"
LEADER = "control-plane.alpha.kubernetes.io/leader"
"""The annotation of Endpoints that are nobody's addresses, but the lock of an election."""
Port = tuple[str, int, str, str]
"""(name, number, protocol, appProtocol) as they reach the pod."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one pod. `hostname` is set when DNS should name it."""

    address: str
    pod: Object
    ports: tuple[Port, ...]
    ready: bool
    serving: bool
    terminating: bool
    hostname: str
    node: str
    zone: str
    placed: bool
    """Whether its node is known."""

    @property
    def reference(self) -> dict[str, str]:
        return {
            "kind": "Pod",
            "name": meta.name(self.pod),
            "namespace": meta.namespace(self.pod),
            "uid": meta.uid(self.pod),
        }


def is_managed(service: Object) -> bool:
    """Services without a selector have endpoints written by users."""
    spec = meta.spec(service)
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def is_headless(service: Object) -> bool:
    return meta.spec(service).get("clusterIP") == "None"


def families_of(service: Object) -> list[str]:
    """Address families of a service, its first one first."""
    spec = meta.spec(service)
    families = spec.get("ipFamilies")
    return list(families) if families else [family_of(spec.get("clusterIP") or "")]


def family_of(address: str) -> str:
    return "IPv6" if ":" in address else "IPv4"


def _address_in(pod: Object, family: str) -> str:
    status = meta.status(pod)
    known = [one.get("ip") or "" for one in status.get("podIPs") or ()] or [status.get("podIP") or ""]
    return next((ip for ip in known if ip and family_of(ip) == family), "")


def targets_of(service: Object, view: View, family: str) -> list[Target]:
    """All targets of an address family, in the order of pod names."""
    spec = meta.spec(service)
    selector = from_map(spec.get("selector"))
    pods = selected(view, "pods", meta.namespace(service), selector=selector)
    found = []
    for pod in sorted(pods, key=meta.name):
        address = _address_in(pod, family)
        if not address or pod_is_terminated(pod):
            continue
        serving, leaving = pod_is_ready(pod), meta.is_deleting(pod)
        hostname = meta.spec(pod).get("hostname") or ""
        node = view.get("nodes", "", meta.node_name(pod))
        found.append(
            Target(
                address=address,
                pod=pod,
                ports=tuple(_ports(spec.get("ports") or (), pod)),
                ready=bool(spec.get("publishNotReadyAddresses")) or (serving and not leaving),
                serving=serving,
                terminating=leaving,
                hostname=hostname if meta.spec(pod).get("subdomain") == meta.name(service) else "",
                node=meta.node_name(pod),
                zone=meta.labels(node).get(ZONE, "") if node else "",
                placed=node is not None,
            )
        )
    return found


def _ports(ports: Iterable[Mapping[str, Any]], pod: Object) -> Iterable[Port]:
    """Service ports as numbers of this pod; ports whose name the pod does not know are left out."""
    for port in ports:
        protocol = port.get("protocol") or "TCP"
        target = port.get("targetPort") or port["port"]
        number = target if isinstance(target, int) else named_port(meta.spec(pod), target, protocol)
        if number is not None:
            yield (port.get("name") or "", number, protocol, port.get("appProtocol") or "")


def port_object(port: Port) -> dict[str, Any]:
    """The port as Endpoints list it."""
    name, number, protocol, application = port
    found: dict[str, Any] = {"port": number, "protocol": protocol}
    if name:
        found["name"] = name
    if application:
        found["appProtocol"] = application
    return found


def services_of_pod(pod: Object, view: View) -> list[str]:
    """Keys of the Services whose selector matches a pod."""
    labels, space, keys = meta.labels(pod), meta.namespace(pod), []
    for key, value in labels.items():
        for service in view.indexed("services", "selector", f"{space}/{key}={value}"):
            if meta.spec(service)["selector"].items() <= labels.items():
                keys.append(meta.key(service))
    return keys


def pod_target_changed(old: Object, new: Object) -> bool:
    """True when a change of a pod can matter to the Services it belongs to."""
    return (
        meta.status(old).get("podIP") != meta.status(new).get("podIP")
        or meta.status(old).get("podIPs") != meta.status(new).get("podIPs")
        or pod_is_ready(old) != pod_is_ready(new)
        or pod_is_terminated(old) != pod_is_terminated(new)
        or meta.is_deleting(old) != meta.is_deleting(new)
        or meta.labels(old) != meta.labels(new)
        or meta.node_name(old) != meta.node_name(new)
    )
