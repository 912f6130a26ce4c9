"""Rows of services, endpoints, ingresses and network policies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Cell,
    Column,
    Printer,
    age,
    at_most,
    labels_text,
    selector_text,
)
from rayplane.control_plane.api.meta import Object, name

_SHOWN = 3


def _addresses(status: Mapping[str, Any]) -> list[str]:
    found = (status.get("loadBalancer") or {}).get("ingress") or ()
    return [one.get("ip") or one.get("hostname") or "" for one in found]


def _external(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    kind, listed = spec.get("type"), list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if kind == "LoadBalancer":
        balanced = [one for one in _addresses(status) if one]
        if balanced or listed:
            return ",".join(balanced + listed)
        return "<pending>"
    return ",".join(listed) or NONE


def _port(port: Mapping[str, Any]) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node}/{port.get('protocol') or 'TCP'}"


def _service(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or NONE]
    return [
        name(obj),
        spec.get("type") or "",
        addresses[0],
        _external(spec, status),
        ",".join(_port(port) for port in spec.get("ports") or ()) or NONE,
        age(obj, now),
        labels_text(spec.get("selector")),
    ]


def _endpoints(obj: Object, now: datetime) -> list[Cell]:
    listed: list[str] = []
    for subset in obj.get("subsets") or ():
        addresses = [one.get("ip") or "" for one in subset.get("addresses") or ()]
        ports = subset.get("ports")
        if not ports:
            listed += addresses
        for port in ports or ():
            for address in addresses:
                host = f"[{address}]" if ":" in address else address
                listed.append(f"{host}:{port.get('port')}")
    return [name(obj), at_most(listed, _SHOWN) or NONE, age(obj, now)]


def _endpoint_slice(obj: Object, now: datetime) -> list[Cell]:
    ports = [str(port["port"]) if port.get("port") is not None else "*" for port in obj.get("ports") or ()]
    addresses = [address for one in obj.get("endpoints") or () for address in one.get("addresses") or ()]
    return [
        name(obj),
        obj.get("addressType") or "",
        at_most(ports, _SHOWN) or UNSET,
        at_most(addresses, _SHOWN) or UNSET,
        age(obj, now),
    ]


def _ingress(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    hosts = [rule["host"] for rule in spec.get("rules") or () if rule.get("host")]
    return [
        name(obj),
        spec.get("ingressClassName") or NONE,
        at_most(hosts, _SHOWN) or "*",
        ",".join(one for one in _addresses(status) if one),
        "80, 443" if spec.get("tls") else "80",
        age(obj, now),
    ]


def _ingress_class(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    parameters = spec.get("parameters")
    text = NONE
    if parameters:
        group = parameters.get("apiGroup")
        text = parameters.get("kind") or ""
        text += (f".{group}" if group else "") + f"/{parameters.get('name')}"
    return [name(obj), spec.get("controller") or "", text, age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Cell]:
    selector = (obj.get("spec") or {}).get("podSelector") or {}
    return [name(obj), selector_text(selector), age(obj, now)]


def _ip_address(obj: Object, now: datetime) -> list[Cell]:
    ref = (obj.get("spec") or {}).get("parentRef") or {}
    parts = (ref.get("resource"), ref.get("namespace"), ref.get("name"))
    return [name(obj), "/".join(str(one) for one in parts if one), age(obj, now)]


def _service_cidr(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), ",".join((obj.get("spec") or {}).get("cidrs") or ()), age(obj, now)]


PRINTERS = {
    ("", "Service"): Printer(
        (
            NAME, Column("Type"), Column("Cluster-IP"), Column("External-IP"), Column("Port(s)"),
            AGE, Column("Selector", priority=1),
        ),
        _service,
    ),
    ("", "Endpoints"): Printer((NAME, Column("Endpoints"), AGE), _endpoints),
    ("discovery.k8s.io", "EndpointSlice"): Printer(
        (NAME, Column("AddressType"), Column("Ports"), Column("Endpoints"), AGE), _endpoint_slice
    ),
    ("networking.k8s.io", "Ingress"): Printer(
        (NAME, Column("Class"), Column("Hosts"), Column("Address"), Column("Ports"), AGE), _ingress
    ),
    ("networking.k8s.io", "IngressClass"): Printer(
        (NAME, Column("Controller"), Column("Parameters"), AGE), _ingress_class
    ),
    ("networking.k8s.io", "NetworkPolicy"): Printer(
        (NAME, Column("Pod-Selector"), AGE), _network_policy
    ),
    ("networking.k8s.io", "IPAddress"): Printer((NAME, Column("ParentRef"), AGE), _ip_address),
    ("networking.k8s.io", "ServiceCIDR"): Printer((NAME, Column("CIDRs"), AGE), _service_cidr),
}  # fmt: skip
