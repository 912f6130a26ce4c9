"""Objects between group-versions that share their storage: events, horizontal pod autoscalers.

`to_stored` and `to_served` are inverse for what both versions can say. What only autoscaling/v2
can say travels in annotations of the v1 form, as in Kubernetes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.meta import Object

_CORE_TO_EVENTS: Final[Mapping[str, str]] = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_EVENTS_TO_CORE: Final = {new: old for old, new in _CORE_TO_EVENTS.items()}
_ANNOTATION: Final = "autoscaling.alpha.kubernetes.io/"


def to_stored(obj: Object, info: ResourceInfo) -> Object:
    """An object as `info`'s endpoint takes it, in the form that is kept in etcd."""
    return _convert(obj, info.api_version, info.stored_api_version)


def to_served(obj: Object, info: ResourceInfo) -> Object:
    """A stored object in the form that `info`'s endpoint answers with."""
    return _convert(obj, info.stored_api_version, info.api_version)


def _convert(obj: Object, source: str, target: str) -> Object:
    """The same object where both are one version, else a new one that shares unchanged parts."""
    if source == target:
        return obj
    return {**_CONVERSIONS[(source, target)](obj), "apiVersion": target}


def _rename(obj: Object, names: Mapping[str, str]) -> Object:
    return {names.get(field, field): value for field, value in obj.items()}


def _is_cpu_utilization(metric: Mapping[str, Any]) -> bool:
    resource = metric.get("resource") or {}
    target = resource.get("target") or {}
    return (
        metric.get("type") == "Resource"
        and resource.get("name") == "cpu"
        and target.get("type") == "Utilization"
        and target.get("averageUtilization") is not None
    )


def _hpa_to_v1(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    extra: dict[str, Any] = {"behavior": spec.pop("behavior", None)}
    others: list[Any] = []
    for metric in spec.pop("metrics", None) or ():
        if _is_cpu_utilization(metric) and "targetCPUUtilizationPercentage" not in spec:
            target = metric["resource"]["target"]["averageUtilization"]
            spec["targetCPUUtilizationPercentage"] = target
        else:
            others.append(metric)
    extra["metrics"] = others
    current: list[Any] = []
    for metric in status.pop("currentMetrics", None) or ():
        resource = metric.get("resource") or {}
        percent = (resource.get("current") or {}).get("averageUtilization")
        if resource.get("name") == "cpu" and percent is not None:
            status["currentCPUUtilizationPercentage"] = percent
        current.append(metric)
    extra["current-metrics"] = current
    extra["conditions"] = status.pop("conditions", None)
    notes = {_ANNOTATION + k: orjson.dumps(v).decode() for k, v in extra.items() if v}
    result = {**obj, "spec": spec}
    if status:
        result["status"] = status
    if notes:
        meta = dict(obj.get("metadata") or {})
        meta["annotations"] = {**(meta.get("annotations") or {}), **notes}
        result["metadata"] = meta
    return result


def _hpa_to_v2(obj: Object) -> Object:
    spec, status = dict(obj.get("spec") or {}), dict(obj.get("status") or {})
    meta = dict(obj.get("metadata") or {})
    notes = dict(meta.get("annotations") or {})
    extra = {k: _json(notes.pop(_ANNOTATION + k, None), shape) for k, shape in _NOTES.items()}
    metrics = list(extra["metrics"] or ())
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics.insert(0, {"type": "Resource", "resource": {"name": "cpu", "target": target}})
    if metrics:
        spec["metrics"] = metrics
    if extra["behavior"]:
        spec["behavior"] = extra["behavior"]
    percent = status.pop("currentCPUUtilizationPercentage", None)
    if extra["current-metrics"]:
        status["currentMetrics"] = extra["current-metrics"]
    elif percent is not None:
        cpu = {"name": "cpu", "current": {"averageUtilization": percent}}
        status["currentMetrics"] = [{"type": "Resource", "resource": cpu}]
    if extra["conditions"]:
        status["conditions"] = extra["conditions"]
    meta.pop("annotations", None)
    if notes:
        meta["annotations"] = notes
    result = {**obj, "metadata": meta, "spec": spec}
    if status:
        result["status"] = status
    return result


_NOTES: Final = {"metrics": list, "behavior": dict, "current-metrics": list, "conditions": list}


def _json(text: Any, shape: type) -> Any:
    """The value of an annotation; None for one that a user has broken, as Kubernetes drops it."""
    try:
        value = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, shape) or (isinstance(value, list) and not all(isinstance(one, dict) for one in value)):
        return None
    return value


_CONVERSIONS: Final[Mapping[tuple[str, str], Callable[[Object], Object]]] = {
    ("v1", "events.k8s.io/v1"): lambda obj: _rename(obj, _CORE_TO_EVENTS),
    ("events.k8s.io/v1", "v1"): lambda obj: _rename(obj, _EVENTS_TO_CORE),
    ("autoscaling/v2", "autoscaling/v1"): _hpa_to_v1,
    ("autoscaling/v1", "autoscaling/v2"): _hpa_to_v2,
}
