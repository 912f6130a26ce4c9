"""Horizontal pod autoscalers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid
from rayplane.control_plane.api.kinds.autoscaling.metrics import (
    METRIC_SOURCES,
    described,
    validate_metric,
    validate_scaling,
    version_problem,
)
from rayplane.control_plane.api.kinds.metadata import Errors, not_negative
from rayplane.control_plane.api.kinds.references import kind_and_name
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
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
    return _spec(obj.get("spec") or {}, None)


def _spec(spec: Mapping[str, Any], old: Mapping[str, Any] | None) -> Errors:
    """Problems of a specification, in place of another where there is one: what was wrong in that may stay."""
    errs: Errors = []
    least, most = spec.get("minReplicas"), spec.get("maxReplicas") or 0
    if least is not None and least < 0:
        errs.append(invalid("spec.minReplicas", least, "must be greater than or equal to 0"))
    if most < 1:
        errs.append(invalid("spec.maxReplicas", most, "must be greater than 0"))
    if least is not None and most < least:
        errs.append(invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`"))
    _target_reference(spec.get("scaleTargetRef") or {}, old and (old.get("scaleTargetRef") or {}), errs)
    metrics = spec.get("metrics") or ()
    lax = any(version_problem(described(metric)) for metric in (old or {}).get("metrics") or ())
    for index, metric in enumerate(metrics):
        validate_metric(metric, f"spec.metrics[{index}]", errs, lax=lax)
    if least == 0 and not any(metric.get("type") in ("Object", "External") for metric in metrics):
        text = "must specify at least one Object or External metric to support scaling to zero replicas"
        errs.append(forbidden("spec.metrics", text))
    for direction in ("scaleUp", "scaleDown"):
        rules = (spec.get("behavior") or {}).get(direction)
        if rules is not None:
            validate_scaling(rules, f"spec.behavior.{direction}", errs)
    return errs


def _target_reference(ref: Mapping[str, Any], old: Mapping[str, Any] | None, errs: Errors) -> None:
    """Whose replicas are scaled. Its group must be told, but of the one kind that has none."""
    path = "spec.scaleTargetRef"
    kind_and_name(ref, path, errs)
    if old is None or any(ref.get(field) != old.get(field) for field in ("apiVersion", "kind")):
        problem = version_problem(ref, needs_group=ref.get("kind") != "ReplicationController")
        if problem:
            errs.append(invalid(f"{path}.apiVersion", ref.get("apiVersion") or "", problem))


def _validate_update(new: Object, old: Object) -> Errors:
    return _spec(new.get("spec") or {}, old.get("spec") or {})


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    for field in ("currentReplicas", "desiredReplicas"):
        not_negative((new.get("status") or {}).get(field), f"status.{field}", errs)
    return errs


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
    field = METRIC_SOURCES.get(metric.get("type") or "", "")
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
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=_validate_status,
        status=Status({"currentMetrics": None, "desiredReplicas": 0}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
