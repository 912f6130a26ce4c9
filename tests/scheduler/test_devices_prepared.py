"""Devices that must be made ready: pods are bound when they are, and go elsewhere when they never will be."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS, FINALIZER, readiness
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.scheduler import Placement, Scheduler, queue
from rayplane.control_plane.scheduler.binder import Binder
from rayplane.control_plane.scheduler.config import DEFAULT_PROFILES
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.plugins.args import DynamicResourcesArgs
from rayplane.control_plane.scheduler.queue import Place
from rayplane.control_plane.scheduler.waits import DeviceWaits
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient
from tests.scheduler.build import info, node, pod
from tests.scheduler.harness import make, node_of, quiet, until
from tests.scheduler.test_dynamic_resources import DRIVER, exactly, gpu, offered, user, wanted

FABRIC: Mapping[str, Any] = {
    "bindingConditions": ["ready"],
    "bindingFailureConditions": ["broken"],
    "bindsToNode": True,
}
SLICES, CLASSES = "resourceslices.resource.k8s.io", "deviceclasses.resource.k8s.io"


@pytest.fixture
def api() -> FakeClient:
    found = FakeClient()
    found.put("nodes", node("n1"))
    found.put(CLASSES, {"metadata": {"name": "gpu"}, "spec": {"selectors": []}})
    return found


def claim(api: FakeClient, name: str = "x") -> Object:
    return api.objects[CLAIMS][f"default/{name}"]


def devices(api: FakeClient, name: str = "x") -> list[str]:
    allocation = meta.status(claim(api, name)).get("allocation") or {}
    return [one["device"] for one in (allocation.get("devices") or {}).get("results") or ()]


def says(api: FakeClient, condition: str, status: str = "True", name: str = "x") -> None:
    """The driver says something of the claim's only device."""
    one = claim(api, name)
    [device] = devices(api, name)
    told = {"type": condition, "status": status, "reason": "Why", "message": "so"}
    result = next(r for r in one["status"]["allocation"]["devices"]["results"] if r["device"] == device)
    of_device = {"driver": DRIVER, "pool": result["pool"], "device": device, "conditions": [told]}
    api.put(CLAIMS, {**one, "status": {**one["status"], "devices": [of_device]}})


async def test_a_pod_is_bound_when_its_device_is_ready_and_nobody_waits_for_it(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: devices(api) == ["g0"])
    assert FINALIZER in meta.finalizers(claim(api)) and claim(api)["status"]["allocation"]["allocationTimestamp"]
    await until(lambda: api.events("BindingConditionsPending"))
    assert api.events("BindingConditionsPending") == ["waiting for binding conditions for device on node n1"]
    api.put("pods", pod("q"))
    await until(lambda: node_of(api, "q"))
    says(api, "ready", "False")
    await quiet(api)
    assert not node_of(api, "p")
    says(api, "ready")
    await until(lambda: node_of(api, "p") == "n1")
    assert not api.events("FailedScheduling")


async def test_a_device_that_fails_is_given_back_and_the_pod_says_why_and_gets_another(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: devices(api) == ["g0"])
    api.put(SLICES, offered("n1", gpu("g1")))  # its driver takes the broken one away, too
    says(api, "broken")
    await until(lambda: node_of(api, "p") == "n1")
    assert devices(api) == ["g1"]
    said = 'running PreBind plugin "DynamicResources": claim x binding failed: reason=Why, message="so"'
    await until(lambda: api.events("FailedScheduling") == [said])
    assert not claim(api)["status"].get("devices")


async def test_a_device_that_is_not_ready_in_time_is_given_back(api: FakeClient) -> None:
    args = {**DEFAULT_PROFILES[0].args, "DynamicResources": DynamicResourcesArgs(binding_timeout_s=0.02)}
    one = make(api, profiles=(replace(DEFAULT_PROFILES[0], args=args),))
    await one.start()
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: api.events("FailedScheduling"))
    assert api.events("FailedScheduling")[0] == 'running PreBind plugin "DynamicResources": device binding timeout'
    api.put(SLICES, offered("n1", gpu("g1")))
    await until(lambda: node_of(api, "p"))
    assert devices(api) == ["g1"]
    await one.stop()


async def test_who_shares_a_claim_keeps_it_when_another_gives_it_up(api: FakeClient, scheduler: Scheduler) -> None:
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: devices(api))
    one = claim(api)
    other = {"resource": "pods", "name": "other", "uid": "uid-other"}
    api.put(CLAIMS, {**one, "status": {**one["status"], "reservedFor": [*one["status"]["reservedFor"], other]}})
    api.put("nodes", {**node("n1"), "spec": {"unschedulable": True}})
    says(api, "broken")
    await until(lambda: claim(api)["status"]["reservedFor"] == [other])
    await until(lambda: api.events("FailedScheduling"))
    await quiet(api)
    assert devices(api) == ["g0"] and not node_of(api, "p")


