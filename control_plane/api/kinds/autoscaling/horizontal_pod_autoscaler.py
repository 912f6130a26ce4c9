"""Horizontal pod autoscalers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery.columns import (
    AGE,
    NAME,
    NONE,
    UNKNOWN,
    Cell,
    Column,
    Printer,
    age,
    spec_and_status,
)
from rayplane.control_plane.api.meta import Object, name

_METRIC_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_SHOWN_METRICS = 2
UNSET_REPLICAS = "<unset>"


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("minReplicas") is None:
        spec["minReplicas"] = 1
    if obj.get("apiVersion") != "autoscaling/v2":
        return
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": 80}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    behavior = spec.get("behavior")
    if behavior is None:
        return
    up = {"type": "Percent", "value": 100, "periodSeconds": 15}
    _scaling(behavior, "scaleUp", [{"type": "Pods", "value": 4, "periodSeconds": 15}, up], window=0)
    _scaling(behavior, "scaleDown", [dict(up)], window=None)


def _scaling(behavior: dict[str, Any], name: str, policies: list[dict[str, Any]], *, window: int | None) -> None:
    rules = behavior.get(name)
    if rules is None:
        rules = behavior[name] = {}
    if window is not None and rules.get("stabilizationWindowSeconds") is None:
        rules["stabilizationWindowSeconds"] = window
    if not rules.get("selectPolicy"):
        rules["selectPolicy"] = "Max"
    if not rules.get("policies"):
        rules["policies"] = policies


def _validate(obj: Object) -> Errors:
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


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    ref = spec.get("scaleTargetRef") or {}
    least = spec.get("minReplicas")
    return [
        name(obj),
        f"{ref.get('kind')}/{ref.get('name')}",
        _targets(spec, status),
        UNSET_REPLICAS if least is None else str(least),
        spec.get("maxReplicas") or 0,
        status.get("currentReplicas") or 0,
        age(obj, now),
    ]


def _targets(spec: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    if "targetCPUUtilizationPercentage" in spec:
        current = status.get("currentCPUUtilizationPercentage")
        shown = UNKNOWN if current is None else f"{current}%"
        return f"cpu: {shown}/{spec['targetCPUUtilizationPercentage']}%"
    metrics = spec.get("metrics") or ()
    if not metrics:
        return NONE
    current_metrics = status.get("currentMetrics") or ()
    texts = [
        _target(metric, current_metrics[index] if index < len(current_metrics) else {})
        for index, metric in enumerate(metrics)
    ]
    text = ", ".join(texts[:_SHOWN_METRICS])
    if len(texts) > _SHOWN_METRICS:
        text += f" + {len(texts) - _SHOWN_METRICS} more..."
    return text


def _target(metric: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    field = _METRIC_SOURCES.get(metric.get("type") or "", "")
    source = metric.get(field) or {}
    target = source.get("target") or {}
    now = (current.get(field) or {}).get("current") or {}
    prefix = f"{source['name']}: " if source.get("name") else ""
    if target.get("averageUtilization") is not None:
        used = now.get("averageUtilization")
        shown = UNKNOWN if used is None else f"{used}%"
        return f"{prefix}{shown}/{target['averageUtilization']}%"
    # What is always an average is not said to be one.
    average = " (avg)" if field in ("external", "object") else ""
    for key, suffix in (("averageValue", average), ("value", "")):
        if target.get(key) is not None:
            return f"{prefix}{now.get(key, UNKNOWN)}/{target[key]}{suffix}"
    return f"{prefix}{UNKNOWN}/<auto>"


_COLUMNS = (
    NAME, Column("Reference"), Column("Targets"), Column("MinPods"), Column("MaxPods"),
    Column("Replicas"), AGE,
)  # fmt: skip


RULES = {
    "HorizontalPodAutoscaler": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=Status({"currentMetrics": None, "desiredReplicas": 0}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
