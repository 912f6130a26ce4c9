"""The shell: from objects in an API to bindings in it, through what can go wrong between."""

from __future__ import annotations

import asyncio
import random
from typing import Any, cast

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError, ServiceUnavailable, Timeout
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.component_base.healthz import ENDING
from rayplane.control_plane.scheduler import Scheduler, SchedulerConfig
from rayplane.control_plane.scheduler.queue import Place
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient
from tests.scheduler.build import claim, node, on, pod, storage_class, volume
from tests.scheduler.harness import is_binding, make, node_of, quiet, until


async def test_pods_are_bound_and_told(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    for number in range(300):
        api.put("pods", pod(f"p{number}", cpu="10m", memory="1Mi"))
    api.put("pods", pod("others", scheduler="my-own"))
    api.put("pods", pod("gated", schedulingGates=[{"name": "wait"}]))
    await until(lambda: sum(bool(node_of(api, f"p{i}")) for i in range(300)) == 110)
    assert not node_of(api, "others") and not node_of(api, "gated")
    await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 190)
    await until(lambda: len(api.events("Scheduled")) == 110)
    assert "Successfully assigned default/p0 to n1" in api.events("Scheduled")
    assert max(int(call.split()[1]) for call in api.calls if call.startswith("batch")) > 50, (
        "many pods travel in one call"
    )


async def test_an_unschedulable_pod_says_why_and_goes_when_a_node_comes(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    waits = pod("p", cpu="2")
    waits["metadata"]["generation"] = 2
    api.put("pods", waits)
    await until(lambda: meta.get_condition(api.objects["pods"]["default/p"], "PodScheduled"))
    condition = meta.get_condition(api.objects["pods"]["default/p"], "PodScheduled")
    assert condition is not None and condition["observedGeneration"] == 2
    assert (condition["status"], condition["reason"]) == ("False", "Unschedulable")
    text = (
        "0/1 nodes are available: 1 Insufficient cpu. "
        "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    assert condition["message"] == text
    await until(lambda: api.events("FailedScheduling"))
    assert api.events("FailedScheduling") == [text]
    await quiet(api)
    before = api.version
    await quiet(api)
    assert api.version == before, "it does not try again and again for nothing"
    api.put("nodes", node("n2", cpu="2"))
    await until(lambda: node_of(api, "p") == "n2")


async def test_events_are_told_in_the_name_of_the_profile(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    for name in ("spread-scheduler", "default-scheduler"):
        api.put("pods", pod(f"small-{name}", cpu="100m", scheduler=name))
        api.put("pods", pod(f"big-{name}", cpu="2", scheduler=name))
    await until(lambda: len(api.events("Scheduled")) == len(api.events("FailedScheduling")) == 2)
    for event in api.objects["events"].values():
        assert event["involvedObject"]["name"].endswith(event["reportingComponent"])
        assert event["source"] == {"component": event["reportingComponent"]}


async def test_a_deleted_pods_room_is_given_away(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("first", cpu="1"))
    await until(lambda: node_of(api, "first"))
    api.put("pods", pod("second", cpu="1"))
    await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
    api.remove("pods", "default/first")
    await until(lambda: node_of(api, "second"))


async def test_a_pod_that_wants_to_be_near_another_goes_when_that_one_is_placed(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put("nodes", node("n1"))
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "web"}}}
    near = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    api.put("pods", pod("follows", affinity=near))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    api.put("pods", pod("unlike"))
    await until(lambda: node_of(api, "unlike"))
    await quiet(api)
    assert scheduler.pending()[Place.UNSCHEDULABLE] == 1, "that one is nothing to it"
    api.put("pods", pod("leads", labels={"app": "web"}))
    await until(lambda: node_of(api, "follows") == "n1")


async def test_room_that_was_kept_is_given_away_when_it_is_not_wanted(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("meek", cpu="1", priority=1))
    await until(lambda: node_of(api, "meek"))
    api.put("pods", pod("vip", cpu="1", priority=100))
    await until(lambda: api.pod("vip").get("status", {}).get("nominatedNodeName"))
    api.put("pods", pod("patient", cpu="1"))
    await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 2)
    api.remove("pods", "default/vip")
    await quiet(api)
    api.remove("pods", "default/meek")
    await until(lambda: node_of(api, "patient"))


