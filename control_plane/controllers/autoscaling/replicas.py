"""Replicas from values of metrics: how pods that are missing, not ready or too young are counted.

Numbers are thousandths, ratios floats, as in kube-controller-manager, so that the same numbers come out.
Source: Kubernetes tasks "Horizontal Pod Autoscaling" (algorithm details).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.containers import lasting
from rayplane.control_plane.api.pods.resources import (
    container_requests,
    has_pod_level_requests,
    is_pod_level,
    pod_level_requests,
)
from rayplane.control_plane.api.pods.state import pod_is_ready, pod_phase
from rayplane.control_plane.controllers.autoscaling.metrics import MetricError, PodValue
from rayplane.control_plane.controllers.core import Moment

_INT32_MAX = 2**31 - 1
_NO_PODS = "no pods returned by selector while calculating replica count"
Values = Mapping[str, PodValue]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """The distance from 1, below and above, that a ratio of use to target may have before anything is done."""

    down: float
    up: float

    def covers(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Groups:
    """Pods of a target by what their values are good for."""

    ready: int
    """Pods whose values count."""
    unready: frozenset[str]
    missing: frozenset[str]
    """Pods without a value."""
    ignored: frozenset[str]
    """Pods that are about to go, or have failed."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Replicas that a metric asks for, and what it said: in thousandths, and in percent where there is a request."""

    replicas: int
    milli: int
    percent: int | None = None