async def test_a_pod_that_goes_while_it_waits_is_forgotten_and_a_namesake_waits_anew(
    api: FakeClient, scheduler: Scheduler
) -> None:
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: api.events("BindingConditionsPending"))
    api.remove("pods", "default/p")
    api.put("pods", {**user("p", "x"), "metadata": {"name": "p", "namespace": "default", "uid": "again"}})
    await until(lambda: len(claim(api)["status"]["reservedFor"]) == 2)
    says(api, "ready")
    await until(lambda: node_of(api, "p") == "n1")
    assert meta.uid(api.pod("p")) == "again"


async def test_devices_where_a_pod_cannot_go_are_given_back_for_others(api: FakeClient, scheduler: Scheduler) -> None:
    """As after a binding that came to nothing: the claim has devices of a node that has no room any more."""
    api.put("nodes", node("full", cpu="100m"))
    api.put(SLICES, offered("n1", gpu("g1")))
    field = {"key": "metadata.name", "operator": "In", "values": ["full"]}
    result = {"request": "r", "driver": DRIVER, "pool": "full", "device": "g0"}
    allocation = {
        "devices": {"results": [result]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [field]}]},
    }
    status = {"allocation": allocation, "reservedFor": [{"resource": "pods", "name": "p", "uid": "uid-p"}]}
    api.put(CLAIMS, {**wanted("x", exactly()), "status": status})
    api.put("pods", user("p", "x", cpu="1"))
    await until(lambda: node_of(api, "p") == "n1")
    assert devices(api) == ["g1"]


STATES = st.sampled_from(["gone", "free", "waits", "ready", "broken"])


@given(st.lists(st.tuples(st.sampled_from("xy"), STATES), max_size=12))
def test_a_wait_ends_as_soon_as_all_claims_are_ready_or_one_is_lost(changes: list[tuple[str, str]]) -> None:
    index = DeviceIndex()
    waits = DeviceWaits(index)
    placement = Placement(info(user("p", "x", "y")), "n1", devices=("default/x", "default/y"))
    waits.add(placement, placement.devices, 1.0)
    seen: dict[str, str] = {}
    had: set[str] = set()
    settled: list[str] = []
    for name, state in changes:
        if state == "gone":
            index.remove_claim(f"default/{name}")
        else:
            index.set_claim({**wanted(name, exactly()), "status": _status(state)})
        settled += [problem for _, problem in waits.claim_changed(f"default/{name}")]
        if settled:
            break
        seen[name] = state
        had |= {name} if state in ("waits", "ready") else set()
    lost = {name for name, state in seen.items() if name in had and state in ("gone", "free")}
    if settled:
        assert not len(waits) and bool(settled[0]) == (not all(_is_ready(index, name) for name in "xy"))
    else:
        assert len(waits) and not lost and "broken" not in seen.values()
        assert not all(_is_ready(index, name) for name in "xy")


def _status(state: str) -> dict[str, Any]:
    if state == "free":
        return {}
    result = {"request": "r", "driver": DRIVER, "pool": "p", "device": "g", **FABRIC}
    told = {"ready": "ready", "broken": "broken"}.get(state, "other")
    conditions = [{"type": told, "status": "True"}]
    of_device = {"driver": DRIVER, "pool": "p", "device": "g", "conditions": conditions}
    return {"allocation": {"devices": {"results": [result]}}, "devices": [of_device]}


def _is_ready(index: DeviceIndex, name: str) -> bool:
    found = index.claims.get(f"default/{name}")
    return found is not None and bool(meta.status(found).get("allocation")) and readiness(found) == ""


async def test_a_pod_is_tried_when_its_claim_is_there_and_told_only_if_that_takes_long(
    api: FakeClient, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "KEPT_OUT_S", 3600.0)
    api.put(SLICES, offered("n1", gpu("g0")))
    api.put("pods", user("p", "x"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    api.put(CLAIMS, wanted("x", exactly()))
    await until(lambda: node_of(api, "p"))
    assert not api.events("FailedScheduling") and not api.events("NotReadyForScheduling")
    monkeypatch.setattr(queue, "KEPT_OUT_S", 0.0)
    api.put("pods", user("q", "y"))
    await until(lambda: api.events("NotReadyForScheduling"))
    await quiet(api)
    said = meta.get_condition(api.pod("q"), "PodScheduled") or {}
    assert (said["status"], said["reason"]) == ("False", "NotReadyForScheduling")
    assert said["message"] == 'resourceclaim "y" not found'
    assert not api.events("FailedScheduling")


async def test_what_a_pod_got_since_is_not_given_back(api: FakeClient) -> None:
    """A try found nothing, and what the pod had before is to be given back; meanwhile another try gave it a device."""
    env = Env(SystemClock(), random.Random(1), cast(Any, None))
    binder = Binder(cast(ApiClient, api), cast(Any, None), env)
    one = info(user("p", "x"))
    used = {"reservedFor": [{"resource": "pods", "name": "p", "uid": one.uid}]}
    before = api.put(CLAIMS, {**wanted("x", exactly()), "status": {**used, "allocation": {"devices": {}}}})
    api.put(CLAIMS, {**before, "status": {**used, "allocation": {"devices": {"results": [{"device": "g1"}]}}}})
    await binder.release_seen(one, before)
    assert devices(api) == ["g1"]
    await binder.release_seen(one, claim(api))
    assert devices(api) == []