async def test_a_gated_pod_is_scheduled_when_its_last_gate_is_gone(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    api.put("pods", pod("p", schedulingGates=[{"name": "wait"}]))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    await quiet(api)
    assert not api.events("FailedScheduling"), "the API server has said why it waits"
    api.put("pods", pod("p"))
    await until(lambda: node_of(api, "p"))


async def test_a_finished_pod_holds_no_room(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", on("n1", pod("job", cpu="1")) | {"status": {"phase": "Running"}})
    api.put("pods", pod("next", cpu="1"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    api.put("pods", on("n1", pod("job", cpu="1")) | {"status": {"phase": "Succeeded"}})
    await until(lambda: node_of(api, "next"))


async def test_a_refused_binding_is_tried_again(api: FakeClient) -> None:
    failures = iter([True, True])

    def fail(operations: Any) -> None:
        if is_binding(operations) and next(failures, False):
            raise ServiceUnavailable("away")

    api.before_batch = fail
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("p", cpu="1"))
    scheduler = make(api)
    await scheduler.start()
    try:
        await until(lambda: node_of(api, "p"))
        await until(lambda: api.events("FailedScheduling"))
        assert set(api.events("FailedScheduling")) == {'running Bind plugin "DefaultBinder": away'}
    finally:
        await scheduler.stop()


@pytest.mark.parametrize("turns", [0, 50])
async def test_a_binding_without_an_answer_is_not_forgotten(api: FakeClient, turns: int) -> None:
    """The call fails after the API took it, before or after the informer shows it: the room stays taken."""
    lost = iter([True])

    async def lose(operations: Any) -> None:
        if is_binding(operations) and next(lost, False):
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ServiceUnavailable("no answer")

    api.after_batch = lose
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("p", cpu="1"))
    scheduler = make(api)
    await scheduler.start()
    try:
        await until(lambda: node_of(api, "p"))
        await quiet(api)
        api.put("pods", pod("q", cpu="1"))
        await until(lambda: scheduler.pending()[Place.UNSCHEDULABLE] == 1)
        assert not node_of(api, "q")
    finally:
        await scheduler.stop()


@pytest.mark.parametrize("error", [ServiceUnavailable("no answer"), Timeout("no answer")])
async def test_what_a_call_without_an_answer_may_have_bound_keeps_its_room(api: FakeClient, error: ApiError) -> None:
    """Neither the answer nor the informer tells that the first pod is bound, while the second looks for room."""
    lost, held = iter([True]), asyncio.Event()

    async def lose(operations: Any) -> None:
        if is_binding(operations) and next(lost, False):
            api.hold_events()
            held.set()
            raise error

    api.put("nodes", node("n1", cpu="1"))
    for name in ("p", "q"):
        api.put("pods", pod(name, cpu="1"))

    def bound() -> int:
        return sum(bool(node_of(api, name)) for name in ("p", "q"))

    api.after_batch = lose
    scheduler = make(api, bind_batch_max=1)
    await scheduler.start()
    try:
        await until(held.is_set)
        await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1 or bound() == 2)
        await quiet(api)
        api.release_events()
        await quiet(api)
        assert bound() == 1
    finally:
        await scheduler.stop()


async def test_an_event_from_before_the_binding_does_not_schedule_again(api: FakeClient, scheduler: Scheduler) -> None:
    def meanwhile(operations: Any) -> None:
        if is_binding(operations):
            api.hold_events()
            api.put("pods", pod("p", labels={"changed": "meanwhile"}))

    api.put("nodes", node("n1"))
    await until(lambda: scheduler.pending())
    api.before_batch = meanwhile
    api.put("pods", pod("p"))
    await until(lambda: node_of(api, "p") and not sum(scheduler.pending().values()))
    api.release_events(1)
    await quiet(api)
    api.release_events()
    await quiet(api)
    assert [done[:2] for done in api.operations].count(("create", "pods/binding")) == 1


async def test_a_pod_deleted_during_its_binding_leaves_nothing_behind(api: FakeClient) -> None:
    gate, arrived = asyncio.Event(), asyncio.Event()

    async def hold(operations: Any) -> None:
        if is_binding(operations) and operations[0].create.ref.name == "p":
            arrived.set()
            await gate.wait()

    api.before_batch = hold
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("p", cpu="1"))
    scheduler = make(api)
    await scheduler.start()
    try:
        await arrived.wait()
        api.remove("pods", "default/p")
        gate.set()
        api.put("pods", pod("q", cpu="1"))
        await until(lambda: node_of(api, "q"))
    finally:
        await scheduler.stop()