@dataclass(frozen=True, slots=True)
class Counting:
    """The pods of a target at a moment, and by which rules they are counted."""

    pods: Sequence[Object]
    now: Moment
    tolerance: Tolerance
    cpu_initialization_s: float
    initial_readiness_s: float

    # --- values of each pod ---------------------------------------------------------------------

    def by_utilization(self, values: Values, current: int, target: int, resource: str, container: str = "") -> Proposal:
        """Replicas by percents of what pods request."""
        groups = self._grouped(values, resource)
        requests = {meta.name(pod): _request(pod, resource, container) for pod in self.pods}
        known = _known(values, groups)
        ratio, percent, mean = _utilization(known, requests, target)
        rebalanced = bool(groups.unready) and ratio > 1.0
        if not rebalanced and not groups.missing:
            kept = self.tolerance.covers(ratio)
            return Proposal(current if kept else _ceil(ratio * groups.ready), mean, percent)
        if ratio < 1.0:
            # Scaling down, missing pods use all that they request, or what is aimed at where that is more.
            known |= {name: requests[name] * max(100, target) // 100 for name in groups.missing}
        elif ratio > 1.0:
            known |= dict.fromkeys(groups.missing, 0)
        if rebalanced:
            known |= dict.fromkeys(groups.unready, 0)
        again, _, _ = _utilization(known, requests, target)
        return Proposal(self._rebalanced(ratio, again, current, len(known)), mean, percent)

    def by_value(self, values: Values, current: int, target: int, resource: str = "") -> Proposal:
        """Replicas by the mean value of a pod."""
        groups = self._grouped(values, resource)
        known = _known(values, groups)
        ratio, mean = _mean(known, target)
        rebalanced = bool(groups.unready) and ratio > 1.0
        if not rebalanced and not groups.missing:
            kept = self.tolerance.covers(ratio)
            return Proposal(current if kept else _ceil(ratio * groups.ready), mean)
        if groups.missing:
            known |= dict.fromkeys(groups.missing, target if ratio < 1.0 else 0)
        if rebalanced:
            known |= dict.fromkeys(groups.unready, 0)
        again, _ = _mean(known, target)
        return Proposal(self._rebalanced(ratio, again, current, len(known)), mean)

    def _rebalanced(self, ratio: float, again: float, current: int, counted: int) -> int:
        """Replicas once missing and unready pods are counted: never the other way than the pods that are known."""
        if self.tolerance.covers(again) or (ratio < 1.0 < again) or (ratio > 1.0 > again):
            return current
        wanted = _ceil(again * counted)
        if (again < 1.0 and wanted > current) or (again > 1.0 and wanted < current):
            return current
        return wanted

    def _grouped(self, values: Values, resource: str) -> Groups:
        if not self.pods:
            raise MetricError(_NO_PODS)
        ready, unready, missing, ignored = 0, set(), set(), set()
        for pod in self.pods:
            name = meta.name(pod)
            if meta.is_deleting(pod) or pod_phase(pod) == "Failed":
                ignored.add(name)
            elif pod_phase(pod) == "Pending":
                unready.add(name)
            elif name not in values:
                missing.add(name)
            elif resource == "cpu" and self._starts(pod, values[name]):
                unready.add(name)
            else:
                ready += 1
        return Groups(ready, frozenset(unready), frozenset(missing), frozenset(ignored))

    def _starts(self, pod: Object, value: PodValue) -> bool:
        """True while a pod's use of CPU says nothing of the work it will do."""
        condition, start = meta.get_condition(pod, "Ready"), meta.status(pod).get("startTime")
        if condition is None or not start:
            return True
        unready, since = condition.get("status") == "False", condition.get("lastTransitionTime")
        changed = meta.parse_time(since) if since else meta.parse_time(start)
        if self.now.seconds_since(start) < self.cpu_initialization_s:
            return unready or value.stamp - changed < value.window
        never = changed - meta.parse_time(start) < timedelta(seconds=self.initial_readiness_s)
        return unready and never

    # --- one value ------------------------------------------------------------------------------

    def by_total(self, total: int, current: int, target: int) -> Proposal:
        """Replicas by a value that belongs to all of them."""
        ratio = _ratio(total, target)
        if not current:
            return Proposal(_ceil(ratio), total)
        if self.tolerance.covers(ratio):
            return Proposal(current, total)
        if not self.pods:
            raise MetricError(f"unable to calculate ready pods: {_NO_PODS}")
        ready = sum(pod_phase(pod) == "Running" and pod_is_ready(pod) for pod in self.pods)
        return Proposal(_ceil(ratio * ready), total)

    def by_share(self, total: int, status_replicas: int, target: int) -> Proposal:
        """Replicas by a value that they share."""
        wanted = status_replicas
        if not status_replicas or not self.tolerance.covers(_ratio(total, target * status_replicas)):
            wanted = _ceil(_ratio(total, target))
        return Proposal(wanted, math.ceil(total / max(1, status_replicas)))


def _known(values: Values, groups: Groups) -> dict[str, int]:
    known = {
        name: value.milli for name, value in values.items() if name not in groups.ignored and name not in groups.unready
    }
    if not known:
        raise MetricError("did not receive metrics for targeted pods (pods might be unready)")
    return known


def _utilization(known: Mapping[str, int], requests: Mapping[str, int], target: int) -> tuple[float, int, int]:
    """The ratio of use to target, the use in percents of all requests, and its mean in thousandths."""
    counted = [name for name in known if name in requests]
    used, requested = sum(known[name] for name in counted), sum(requests[name] for name in counted)
    if not requested:
        raise MetricError("no metrics returned matched known pods")
    percent = min(used * 100 // requested, _INT32_MAX)
    return _ratio(percent, target), percent, used // len(counted)


def _mean(known: Mapping[str, int], target: int) -> tuple[float, int]:
    mean = sum(known.values()) // len(known)
    return _ratio(mean, target), mean


def _ratio(value: int, target: int) -> float:
    if target <= 0:
        raise MetricError("the target of a metric must be greater than 0")
    return value / target


def _ceil(replicas: float) -> int:
    return min(math.ceil(replicas), _INT32_MAX)


def _request(pod: Object, resource: str, container: str) -> int:
    """What a pod requests, or its containers of this name, in thousandths."""
    spec = meta.spec(pod)
    if not container and has_pod_level_requests(spec) and is_pod_level(resource):
        amount = pod_level_requests(spec).get(resource)
        if amount is None:
            raise MetricError(f"missing pod-level request for {resource} in Pod {meta.name(pod)}")
        return quantity.milli(amount)
    total = 0
    for one in lasting(spec):
        if container in ("", one["name"]):
            amount = container_requests(one).get(resource)
            if amount is None:
                text = f"missing request for {resource} in container {one['name']} of Pod {meta.name(pod)}"
                raise MetricError(text)
            total += quantity.milli(amount)
    return total
