"""Services: types, ports, addresses, and what a change of type drops."""

from __future__ import annotations

import ipaddress
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
_KUBELET_PORT = 10_250
_OLD_HINTS = "service.kubernetes.io/topology-aware-hints"
_TRAFFIC = ("Cluster", "Local")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")
_ONLY_FOR_BALANCERS = "may only be used when `type` is 'LoadBalancer'"
FAMILY = "IPv4"
"""The family of the addresses that a cluster gives its services."""
_FAMILIES = ("IPv4", "IPv6")
SINGLE_STACK, REQUIRE_DUAL_STACK = "SingleStack", "RequireDualStack"


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
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _prepare_create(obj: Object) -> None:
    _families(obj["spec"], {})


def _families(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Policy and families that a client left out, on a cluster of one family."""
    if spec.get("type") not in _WITH_CLUSTER_IP:
        return
    policy = spec.get("ipFamilyPolicy") or before.get("ipFamilyPolicy")
    without_selector = _headless(spec) and not spec.get("selector")
    if not policy:
        policy = REQUIRE_DUAL_STACK if without_selector else SINGLE_STACK
    spec["ipFamilyPolicy"] = policy
    for field in ("clusterIPs", "ipFamilies"):
        if policy == SINGLE_STACK and spec.get(field) and spec[field] == before.get(field):
            # The policy says it clearly enough: what is second goes.
            spec[field] = spec[field][:1]
    families = list(spec.get("ipFamilies") or ())
    if not families:
        if any(ip.version == 6 for ip in map(_parsed, spec.get("clusterIPs") or ()) if ip is not None):
            return  # which is refused
        families = [FAMILY]
    if without_selector and len(families) == 1 and policy != SINGLE_STACK:
        # Nothing of the cluster's own is behind it: both are possible.
        families += [one for one in _FAMILIES if one not in families]
    spec["ipFamilies"] = families


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    return ipaddress.ip_address(address) if names.is_ip(address) else None


def _headless(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("clusterIP") == "None")


def _prepare_update(new: Object, old: Object) -> None:
    """Carry allocated addresses and ports over, and drop those a new type has no use for."""
    spec, before = new["spec"], old.get("spec") or {}
    _drop_service_leftovers(spec, before)
    _carry_over(spec, before)
    _families(spec, before)


def _carry_over(spec: dict[str, Any], before: Mapping[str, Any]) -> None:
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
    headless = _headless(spec)
    if not spec.get("ports") and not headless and kind != "ExternalName":
        errs.append(required("spec.ports"))
    if kind == "LoadBalancer":
        for index, port in enumerate(spec.get("ports") or ()):
            if port.get("port") == _KUBELET_PORT:
                text = f"may not expose port {_KUBELET_PORT} externally since it is used by kubelet"
                errs.append(invalid(f"spec.ports[{index}]", _KUBELET_PORT, text))
    if kind == "ExternalName":
        errs += [
            forbidden(f"spec.{field}", "may not be set for ExternalName services")
            for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy")
            if spec.get(field) or (field == "clusterIPs" and spec.get("clusterIP"))
        ]
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
    if kind != "ExternalName":
        _cluster_ips(spec, errs)
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
        _port_values(port, at, errs)
        number, protocol, node = port.get("port") or 0, port.get("protocol"), port.get("nodePort")
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


def _port_values(port: Mapping[str, Any], path: str, errs: Errors) -> None:
    number, protocol, application = port.get("port") or 0, port.get("protocol"), port.get("appProtocol")
    if not 1 <= number <= 65535:
        errs.append(invalid(f"{path}.port", number, PORT_RANGE))
    if not protocol:
        errs.append(required(f"{path}.protocol"))
    else:
        one_of(protocol, PROTOCOLS, f"{path}.protocol", errs)
    validate_port_reference(port.get("targetPort"), f"{path}.targetPort", errs)
    if application is not None:
        checked(names.qualified_name_errors(application), application, f"{path}.appProtocol", errs)


def _affinity(spec: Mapping[str, Any], errs: Errors) -> None:
    affinity = spec.get("sessionAffinity")
    if not affinity:
        errs.append(required("spec.sessionAffinity"))
        return
    one_of(affinity, ("ClientIP", "None"), "spec.sessionAffinity", errs)
    config = spec.get("sessionAffinityConfig")
    if affinity == "None" and config is not None:
        text = f"must not be set when session affinity is {affinity}"
        errs.append(forbidden("spec.sessionAffinityConfig", text))
    if affinity == "ClientIP":
        # The paths begin here, as Kubernetes' do.
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        if seconds is not None and not 0 < seconds <= _AFFINITY_MAX_SECONDS:
            text = f"must be greater than 0 and less than {_AFFINITY_MAX_SECONDS}"
            errs.append(invalid("sessionAffinityConfig.clientIP.timeoutSeconds", seconds, text))


def _addresses(spec: Mapping[str, Any], errs: Errors) -> None:
    for index, address in enumerate(spec.get("externalIPs") or ()):
        validate_endpoint_address(address, f"spec.externalIPs[{index}]", errs, loopback=True)
    blocks = spec.get("loadBalancerSourceRanges") or ()
    at = "spec.LoadBalancerSourceRanges"
    if blocks and spec.get("type") != "LoadBalancer":
        errs.append(forbidden(at, _ONLY_FOR_BALANCERS))
    for index, block in enumerate(blocks):
        if not names.is_cidr(block.strip()):
            text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            errs.append(invalid(f"{at}[{index}]", block, text))


def _cluster_ips(spec: Mapping[str, Any], errs: Errors) -> None:
    """Cluster addresses, families and policy, which must go together."""
    before = len(errs)
    addresses, families = spec.get("clusterIPs") or [], spec.get("ipFamilies") or ()
    first, policy = spec.get("clusterIP") or "", spec.get("ipFamilyPolicy")
    if first and first != addresses[0]:
        errs.append(invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`"))
    elif addresses and not first:
        errs.append(invalid("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified"))
    for index, family in enumerate(families):
        one_of(family, _FAMILIES, f"spec.ipFamilies[{index}]", errs)
        if family in families[:index]:
            errs.append(duplicate(f"spec.ipFamilies[{index}]", family))
    if policy:
        one_of(policy, ("PreferDualStack", REQUIRE_DUAL_STACK, SINGLE_STACK), "spec.ipFamilyPolicy", errs)
    if _well_formed(addresses, errs):
        _match_families(addresses, families, headless=_headless(spec), errs=errs)
    if len(errs) == before:
        _one_family(spec, errs)


def _well_formed(addresses: Sequence[str], errs: Errors) -> bool:
    """Whether all cluster addresses are addresses, or the first and only one is None."""
    before = len(errs)
    for index, address in enumerate(addresses):
        if index == 0 and address == "None":
            if len(addresses) > 1:
                errs.append(invalid("spec.clusterIPs", addresses, "'None' must be the first and only value"))
        elif not names.is_ip(address):
            errs.append(invalid(f"spec.clusterIPs[{index}]", address, IP_TEXT))
    well_formed = len(errs) == before
    if len(addresses) > 2:
        errs.append(invalid("spec.clusterIPs", addresses, "may only hold up to 2 values"))
    return well_formed


def _match_families(addresses: Sequence[str], families: Sequence[str], *, headless: bool, errs: Errors) -> None:
    versions = [ip.version for ip in map(_parsed, addresses) if ip is not None]
    if len(addresses) > 1 and len(set(versions)) != len(versions):
        text = "may specify no more than one IP for each IP family"
        errs.append(invalid("spec.clusterIPs", addresses, text))
    if headless:
        return
    for index, (version, family) in enumerate(zip(versions, families, strict=False)):
        if family in _FAMILIES and family != f"IPv{version}":
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            errs.append(invalid(f"spec.clusterIPs[{index}]", addresses[index], text))


def _one_family(spec: Mapping[str, Any], errs: Errors) -> None:
    """What a cluster of one family cannot give."""
    addresses, families = spec.get("clusterIPs") or (), spec.get("ipFamilies") or ()
    policy = spec.get("ipFamilyPolicy")
    for what, values in (("cluster IPs", addresses), ("IP families", families)):
        if policy == SINGLE_STACK and len(values) == 2:
            text = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            errs.append(invalid("spec.ipFamilyPolicy", policy, text))
    for index in range(len(families), len(addresses)):
        if not _headless(spec):
            text = f"{_other_family()} is not configured on this cluster"
            errs.append(invalid(f"spec.clusterIPs[{index}]", list(addresses), text))
    if errs or (_headless(spec) and not spec.get("selector")):
        return
    if policy == REQUIRE_DUAL_STACK:
        text = "this cluster is not configured for dual-stack services"
        errs.append(invalid("spec.ipFamilyPolicy", policy, text))
    for index, family in enumerate(families):
        if family != FAMILY:
            errs.append(invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))


def _other_family() -> str:
    return next(one for one in _FAMILIES if one != FAMILY)


def _policies(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        errs.append(forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_FOR_BALANCERS))
    own_class = spec.get("loadBalancerClass")
    if own_class is not None:
        if kind != "LoadBalancer":
            errs.append(forbidden("spec.loadBalancerClass", _ONLY_FOR_BALANCERS))
        else:
            checked(names.qualified_name_errors(own_class), own_class, "spec.loadBalancerClass", errs)
    external, health = spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort")
    if kind not in _EXTERNAL and not (kind == "ClusterIP" and spec.get("externalIPs")):
        if external:
            text = "may only be set for externally-accessible services"
            errs.append(invalid("spec.externalTrafficPolicy", external, text))
    elif external:
        one_of(external, _TRAFFIC, "spec.externalTrafficPolicy", errs)
    if health:
        if kind != "LoadBalancer" or external != "Local":
            text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
            errs.append(invalid("spec.healthCheckNodePort", health, text))
        elif not 1 <= health <= 65535:
            errs.append(invalid("spec.healthCheckNodePort", health, PORT_RANGE))
    internal, distribution = spec.get("internalTrafficPolicy"), spec.get("trafficDistribution")
    if internal:
        one_of(internal, _TRAFFIC, "spec.internalTrafficPolicy", errs)
    if distribution is not None:
        one_of(distribution, _DISTRIBUTIONS, "spec.trafficDistribution", errs)


def _validate_update(new: Object, old: Object) -> Errors:
    """A cluster address that was given stays, unless the type changes from or to ExternalName."""
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" in (spec.get("type"), before.get("type")):
        return errs
    addresses, earlier = spec.get("clusterIPs") or [], before.get("clusterIPs") or []
    families, known = spec.get("ipFamilies") or (), before.get("ipFamilies") or ()
    policy = spec.get("ipFamilyPolicy")
    if earlier and earlier[0] and (not addresses or addresses[0] != earlier[0]):
        text = "may not change once set"
        errs.append(invalid("spec.clusterIPs[0]", addresses, text))
    if known and families and families[0] != known[0]:
        text = "may not change once set"
        errs.append(invalid("spec.ipFamilies[0]", families, text))
    for what, now, then in (("cluster IP", addresses, earlier), ("IP family", families, known)):
        if policy != SINGLE_STACK and len(now) == 1 and len(then) == 2:
            text = f"must be 'SingleStack' to release the secondary {what}"
            errs.append(invalid("spec.ipFamilyPolicy", policy, text))
    if "LoadBalancer" == spec.get("type") == before.get("type"):
        one, other = spec.get("loadBalancerClass"), before.get("loadBalancerClass")
        if one != other:
            errs.append(invalid("spec.loadBalancerClass", one, "may not change once set"))
    return errs


def _warnings(obj: Object, old: Object | None) -> list[str]:
    spec, annotations = obj.get("spec") or {}, obj["metadata"].get("annotations") or {}
    found = []
    if _OLD_HINTS in annotations:
        found.append(f"annotation {_OLD_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead")
    if _headless(spec) and spec.get("sessionAffinity") not in (None, "None"):
        found.append("spec.SessionAffinity is ignored for headless services")
    if spec.get("type") == "ExternalName" and spec.get("externalIPs"):
        found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    return found


def balancer_addresses(status: Mapping[str, Any]) -> list[str]:
    found = (status.get("loadBalancer") or {}).get("ingress") or ()
    return sorted({address for one in found if (address := one.get("ip") or one.get("hostname"))})


def _external(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    kind, listed = spec.get("type"), list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if kind == "LoadBalancer":
        balanced = balancer_addresses(status)
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
        made_by_update=True,
        warnings=_warnings,
        name=names.dns1035_errors,
        defaults=_default,
        prepare_update=_prepare_update,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({"loadBalancer": {}}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "spec.clusterIP", "spec.type"),
    ),
}
