"""The shell and pod groups: from a PodGroup in an API to bindings and conditions in it, through restarts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.scheduler import Scheduler
from rayplane.control_plane.scheduler.config import DEFAULT_PROFILES
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import node, on
from tests.scheduler.harness import is_binding, make, quiet, until
from tests.scheduler.test_gangs import group, member


def condition(api: FakeClient, name: str = "g", kind: str = "PodGroupInitiallyScheduled") -> Object:
    return meta.get_condition(api.objects[GROUPS][f"default/{name}"], kind) or {}


def placed(api: FakeClient, prefix: str = "p") -> list[str]:
    return [key for key, one in api.objects["pods"].items() if meta.node_name(one) and f"/{prefix}" in key]


async def test_a_gang_waits_says_why_and_goes_as_a_whole(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="4"))
    for number in range(5):
        api.put("pods", member(f"p{number}"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 5)
    api.put(GROUPS, group(least=5))
    await until(lambda: condition(api))
    said = "minCount (5) cannot be satisfied: 4 scheduled, 0 remaining"
    text = f"{said}, preemption: No preemption victims found for incoming preemptor"
    assert (condition(api)["status"], condition(api)["reason"], condition(api)["message"]) == (
        "False",
        "Unschedulable",
        text,
    )
    await until(lambda: len(api.events("FailedScheduling")) == 5)
    assert set(api.events("FailedScheduling")) == {text, "0/1 nodes are available: 1 Insufficient cpu."}
    await quiet(api)
    before = api.version
    await quiet(api)
    assert api.version == before and not placed(api), "it neither tries for nothing nor holds anything"
    api.put("nodes", node("n2", cpu="1"))
    await until(lambda: len(placed(api)) == 5)
    await until(lambda: condition(api)["status"] == "True")
    assert (condition(api)["reason"], condition(api)["message"]) == ("Scheduled", "")
    api.put("pods", member("p5"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    await quiet(api)
    assert condition(api)["status"] == "True", "once it was scheduled, that stays"


async def test_a_pod_that_goes_takes_its_gang_out_of_the_queue(api: FakeClient, scheduler: Scheduler) -> None:
    api.put(GROUPS, group(least=2))
    api.put("pods", member("p0"))
    api.put("pods", member("p1"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 2)
    api.remove("pods", "default/p1")
    api.put("nodes", node("n1"))
    await quiet(api)
    assert not placed(api)
    api.put("pods", member("p2"))
    await until(lambda: len(placed(api)) == 2)


async def test_a_pod_that_is_gone_counts_no_more(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    api.put(GROUPS, group(least=3))
    api.put("pods", member("p0"))
    api.put("pods", member("p1"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 2)
    api.remove("pods", "default/p1")
    await until(lambda: scheduler.pending()[Place.GATED] == 1)
    api.put("pods", member("p2"))
    await until(lambda: sum(scheduler.pending().values()) == 2)
    await quiet(api)
    assert scheduler.pending()[Place.GATED] == 2 and not condition(api)


async def test_a_pod_that_others_bound_counts(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    api.put(GROUPS, group(least=2))
    api.put("pods", member("p0"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    api.put("pods", on("n1", member("p1")))
    await until(lambda: len(placed(api)) == 2)


async def test_a_smaller_count_lets_a_gang_in(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="2"))
    api.put(GROUPS, group(least=3))
    for number in range(3):
        api.put("pods", member(f"p{number}"))
    await until(lambda: condition(api).get("status") == "False")
    api.put(GROUPS, {**api.objects[GROUPS]["default/g"], "spec": group(least=2)["spec"]})
    await until(lambda: len(placed(api)) == 2)


async def test_two_gangs_that_compete_do_not_hold_each_other_up(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="4"))
    for name in ("left", "right"):
        api.put(GROUPS, group(name, 3))
    for number in range(3):
        for name in ("left", "right"):
            api.put("pods", member(f"{name}-{number}", name))
    await until(lambda: len(placed(api, "")) == 3)
    await quiet(api)
    first = placed(api, "")[0].partition("/")[2].partition("-")[0]
    assert len(placed(api, first)) == 3
    for key in placed(api, ""):
        api.remove("pods", key)
    await until(lambda: len(placed(api, "")) == 3)


@pytest.mark.parametrize("done", [0, 1, 2, 3])
async def test_a_scheduler_that_dies_between_two_bindings_leaves_work_that_is_finished(
    api: FakeClient, done: int
) -> None:
    """Each binding is a call of its own here; the scheduler is gone after so many."""
    api.put("nodes", node("n1", cpu="4"))
    api.put(GROUPS, group(least=3))
    for number in range(3):
        api.put("pods", member(f"p{number}"))
    seen, stuck = 0, asyncio.Event()

    async def die(operations: Any) -> None:
        nonlocal seen
        if is_binding(operations):
            if seen == done:
                stuck.set()
                await asyncio.Event().wait()
            seen += 1

    api.before_batch = die
    first = make(api, bind_batch_max=1, bind_calls_max=1)
    await first.start()
    if done < 3:
        await stuck.wait()
    else:
        await until(lambda: len(placed(api)) == 3)
    assert len(placed(api)) == done
    await first.stop()
    api.before_batch = None
    second = make(api)
    await second.start()
    try:
        await until(lambda: len(placed(api)) == 3)
        await until(lambda: condition(api).get("status") == "True" or done == 3)
    finally:
        await second.stop()


async def test_a_pod_that_could_not_be_bound_is_tried_again_by_itself(api: FakeClient) -> None:
    failures = iter([True])

    def fail(operations: Any) -> None:
        if is_binding(operations) and next(failures, False):
            raise ServiceUnavailable("away")

    api.before_batch = fail
    api.put("nodes", node("n1", cpu="3"))
    api.put(GROUPS, group(least=3))
    for number in range(3):
        api.put("pods", member(f"p{number}"))
    scheduler = make(api, bind_batch_max=1, bind_calls_max=1)
    await scheduler.start()
    try:
        await until(lambda: len(placed(api)) == 3)
    finally:
        await scheduler.stop()


async def test_a_gang_preempts_for_all_of_it_or_nobody(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="2"))
    api.put(GROUPS, group("low", 2, together=True))
    for number in range(2):
        api.put("pods", member(f"low-{number}", "low"))
    await until(lambda: len(placed(api, "low")) == 2)
    api.put(GROUPS, group("high", 3, priority=100))
    for number in range(3):
        api.put("pods", member(f"high-{number}", "high", priority=100))
    await until(lambda: condition(api, "high"))
    await quiet(api)
    assert len(placed(api, "low")) == 2 and not meta.is_deleting(api.pod("low-0")), "that would not do"
    api.put(GROUPS, {**api.objects[GROUPS]["default/high"], "spec": group("high", 2, priority=100)["spec"]})
    await until(lambda: meta.is_deleting(api.pod("low-0")) and meta.is_deleting(api.pod("low-1")))
    await until(lambda: condition(api, "low", "DisruptionTarget"))
    for target in (
        condition(api, "low", "DisruptionTarget"),
        meta.get_condition(api.pod("low-0"), "DisruptionTarget") or {},
    ):
        assert target["reason"] == "PreemptionByScheduler"
        assert target["message"] == "default-scheduler: preempting to accommodate a higher priority pod group"
    found = {family.name: family.samples for family in scheduler.collect()}
    assert found["scheduler_podgroup_preemption_attempts_total"] == {(): 1}
    assert found["scheduler_preemption_attempts_total"] == {(): 0}
    for number in range(2):
        api.remove("pods", f"default/low-{number}")
    await until(lambda: len(placed(api, "high")) == 2)


async def test_a_profile_without_the_plugin_decides_pod_by_pod(api: FakeClient) -> None:
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", member("p0"))
    api.put("pods", member("p1"))
    scheduler = make(api, profiles=tuple(replace(one, gangs=False) for one in DEFAULT_PROFILES))
    await scheduler.start()
    try:
        await until(lambda: len(placed(api)) == 1)
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        api.put("pods", {**api.pod("p1"), "metadata": {**api.pod("p1")["metadata"], "labels": {"a": "b"}}})
        await quiet(api)
        api.remove("pods", "default/p1")
        await until(lambda: not sum(scheduler.pending().values()))
    finally:
        await scheduler.stop()


async def test_attempts_are_measured(api: FakeClient, scheduler: Scheduler) -> None:
    def samples(name: str) -> Any:
        return next(f.samples for f in scheduler.collect() if f.name == name)

    api.put("nodes", node("n1", cpu="1"))
    api.put(GROUPS, group(least=2))
    api.put("pods", member("p0"))
    api.put("pods", member("p1"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 2)
    api.put("nodes", node("n2", cpu="1"))
    await until(lambda: len(placed(api)) == 2)
    attempts = samples("scheduler_podgroup_schedule_attempts_total")
    assert attempts["unschedulable", "default-scheduler"] == 1 and attempts["scheduled", "default-scheduler"] == 1
    assert sum(
        samples("scheduler_podgroup_scheduling_attempt_duration_seconds")["scheduled", "default-scheduler"].counts
    )
