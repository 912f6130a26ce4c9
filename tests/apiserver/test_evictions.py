"""The eviction subresource: budgets are counted down once for each pod, and pods know why they go."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.api import errors, meta
from rayplane.control_plane.api.meta import Object
from tests.apiserver.conftest import Stack

BUDGETS = "poddisruptionbudgets.policy"


class Evicting:
    """A user who guards pods by a budget and evicts them."""

    def __init__(self, stack: Stack) -> None:
        self.client = stack.client()

    async def pod(self, name: str = "p", *, ready: bool = True, phase: str = "Running") -> Object:
        metadata = {"name": name, "namespace": "default", "labels": {"a": "b"}}
        containers = [{"name": "c", "image": "nginx"}]
        await self.client.create("pods", {"metadata": metadata, "spec": {"containers": containers, "nodeName": "n1"}})
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": str(ready)}]}
        return await self.client.patch("pods", name, "default", {"status": status}, subresource="status")

    async def budget(self, name: str = "b", *, policy: str | None = None, **status: Any) -> None:
        spec: dict[str, Any] = {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}
        if policy:
            spec["unhealthyPodEvictionPolicy"] = policy
        await self.client.create(BUDGETS, {"metadata": {"name": name, "namespace": "default"}, "spec": spec})
        known = {"observedGeneration": 1, **status}
        await self.client.patch(BUDGETS, name, "default", {"status": known}, subresource="status")

    async def evict(self, name: str = "p", **options: Any) -> Object | errors.ApiError:
        eviction = {"metadata": {"name": name, "namespace": "default"}}
        if options:
            eviction["deleteOptions"] = options
        try:
            return await self.client.create("pods", eviction, subresource="eviction")
        except errors.ApiError as e:
            return e

    async def status(self) -> dict[str, Any]:
        return meta.status(await self.client.get(BUDGETS, "b", "default"))

    async def is_going(self, name: str = "p") -> bool:
        try:
            return meta.is_deleting(await self.client.get("pods", name, "default"))
        except errors.NotFound:
            return True


@pytest.fixture
def evicting(stack: Stack) -> Evicting:
    return Evicting(stack)


async def test_an_eviction_spends_the_budget_and_marks_the_pod(evicting: Evicting) -> None:
    await evicting.pod()
    await evicting.budget(disruptionsAllowed=1, currentHealthy=2, desiredHealthy=1, expectedPods=2)
    done = await evicting.evict()
    assert isinstance(done, dict) and done["status"] == "Success"
    pod = await evicting.client.get("pods", "p", "default")
    assert pod["metadata"]["deletionTimestamp"]
    condition = meta.get_condition(pod, "DisruptionTarget")
    assert condition is not None and condition["reason"] == "EvictionByEvictionAPI"
    assert (condition["status"], condition["message"]) == ("True", "Eviction API: evicting")
    status = await evicting.status()
    assert status["disruptionsAllowed"] == 0
    assert list(status["disruptedPods"]) == ["p"]
    assert meta.get_condition(status["conditions"], "DisruptionAllowed")["reason"] == "InsufficientPods"  # type: ignore[index]


async def test_a_spent_budget_refuses(evicting: Evicting) -> None:
    await evicting.pod()
    await evicting.budget(currentHealthy=1, desiredHealthy=1, expectedPods=1)
    refused = await evicting.evict()
    assert isinstance(refused, errors.TooManyRequests)
    assert refused.message == "Cannot evict pod as it would violate the pod's disruption budget."
    why = "The disruption budget b needs 1 healthy pods and has 1 currently"
    assert refused.details is not None
    assert refused.details["causes"] == [{"reason": "DisruptionBudget", "message": why}]
    assert not await evicting.is_going()


async def test_a_budget_that_nobody_has_looked_at_refuses(evicting: Evicting) -> None:
    await evicting.pod()
    await evicting.budget(observedGeneration=0, disruptionsAllowed=3)
    refused = await evicting.evict()
    assert isinstance(refused, errors.TooManyRequests) and refused.retry_after == 10


async def test_two_budgets_of_a_pod_are_an_error(evicting: Evicting) -> None:
    await evicting.pod()
    for name in ("a", "b"):
        await evicting.budget(name, disruptionsAllowed=1)
    refused = await evicting.evict()
    assert isinstance(refused, errors.ApiError) and refused.code == 500
    assert refused.message.startswith("This pod has more than one PodDisruptionBudget, which the eviction subresource")
    assert not await evicting.is_going()


async def test_a_budget_is_never_overspent(evicting: Evicting) -> None:
    names = [f"p{n}" for n in range(8)]
    for name in names:
        await evicting.pod(name)
    await evicting.budget(disruptionsAllowed=3, currentHealthy=8, desiredHealthy=5, expectedPods=8)
    done = await asyncio.gather(*(evicting.evict(name) for name in names))
    assert sum(isinstance(answer, dict) for answer in done) == 3
    assert all(isinstance(answer, dict | errors.TooManyRequests) for answer in done)
    assert [await evicting.is_going(name) for name in names].count(True) == 3
    assert len((await evicting.status())["disruptedPods"]) == 3


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
async def test_pods_that_do_not_run_need_no_budget(evicting: Evicting, phase: str) -> None:
    await evicting.pod(phase=phase, ready=False)
    await evicting.budget()
    assert isinstance(await evicting.evict(), dict)
    assert await evicting.is_going()
    assert "disruptedPods" not in await evicting.status()


@pytest.mark.parametrize(
    ("policy", "healthy", "goes"),
    [(None, 1, True), (None, 0, False), ("IfHealthyBudget", 0, False), ("AlwaysAllow", 0, True)],
)
async def test_pods_that_are_not_ready(evicting: Evicting, policy: str | None, healthy: int, goes: bool) -> None:
    await evicting.pod(ready=False)
    await evicting.budget(policy=policy, currentHealthy=healthy, desiredHealthy=1, expectedPods=2)
    assert isinstance(await evicting.evict(), dict) is goes
    assert await evicting.is_going() is goes
    assert "disruptedPods" not in await evicting.status()


async def test_a_dry_run_changes_nothing(evicting: Evicting) -> None:
    before = await evicting.pod()
    await evicting.budget(disruptionsAllowed=1, currentHealthy=2, desiredHealthy=1, expectedPods=2)
    assert isinstance(await evicting.evict(dryRun=["All"]), dict)
    assert await evicting.client.get("pods", "p", "default") == before
    assert (await evicting.status())["disruptionsAllowed"] == 1


async def test_a_dry_run_is_refused_as_the_real_one(evicting: Evicting) -> None:
    await evicting.pod()
    await evicting.budget(currentHealthy=1, desiredHealthy=1, expectedPods=1)
    assert isinstance(await evicting.evict(dryRun=["All"]), errors.TooManyRequests)


async def test_preconditions(evicting: Evicting) -> None:
    pod = await evicting.pod()
    other = await evicting.evict(preconditions={"uid": "another"})
    assert isinstance(other, errors.Conflict) and "the UID in the precondition (another)" in other.message
    older = await evicting.evict(preconditions={"resourceVersion": "1"})
    assert isinstance(older, errors.Conflict) and "the ResourceVersion in the precondition (1)" in older.message
    assert await evicting.client.get("pods", "p", "default") == pod
    version = {"uid": meta.uid(pod), "resourceVersion": meta.resource_version(pod)}
    assert isinstance(await evicting.evict(preconditions=version, gracePeriodSeconds=7), dict)
    assert (await evicting.client.get("pods", "p", "default"))["metadata"]["deletionGracePeriodSeconds"] == 7


async def test_a_pod_that_is_not_there(evicting: Evicting) -> None:
    assert isinstance(await evicting.evict("nobody"), errors.NotFound)
