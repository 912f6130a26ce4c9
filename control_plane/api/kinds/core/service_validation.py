"""Validation of services: types, ports, addresses and their families, and what may never change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.endpoints import PORT_RANGE, validate_address_use
from rayplane.control_plane.api.kinds.metadata import IMMUTABLE, Errors, checked, one_of, validate_labels
from rayplane.control_plane.api.kinds.pod_template.ports import PROTOCOLS, validate_port_reference
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import address_of, legacy_cidr_errors, legacy_ip_errors
from rayplane.control_plane.api.meta import Object

EXTERNAL: Final = frozenset({"NodePort", "LoadBalancer"})
FAMILY: Final = "IPv4"
"""The family of the addresses that a cluster gives its services."""
FAMILIES: Final = ("IPv4", "IPv6")
SINGLE_STACK, REQUIRE_DUAL_STACK = "SingleStack", "RequireDualStack"
TOPOLOGY_HINTS: Final = "service.kubernetes.io/topology-aware-hints"
_TOPOLOGY_MODE: Final = "service.kubernetes.io/topology-mode"
_SOURCE_RANGES: Final = "service.beta.kubernetes.io/load-balancer-source-ranges"
_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_AFFINITY_MAX_SECONDS, _KUBELET_PORT = 86_400, 10_250
_TRAFFIC: Final = ("Cluster", "Local")
_DISTRIBUTIONS: Final = ("PreferClose", "PreferSameNode", "PreferSameZone")
_ONLY_FOR_BALANCERS: Final = "may only be used when `type` is 'LoadBalancer'"
_ONCE: Final = "may not change once set"


def is_headless(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("clusterIP") == "None")


def is_reachable_from_outside(spec: Mapping[str, Any]) -> bool:
    return spec.get("type") in EXTERNAL or (spec.get("type") == "ClusterIP" and bool(spec.get("externalIPs")))


def validate_service(obj: Object, old: Object | None = None) -> Errors:
    errs: Errors = []
    spec, annotations = obj.get("spec") or {}, meta.annotations(obj)
    before = (old or {}).get("spec") or {}
    mode, hints = annotations.get(_TOPOLOGY_MODE), annotations.get(TOPOLOGY_HINTS)
    if mode is not None and hints is not None and mode != hints:
        text = f"must match annotations[{TOPOLOGY_HINTS}] when both are specified"
        errs.append(invalid(f"metadata.annotations[{_TOPOLOGY_MODE}]", mode, text))
    kind, headless = spec.get("type") or "", is_headless(spec)
    if not spec.get("ports") and not headless and kind != "ExternalName":
        errs.append(required("spec.ports"))
    _type(spec, kind, errs)
    _ports(spec.get("ports") or (), errs)
    validate_labels(spec.get("selector"), "spec.selector", errs)
    _affinity(spec, errs)
    if kind != "ExternalName":
        _cluster_ips(spec, before, errs)
    kept = set(before.get("externalIPs") or ())
    for index, address in enumerate(spec.get("externalIPs") or ()):
        problems = legacy_ip_errors(address, kept)
        checked(problems, address, f"spec.externalIPs[{index}]", errs)
        if not problems:
            validate_address_use(address, f"spec.externalIPs[{index}]", errs)
    one_of(kind, _TYPES, "spec.type", errs)
    _node_ports(spec.get("ports") or (), kind, errs)
    _source_ranges(obj, old or {}, errs)
    _balancer(spec, kind, errs)
    _policies(spec, kind, errs)
    if kind != "ExternalName" and not errs:
        _one_family(spec, errs)
    return errs


def _type(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    if kind == "LoadBalancer":
        for index, port in enumerate(spec.get("ports") or ()):
            if port.get("port") == _KUBELET_PORT:
                text = f"may not expose port {_KUBELET_PORT} externally since it is used by kubelet"
                errs.append(invalid(f"spec.ports[{index}]", _KUBELET_PORT, text))
    if kind in EXTERNAL and is_headless(spec):
        errs.append(invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    if kind != "ExternalName":
        return
    for field, given in (
        ("clusterIPs", spec.get("clusterIPs") or spec.get("clusterIP")),
        ("ipFamilies", spec.get("ipFamilies")),
        ("ipFamilyPolicy", spec.get("ipFamilyPolicy")),
    ):
        if given:
            errs.append(forbidden(f"spec.{field}", "may not be set for ExternalName services"))
    host = (spec.get("externalName") or "").removesuffix(".")
    if not host:
        errs.append(required("spec.externalName"))
    else:
        checked(names.subdomain_errors(host), host, "spec.externalName", errs)


def _ports(ports: Sequence[Mapping[str, Any]], errs: Errors) -> None:
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at, own = f"spec.ports[{index}]", port.get("name") or ""
        if own:
            checked(names.label_errors(own), own, f"{at}.name", errs)
            if own in seen:
                errs.append(duplicate(f"{at}.name", own))
            seen.add(own)
        elif len(ports) > 1:
            errs.append(required(f"{at}.name"))
        number, protocol, application = port.get("port") or 0, port.get("protocol"), port.get("appProtocol")
        if not 1 <= number <= 65535:
            errs.append(invalid(f"{at}.port", number, PORT_RANGE))
        one_of(protocol, PROTOCOLS, f"{at}.protocol", errs)
        validate_port_reference(port.get("targetPort"), f"{at}.targetPort", errs)
        if application is not None:
            checked(names.qualified_name_errors(application), application, f"{at}.appProtocol", errs)


def _node_ports(ports: Sequence[Mapping[str, Any]], kind: str, errs: Errors) -> None:
    """Ports of nodes, and that no two ports are one."""
    if kind == "ClusterIP":
        text = "may not be used when `type` is 'ClusterIP'"
        errs += [forbidden(f"spec.ports[{i}].nodePort", text) for i, port in enumerate(ports) if port.get("nodePort")]
    if kind == "ExternalName":
        # Nobody gives it one out of the range of the nodes' ports, so nobody else looks at it.
        for index, port in enumerate(ports):
            if not 0 <= (port.get("nodePort") or 0) <= 65535:
                errs.append(invalid(f"spec.ports[{index}].nodePort", port["nodePort"], PORT_RANGE))
    for field in ("nodePort", "port"):
        seen: set[tuple[Any, int]] = set()
        for index, port in enumerate(ports):
            number, protocol = port.get(field) or 0, port.get("protocol")
            if field == "nodePort" and not number:
                continue
            if (protocol, number) in seen and field == "nodePort":
                errs.append(duplicate(f"spec.ports[{index}].nodePort", number))
            elif (protocol, number) in seen:
                errs.append(duplicate(f"spec.ports[{index}]", {"port": number, "protocol": protocol}))
            seen.add((protocol, number))


def _affinity(spec: Mapping[str, Any], errs: Errors) -> None:
    affinity, config = spec.get("sessionAffinity"), spec.get("sessionAffinityConfig")
    one_of(affinity, ("ClientIP", "None"), "spec.sessionAffinity", errs)
    if affinity == "None" and config is not None:
        text = f"must not be set when session affinity is {affinity}"
        errs.append(forbidden("spec.sessionAffinityConfig", text))
    if affinity == "ClientIP":
        seconds = ((config or {}).get("clientIP") or {}).get("timeoutSeconds")
        if seconds is not None and not 0 < seconds <= _AFFINITY_MAX_SECONDS:
            text = f"must be greater than 0 and less than {_AFFINITY_MAX_SECONDS}"
            errs.append(invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, text))


# --- addresses of the cluster -------------------------------------------------------------------


def _cluster_ips(spec: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> None:
    """Cluster addresses, families and policy, which must go together."""
    addresses, families = spec.get("clusterIPs") or [], spec.get("ipFamilies") or ()
    first, policy = spec.get("clusterIP") or "", spec.get("ipFamilyPolicy")
    if first and addresses[:1] != [first]:
        errs.append(invalid("spec.clusterIPs", addresses, "first value must match `clusterIP`"))
    elif addresses and not first:
        errs.append(invalid("spec.clusterIPs", addresses, "must be empty when `clusterIP` is not specified"))
    for index, family in enumerate(families):
        one_of(family, FAMILIES, f"spec.ipFamilies[{index}]", errs)
        if family in families[:index]:
            errs.append(duplicate(f"spec.ipFamilies[{index}]", family))
    if policy:
        one_of(policy, ("PreferDualStack", REQUIRE_DUAL_STACK, SINGLE_STACK), "spec.ipFamilyPolicy", errs)
    if _well_formed(addresses, set(before.get("clusterIPs") or ()), errs):
        _match_families(addresses, families, headless=is_headless(spec), errs=errs)


def _well_formed(addresses: Sequence[str], kept: AbstractSet[str], errs: Errors) -> bool:
    """Whether all cluster addresses are addresses, or the first and only one is None."""
    before = len(errs)
    for index, address in enumerate(addresses):
        if index == 0 and address == "None":
            if len(addresses) > 1:
                errs.append(invalid("spec.clusterIPs", addresses, "'None' must be the first and only value"))
        else:
            checked(legacy_ip_errors(address, kept), address, f"spec.clusterIPs[{index}]", errs)
    well_formed = len(errs) == before
    if len(addresses) > 2:
        errs.append(invalid("spec.clusterIPs", addresses, "may only hold up to 2 values"))
    return well_formed


def _match_families(addresses: Sequence[str], families: Sequence[str], *, headless: bool, errs: Errors) -> None:
    versions = [ip.version for ip in map(address_of, addresses) if ip is not None]
    if len(addresses) > 1 and len(set(versions)) != len(versions):
        text = "may specify no more than one IP for each IP family"
        errs.append(invalid("spec.clusterIPs", addresses, text))
    if headless:
        return
    for index, (version, family) in enumerate(zip(versions, families, strict=False)):
        if family in FAMILIES and family != f"IPv{version}":
            text = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            errs.append(invalid(f"spec.clusterIPs[{index}]", addresses[index], text))


def _one_family(spec: Mapping[str, Any], errs: Errors) -> None:
    """What a cluster of one family cannot give."""
    addresses, families = spec.get("clusterIPs") or (), spec.get("ipFamilies") or ()
    policy, headless = spec.get("ipFamilyPolicy"), is_headless(spec)
    for what, values in (("cluster IPs", addresses), ("IP families", families)):
        if policy == SINGLE_STACK and len(values) == 2:
            text = f"must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            errs.append(invalid("spec.ipFamilyPolicy", policy, text))
    for index in range(len(families), len(addresses)):
        if not headless:
            text = f"{next(one for one in FAMILIES if one != FAMILY)} is not configured on this cluster"
            errs.append(invalid(f"spec.clusterIPs[{index}]", list(addresses), text))
    if errs or (headless and not spec.get("selector")):
        return
    if policy == REQUIRE_DUAL_STACK:
        text = "this cluster is not configured for dual-stack services"
        errs.append(invalid("spec.ipFamilyPolicy", policy, text))
    for index, family in enumerate(families):
        if family != FAMILY:
            errs.append(invalid(f"spec.ipFamilies[{index}]", family, "not configured on this cluster"))


# --- from outside -------------------------------------------------------------------------------


def _written_ranges(obj: Object) -> list[str]:
    """The blocks that an annotation tells."""
    written = (meta.annotations(obj).get(_SOURCE_RANGES) or "").strip()
    return [block.strip() for block in written.split(",")] if written else []


def _source_ranges(obj: Object, old: Object, errs: Errors) -> None:
    """Where a balancer takes connections from: a field, or the annotation that came before it."""
    spec, before = obj.get("spec") or {}, old.get("spec") or {}
    blocks, at = spec.get("loadBalancerSourceRanges") or (), "spec.LoadBalancerSourceRanges"
    if not blocks:
        if _SOURCE_RANGES not in meta.annotations(obj):
            return
        at = f"metadata.annotations[{_SOURCE_RANGES}]"
    if spec.get("type") != "LoadBalancer":
        errs.append(forbidden(at, _ONLY_FOR_BALANCERS))
    kept = {block.strip() for block in before.get("loadBalancerSourceRanges") or ()}
    for index, block in enumerate(blocks):
        checked(legacy_cidr_errors(block.strip(), kept), block.strip(), f"{at}[{index}]", errs)
    if not blocks:
        kept = set(_written_ranges(old))
        for block in _written_ranges(obj):
            checked(legacy_cidr_errors(block, kept), block, at, errs)


def _balancer(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    if spec.get("allocateLoadBalancerNodePorts") is not None and kind != "LoadBalancer":
        errs.append(forbidden("spec.allocateLoadBalancerNodePorts", _ONLY_FOR_BALANCERS))
    own_class = spec.get("loadBalancerClass")
    if own_class is not None:
        if kind != "LoadBalancer":
            errs.append(forbidden("spec.loadBalancerClass", _ONLY_FOR_BALANCERS))
        else:
            checked(names.qualified_name_errors(own_class), own_class, "spec.loadBalancerClass", errs)


def _needs_health_check(spec: Mapping[str, Any]) -> bool:
    return bool(spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local")


def _policies(spec: Mapping[str, Any], kind: str, errs: Errors) -> None:
    external, health = spec.get("externalTrafficPolicy"), spec.get("healthCheckNodePort")
    if is_reachable_from_outside(spec):
        one_of(external, _TRAFFIC, "spec.externalTrafficPolicy", errs)
    elif external:
        text = "may only be set for externally-accessible services"
        errs.append(invalid("spec.externalTrafficPolicy", external, text))
    if health and not _needs_health_check(spec):
        text = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        errs.append(invalid("spec.healthCheckNodePort", health, text))
    elif health and not 1 <= health <= 65535:
        errs.append(invalid("spec.healthCheckNodePort", health, PORT_RANGE))
    internal, distribution = spec.get("internalTrafficPolicy"), spec.get("trafficDistribution")
    if internal is not None:
        one_of(internal, _TRAFFIC, "spec.internalTrafficPolicy", errs)
    if distribution is not None:
        one_of(distribution, _DISTRIBUTIONS, "spec.trafficDistribution", errs)


# --- changes ------------------------------------------------------------------------------------


def validate_service_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    if "ExternalName" not in (spec.get("type"), before.get("type")):
        _kept_addresses(spec, before, errs)
    if "LoadBalancer" == spec.get("type") == before.get("type"):
        one, other = spec.get("loadBalancerClass"), before.get("loadBalancerClass")
        if one != other:
            errs.append(invalid("spec.loadBalancerClass", one, _ONCE))
    health, had = (one.get("healthCheckNodePort") or 0 for one in (spec, before))
    if _needs_health_check(spec) and _needs_health_check(before) and health != had:
        errs.append(forbidden("spec.healthCheckNodePort", IMMUTABLE))
    return [*errs, *validate_service(new, old)]


def _kept_addresses(spec: Mapping[str, Any], before: Mapping[str, Any], errs: Errors) -> None:
    """An address or a family that was given stays; a second one may be added, and released by the policy."""
    headless, was_headless = is_headless(spec), is_headless(before)
    pairs = [("clusterIPs", "cluster IP")] if not (headless and was_headless) else []
    pairs += [("ipFamilies", "IP family")] if not headless and not was_headless else []
    for field, what in pairs:
        now, then = spec.get(field) or [], before.get(field) or []
        # As many as there were are all compared; of more or fewer only the first.
        many = len(then) if len(now) == len(then) else 1
        for index, (one, other) in enumerate(zip(now[:many], then[:many], strict=False)):
            if one != other:
                errs.append(invalid(f"spec.{field}[{index}]", now, _ONCE))
        if len(now) == 1 and len(then) == 2 and spec.get("ipFamilyPolicy") != SINGLE_STACK:
            text = f"must be 'SingleStack' to release the secondary {what}"
            errs.append(invalid("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), text))


def validate_balancer_status(new: Object, old: Object) -> Errors:
    """What a balancer says of itself: its addresses and names."""
    errs: Errors = []
    entries, kept = balancer_entries(new), balancer_ips(old)
    if entries and (new.get("spec") or {}).get("type") != "LoadBalancer":
        return [forbidden("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'")]
    for index, entry in enumerate(entries):
        at, mode = f"status.loadBalancer.ingress[{index}]", entry.get("ipMode")
        balancer_ip(entry, kept, at, errs)
        if mode is None and entry.get("ip"):
            errs.append(required(f"{at}.ipMode", "must be specified when `ip` is set"))
        elif mode is not None and not entry.get("ip"):
            errs.append(forbidden(f"{at}.ipMode", "may not be specified when `ip` is not set"))
        elif mode is not None:
            one_of(mode, ("Proxy", "VIP"), f"{at}.ipMode", errs)
        balancer_host(entry, at, errs)
    return errs


def balancer_entries(obj: Object) -> Sequence[Mapping[str, Any]]:
    """What a balancer says of itself in a status."""
    return ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()


def balancer_ips(obj: Object) -> set[str]:
    return {entry.get("ip") or "" for entry in balancer_entries(obj)}


def balancer_ip(entry: Mapping[str, Any], kept: AbstractSet[str], path: str, errs: Errors) -> None:
    if entry.get("ip"):
        checked(legacy_ip_errors(entry["ip"], kept), entry["ip"], f"{path}.ip", errs)


def balancer_host(entry: Mapping[str, Any], path: str, errs: Errors) -> None:
    host = entry.get("hostname") or ""
    if host:
        checked(names.subdomain_errors(host), host, f"{path}.hostname", errs)
        if names.is_ip(host):
            errs.append(invalid(f"{path}.hostname", host, "must be a DNS name, not an IP address"))
