"""Metric sources of an autoscaler: what each asks, how many replicas follow, and how its failures are told.

Source: Kubernetes API reference, autoscaling/v2 MetricSpec and MetricStatus; kube-controller-manager's messages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.autoscaling.metrics import METRIC_SOURCES
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.quantity import Quantity
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.machinery.selectors import go_selector, label_selector_text
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.autoscaling.metrics import (
    CUSTOM,
    EXTERNAL,
    Answers,
    MetricError,
    Query,
    external_query,
    items_of,
    object_query,
    pod_values,
    pods_query,
    resource_query,
    resource_values,
    value_of,
)
from rayplane.control_plane.controllers.autoscaling.replicas import Counting, Proposal

_MILLI_NANO = quantity.NANO // 1000


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of a metric: replicas, the metric's name in messages, and its MetricStatus."""

    replicas: int
    name: str
    status: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Source:
    """One metric of an autoscaler. `failed`: the reason of failures; `told`: how the error of all metrics begins."""

    spec: Mapping[str, Any]
    namespace: str
    query: Query | None
    failed: str
    told: str
    reckon: Callable[[Source, Answers, Counting, int, int], Found]

    def found(self, answers: Answers, counting: Counting, current: int, status_replicas: int) -> Found:
        """Replicas by this metric. Raises MetricError."""
        return self.reckon(self, answers, counting, current, status_replicas)


def sources_of(hpa: Object, selector: str) -> list[Source]:
    """The metrics of an autoscaler whose target's pods have this selector."""
    space = meta.namespace(hpa)
    return [_source(metric, space, selector) for metric in meta.spec(hpa).get("metrics") or ()]


def _source(metric: Mapping[str, Any], space: str, selector: str) -> Source:
    kind = str(metric.get("type") or "")
    spec = metric.get(METRIC_SOURCES.get(kind, "")) or {}
    named = spec.get("metric") or {}
    name, series = named.get("name") or "", label_selector_text(named.get("selector") or {})
    if kind == "Resource":
        told = f"failed to get {spec.get('name')} resource metric value: "
        return Source(spec, space, resource_query(space, selector), "FailedGetResourceMetric", told, _resource)
    if kind == "ContainerResource":
        told = f"failed to get {spec.get('name')} container metric value: "
        query = resource_query(space, selector)
        return Source(spec, space, query, "FailedGetContainerResourceMetric", told, _container)
    if kind == "Pods":
        query = pods_query(space, name, selector, series)
        return Source(spec, space, query, "FailedGetPodsMetric", "failed to get pods metric value: ", _pods)
    if kind == "Object":
        ref = spec.get("describedObject") or {}
        query = object_query(space, _plural(ref), ref.get("name") or "", name, series)
        told = "failed to get object metric value: "
        told += f"failed to get {name} object metric: " if _is_shared(spec) else ""
        return Source(spec, space, query, "FailedGetObjectMetric", told, _object)
    if kind == "External":
        what = f"{name} external metric" if _is_shared(spec) else f"external metric {name}"
        told = f"failed to get {name} external metric value: failed to get {what}: "
        return Source(spec, space, external_query(space, name, series), "FailedGetExternalMetric", told, _external)
    return Source(metric, space, None, "InvalidMetricSourceType", "", _unknown)


def _is_shared(spec: Mapping[str, Any]) -> bool:
    """True where a target is each replica's share of one value."""
    return (spec.get("target") or {}).get("averageValue") is not None


def _plural(ref: Mapping[str, Any]) -> str:
    """The resource of an object that a metric is about, as the custom metrics API names it."""
    version, kind = ref.get("apiVersion") or "v1", ref.get("kind") or ""
    info = builtin_registry().by_kind(version, kind)
    if info is not None:
        return info.name
    group = version.rpartition("/")[0]
    # As Kubernetes guesses where nobody tells the plural.
    guessed = kind.lower() + ("es" if kind.lower().endswith("s") else "s")
    return f"{guessed}.{group}" if group else guessed


# --- what follows from each ---------------------------------------------------------------------


def _resource(source: Source, answers: Answers, counting: Counting, current: int, _: int) -> Found:
    own = source.spec.get("name") or ""
    made, name = _usage(source, answers, counting, current, own, "")
    return Found(made.replicas, name, {"type": "Resource", "resource": {"name": own, "current": _current(made)}})


def _container(source: Source, answers: Answers, counting: Counting, current: int, _: int) -> Found:
    own, container = source.spec.get("name") or "", source.spec.get("container") or ""
    made, name = _usage(source, answers, counting, current, own, container)
    told = {"name": own, "container": container, "current": _current(made)}
    return Found(made.replicas, name, {"type": "ContainerResource", "containerResource": told})


