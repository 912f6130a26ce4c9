"""What a node has to have before it is given a pod: the features that it declares, and the drivers of its volumes."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api.pods.declared_features import DECLARED
from rayplane.control_plane.scheduler import Scheduler
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import World, claim, node, pod, storage_class, volume
from tests.scheduler.harness import node_of, quiet, until

CSI_NODES, DRIVERS = "csinodes.storage.k8s.io", "csidrivers.storage.k8s.io"
ATTACHMENTS = "volumeattachments.storage.k8s.io"
MISSING = "d CSI driver is not installed on the node"
RULE = {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [7]}}


def demanding(name: str = "p") -> dict[str, Any]:
    made = pod(name)
    made["spec"]["containers"][0] |= {"restartPolicy": "Never", "restartPolicyRules": [RULE]}
    return made


def declaring(name: str, *features: str) -> dict[str, Any]:
    made = node(name)
    made["status"]["declaredFeatures"] = [*features]
    return made


def test_a_pod_goes_where_its_features_are_declared() -> None:
    world = World(declaring("a", "Other"), declaring("b", *DECLARED), node("c"))
    assert world.place(demanding()) == "b"
    assert world.place(pod("q")) in ("a", "b", "c")
    world = World(declaring("a", "Other"), node("b"))
    assert "2 node(s) didn't match Pod's required features" in world.fail(demanding())


async def test_a_feature_that_a_node_declares_later_wakes_the_pod(api: FakeClient, scheduler: Scheduler) -> None:
    api.put("nodes", node("n1"))
    api.put("pods", demanding())
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    changed = declaring("n1", *DECLARED)
    changed["metadata"]["labels"]["also"] = "changed"  # more than one thing at once
    api.put("nodes", changed)
    await until(lambda: node_of(api, "p") == "n1")


def drivers_of(name: str, *drivers: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"drivers": [{"name": d, "nodeID": name} for d in drivers]}}


def driver(*, strict: bool) -> dict[str, Any]:
    return {"metadata": {"name": "d"}, "spec": {"preventPodSchedulingIfMissing": strict}}


def of_driver() -> dict[str, Any]:
    made = volume("pv")
    made["spec"] |= {
        "csi": {"driver": "d", "volumeHandle": "h"},
        "claimRef": {"namespace": "default", "name": "data"},
    }
    return made


async def test_a_driver_may_want_to_be_there_before_its_volumes(api: FakeClient, scheduler: Scheduler) -> None:
    api.put(DRIVERS, driver(strict=True))
    api.put("storageclasses.storage.k8s.io", storage_class("standard", provisioner="d"))
    api.put("persistentvolumes", of_driver())
    api.put("persistentvolumeclaims", claim("data", volume="pv"))
    api.put("nodes", node("n1"))
    api.put(CSI_NODES, drivers_of("n1", "other"))
    api.put("nodes", node("n2"))
    api.put("pods", pod("p", claims=("data",)))
    api.put("pods", pod("free"))
    await until(lambda: node_of(api, "free"))
    await until(lambda: any(MISSING in said for said in api.events("FailedScheduling")))
    assert f"2 {MISSING}" in api.events("FailedScheduling")[0]
    await quiet(api)
    assert not node_of(api, "p")
    api.put(CSI_NODES, drivers_of("n1", "other", "d"))
    await until(lambda: node_of(api, "p") == "n1")


async def test_a_volume_without_a_pod_counts_for_its_driver_until_it_is_detached(
    api: FakeClient, scheduler: Scheduler
) -> None:
    def limit(count: int) -> None:
        limited = drivers_of("n1", "d")
        limited["spec"]["drivers"][0]["allocatable"] = {"count": count}
        api.put(CSI_NODES, limited)

    limit(0)
    api.put("nodes", node("n1"))
    for number, name in enumerate(("old", "new")):
        made = volume(name)
        made["spec"] |= {
            "csi": {"driver": "d", "volumeHandle": name},
            "claimRef": {"namespace": "default", "name": f"data-{number}"},
        }
        api.put("persistentvolumes", made)
        api.put("persistentvolumeclaims", claim(f"data-{number}", volume=name))
    spec = {"attacher": "d", "nodeName": "n1", "source": {"persistentVolumeName": "old"}}
    api.put(ATTACHMENTS, {"metadata": {"name": "a"}, "spec": spec})
    api.put("pods", pod("q", claims=("data-1",)))
    await until(lambda: any("exceed max volume count" in said for said in api.events("FailedScheduling")))
    api.put("pods", pod("p", claims=("data-0",)))  # for which it is attached
    await until(lambda: node_of(api, "p") == "n1")
    limit(1)
    await quiet(api)
    assert not node_of(api, "q"), "there is one already"
    api.remove("pods", "default/p")
    await quiet(api)
    assert not node_of(api, "q")
    api.remove(ATTACHMENTS, "a")
    await until(lambda: node_of(api, "q") == "n1")


@pytest.mark.parametrize("by", ["changed", "gone"])
async def test_a_driver_that_wants_it_no_more_wakes_the_pod(api: FakeClient, scheduler: Scheduler, by: str) -> None:
    api.put(DRIVERS, driver(strict=True))
    api.put("persistentvolumes", of_driver())
    api.put("persistentvolumeclaims", claim("data", volume="pv"))
    api.put("nodes", node("n1"))
    api.put("pods", pod("p", claims=("data",)))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    if by == "gone":
        api.remove(DRIVERS, "d")
    else:
        api.put(DRIVERS, driver(strict=False))
    await until(lambda: node_of(api, "p") == "n1")
