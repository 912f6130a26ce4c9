"""Services: types, ports, addresses, and what a change of type drops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.endpoints import IP_TEXT, PORT_RANGE, validate_endpoint_address
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of, validate_labels
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS, validate_port_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age, labels_text
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name

_EXTERNAL = frozenset({"NodePort", "LoadBalancer"})
_WITH_CLUSTER_IP = frozenset({"ClusterIP", "NodePort", "LoadBalancer"})
CLIENT_IP_SECONDS = 10_800
_ONLY_EXTERNAL = ("externalTrafficPolicy", "healthCheckNodePort")
_ONLY_BALANCED = ("allocateLoadBalancerNodePorts", "loadBalancerClass")
_ONLY_CLUSTER = (
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ipFamilyPolicy",
    "internalTrafficPolicy",
)
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITY_MAX_SECONDS = 86_400


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    kind = spec.get("type")
    if not kind:
        kind = spec["type"] = "ClusterIP"
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        if config.get("timeoutSeconds") is None:
            config["timeoutSeconds"] = CLIENT_IP_SECONDS
    for port in spec.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    external = kind in _EXTERNAL or (kind == "ClusterIP" and spec.get("externalIPs"))
    if external and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is None:
        spec["allocateLoadBalancerNodePorts"] = True
    if kind in _WITH_CLUSTER_IP:
        _cluster_addresses(spec)


def _cluster_addresses(spec: dict[str, Any]) -> None:
    if not spec.get("internalTrafficPolicy"):
        spec["internalTrafficPolicy"] = "Cluster"
    if not spec.get("ipFamilyPolicy"):
        spec["ipFamilyPolicy"] = "SingleStack"
    if not spec.get("ipFamilies"):
        spec["ipFamilies"] = ["IPv4"]
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]
    elif spec.get("clusterIPs") and not spec.get("clusterIP"):
        spec["clusterIP"] = spec["clusterIPs"][0]


def _prepare_update(new: Object, old: Object) -> None:
    """Carry allocated addresses and ports over, and drop those a new type has no use for."""
    spec, before = new["spec"], old.get("spec") or {}
    _drop_service_leftovers(spec, before)
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return
    address, addresses = spec.get("clusterIP"), spec.get("clusterIPs")
    if address and addresses and address != addresses[0]:
        # Old clients change only clusterIP, new ones may change only clusterIPs.
        if addresses == before.get("clusterIPs"):
            spec["clusterIPs"] = [address, *addresses[1:]]
        elif address == before.get("clusterIP"):
            spec["clusterIP"] = addresses[0]
    for field in ("clusterIP", "clusterIPs"):
        if not spec.get(field) and before.get(field):
            spec[field] = before[field]
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        ports = {
            (port.get("protocol"), port.get("port")): port["nodePort"]
            for port in before.get("ports") or ()
            if port.get("nodePort")
        }
        taken = {port.get("nodePort") for port in spec.get("ports") or ()}
        for port in spec.get("ports") or ():
            known = ports.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and known and known not in taken:
                port["nodePort"] = known
        if before.get("healthCheckNodePort") and spec.get("externalTrafficPolicy") == "Local":
            spec.setdefault("healthCheckNodePort", before["healthCheckNodePort"])


def _drop_service_leftovers(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    """When the type changes, fields the client merely kept go with the old type."""
    kind, earlier = spec.get("type"), before.get("type")
    if kind == earlier:
        return
    dropped: tuple[str, ...] = ()
    if kind == "ExternalName":
        dropped += _ONLY_CLUSTER
    if kind != "LoadBalancer":
        dropped += _ONLY_BALANCED
    if kind not in ("NodePort", "LoadBalancer") and not spec.get("externalIPs"):
        dropped += _ONLY_EXTERNAL
    for field in dropped:
        if field in spec and spec[field] == before.get(field):
            del spec[field]
    if kind not in ("NodePort", "LoadBalancer"):
        known = {port.get("nodePort") for port in before.get("ports") or ()}
        for port in spec.get("ports") or ():
            if port.get("nodePort") in known:
                port.pop("nodePort", None)


def _validate(obj: Object) -> Errors:
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
            errs.append(invalid(f"{at}.port", number, PORT_RANGE))
        if not protocol:
            errs.append(required(f"{at}.protocol"))
        else:
            one_of(protocol, PROTOCOLS, f"{at}.protocol", errs)
        validate_port_reference(port.get("targetPort"), f"{at}.targetPort", errs)
        node = port.get("nodePort")
        if node:
            _node_port(node, spec.get("type"), f"{at}.nodePort", errs)
            if (protocol, node) in seen_nodes:
                errs.append(duplicate(f"{at}.nodePort", node))
            seen_nodes.add((protocol, node))
        if (protocol, number) in seen_ports:
            errs.append(duplicate(at, {"port": number, "protocol": protocol}))
        seen_ports.add((protocol, number))


def _node_port(node: int, kind: str | None, at: str, errs: Errors) -> None:
    if kind == "ClusterIP":
        text = "may not be used when `type` is 'ClusterIP'"
        errs.append(forbidden(at, text))
    elif not 1 <= node <= 65535:
        errs.append(invalid(at, node, PORT_RANGE))


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
            errs.append(invalid(f"spec.clusterIPs[{index}]", address, IP_TEXT))
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


def _validate_update(new: Object, old: Object) -> Errors:
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


def balancer_addresses(status: Mapping[str, Any]) -> list[str]:
    found = (status.get("loadBalancer") or {}).get("ingress") or ()
    return [one.get("ip") or one.get("hostname") or "" for one in found]


def _external(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    kind, listed = spec.get("type"), list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if kind == "LoadBalancer":
        balanced = [one for one in balancer_addresses(status) if one]
        if balanced or listed:
            return ",".join(balanced + listed)
        return "<pending>"
    return ",".join(listed) or NONE


def _port(port: Mapping[str, Any]) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node}/{port.get('protocol') or 'TCP'}"


def _row(obj: Object, now: datetime) -> list[Cell]:
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


_COLUMNS = (
    NAME, Column("Type"), Column("Cluster-IP"), Column("External-IP"), Column("Port(s)"),
    AGE, Column("Selector", priority=1),
)  # fmt: skip


RULES = {
    "Service": replace(
        AS_WRITTEN,
        name=names.dns1035_errors,
        defaults=_default,
        prepare_update=_prepare_update,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({"loadBalancer": {}}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "spec.clusterIP", "spec.type"),
    ),
}