def _usage(
    source: Source, answers: Answers, counting: Counting, current: int, own: str, container: str
) -> tuple[Proposal, str]:
    target = source.spec.get("target") or {}
    mean, percent = target.get("averageValue"), target.get("averageUtilization")
    if mean is None and percent is None:
        text = "neither an average utilization target nor an average value (usage) target was set"
        raise MetricError(f"invalid resource metric source: {text}")
    assert source.query is not None
    what = f"failed to get {own} {'usage' if mean is not None else 'utilization'}: "
    try:
        items = items_of(source.query, answers)
        values = resource_values(items, own, container)
    except MetricError as e:
        raise MetricError(f"{what}unable to get metrics for resource {own}: {e}") from e
    try:
        if mean is not None:
            return counting.by_value(values, current, quantity.milli(mean), own), f"{own} resource"
        made = counting.by_utilization(values, current, int(percent or 0), own, container)
    except MetricError as e:
        raise MetricError(f"{what}{e}") from e
    kind = "container resource" if container else "resource"
    return made, f"{own} {kind} utilization (percentage of request)"


def _pods(source: Source, answers: Answers, counting: Counting, current: int, _: int) -> Found:
    metric, target = source.spec.get("metric") or {}, source.spec.get("target") or {}
    assert source.query is not None
    try:
        values = pod_values(items_of(source.query, answers))
    except MetricError as e:
        raise MetricError(f"unable to get metric {metric.get('name')}: {e}") from e
    made = counting.by_value(values, current, quantity.milli(target.get("averageValue") or 0))
    status = {"type": "Pods", "pods": {"metric": metric, "current": _current(made)}}
    return Found(made.replicas, f"pods metric {metric.get('name')}", status)


def _object(source: Source, answers: Answers, counting: Counting, current: int, status_replicas: int) -> Found:
    spec = source.spec
    metric, ref, target = spec.get("metric") or {}, spec.get("describedObject") or {}, spec.get("target") or {}
    name, kind = metric.get("name"), ref.get("kind")
    assert source.query is not None
    try:
        total = value_of(items_of(source.query, answers), CUSTOM)
    except MetricError as e:
        raise MetricError(f"unable to get metric {name}: {kind} on {source.namespace} {ref.get('name')}/{e}") from e
    made, field = _of_total(target, total, counting, current, status_replicas)
    told = {"metric": metric, "describedObject": ref, "current": {field: _text(made.milli)}}
    label = f"{kind} metric {name}" if field == "value" else f"external metric {name}({go_selector(_series(metric))})"
    return Found(made.replicas, label, {"type": "Object", "object": told})


def _external(source: Source, answers: Answers, counting: Counting, current: int, status_replicas: int) -> Found:
    metric, target = source.spec.get("metric") or {}, source.spec.get("target") or {}
    name, series = metric.get("name"), go_selector(_series(metric))
    assert source.query is not None
    try:
        total = value_of(items_of(source.query, answers), EXTERNAL)
    except MetricError as e:
        raise MetricError(f"unable to get external metric {source.namespace}/{name}/{series}: {e}") from e
    made, field = _of_total(target, total, counting, current, status_replicas)
    told = {"metric": metric, "current": {field: _text(made.milli)}}
    return Found(made.replicas, f"external metric {name}({series})", {"type": "External", "external": told})


def _of_total(
    target: Mapping[str, Any], total: int, counting: Counting, current: int, status_replicas: int
) -> tuple[Proposal, str]:
    """Replicas by one value, as a whole or for each of them; and the field of the status that tells it."""
    if target.get("averageValue") is not None:
        made = counting.by_share(total, status_replicas, quantity.milli(target["averageValue"]))
        return made, "averageValue"
    if target.get("value") is None:
        raise MetricError("invalid metric source: neither a value target nor an average value target was set")
    return counting.by_total(total, current, quantity.milli(target["value"])), "value"


def _unknown(source: Source, *_: Any) -> Found:
    raise MetricError(f'unknown metric source type "{source.spec.get("type") or ""}"')


def _series(metric: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return metric.get("selector")


def _current(made: Proposal) -> dict[str, Any]:
    found: dict[str, Any] = {} if made.percent is None else {"averageUtilization": made.percent}
    return {**found, "averageValue": _text(made.milli)}


def _text(milli: int) -> str:
    return str(Quantity(milli * _MILLI_NANO))
