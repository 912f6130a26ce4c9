"""The requests that a policy or a webhook is about: rules for resources, selectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayplane.control_plane.api.errors import not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, one_of, validate_selector

_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")
_SELECTORS = ("namespaceSelector", "objectSelector")


def default_match(match: dict[str, Any]) -> None:
    """Defaults of matchConstraints, matchResources, and a webhook, which has the same fields itself."""
    if not match.get("matchPolicy"):
        match["matchPolicy"] = "Equivalent"
    for field in _SELECTORS:
        if match.get(field) is None:
            match[field] = {}
    for field in ("rules", "resourceRules", "excludeResourceRules"):
        for rule in match.get(field) or ():
            if not rule.get("scope"):
                rule["scope"] = "*"


def validate_match(match: Mapping[str, Any], path: str, errs: Errors) -> None:
    one_of(match.get("matchPolicy"), ("Equivalent", "Exact"), f"{path}.matchPolicy", errs)
    for field in _SELECTORS:
        validate_selector(match.get(field), f"{path}.{field}", errs)
    for field in ("rules", "resourceRules", "excludeResourceRules"):
        _rules(match.get(field) or (), f"{path}.{field}", errs)


def _rules(rules: Sequence[Mapping[str, Any]], path: str, errs: Errors) -> None:
    for index, rule in enumerate(rules):
        at = f"{path}[{index}]"
        for field in ("apiGroups", "apiVersions", "operations", "resources"):
            if not rule.get(field):
                errs.append(required(f"{at}.{field}"))
        for number, operation in enumerate(rule.get("operations") or ()):
            if operation not in _OPERATIONS:
                errs.append(not_supported(f"{at}.operations[{number}]", operation, _OPERATIONS))
        one_of(rule.get("scope"), _SCOPES, f"{at}.scope", errs)
