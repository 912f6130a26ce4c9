"""Validation of RBAC kinds, disruption budgets, autoscalers and certificate requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import immutable, not_negative, one_of, validate_selector
from rayplane.control_plane.api.kinds.validation_workloads import int_or_percent
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
_RBAC = "rbac.authorization.k8s.io"


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


def role(obj: Object) -> Errors:
    errs: Errors = []
    _rules(obj, errs, namespaced=True)
    return errs


def cluster_role(obj: Object) -> Errors:
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
            validate_selector(selector, f"{at}[{index}]", errs)
    return errs


def role_binding(obj: Object) -> Errors:
    return _binding(obj, ("Role", "ClusterRole"), namespaced=True)


def cluster_role_binding(obj: Object) -> Errors:
    return _binding(obj, ("ClusterRole",), namespaced=False)


def _binding(obj: Object, kinds: tuple[str, ...], *, namespaced: bool) -> Errors:
    errs: Errors = []
    ref = obj.get("roleRef") or {}
    group = ref.get("apiGroup")
    if group and group != _RBAC:
        errs.append(not_supported("roleRef.apiGroup", group, (_RBAC,)))
    if ref.get("kind") not in kinds:
        errs.append(not_supported("roleRef.kind", ref.get("kind") or "", kinds))
    if not ref.get("name"):
        errs.append(required("roleRef.name"))
    for index, subject in enumerate(obj.get("subjects") or ()):
        _subject(subject, f"subjects[{index}]", errs, namespaced=namespaced)
    return errs


def _subject(subject: Mapping[str, Any], path: str, errs: Errors, *, namespaced: bool) -> None:
    if not subject.get("name"):
        errs.append(required(f"{path}.name"))
    kind, group = subject.get("kind"), subject.get("apiGroup") or ""
    if kind == "ServiceAccount":
        if group:
            errs.append(not_supported(f"{path}.apiGroup", group, ("",)))
        if not namespaced and not subject.get("namespace"):
            errs.append(required(f"{path}.namespace"))
    elif kind in ("User", "Group"):
        if group != _RBAC:
            errs.append(not_supported(f"{path}.apiGroup", group, (_RBAC,)))
    else:
        supported = ("Group", "ServiceAccount", "User")
        errs.append(not_supported(f"{path}.kind", kind or "", supported))


def binding_update(new: Object, old: Object) -> Errors:
    ref = new.get("roleRef") or {}
    if ref != (old.get("roleRef") or {}):
        return [invalid("roleRef", ref, "cannot change roleRef")]
    return []


# --- disruption budgets -------------------------------------------------------------------------


def disruption_budget(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        text = "minAvailable and maxUnavailable cannot be both set"
        errs.append(invalid("spec", spec, text))
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            int_or_percent(value, f"spec.{field}", errs)
    validate_selector(spec.get("selector"), "spec.selector", errs)
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None:
        supported = ("AlwaysAllow", "IfHealthyBudget")
        one_of(policy, supported, "spec.unhealthyPodEvictionPolicy", errs)
    return errs


# --- autoscalers --------------------------------------------------------------------------------

_METRIC_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}


def autoscaler(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    ref = spec.get("scaleTargetRef") or {}
    for field in ("kind", "name"):
        if not ref.get(field):
            errs.append(required(f"spec.scaleTargetRef.{field}"))
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 1:
        text = "must be greater than or equal to 1"
        errs.append(invalid("spec.minReplicas", least, text))
    if most < 1:
        errs.append(invalid("spec.maxReplicas", most, "must be greater than 0"))
    elif least is not None and most < least:
        text = "must be greater than or equal to `minReplicas`"
        errs.append(invalid("spec.maxReplicas", most, text))
    for index, metric in enumerate(spec.get("metrics") or ()):
        _metric(metric, f"spec.metrics[{index}]", errs)
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction) or {}
        at = f"spec.behavior.{direction}"
        window = rules.get("stabilizationWindowSeconds")
        not_negative(window, f"{at}.stabilizationWindowSeconds", errs)
        if rules.get("selectPolicy"):
            supported = ("Disabled", "Max", "Min")
            one_of(rules["selectPolicy"], supported, f"{at}.selectPolicy", errs)
    return errs


def _metric(metric: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind = metric.get("type")
    if not kind:
        errs.append(required(f"{path}.type", "must specify a metric source type"))
        return
    if kind not in _METRIC_SOURCES:
        errs.append(not_supported(f"{path}.type", kind, sorted(_METRIC_SOURCES)))
        return
    field = _METRIC_SOURCES[kind]
    if metric.get(field) is None:
        text = "must populate information for the given metric source"
        errs.append(required(f"{path}.{field}", text))
    for other in _METRIC_SOURCES.values():
        if other != field and metric.get(other) is not None:
            text = "must populate the given metric source only"
            errs.append(forbidden(f"{path}.{other}", text))


# --- certificates -------------------------------------------------------------------------------


def certificate_request(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    for field in ("request", "signerName"):
        if not spec.get(field):
            errs.append(required(f"spec.{field}"))
    if not spec.get("usages"):
        errs.append(required("spec.usages", "usages must contain at least one value"))
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        text = "may not specify a duration less than 600 seconds (10 minutes)"
        errs.append(invalid("spec.expirationSeconds", seconds, text))
    return errs


def certificate_request_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs
