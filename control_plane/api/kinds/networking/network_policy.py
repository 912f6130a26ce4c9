"""Network policies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, one_of, validate_selector
from rayplane.control_plane.api.kinds.pod_template.containers import PROTOCOLS, validate_port_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, selector_text
from rayplane.control_plane.api.meta import Object, name


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("podSelector", {})
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                if not port.get("protocol"):
                    port["protocol"] = "TCP"
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    validate_selector(spec.get("podSelector"), "spec.podSelector", errs)
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                _policy_port(port, f"{at}.ports[{number}]", errs)
            for number, peer in enumerate(rule.get(peers) or ()):
                _peer(peer, f"{at}.{peers}[{number}]", errs)
    for index, kind in enumerate(spec.get("policyTypes") or ()):
        one_of(kind, ("Egress", "Ingress"), f"spec.policyTypes[{index}]", errs)
    return errs


def _policy_port(port: Mapping[str, Any], path: str, errs: Errors) -> None:
    if port.get("protocol"):
        one_of(port["protocol"], PROTOCOLS, f"{path}.protocol", errs)
    number, end = port.get("port"), port.get("endPort")
    if number is not None:
        validate_port_reference(number, f"{path}.port", errs)
    if end is not None:
        if not isinstance(number, int):
            text = "may not be specified when `port` is not specified"
            if isinstance(number, str):
                text = "may not be specified when `port` is non-numeric"
            errs.append(invalid(f"{path}.endPort", end, text))
        elif end < number:
            text = "must be greater than or equal to `port`"
            errs.append(invalid(f"{path}.endPort", end, text))


def _peer(peer: Mapping[str, Any], path: str, errs: Errors) -> None:
    block = peer.get("ipBlock")
    selectors = [kind for kind in ("podSelector", "namespaceSelector") if peer.get(kind) is not None]
    for kind in selectors:
        validate_selector(peer[kind], f"{path}.{kind}", errs)
    if block is None and not selectors:
        errs.append(required(path, "must specify a peer"))
    if block is None:
        return
    if selectors:
        errs.append(forbidden(path, "may not specify both ipBlock and another peer"))
    if not names.is_cidr(block.get("cidr") or ""):
        text = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
        errs.append(invalid(f"{path}.ipBlock.cidr", block.get("cidr") or "", text))


def _row(obj: Object, now: datetime) -> list[Cell]:
    selector = (obj.get("spec") or {}).get("podSelector") or {}
    return [name(obj), selector_text(selector), age(obj, now)]


RULES = {
    "NetworkPolicy": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Pod-Selector"), AGE), _row),
    ),
}
