"""What is said of a rule of taints: pods that have to go on account of it, that went, or would go."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.devicetainteviction import RULES, SLICES
from tests.controllers.test_resourceclaims import NAMED, Claiming, devices, tainted, tolerating


def said(cluster: Claiming) -> tuple[str, str, str]:
    condition: dict[str, Any] = meta.get_condition(cluster.require(RULES, "", "r"), "EvictionInProgress") or {}
    return condition.get("status", ""), condition.get("reason", ""), condition.get("message", "")


def ruled(effect: str, *tolerations: dict[str, Any]) -> Claiming:
    cluster = Claiming()
    cluster.add(SLICES, "s", spec=devices())
    allocation = tolerating(*tolerations)
    cluster.shared(cluster.pod("p", NAMED, node="n1"), allocation=allocation)
    cluster.settle()
    taint = tainted(timeAdded=cluster.now.stamp) | {"effect": effect}
    cluster.add(RULES, "r", spec={"deviceSelector": {"driver": "d"}, "taint": taint}, metadata={"generation": 1})
    cluster.settle()
    return cluster


def test_a_rule_says_that_pods_have_to_go_and_how_many_went() -> None:
    cluster = ruled("NoExecute", {"operator": "Exists", "tolerationSeconds": 30})
    assert said(cluster) == ("True", "PodsPendingEviction", "1 pod needs to be evicted in 1 namespace.")
    cluster.advance(31)
    cluster.advance(11)
    assert cluster.get("pods", "default", "p") is None or meta.is_deleting(cluster.require("pods", "default", "p"))
    assert said(cluster) == ("False", "Completed", "1 pod evicted since starting the controller.")


def test_a_rule_without_effect_says_once_what_it_would_do() -> None:
    cluster = ruled("None")
    words = (
        "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect "
        "was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update."
    )
    assert said(cluster) == ("False", "NoEffect", words)
    version = meta.resource_version(cluster.require(RULES, "", "r"))
    cluster.change(SLICES, "s", spec=devices(tainted()))
    cluster.advance(60)
    assert meta.resource_version(cluster.require(RULES, "", "r")) == version


@pytest.mark.parametrize(
    ("effect", "tolerations", "reason", "message"),
    [
        ("NoExecute", [{"operator": "Exists"}], "NotStarted", ""),
        ("NoSchedule", [], "OtherEffect", "Eviction only happens for the NoExecute effect."),
    ],
)
def test_a_rule_that_moves_nobody_says_so(
    effect: str, tolerations: list[dict[str, Any]], reason: str, message: str
) -> None:
    assert said(ruled(effect, *tolerations)) == ("False", reason, message)
