"""Validation of affinity rules, node selectors and topology spread constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of, validate_selector
from rayplane.control_plane.api.machinery import names

REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
_UNSATISFIABLE: Final = ("DoNotSchedule", "ScheduleAnyway")
_POLICIES: Final = ("Honor", "Ignore")
_NO_OPERATOR: Final = "not a valid selector operator"


def validate_affinity(affinity: Mapping[str, Any], path: str, errs: Errors) -> None:
    node = affinity.get("nodeAffinity") or {}
    at = f"{path}.nodeAffinity"
    if node.get(REQUIRED) is not None:
        validate_node_selector(node[REQUIRED], f"{at}.{REQUIRED}", errs)
    for index, term in enumerate(node.get(_PREFERRED) or ()):
        where = f"{at}.{_PREFERRED}[{index}]"
        _weight(term, where, errs)
        # A preference that no label can have does no harm.
        _node_term(term.get("preference") or {}, f"{where}.preference", errs, values=False)
    for kind in ("podAffinity", "podAntiAffinity"):
        rules, at = affinity.get(kind) or {}, f"{path}.{kind}"
        for index, term in enumerate(rules.get(REQUIRED) or ()):
            _pod_term(term, f"{at}.{REQUIRED}[{index}]", errs)
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


def _node_term(term: Mapping[str, Any], path: str, errs: Errors, *, values: bool = True) -> None:
    for index, expression in enumerate(term.get("matchExpressions") or ()):
        _label_rule(expression, f"{path}.matchExpressions[{index}]", errs, values=values)
    for index, expression in enumerate(term.get("matchFields") or ()):
        _field_rule(expression, f"{path}.matchFields[{index}]", errs)


def _label_rule(rule: Mapping[str, Any], path: str, errs: Errors, *, values: bool) -> None:
    operator, given = rule.get("operator") or "", rule.get("values") or ()
    if operator in ("In", "NotIn"):
        if not given:
            errs.append(required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'"))
    elif operator in ("Exists", "DoesNotExist"):
        if given:
            text = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            errs.append(forbidden(f"{path}.values", text))
    elif operator in ("Gt", "Lt"):
        if len(given) != 1:
            text = "must be specified single value when `operator` is 'Lt' or 'Gt'"
            errs.append(required(f"{path}.values", text))
    else:
        errs.append(invalid(f"{path}.operator", operator, _NO_OPERATOR))
    key = rule.get("key") or ""
    checked(names.qualified_name_errors(key), key, f"{path}.key", errs)
    for index, value in enumerate(given if values else ()):
        checked(names.label_value_errors(value), value, f"{path}.values[{index}]", errs)


def _field_rule(rule: Mapping[str, Any], path: str, errs: Errors) -> None:
    operator, given, key = rule.get("operator") or "", rule.get("values") or (), rule.get("key") or ""
    if operator not in ("In", "NotIn"):
        errs.append(invalid(f"{path}.operator", operator, _NO_OPERATOR))
    elif len(given) != 1:
        text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
        errs.append(required(f"{path}.values", text))
    if key != "metadata.name":
        errs.append(invalid(f"{path}.key", key, "not a valid field selector key"))
        return
    for index, value in enumerate(given):
        checked(names.subdomain_errors(value), value, f"{path}.values[{index}]", errs)


def _pod_term(term: Mapping[str, Any], path: str, errs: Errors) -> None:
    validate_selector(term.get("labelSelector"), f"{path}.labelSelector", errs)
    validate_selector(term.get("namespaceSelector"), f"{path}.namespaceSelector", errs)
    for space in term.get("namespaces") or ():
        checked(names.label_errors(space), space, f"{path}.namespace", errs)
    _label_keys(term, path, errs)
    key = term.get("topologyKey") or ""
    if not key:
        errs.append(required(f"{path}.topologyKey", "can not be empty"))
    checked(names.qualified_name_errors(key), key, f"{path}.topologyKey", errs)


def _label_keys(term: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Labels whose values are the pod's own, which have become expressions of the selector when a pod was made."""
    selector, unlike = term.get("labelSelector"), term.get("mismatchLabelKeys") or ()
    for field in ("matchLabelKeys", "mismatchLabelKeys"):
        keys = term.get(field)
        if keys and selector is None:
            errs.append(forbidden(f"{path}.{field}", "must not be specified when labelSelector is not set"))
        for index, key in enumerate(keys or () if selector is not None else ()):
            checked(names.qualified_name_errors(key), key, f"{path}.{field}[{index}]", errs)
    alike = {key: index for index, key in enumerate(term.get("matchLabelKeys") or ())}
    seen = set((selector or {}).get("matchLabels") or ())
    for expression in (selector or {}).get("matchExpressions") or ():
        key = expression.get("key") or ""
        if key in alike and key in seen:
            text = "exists in both matchLabelKeys and labelSelector"
            errs.append(invalid(f"{path}[{alike[key]}]", key, text))
        seen.add(key)
    for index, key in enumerate(term.get("matchLabelKeys") or ()):
        if key in unlike:
            text = "exists in both matchLabelKeys and mismatchLabelKeys"
            errs.append(invalid(f"{path}.matchLabelKeys[{index}]", key, text))


def validate_spread(constraints: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    pairs = [(one.get("topologyKey") or "", one.get("whenUnsatisfiable") or "") for one in constraints]
    for index, constraint in enumerate(constraints):
        at, (key, action) = f"{path}[{index}]", pairs[index]
        _positive(constraint.get("maxSkew") or 0, f"{at}.maxSkew", errs)
        if not key:
            errs.append(required(f"{at}.topologyKey", "can not be empty"))
        one_of(action, _UNSATISFIABLE, f"{at}.whenUnsatisfiable", errs)
        if pairs[index] in pairs[index + 1 :]:
            errs.append(duplicate(f"{at}.{{topologyKey, whenUnsatisfiable}}", f"{{{key}, {action}}}"))
        domains = constraint.get("minDomains")
        if domains is not None:
            _positive(domains, f"{at}.minDomains", errs)
            if action != "DoNotSchedule":
                text = f"can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                errs.append(invalid(f"{at}.minDomains", domains, text))
        for field in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
            if constraint.get(field) is not None:
                one_of(constraint[field], _POLICIES, f"{at}.{field}", errs)
        _label_keys(constraint, at, errs)
        validate_selector(constraint.get("labelSelector"), f"{at}.labelSelector", errs)


def _positive(value: int, path: str, errs: Errors) -> None:
    if value <= 0:
        errs.append(invalid(path, value, "must be greater than zero"))


def with_label_keys(spec: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Make expressions of matchLabelKeys and mismatchLabelKeys, with the values of a new pod's labels, in place."""
    for constraint in spec.get("topologySpreadConstraints") or ():
        _add_label_keys(constraint, labels)
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = (spec.get("affinity") or {}).get(kind) or {}
        for weighted in rules.get(_PREFERRED) or ():
            _add_label_keys(weighted.get("podAffinityTerm") or {}, labels)
        for term in rules.get(REQUIRED) or ():
            _add_label_keys(term, labels)


def _add_label_keys(term: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    selector = term.get("labelSelector")
    if selector is None:
        return
    for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")):
        made = [
            {"key": key, "operator": operator, "values": [labels[key]]}
            for key in term.get(field) or ()
            if key in labels
        ]
        if made:
            selector["matchExpressions"] = [*(selector.get("matchExpressions") or ()), *made]
