"""Roles and cluster roles."""

from __future__ import annotations

from dataclasses import replace

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, validate_selector
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME_AND_CREATED_AT
from rayplane.control_plane.api.meta import Object


def _rules(obj: Object, errs: Errors, *, namespaced: bool) -> None:
    for index, rule in enumerate(obj.get("rules") or ()):
        at = f"rules[{index}]"
        if not rule.get("verbs"):
            errs.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        if rule.get("nonResourceURLs"):
            if namespaced:
                text = "namespaced rules cannot apply to non-resource URLs"
                errs.append(invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], text))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                text = "rules cannot apply to both regular resources and non-resource URLs"
                errs.append(invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], text))
            continue
        if not rule.get("apiGroups"):
            text = "resource rules must supply at least one api group"
            errs.append(required(f"{at}.apiGroups", text))
        if not rule.get("resources"):
            text = "resource rules must supply at least one resource"
            errs.append(required(f"{at}.resources", text))


def _validate_role(obj: Object) -> Errors:
    errs: Errors = []
    _rules(obj, errs, namespaced=True)
    return errs


def _validate_cluster_role(obj: Object) -> Errors:
    errs: Errors = []
    _rules(obj, errs, namespaced=False)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        chosen = aggregation.get("clusterRoleSelectors")
        at = "aggregationRule.clusterRoleSelectors"
        if not chosen:
            text = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            errs.append(required(at, text))
        for index, selector in enumerate(chosen or ()):
            before = len(errs)
            validate_selector(selector, f"{at}[{index}]", errs)
            if len(errs) > before:
                errs.append(invalid(f"{at}[{index}]", selector, "invalid label selector."))
    return errs


RULES = {
    "ClusterRole": replace(
        AS_WRITTEN,
        made_by_update=True,
        name=names.path_segment_errors,
        defaults=NO_DEFAULTS,
        validate=_validate_cluster_role,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=NAME_AND_CREATED_AT,
    ),
    "Role": replace(
        AS_WRITTEN,
        made_by_update=True,
        name=names.path_segment_errors,
        defaults=NO_DEFAULTS,
        validate=_validate_role,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=NAME_AND_CREATED_AT,
    ),
}
