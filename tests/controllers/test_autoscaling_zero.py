"""Autoscalers whose targets may have no replicas at all: who sleeps is woken, who was paused is not."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.controllers.autoscaling.horizontal import AUTOSCALERS
from rayplane.control_plane.controllers.autoscaling.metrics import EXTERNAL, Answer
from rayplane.control_plane.controllers.autoscaling.sources import sources_of
from tests.controllers.test_autoscaling import TIMING, Scaled, policy, rules, web

__all__ = ["web"]
JOBS = {"type": "External", "external": {"metric": {"name": "jobs"}, "target": {
    "type": "AverageValue", "averageValue": "10"}}}  # fmt: skip


def test_a_target_sleeps_while_a_metric_from_outside_wants_none_and_wakes_when_it_does(web: Scaled) -> None:
    def jobs(count: str) -> None:
        web.answers[EXTERNAL] = Answer([{"metricName": "jobs", "value": count, "timestamp": web.now.stamp}])

    web.pods_with("50m")
    jobs("15")
    web.hpa(metrics=[JOBS], minReplicas=0)
    assert web.look() == 2
    awake = ("False", "NotScaledToZero", "the HPA controller did not scale the workload to zero")
    assert web.condition("ScaledToZero") == awake
    jobs("0")
    assert web.look(2 + round(TIMING.downscale_stabilization_s / TIMING.sync_s)) == 0
    slept = ("True", "ScaledToZero", "the HPA controller scaled the workload to zero")
    assert web.condition("ScaledToZero") == slept
    web.replicas = 0  # and so says its status
    assert web.look(3) == 0 and web.condition("ScalingActive")[0] == "True"
    jobs("25")
    assert web.look(2) == 3
    assert web.condition("ScaledToZero") == awake
    assert [told.partition(";")[0] for told in web.told("SuccessfulRescale")] == [f"New size: {n}" for n in (2, 0, 3)]


def test_a_target_that_sleeps_gets_the_fewest_when_it_may_not_any_more(web: Scaled) -> None:
    web.answers[EXTERNAL] = Answer([{"metricName": "jobs", "value": "0", "timestamp": web.now.stamp}])
    web.pods_with("50m")
    behavior = {"scaleUp": rules(policy("Pods", 4)), "scaleDown": rules(policy("Percent", 100))}
    web.hpa(metrics=[JOBS], minReplicas=0, behavior=behavior)
    assert web.look(2 + round(TIMING.downscale_stabilization_s / TIMING.sync_s)) == 0
    web.replicas = 0
    web.change(AUTOSCALERS, "web", spec={"minReplicas": 2})
    assert web.look(2) == 2


def test_a_target_that_somebody_woke_and_paused_is_not_woken_again(web: Scaled) -> None:
    web.answers[EXTERNAL] = Answer([{"metricName": "jobs", "value": "0", "timestamp": web.now.stamp}])
    web.pods_with("50m")
    web.hpa(metrics=[JOBS], minReplicas=0)
    assert web.look(2 + round(TIMING.downscale_stabilization_s / TIMING.sync_s)) == 0
    web.answers[EXTERNAL] = Answer([{"metricName": "jobs", "value": "30", "timestamp": web.now.stamp}])
    web.replicas = 3  # by hand, as many as the metric wants: there is nothing to scale
    assert web.look(2) == 3
    web.replicas = 0
    assert web.look(3) == 0
    assert web.condition("ScalingActive")[1] == "ScalingDisabled"


def test_a_target_that_somebody_paused_is_not_woken(web: Scaled) -> None:
    web.answers[EXTERNAL] = Answer([{"metricName": "jobs", "value": "50", "timestamp": web.now.stamp}])
    web.hpa(metrics=[JOBS], minReplicas=0)
    assert web.look(3) == 0
    assert web.condition("ScalingActive")[1] == "ScalingDisabled"


@pytest.mark.parametrize(("selector", "asked"), [({}, ""), ({"selector": {"matchLabels": {"q": "a"}}}, "q=a")])
def test_an_adapter_is_asked_for_series_by_a_selector_only_where_there_is_one(selector: Any, asked: str) -> None:
    metric = {"metric": {"name": "jobs", **selector}, "target": {"type": "AverageValue", "averageValue": "1"}}
    metrics = [{"type": "External", "external": metric}, {"type": "Pods", "pods": metric}]
    external, pods = sources_of({"metadata": {"namespace": "n"}, "spec": {"metrics": metrics}}, "app=web")
    assert external.query is not None and external.query.labels == asked
    assert pods.query is not None and (pods.query.labels, pods.query.metric_labels) == ("app=web", asked)
