"""Validation of services, endpoints, endpoint slices."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked, one_of, validate_labels
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS, validate_port_reference
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_IP_TEXT = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_PORT_RANGE = "must be between 1 and 65535, inclusive"
_AFFINITY_MAX_SECONDS = 86_400


def service(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    kind = spec.get("type")
    headless = spec.get("clusterIP") == "None"
    if not spec.get("ports") and not headless and kind != "ExternalName":
        errs.append(required("spec.ports"))
    if kind == "ExternalName":
        if spec.get("clusterIP"):
            text = "may not be set when `type` is 'ExternalName'"
            errs.append(forbidden("spec.clusterIP", text))
        host = (spec.get("externalName") or "").removesuffix(".")
        if not host:
            errs.append(required("spec.externalName"))
        else:
            checked(names.subdomain_errors(host), host, "spec.externalName", errs)
    elif kind in ("NodePort", "LoadBalancer") and headless:
        text = "may not be set to 'None' for LoadBalancer services"
        text = text if kind == "LoadBalancer" else text.replace("LoadBalancer", "NodePort")
        errs.append(invalid("spec.clusterIPs[0]", "None", text))
    _ports(spec, headless=headless, errs=errs)
    validate_labels(spec.get("selector"), "spec.selector", errs)
    one_of(kind, TYPES, "spec.type", errs)
    _affinity(spec, errs)
    _addresses(spec, errs)
    _policies(spec, kind or "", errs)
    return errs


def _ports(spec: Mapping[str, Any], *, headless: bool, errs: Errors) -> None:
    ports: Sequence[Mapping[str, Any]] = spec.get("ports") or ()
    seen_names: set[str] = set()
    seen_ports: set[tuple[Any, Any]] = set()
    seen_nodes: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        own = port.get("name")
        if not own:
            if len(ports) > 1:
                errs.append(required(f"{at}.name"))
        else:
            checked(names.label_errors(own), own, f"{at}.name", errs)
            if own in seen_names:
                errs.append(duplicate(f"{at}.name", own))
            seen_names.add(own)
        number, protocol = port.get("port") or 0, port.get("protocol")
        if not 1 <= number <= 65535:
            errs.append(invalid(f"{at}.port", number, _PORT_RANGE))
        if not protocol:
            errs.append(required(f"{at}.protocol"))
        else:
            one_of(protocol, PROTOCOLS, f"{at}.protocol", errs)
        validate_port_reference(port.get("targetPort"), f"{at}.targetPort", errs)
        node = port.get("nodePort")
        if node:
            if spec.get("type") == "ClusterIP":
                text = "may not be used when `type` is 'ClusterIP'"
                errs.append(forbidden(f"{at}.nodePort", text))
            elif not 1 <= node <= 65535:
                errs.append(invalid(f"{at}.nodePort", node, _PORT_RANGE))
            if (protocol, node) in seen_nodes:
                errs.append(duplicate(f"{at}.nodePort", node))
            seen_nodes.add((protocol, node))
        if (protocol, number) in seen_ports:
            errs.append(duplicate(at, {"port": number, "protocol": protocol}))
        seen_ports.add((protocol, number))


def _affinity(spec: Mapping[str, Any], errs: Errors) -> None:
    affinity = spec.get("sessionAffinity")
    if not affinity:
        errs.append(required("spec.sessionAffinity"))
        return
    one_of(affinity, ("ClientIP", "None"), "spec.sessionAffinity", errs)
    client = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    seconds = client.get("timeoutSeconds")
    if affinity == "ClientIP" and seconds is not None and not 0 < seconds <= _AFFINITY_MAX_SECONDS:
        text = f"must be greater than 0 and less than {_AFFINITY_MAX_SECONDS}"
        errs.append(invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, text))


def _addresses(spec: Mapping[str, Any], errs: Errors) -> None:
    for index, address in enumerate(spec.get("clusterIPs") or ()):
        if address not in ("", "None") and not names.is_ip(address):
            errs.append(invalid(f"spec.clusterIPs[{index}]", address, _IP_TEXT))
    first = (spec.get("clusterIPs") or [""])[0]
    if spec.get("clusterIP") and first and spec["clusterIP"] != first:
        text = "first value must match `clusterIP`"
        errs.append(invalid("spec.clusterIPs", spec["clusterIPs"], text))
    for index, address in enumerate(spec.get("externalIPs") or ()):
        validate_endpoint_address(address, f"spec.externalIPs[{index}]", errs, loopback=True)
    for index, block in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        if not names.is_cidr(block):
            text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            errs.append(invalid(f"spec.loadBalancerSourceRanges[{index}]", block, text))
    families = spec.get("ipFamilies") or ()
    for index, family in enumerate(families):
        one_of(family, ("IPv4", "IPv6"), f"spec.ipFamilies[{index}]", errs)
        if family in families[:index]:
            errs.append(duplicate(f"spec.ipFamilies[{index}]", family))
    policy = spec.get("ipFamilyPolicy")
    if policy:
        supported = ("PreferDualStack", "RequireDualStack", "SingleStack")
        one_of(policy, supported, "spec.ipFamilyPolicy", errs)


def _policies(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    external = spec.get("externalTrafficPolicy")
    if external:
        if kind not in ("NodePort", "LoadBalancer") and not spec.get("externalIPs"):
            text = "may only be set for externally-accessible services"
            errs.append(invalid("spec.externalTrafficPolicy", external, text))
        else:
            one_of(external, ("Cluster", "Local"), "spec.externalTrafficPolicy", errs)
    internal = spec.get("internalTrafficPolicy")
    if internal:
        one_of(internal, ("Cluster", "Local"), "spec.internalTrafficPolicy", errs)
    if spec.get("loadBalancerClass") and kind != "LoadBalancer":
        text = "may only be used when `type` is 'LoadBalancer'"
        errs.append(forbidden("spec.loadBalancerClass", text))


def service_update(new: Object, old: Object) -> Errors:
    """A cluster address that was given stays, unless the type changes from or to ExternalName."""
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return errs
    addresses, earlier = spec.get("clusterIPs") or [], before.get("clusterIPs") or []
    if earlier and earlier[0] and (not addresses or addresses[0] != earlier[0]):
        text = "may not change once set"
        errs.append(invalid("spec.clusterIPs[0]", addresses, text))
    return errs


# --- endpoints ----------------------------------------------------------------------------------


def validate_endpoint_address(address: str, path: str, errs: Errors, *, loopback: bool = False) -> None:
    """An address traffic may be sent to. Loopback ones are ours to use: pods live there."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        errs.append(invalid(path, address or "", _IP_TEXT))
        return
    if parsed.is_unspecified:
        text = f"may not be unspecified ({address})"
        errs.append(invalid(path, address, text))
    if not loopback and parsed.is_link_local:
        text = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        errs.append(invalid(path, address, text))


