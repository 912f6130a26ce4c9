"""Metrics and targets that an autoscaler goes by, and how fast it may go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.references import kind_and_name
from rayplane.control_plane.api.machinery import names

METRIC_SOURCES: Final = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_FIELDS: Final = ("object", "external", "pods", "resource", "containerResource")
_WINDOW_MAX_SECONDS, _PERIOD_MAX_SECONDS = 3_600, 1_800
_TARGETS: Final = ("Utilization", "Value", "AverageValue")
_ONE_OF_TWO: Final = "must set either a target raw value or a target utilization"
_NOT_BOTH: Final = "may not set both a target raw value and a target utilization"


def version_problem(ref: Mapping[str, Any], *, needs_group: bool = False) -> str:
    """What is wrong with the apiVersion of a reference; empty for nothing."""
    version = ref.get("apiVersion") or ""
    if version.count("/") > 1:
        return f"unexpected GroupVersion string: {version}"
    return "apiVersion must specify API group" if needs_group and not version.rpartition("/")[0] else ""


def described(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    """The object that a metric tells of; empty where it is of none."""
    return (metric.get("object") or {}).get("describedObject") or {}


def validate_metric(metric: Mapping[str, Any], path: str, errs: Errors, *, lax: bool = False) -> None:
    """Problems of a metric. `lax`: a version of an object that is none is taken, as there was one before."""
    kind = metric.get("type") or ""
    if not kind:
        errs.append(required(f"{path}.type", "must specify a metric source type"))
    if kind not in METRIC_SOURCES:
        errs.append(not_supported(f"{path}.type", kind, sorted(METRIC_SOURCES)))
    given = [field for field in _FIELDS if metric.get(field) is not None]
    if given:
        _source(given[0], metric[given[0]], f"{path}.{given[0]}", errs)
        problem = "" if lax or given[0] != "object" else version_problem(described(metric))
        if problem:
            at, version = f"{path}.object.describedObject.apiVersion", described(metric)["apiVersion"]
            errs.append(invalid(at, version, problem))
    expected = METRIC_SOURCES.get(kind, "")
    if not expected:
        errs.append(not_supported(f"{path}.type", kind, sorted(METRIC_SOURCES)))
    elif expected not in given:
        errs.append(required(f"{path}.{expected}", "must populate information for the given metric source"))
    if len(given) != 1:
        text = "must populate the given metric source only"
        errs += [forbidden(f"{path}.{field}", text) for field in given if field != expected]


def _source(field: str, source: Mapping[str, Any], path: str, errs: Errors) -> None:
    target = source.get("target") or {}
    if field in ("resource", "containerResource"):
        own, container = source.get("name") or "", source.get("container") or ""
        if not own:
            errs.append(required(f"{path}.name", "must specify a resource name"))
        if field == "containerResource" and not container:
            errs.append(required(f"{path}.container", "must specify a container"))
        elif field == "containerResource":
            checked(names.label_errors(container), container, f"{path}.container", errs)
    else:
        if field == "object":
            kind_and_name(source.get("describedObject") or {}, f"{path}.describedObject", errs)
        own = (source.get("metric") or {}).get("name") or ""
        if not own:
            errs.append(required(f"{path}.metric.name", "must specify a metric name"))
        else:
            checked(names.path_segment_errors(own), own, f"{path}.metric.name", errs)
    _target(target, f"{path}.target", errs)
    _aim(field, target, f"{path}.target", errs)


def _target(target: Mapping[str, Any], path: str, errs: Errors) -> None:
    kind, utilization = target.get("type") or "", target.get("averageUtilization")
    if not kind:
        errs.append(required(f"{path}.type", "must specify a metric target type"))
    if kind not in _TARGETS:
        errs.append(invalid(f"{path}.type", kind, "must be either Utilization, Value, or AverageValue"))
    for field in ("value", "averageValue"):
        if target.get(field) is not None:
            quantity = validate_quantity(target[field], f"{path}.{field}", errs, least=None)
            if quantity is not None and quantity.nano <= 0:
                errs.append(invalid(f"{path}.{field}", str(quantity), "must be positive"))
    if utilization is not None and utilization < 1:
        errs.append(invalid(f"{path}.averageUtilization", utilization, "must be greater than 0"))


def _aim(field: str, target: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Which of the values a source of this kind can be aimed at."""
    value, average = target.get("value") is not None, target.get("averageValue") is not None
    utilization = target.get("averageUtilization") is not None
    if field == "object" and not (value or average):
        errs.append(required(f"{path}.averageValue", "must set either a target value or averageValue"))
    if field == "external" and not (value or average):
        text = "must set either a target value for metric or a per-pod target"
        errs.append(required(f"{path}.averageValue", text))
    if field == "external" and value and average:
        text = "may not set both a target value for metric and a per-pod target"
        errs.append(forbidden(f"{path}.value", text))
    if field == "pods" and not average:
        errs.append(required(f"{path}.averageValue", "must specify a positive target averageValue"))
    if field in ("resource", "containerResource"):
        if not (utilization or average):
            errs.append(required(f"{path}.averageUtilization", _ONE_OF_TWO))
        if utilization and average:
            errs.append(forbidden(f"{path}.averageValue", _NOT_BOTH))


def validate_scaling(rules: Mapping[str, Any], path: str, errs: Errors) -> None:
    window, policies = rules.get("stabilizationWindowSeconds") or 0, rules.get("policies") or ()
    if window < 0:
        text = "must be greater than or equal to zero"
        errs.append(invalid(f"{path}.stabilizationWindowSeconds", window, text))
    if window > _WINDOW_MAX_SECONDS:
        text = f"must be less than or equal to {_WINDOW_MAX_SECONDS}"
        errs.append(invalid(f"{path}.stabilizationWindowSeconds", window, text))
    if rules.get("selectPolicy") is not None:
        one_of(rules["selectPolicy"], ("Disabled", "Max", "Min"), f"{path}.selectPolicy", errs)
    if not policies:
        errs.append(required(f"{path}.policies", "must specify at least one Policy"))
    for index, policy in enumerate(policies):
        at, seconds = f"{path}.policies[{index}]", policy.get("periodSeconds") or 0
        one_of(policy.get("type"), ("Percent", "Pods"), f"{at}.type", errs)
        for field, value in (("value", policy.get("value") or 0), ("periodSeconds", seconds)):
            if value <= 0:
                errs.append(invalid(f"{at}.{field}", value, "must be greater than zero"))
        if seconds > _PERIOD_MAX_SECONDS:
            text = f"must be less than or equal to {_PERIOD_MAX_SECONDS}"
            errs.append(invalid(f"{at}.periodSeconds", seconds, text))
    if rules.get("tolerance") is not None:
        validate_quantity(rules["tolerance"], f"{path}.tolerance", errs)
