"""A pod that cannot be bound at once says where it will go, and says it no more once that is not so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.device_claims import CLAIMS
from rayplane.control_plane.scheduler import Scheduler
from rayplane.control_plane.scheduler.framework import PodPlugin, State
from tests.fakes import FakeClient
from tests.scheduler.build import claim, node, on, pod, storage_class, volume
from tests.scheduler.harness import make, node_of, quiet, until
from tests.scheduler.plugged import Made
from tests.scheduler.test_devices_prepared import CLASSES, FABRIC, SLICES, says
from tests.scheduler.test_dynamic_resources import exactly, gpu, offered, user, wanted

SELECTED = "volume.kubernetes.io/selected-node"


@pytest.fixture
def api() -> FakeClient:
    found = FakeClient()
    found.put("storageclasses.storage.k8s.io", storage_class("standard"))
    found.put(CLASSES, {"metadata": {"name": "gpu"}, "spec": {"selectors": []}})
    found.put("nodes", node("n1"))
    return found


def expected(api: FakeClient, name: str = "p") -> str:
    return meta.status(api.pod(name)).get("nominatedNodeName") or ""


async def test_a_pod_that_waits_for_its_volumes_says_where_it_will_go(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", claims=("data",)))
    await until(lambda: expected(api) == "n1")
    assert not node_of(api, "p")


async def test_a_pod_that_waits_for_its_devices_says_where_it_will_go(api: FakeClient, scheduler: Scheduler) -> None:
    api.put(SLICES, offered("n1", gpu("g0", **FABRIC)))
    api.put(CLAIMS, wanted("x", exactly()))
    api.put("pods", user("p", "x"))
    await until(lambda: api.events("BindingConditionsPending"))
    assert expected(api) == "n1" and not node_of(api, "p")
    says(api, "ready")
    await until(lambda: node_of(api, "p") == "n1")


async def test_a_pod_that_waits_for_a_plugin_says_where_it_will_go(api: FakeClient, start: Made) -> None:
    gate = asyncio.Event()

    class Slow(PodPlugin):
        async def permit(self, state: State, pod: Any, node: str) -> None:
            await gate.wait()

    await start(Slow)
    api.put("pods", pod("p"))
    await until(lambda: expected(api) == "n1")
    assert not node_of(api, "p")
    gate.set()
    await until(lambda: node_of(api, "p"))


async def test_who_waits_for_nothing_is_bound_without_a_further_write(api: FakeClient, scheduler: Scheduler) -> None:
    held = claim("data", volume="pv")
    api.put("persistentvolumeclaims", held)
    made = volume("pv", on=("n1",))
    made["spec"]["claimRef"] = {"namespace": "default", "name": "data"}
    api.put("persistentvolumes", made)
    api.put("pods", pod("p", claims=("data",)))
    api.put("pods", pod("q"))
    await until(lambda: node_of(api, "p") and node_of(api, "q"))
    assert not expected(api, "p") and not expected(api, "q")


async def test_who_lost_its_node_says_so_no_more(api: FakeClient, scheduler: Scheduler) -> None:
    told: list[str] = []
    api.store.listeners.append(
        lambda resource, _kind, _old, one: (
            told.extend(c["message"] for c in meta.status(one).get("conditions") or ()) if resource == "pods" else None
        )
    )
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", claims=("data",)))
    held = api.objects["persistentvolumeclaims"]
    await until(lambda: meta.annotations(held["default/data"]).get(SELECTED) == "n1")
    await quiet(api)
    api.put("nodes", node("n1", unschedulable=True))
    await quiet(api)
    api.put("persistentvolumeclaims", claim("data"))  # whoever makes volumes wants another node for it
    await until(lambda: any("provisioning failed" in said for said in api.events("FailedScheduling")))
    await until(lambda: not expected(api))
    assert not node_of(api, "p")
    assert any("provisioning failed" in message for message in told), "its condition says why, too"


async def test_the_next_leader_goes_on_where_the_pod_was_to_go(api: FakeClient) -> None:
    one = make(api)
    await one.start()
    api.put("persistentvolumeclaims", claim("data"))
    api.put("pods", pod("p", cpu="1", claims=("data",)))
    await until(lambda: expected(api) == "n1")
    await one.stop()
    api.put("nodes", node("n2"))
    api.put("pods", on("n2", pod("other", cpu="1")))  # that is where it would go now
    other = make(api)
    await other.start()
    held = claim("data")
    meta.metadata(held).pop("annotations", None)
    api.put("persistentvolumeclaims", held)
    await until(lambda: meta.annotations(api.objects["persistentvolumeclaims"]["default/data"]).get(SELECTED))
    assert meta.annotations(api.objects["persistentvolumeclaims"]["default/data"])[SELECTED] == "n1"
    await other.stop()
