"""Network policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.endpoints import PORT_RANGE
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of, validate_selector
from rayplane.control_plane.api.kinds.pod_template.ports import validate_port_reference
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import block_of, cidr_warnings, legacy_cidr_errors
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, selector_text
from rayplane.control_plane.api.meta import Object, name

_PROTOCOLS = ("TCP", "UDP", "SCTP")


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


def _validate(obj: Object, old: Object | None = None) -> Errors:
    errs: Errors = []
    kept = {text for _, text in _blocks(old or {})}
    spec = obj.get("spec") or {}
    validate_selector(spec.get("podSelector"), "spec.podSelector", errs)
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            at = f"spec.{direction}[{index}]"
            for number, port in enumerate(rule.get("ports") or ()):
                _policy_port(port, f"{at}.ports[{number}]", errs)
            for number, peer in enumerate(rule.get(peers) or ()):
                _peer(peer, kept, f"{at}.{peers}[{number}]", errs)
    kinds = spec.get("policyTypes") or ()
    if len(kinds) > 2:
        errs.append(invalid("spec.policyTypes", kinds, "may not specify more than two policyTypes"))
        return errs
    for index, kind in enumerate(kinds):
        one_of(kind, ("Ingress", "Egress"), f"spec.policyTypes[{index}]", errs)
    return errs


def _policy_port(port: Mapping[str, Any], path: str, errs: Errors) -> None:
    if port.get("protocol"):
        one_of(port["protocol"], _PROTOCOLS, f"{path}.protocol", errs)
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, int):
        validate_port_reference(number, f"{path}.port", errs)
        if end is not None and end < number:
            errs.append(invalid(f"{path}.endPort", number, "must be greater than or equal to `port`"))
        if end is not None and not 1 <= end <= 65535:
            errs.append(invalid(f"{path}.endPort", end, PORT_RANGE))
        return
    if end is not None:
        text = "`port` is not specified" if number is None else "`port` is non-numeric"
        errs.append(invalid(f"{path}.endPort", end, f"may not be specified when {text}"))
    if number is not None:
        checked(names.port_name_errors(number), number, f"{path}.port", errs)


def _peer(peer: Mapping[str, Any], kept: AbstractSet[str], path: str, errs: Errors) -> None:
    block = peer.get("ipBlock")
    selectors = [kind for kind in ("podSelector", "namespaceSelector") if peer.get(kind) is not None]
    for kind in selectors:
        validate_selector(peer[kind], f"{path}.{kind}", errs)
    if block is not None:
        _block(block, kept, f"{path}.ipBlock", errs)
    if block is None and not selectors:
        errs.append(required(path, "must specify a peer"))
    elif block is not None and selectors:
        errs.append(forbidden(path, "may not specify both ipBlock and another peer"))


def _block(block: Mapping[str, Any], kept: AbstractSet[str], path: str, errs: Errors) -> None:
    """A block of addresses, and blocks within it that are not meant."""
    text = block.get("cidr") or ""
    if not text:
        errs.append(required(f"{path}.cidr"))
        return
    checked(legacy_cidr_errors(text, kept), text, f"{path}.cidr", errs)
    whole = block_of(text)
    if whole is None:
        return
    for index, part in enumerate(block.get("except") or ()):
        at = f"{path}.except[{index}]"
        checked(legacy_cidr_errors(part, kept), part, at, errs)
        inner = block_of(part)
        if inner is None:
            continue
        within = inner.version == whole.version and inner.network_address in whole
        if not within or whole.prefixlen >= inner.prefixlen:
            errs.append(invalid(at, part, "must be a strict subset of `cidr`"))


def _blocks(obj: Object) -> Iterator[tuple[str, str]]:
    """Every block of addresses in a policy, after its path."""
    spec = obj.get("spec") or {}
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            for number, peer in enumerate(rule.get(peers) or ()):
                block, at = peer.get("ipBlock") or {}, f"spec.{direction}[{index}].{peers}[{number}].ipBlock"
                yield f"{at}.cidr", block.get("cidr") or ""
                for part, text in enumerate(block.get("except") or ()):
                    yield f"{at}.except[{part}]", text


def _warnings(obj: Object, old: Object | None) -> list[str]:
    return [warning for path, text in _blocks(obj) for warning in cidr_warnings(path, text)]


def _row(obj: Object, now: datetime) -> list[Cell]:
    selector = (obj.get("spec") or {}).get("podSelector") or {}
    return [name(obj), selector_text(selector), age(obj, now)]


RULES = {
    "NetworkPolicy": replace(
        AS_WRITTEN,
        warnings=_warnings,
        defaults=_default,
        validate=_validate,
        validate_update=_validate,
        revalidates=False,
        status=NO_STATUS,
        generation=True,
        printer=Printer((NAME, Column("Pod-Selector"), AGE), _row),
    ),
}
