"""Evictions against budgets: what is counted, what is refused and in which words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ApiError, Forbidden, TooManyRequests
from rayplane.control_plane.api.kinds.policy.eviction import (
    DISRUPTED_PODS_MAX,
    count_disruption,
    governing_budget,
    mark_evicted,
    needs_no_budget,
    spends_nothing,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(*, ready: bool = True, phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": str(ready)}]
    return {
        "metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}, **metadata},
        "status": {"phase": phase, "conditions": conditions},
    }


def budget(selector: Any = None, policy: str = "", namespace: str = "default", **status: Any) -> dict[str, Any]:
    spec = {"selector": {} if selector is None else selector}
    if policy:
        spec["unhealthyPodEvictionPolicy"] = policy
    return {"metadata": {"name": "b", "namespace": namespace, "generation": 1}, "spec": spec,
            "status": {"observedGeneration": 1, **status}}  # fmt: skip


def test_a_disruption_is_counted() -> None:
    counted = budget(disruptionsAllowed=2, disruptedPods={"q": "t"})
    count_disruption(counted, "p", NOW)
    assert counted["status"]["disruptionsAllowed"] == 1
    assert counted["status"]["disruptedPods"] == {"q": "t", "p": "2026-01-01T00:00:00Z"}
    assert "conditions" not in counted["status"]
    count_disruption(counted, "r", NOW)
    (condition,) = counted["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "InsufficientPods")


def failed(reason: str) -> list[dict[str, str]]:
    return [{"type": "DisruptionAllowed", "status": "False", "reason": reason, "message": "why"}]


CANNOT = "The disruption budget b does not allow evicting pods currently"
REFUSED: dict[str, tuple[dict[str, Any], str, int | None]] = {
    "not looked at yet": (
        {"observedGeneration": 0}, "The disruption budget b is still being processed by the server.", 10),
    "spent": (
        {"desiredHealthy": 2, "currentHealthy": 2}, "The disruption budget b needs 2 healthy pods and has 2 currently",
        None),
    "not reckoned": (
        {"desiredHealthy": 2, "currentHealthy": 2, "conditions": failed("SyncFailed")},
        f"{CANNOT} because it failed sync: why", None),
    "another condition": (
        {"desiredHealthy": 1, "currentHealthy": 2, "conditions": failed("Odd")}, f"{CANNOT} (Odd): why", None),
    "no condition": ({"desiredHealthy": 1, "currentHealthy": 2}, CANNOT, None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(case: str) -> None:
    status, why, retry_after = REFUSED[case]
    with pytest.raises(TooManyRequests) as refused:
        count_disruption(budget(disruptionsAllowed=0, **status), "p", NOW)
    error = refused.value
    assert error.message == "Cannot evict pod as it would violate the pod's disruption budget."
    assert error.details is not None
    assert error.details["causes"] == [{"reason": "DisruptionBudget", "message": why}]
    assert error.retry_after == retry_after


def test_states_that_no_controller_writes_are_forbidden() -> None:
    with pytest.raises(Forbidden, match=r'poddisruptionbudget\.policy "b" is forbidden: pdb disruptions allowed is n'):
        count_disruption(budget(disruptionsAllowed=-1), "p", NOW)
    many = {f"p{n}": "t" for n in range(DISRUPTED_PODS_MAX + 1)}
    with pytest.raises(Forbidden, match="DisruptedPods map too big"):
        count_disruption(budget(disruptionsAllowed=1, disruptedPods=many), "p", NOW)


def test_which_budget_counts() -> None:
    mine, other = budget(), budget(namespace="other")
    unselecting = budget(selector={"matchLabels": {"a": "c"}})
    assert governing_budget(pod(), [other, unselecting]) is None
    assert governing_budget(pod(), [other, mine, unselecting]) is mine
    with pytest.raises(ApiError, match="more than one PodDisruptionBudget") as several:
        governing_budget(pod(), [mine, budget(selector={"matchLabels": {"a": "b"}})])
    assert (several.value.code, several.value.reason) == (500, "")


@pytest.mark.parametrize(
    ("made", "free"),
    [(pod(), False), (pod(ready=False), False), (pod(phase="Pending"), True), (pod(phase="Succeeded"), True),
     (pod(phase="Failed"), True), (pod(deletionTimestamp="t"), True)],
)  # fmt: skip
def test_pods_whose_end_disrupts_nothing(made: dict[str, Any], free: bool) -> None:
    assert needs_no_budget(made) is free


@pytest.mark.parametrize(
    ("policy", "healthy", "wanted", "free"),
    [("", 2, 2, True), ("IfHealthyBudget", 2, 2, True), ("IfHealthyBudget", 1, 2, False), ("", 0, 0, False),
     ("AlwaysAllow", 0, 2, True)],
)  # fmt: skip
def test_pods_that_are_not_ready(policy: str, healthy: int, wanted: int, free: bool) -> None:
    found = budget(policy=policy, currentHealthy=healthy, desiredHealthy=wanted)
    assert spends_nothing(pod(ready=False), found) is free
    assert spends_nothing(pod(), found) is False


def test_the_mark_of_an_evicted_pod() -> None:
    marked = pod(generation=3)
    mark_evicted(marked, NOW)
    assert marked["status"]["conditions"][-1] == {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "observedGeneration": 3,
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
