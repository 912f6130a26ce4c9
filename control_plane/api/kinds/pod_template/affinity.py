"""Validation of affinity rules, node selectors and topology spread constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import FieldError, duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import checked, one_of, validate_selector
from rayplane.control_plane.api.machinery import names

Errors = list[FieldError]
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")


def validate_affinity(affinity: Mapping[str, Any], path: str, errs: Errors) -> None:
    node = affinity.get("nodeAffinity") or {}
    at = f"{path}.nodeAffinity"
    if node.get(_REQUIRED) is not None:
        validate_node_selector(node[_REQUIRED], f"{at}.{_REQUIRED}", errs)
    for index, term in enumerate(node.get(_PREFERRED) or ()):
        where = f"{at}.{_PREFERRED}[{index}]"
        _weight(term, where, errs)
        _node_term(term.get("preference") or {}, f"{where}.preference", errs)
    for kind in ("podAffinity", "podAntiAffinity"):
        rules, at = affinity.get(kind) or {}, f"{path}.{kind}"
        for index, term in enumerate(rules.get(_REQUIRED) or ()):
            _pod_term(term, f"{at}.{_REQUIRED}[{index}]", errs)
        for index, term in enumerate(rules.get(_PREFERRED) or ()):
            where = f"{at}.{_PREFERRED}[{index}]"
            _weight(term, where, errs)
            _pod_term(term.get("podAffinityTerm") or {}, f"{where}.podAffinityTerm", errs)


def _weight(term: Mapping[str, Any], path: str, errs: Errors) -> None:
    weight = term.get("weight") or 0
    if not 1 <= weight <= 100:
        errs.append(invalid(f"{path}.weight", weight, "must be in the range 1-100"))


def validate_node_selector(selector: Mapping[str, Any], path: str, errs: Errors) -> None:
    terms = selector.get("nodeSelectorTerms")
    if not terms:
        text = "must have at least one node selector term"
        errs.append(required(f"{path}.nodeSelectorTerms", text))
    for index, term in enumerate(terms or ()):
        _node_term(term, f"{path}.nodeSelectorTerms[{index}]", errs)


def _node_term(term: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("matchExpressions", "matchFields"):
        for index, expression in enumerate(term.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            operator, values = expression.get("operator") or "", expression.get("values") or ()
            if operator in ("In", "NotIn"):
                if not values:
                    text = "must be specified when `operator` is 'In' or 'NotIn'"
                    errs.append(required(f"{at}.values", text))
            elif operator in ("Exists", "DoesNotExist"):
                if values:
                    text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                    errs.append(forbidden(f"{at}.values", text))
            elif operator in ("Gt", "Lt"):
                if len(values) != 1:
                    text = "must be specified single value when `operator` is 'Lt' or 'Gt'"
                    errs.append(required(f"{at}.values", text))
            else:
                errs.append(invalid(f"{at}.operator", operator, "not a valid selector operator"))
            key = expression.get("key") or ""
            if field == "matchExpressions":
                checked(names.qualified_name_errors(key), key, f"{at}.key", errs)
            elif key != "metadata.name":
                errs.append(invalid(f"{at}.key", key, "not a valid field selector key"))


def _topology_key(key: str | None, path: str, errs: Errors) -> None:
    if not key:
        errs.append(required(path, "can not be empty"))
    else:
        checked(names.qualified_name_errors(key), key, path, errs)


def _pod_term(term: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_selector(term.get("labelSelector"), f"{path}.labelSelector", errs)
    validate_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector", errs)
    for index, space in enumerate(term.get("namespaces") or ()):
        checked(names.label_errors(space), space, f"{path}.namespaces[{index}]", errs)
    _topology_key(term.get("topologyKey"), f"{path}.topologyKey", errs)


def validate_spread(constraints: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    seen: set[tuple[Any, Any]] = set()
    for index, constraint in enumerate(constraints):
        at = f"{path}[{index}]"
        skew = constraint.get("maxSkew") or 0
        if skew <= 0:
            errs.append(invalid(f"{at}.maxSkew", skew, "must be greater than zero"))
        _topology_key(constraint.get("topologyKey"), f"{at}.topologyKey", errs)
        action = constraint.get("whenUnsatisfiable")
        one_of(action, _UNSATISFIABLE, f"{at}.whenUnsatisfiable", errs)
        domains = constraint.get("minDomains")
        if domains is not None:
            if domains <= 0:
                errs.append(invalid(f"{at}.minDomains", domains, "must be greater than zero"))
            if action == "ScheduleAnyway":
                text = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"
                errs.append(invalid(f"{at}.minDomains", domains, text))
        pair = constraint.get("topologyKey"), action
        if pair in seen:
            text = f"{{{pair[0]}, {pair[1]}}}"
            errs.append(duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", text))
        seen.add(pair)
        validate_selector(constraint.get("labelSelector"), f"{at}.labelSelector", errs)
