"""Metrics for autoscalers: the questions that a metric source is answered by, and what the answers say.

Answers come from programs of users as well: whatever is not as documented is an error of that metric.
Source: metrics.k8s.io, custom.metrics.k8s.io and external.metrics.k8s.io; kube-controller-manager's messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.durations import parse_duration

RESOURCE, CUSTOM, EXTERNAL = "metrics.k8s.io", "custom.metrics.k8s.io", "external.metrics.k8s.io"
SCALE = "scale"
"""In place of a metrics API: the scale of an object that an aggregated API keeps."""
_CALLED = {RESOURCE: "resource metrics API", CUSTOM: "custom metrics API", EXTERNAL: "external metrics API"}
_WINDOW = timedelta(seconds=60)
"""Of values that do not say of which span they are the mean."""


class MetricError(Exception):
    """A metric that no number of replicas follows from; the text says why, as Kubernetes does."""


@dataclass(frozen=True, slots=True)
class Query:
    """A question to one of the three metrics APIs; `metric`: of the named object, `*` names all that are selected.

    To SCALE: `resource` is a kind, of this `version`.
    """

    api: str
    namespace: str
    resource: str
    name: str = ""
    metric: str = ""
    labels: str = ""
    """Selector of the objects, or of an external metric's series."""
    metric_labels: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The items of an answer, or why there is none."""

    items: Sequence[Any] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class PodValue:
    """A pod's value in thousandths, the mean of `window` before `stamp`."""

    milli: int
    stamp: datetime
    window: timedelta


Answers = Mapping[Query, Answer]


def resource_query(namespace: str, selector: str) -> Query:
    return Query(RESOURCE, namespace, "pods", labels=selector)


def pods_query(namespace: str, metric: str, selector: str, metric_selector: str) -> Query:
    return Query(CUSTOM, namespace, "pods", "*", metric, labels=selector, metric_labels=metric_selector)


def object_query(namespace: str, resource: str, name: str, metric: str, metric_selector: str) -> Query:
    """About one object; a namespace is asked about in no namespace."""
    within = "" if resource == "namespaces" else namespace
    return Query(CUSTOM, within, resource, name, metric, metric_labels=metric_selector)


def external_query(namespace: str, metric: str, selector: str) -> Query:
    return Query(EXTERNAL, namespace, metric, labels=selector)


def scale_query(namespace: str, api_version: str, kind: str, name: str) -> Query:
    """For the scale of an object that is kept elsewhere."""
    return Query(SCALE, namespace, kind, name, version=api_version)


def items_of(query: Query, answers: Answers) -> Sequence[Any]:
    """What was answered. Raises MetricError for a failure, or nothing."""
    answer = answers[query]
    if answer.error:
        raise MetricError(f"unable to fetch metrics from {_CALLED[query.api]}: {answer.error}")
    if not answer.items:
        raise MetricError(f"no metrics returned from {_CALLED[query.api]}")
    return answer.items


# --- values -------------------------------------------------------------------------------------


def resource_values(items: Sequence[Any], resource: str, container: str = "") -> dict[str, PodValue]:
    """What each pod, or its container of this name, uses of a resource. Pods that do not tell are left out."""
    found: dict[str, PodValue] = {}
    for item in items:
        try:
            own, used = item["metadata"], {one["name"]: one.get("usage") or {} for one in item["containers"]}
            if container and container not in used:
                text = f"container {container} not present in metrics for pod {own['namespace']}/{own['name']}"
                raise MetricError(f"failed to get container metrics: {text}")
            wanted = [used[container]] if container else list(used.values())
            if wanted and all(resource in usage for usage in wanted):
                total = sum(quantity.milli(usage[resource]) for usage in wanted)
                window = timedelta(seconds=parse_duration(item.get("window") or "0s"))
                found[own["name"]] = PodValue(total, meta.parse_time(item["timestamp"]), window)
        except _MALFORMED as e:
            raise _malformed(RESOURCE, e) from e
    return found


def pod_values(items: Sequence[Any]) -> dict[str, PodValue]:
    """A custom metric's value of each pod."""
    found: dict[str, PodValue] = {}
    for item in items:
        try:
            seconds = item.get("windowSeconds")
            window = _WINDOW if seconds is None else timedelta(seconds=seconds)
            milli = quantity.milli(item["value"])
            found[item["describedObject"]["name"]] = PodValue(milli, meta.parse_time(item["timestamp"]), window)
        except _MALFORMED as e:
            raise _malformed(CUSTOM, e) from e
    return found


def value_of(items: Sequence[Any], api: str) -> int:
    """The sum of all values, in thousandths."""
    try:
        return sum(quantity.milli(item["value"]) for item in items)
    except _MALFORMED as e:
        raise _malformed(api, e) from e


_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def _malformed(api: str, e: Exception) -> MetricError:
    return MetricError(f"the answer of the {_CALLED[api]} is not as documented: {type(e).__name__}: {e}")