async def test_claims_get_their_node_first_and_the_pod_when_they_are_bound(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put("storageclasses.storage.k8s.io", storage_class("standard"))
    api.put("nodes", node("n1"))
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", claims=("data",)))
    held = api.objects["persistentvolumeclaims"]
    selected = "volume.kubernetes.io/selected-node"
    await until(lambda: meta.annotations(held["default/data"]).get(selected) == "n1")
    await quiet(api)
    assert not node_of(api, "p")
    api.put("persistentvolumeclaims", claim("data", volume="pv", **{selected: "n1"}))
    await quiet(api)
    assert not node_of(api, "p"), "the volume itself has not been seen"
    made = volume("pv", on=("n1",))
    made["spec"]["claimRef"] = {"namespace": "default", "name": "data"}
    api.put("persistentvolumes", made)
    await until(lambda: node_of(api, "p") == "n1")


async def test_failed_provisioning_sends_the_pod_elsewhere(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("storageclasses.storage.k8s.io", storage_class("standard"))
    api.put("nodes", node("n1"))
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", claims=("data",)))
    held = api.objects["persistentvolumeclaims"]
    selected = "volume.kubernetes.io/selected-node"
    await until(lambda: meta.annotations(held["default/data"]).get(selected) == "n1")
    await quiet(api)
    api.put("nodes", node("n1", unschedulable=True))
    api.put("nodes", node("n2"))
    await quiet(api)
    api.put("persistentvolumeclaims", claim("data"))
    await until(lambda: meta.annotations(held["default/data"]).get(selected) == "n2")
    await until(lambda: any("provisioning failed for PVC" in m for m in api.events("FailedScheduling")))


async def test_a_volume_that_was_made_elsewhere_sends_its_pod_there(api: FakeClient, scheduler: Scheduler) -> None:
    """As one that is made from a snapshot: where that is, whatever node was selected."""
    api.put("storageclasses.storage.k8s.io", storage_class("standard"))
    api.put("nodes", node("n1"))
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", claims=("data",)))
    held = api.objects["persistentvolumeclaims"]
    selected = "volume.kubernetes.io/selected-node"
    await until(lambda: meta.annotations(held["default/data"]).get(selected) == "n1")
    api.put("nodes", node("n2"))
    made = volume("pv", on=("n2",))
    made["spec"] |= {
        "claimRef": {"namespace": "default", "name": "data"},
        "csi": {"driver": "rayplane.io/local", "volumeHandle": "h"},
    }
    api.put("persistentvolumes", made)
    api.put("persistentvolumeclaims", claim("data", volume="pv", **{selected: "n1"}))
    await until(lambda: node_of(api, "p") == "n2")
    text = 'binding volumes: pv "pv" node affinity doesn\'t match node "n1"'
    await until(lambda: any(text in message for message in api.events("FailedScheduling")))


async def test_preemption_deletes_victims_and_takes_their_place(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1", cpu="1"))
    meek = pod("meek", cpu="1", priority=1)
    meek["metadata"]["generation"] = 3
    api.put("pods", meek)
    await until(lambda: node_of(api, "meek"))
    api.put("pods", pod("vip", cpu="1", priority=100))
    await until(lambda: meta.is_deleting(api.pod("meek")))
    target = meta.get_condition(api.pod("meek"), "DisruptionTarget") or {}
    assert target["message"] == "default-scheduler: preempting to accommodate a higher priority pod"
    assert target["observedGeneration"] == 3
    await until(lambda: api.pod("vip").get("status", {}).get("nominatedNodeName"))
    assert not node_of(api, "vip"), "its room is not free before it has ended"
    api.remove("pods", "default/meek")
    await until(lambda: node_of(api, "vip") == "n1")
    assert "nominatedNodeName" not in api.objects["pods"]["default/vip"]["status"]
    await until(lambda: api.events("Preempted"))


async def test_only_the_leader_schedules_and_another_takes_over(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    await until(lambda: scheduler.is_leader)
    env = Env(SystemClock(), random.Random(2), cast(Any, None))
    other = Scheduler(SchedulerConfig(identity="s1"), env, cast(Any, None), client=cast(ApiClient, api))
    await other.start()
    try:
        api.put("pods", pod("p"))
        await until(lambda: node_of(api, "p"))
        assert not other.is_leader
        await scheduler.stop()
        api.put("pods", pod("q"))
        await until(lambda: node_of(api, "q"))
        assert other.is_leader
    finally:
        await other.stop()


async def test_it_is_ready_once_it_has_seen_what_there_is_and_until_it_ends(api: FakeClient) -> None:
    seen, listed = asyncio.Event(), api.list

    async def slow(resource: str, *args: Any, **options: Any) -> Any:
        if resource == "pods":
            await seen.wait()
        return await listed(resource, *args, **options)

    api.list = slow  # type: ignore[method-assign]
    one = make(api)
    assert {*one.checks("readyz").values()} == {""}, "who does not lead has nothing to see"
    await one.start()
    await until(lambda: one.checks("readyz")["sched-handler-sync"])
    assert one.checks("healthz") == {"leaderElection": ""} and one.checks("livez") == {"ping": ""}
    seen.set()
    await until(lambda: not one.checks("readyz")["sched-handler-sync"])
    await one.stop()
    assert one.checks("readyz") == {"leaderElection": "", "shutdown": ENDING, "sched-handler-sync": ""}


async def test_what_a_pod_went_through_is_measured(api: FakeClient, scheduler: Scheduler) -> None:
    def samples(name: str) -> Any:
        return next(f.samples for f in scheduler.collect() if f.name == name)

    api.put("pods", pod("p"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    assert samples("scheduler_pending_pods")["unschedulable",] == 1
    api.put("nodes", node("n1"))
    await until(lambda: node_of(api, "p"))
    await quiet(api)
    assert samples("scheduler_pod_scheduling_sli_duration_seconds")["2",].counts != []
    assert sum(samples("scheduler_pod_scheduling_attempts")[()].counts) == 1
    incoming = samples("scheduler_queue_incoming_pods_total")
    assert incoming["active", "PodAdd"] == 1 and incoming["unschedulable", "ScheduleAttemptFailure"] == 1
    assert incoming["backoff", "NodeAdd"] + incoming["active", "NodeAdd"] == 1
