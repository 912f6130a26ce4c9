"""Services: what is filled in, and what a change of type drops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.kinds.core.service_validation import (
    FAMILIES,
    FAMILY,
    REQUIRE_DUAL_STACK,
    SINGLE_STACK,
    TOPOLOGY_HINTS,
    is_headless,
    is_reachable_from_outside,
    validate_balancer_status,
    validate_service,
    validate_service_update,
)
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import address_of, cidr_warnings, ip_warnings
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age, labels_text
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name

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


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("type"):
        spec["type"] = "ClusterIP"
    _affinity(spec)
    for port in spec.get("ports") or ():
        if not port.get("protocol"):
            port["protocol"] = "TCP"
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port")
    if is_reachable_from_outside(spec) and not spec.get("externalTrafficPolicy"):
        spec["externalTrafficPolicy"] = "Cluster"
    if spec["type"] == "LoadBalancer":
        _balancer(spec, obj.get("status") or {})
    if spec["type"] in _WITH_CLUSTER_IP:
        _cluster_addresses(spec)


def _affinity(spec: dict[str, Any]) -> None:
    if not spec.get("sessionAffinity"):
        spec["sessionAffinity"] = "None"
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        if config.get("timeoutSeconds") is None:
            config["timeoutSeconds"] = CLIENT_IP_SECONDS


def _balancer(spec: dict[str, Any], status: Mapping[str, Any]) -> None:
    if spec.get("allocateLoadBalancerNodePorts") is None:
        spec["allocateLoadBalancerNodePorts"] = True
    for entry in (status.get("loadBalancer") or {}).get("ingress") or ():
        if entry.get("ip") and entry.get("ipMode") is None:
            entry["ipMode"] = "VIP"


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
    without_selector = is_headless(spec) and not spec.get("selector")
    if not policy:
        policy = REQUIRE_DUAL_STACK if without_selector else SINGLE_STACK
    spec["ipFamilyPolicy"] = policy
    for field in ("clusterIPs", "ipFamilies"):
        if policy == SINGLE_STACK and spec.get(field) and spec[field] == before.get(field):
            # The policy says it clearly enough: what is second goes.
            spec[field] = spec[field][:1]
    families = list(spec.get("ipFamilies") or ())
    if not families:
        if any(ip.version == 6 for ip in map(address_of, spec.get("clusterIPs") or ()) if ip is not None):
            return  # which is refused
        families = [FAMILY]
    if without_selector and len(families) == 1 and policy != SINGLE_STACK:
        # Nothing of the cluster's own is behind it: both are possible.
        families += [one for one in FAMILIES if one not in families]
    spec["ipFamilies"] = families


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


def _warnings(obj: Object, old: Object | None) -> list[str]:
    spec, annotations = obj.get("spec") or {}, obj["metadata"].get("annotations") or {}
    found = []
    if TOPOLOGY_HINTS in annotations:
        found.append(
            f"annotation {TOPOLOGY_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
        )
    found += _ignored(spec)
    if spec.get("externalIPs"):
        found.append("spec.externalIPs is deprecated")
    for field in ("clusterIPs", "externalIPs"):
        for index, address in enumerate(spec.get(field) or ()):
            found += ip_warnings(f"spec.{field}[{index}]", address)
    for index, block in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        found += cidr_warnings(f"spec.loadBalancerSourceRanges[{index}]", block)
    return found


def _ignored(spec: Mapping[str, Any]) -> list[str]:
    """Fields that a service of this type has no use for."""
    found, kind = [], spec.get("type")
    if is_headless(spec):
        found = [f'spec.{f} is ignored when spec.clusterIP is "None"' for f in _NOT_HEADLESS if spec.get(f)]
        if spec.get("sessionAffinity") not in (None, "None"):
            found.append("spec.SessionAffinity is ignored for headless services")
    if kind == "ExternalName" and spec.get("externalIPs"):
        found.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
    if kind != "ExternalName" and spec.get("externalName"):
        found.append('spec.externalName is ignored when spec.type is not "ExternalName"')
    return found


_NOT_HEADLESS = ("loadBalancerIP", "externalIPs")


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
        name=names.label_errors,
        defaults=_default,
        defaults_in_status=True,
        prepare_update=_prepare_update,
        prepare_create=_prepare_create,
        validate=validate_service,
        validate_update=validate_service_update,
        revalidates=False,
        validate_status_update=validate_balancer_status,
        status=Status({"loadBalancer": {}}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=(*METADATA_FIELDS, "spec.clusterIP", "spec.type"),
    ),
}