def endpoints(obj: Object) -> Errors:
    errs: Errors = []
    for index, subset in enumerate(obj.get("subsets") or ()):
        at = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            text = "must specify `addresses` or `notReadyAddresses`"
            errs.append(required(at, text))
        for field in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(field) or ()):
                where = f"{at}.{field}[{number}].ip"
                validate_endpoint_address(address.get("ip") or "", where, errs)
        ports = subset.get("ports") or ()
        for number, port in enumerate(ports):
            _endpoint_port(port, f"{at}.ports[{number}]", errs, named=len(ports) > 1)
    return errs


def _endpoint_port(port: Mapping[str, Any], path: str, errs: Errors, *, named: bool) -> None:
    own = port.get("name")
    if not own:
        if named:
            errs.append(required(f"{path}.name"))
    else:
        checked(names.label_errors(own), own, f"{path}.name", errs)
    number = port.get("port")
    if number is not None and not 1 <= number <= 65535:
        errs.append(invalid(f"{path}.port", number, _PORT_RANGE))
    one_of(port.get("protocol"), PROTOCOLS, f"{path}.protocol", errs)


_SLICE_MAX_ENDPOINTS = 1000
_SLICE_MAX_PORTS = 20_000


def endpoint_slice(obj: Object) -> Errors:
    errs: Errors = []
    kind = obj.get("addressType")
    supported = ("FQDN", "IPv4", "IPv6")
    if not kind:
        errs.append(required("addressType"))
    else:
        one_of(kind, supported, "addressType", errs)
    listed = obj.get("endpoints") or ()
    if len(listed) > _SLICE_MAX_ENDPOINTS:
        text = f"must have at most {_SLICE_MAX_ENDPOINTS} items"
        errs.append(invalid("endpoints", len(listed), text))
    for index, endpoint in enumerate(listed):
        addresses = endpoint.get("addresses") or ()
        at = f"endpoints[{index}].addresses"
        if not addresses:
            errs.append(required(at, "must contain at least 1 address"))
        for number, address in enumerate(addresses):
            where = f"{at}[{number}]"
            if kind == "FQDN":
                checked(names.subdomain_errors(address), address, where, errs)
            else:
                validate_endpoint_address(address, where, errs)
    seen: set[str] = set()
    for index, port in enumerate(obj.get("ports") or ()):
        own, at = port.get("name") or "", f"ports[{index}]"
        if own:
            checked(names.label_errors(own), own, f"{at}.name", errs)
        if own in seen:
            errs.append(duplicate(f"{at}.name", own))
        seen.add(own)
        one_of(port.get("protocol"), PROTOCOLS, f"{at}.protocol", errs)
    return errs


def endpoint_slice_update(new: Object, old: Object) -> Errors:
    if new.get("addressType") != old.get("addressType"):
        return [invalid("addressType", new.get("addressType"), "field is immutable")]
    return []
