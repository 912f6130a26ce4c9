"""Autoscalers whose targets aggregated APIs keep: their scales are asked for, and set, through those."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.controllers.autoscaling.metrics import RESOURCE, SCALE, Answer
from tests.controllers.test_autoscaling import Scaled

FLEET = {"apiVersion": "ext.example.com/v1", "kind": "Fleet"}


def scale(replicas: Any = 1, selector: str = "app=web") -> dict[str, Any]:
    own = {"name": "web", "namespace": "default", "uid": "u"}
    return {"metadata": own, "spec": {"replicas": replicas}, "status": {"replicas": replicas, "selector": selector}}


def test_a_target_that_an_aggregated_api_keeps_is_scaled_there() -> None:
    cluster = Scaled()
    cluster.pods_with("80m", "90m")
    cluster.answers[SCALE] = Answer([scale(2)])
    cluster.hpa(ref=FLEET)
    cluster.look()
    assert cluster.elsewhere == [("ext.example.com/v1", "Fleet", "web", 2, 4)]
    assert [(query.api, query.resource) for query in cluster.asked][:2] == [(SCALE, "Fleet"), (RESOURCE, "pods")]
    assert cluster.condition("AbleToScale")[1] == "SucceededRescale"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(), 'no matches for kind "Fleet" in group "ext.example.com"'),
        (Answer(error="bad status from https://x: 404"), "bad status from https://x: 404"),
        (Answer([{"metadata": {"name": "web"}, "spec": {"replicas": "many"}}]), "the answer is no Scale"),
        (Answer([{"metadata": None}]), "the answer is no Scale"),
        (Answer(["text"]), "the answer is no Scale"),
    ],
)
def test_a_scale_that_is_not_to_be_had_elsewhere_says_why(answer: Answer, why: str) -> None:
    cluster = Scaled()
    cluster.answers[SCALE] = answer
    cluster.hpa(ref=FLEET)
    cluster.look()
    assert not cluster.elsewhere
    assert cluster.condition("AbleToScale")[1:] == (
        "FailedGetScale",
        f"the HPA controller was unable to get the target's current scale: {why}",
    )
