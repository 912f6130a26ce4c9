"""Claims and volumes in use: they stay while somebody may have them."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.volumeprotection import ProtectionController
from tests.controllers.cluster import Cluster

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
NAMED = {"persistentVolumeClaim": {"claimName": "p-v"}}
MADE: dict[str, Any] = {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}}


def cluster_with(volume: dict[str, Any], *, node: str = "n1", owned: bool = True, phase: str = "Running") -> Cluster:
    """A pod `p` with a claim `p-v`, of the pod's own where the volume is ephemeral."""
    found = Cluster(ProtectionController(resource=CLAIMS), ProtectionController(resource=VOLUMES))
    spec = {"volumes": [{"name": "v", **volume}], "containers": [], **({"nodeName": node} if node else {})}
    pod = found.add("pods", "p", metadata={"finalizers": ["x/kept"]}, spec=spec, status={"phase": phase})
    owners = [meta.owner_reference(pod)] if owned and volume is MADE else []
    found.add(CLAIMS, "p-v", metadata={"ownerReferences": owners}, spec={})
    found.settle()
    return found


def is_left(cluster: Cluster, resource: str = CLAIMS, name: str = "p-v") -> bool:
    space = "default" if resource == CLAIMS else ""
    cluster.delete_object(resource, cluster.require(resource, space, name))
    cluster.settle()
    return cluster.get(resource, space, name) is not None


USES: dict[str, tuple[dict[str, Any], bool]] = {
    "by name": ({"volume": NAMED}, True),
    "by name, ended": ({"volume": NAMED, "phase": "Succeeded"}, True),
    "by name, on no node": ({"volume": NAMED, "node": ""}, False),
    "made for it": ({"volume": MADE}, True),
    "made for it, ended": ({"volume": MADE, "phase": "Failed"}, True),
    "somebody else's of that name": ({"volume": MADE, "owned": False}, False),
}


@pytest.mark.parametrize("case", USES)
def test_a_claim_stays_while_a_pod_uses_it(case: str) -> None:
    how, stays = USES[case]
    cluster = cluster_with(**how)
    assert is_left(cluster) is stays
    cluster.remove("pods", "default/p")
    cluster.settle()
    assert cluster.get(CLAIMS, "default", "p-v") is None


@pytest.mark.parametrize(("volume", "stays"), [(NAMED, True), (MADE, False)])
def test_a_pod_that_is_only_waited_for_keeps_no_claim_of_its_own(volume: dict[str, Any], stays: bool) -> None:
    cluster = cluster_with(volume)
    cluster.delete("pods", "p", "default", grace_s=0)  # a finalizer keeps it
    assert is_left(cluster) is stays


def test_a_pod_that_no_cache_has_yet_keeps_its_claim() -> None:
    cluster = cluster_with(NAMED, node="")
    claim = cluster.require(CLAIMS, "default", "p-v")
    cluster.put(CLAIMS, {**claim, "metadata": {**claim["metadata"], "deletionTimestamp": cluster.now.stamp}})
    wanted = cluster.controllers[0].reconcile("default/p-v", cluster, cluster.now)
    cluster.place(cluster.require("pods", "default", "p"))
    assert not cluster.apply(wanted) and cluster.get(CLAIMS, "default", "p-v") is not None


@pytest.mark.parametrize(("phase", "stays"), [("Bound", True), ("Released", False)])
def test_a_volume_stays_while_it_is_bound(phase: str, stays: bool) -> None:
    cluster = Cluster(ProtectionController(resource=VOLUMES))
    cluster.add(VOLUMES, "pv", spec={}, status={"phase": phase})
    cluster.settle()
    assert is_left(cluster, VOLUMES, "pv") is stays


def unused(cluster: Cluster) -> dict[str, Any]:
    claim = cluster.require(CLAIMS, "default", "p-v")
    return meta.get_condition(claim, "Unused") or {}


def bind(cluster: Cluster, **status: Any) -> Cluster:
    claim = cluster.require(CLAIMS, "default", "p-v")
    cluster.put(CLAIMS, {**claim, "status": {"phase": "Bound", **status}})
    cluster.settle()
    return cluster


STATED: dict[str, tuple[dict[str, Any], str]] = {
    "by name": ({"volume": NAMED}, "False"),
    "by name, ended": ({"volume": NAMED, "phase": "Succeeded"}, "True"),
    "by name, on no node": ({"volume": NAMED, "node": "", "phase": "Pending"}, "False"),
    "made for it": ({"volume": MADE}, "False"),
    "made for it, on no node": ({"volume": MADE, "node": "", "phase": "Pending"}, "False"),
    "made for it, ended": ({"volume": MADE, "phase": "Failed"}, "True"),
    "somebody else's of that name": ({"volume": MADE, "owned": False}, "True"),
}


@pytest.mark.parametrize("case", STATED)
def test_a_bound_claim_says_whether_a_pod_uses_it(case: str) -> None:
    how, value = STATED[case]
    cluster = cluster_with(**how)
    assert not unused(cluster)  # it has no volume
    assert unused(bind(cluster))["status"] == value


def test_since_when_a_claim_is_unused_is_told() -> None:
    cluster = bind(cluster_with(NAMED), conditions=[{"type": "Resizing", "status": "True"}])
    began = cluster.now.stamp
    used = {"type": "Unused", "status": "False", "reason": "PodUsingPVC"}
    text = "A pod is currently referencing this PVC"
    assert unused(cluster) == {**used, "message": text, "lastTransitionTime": began}
    assert meta.condition_is(cluster.require(CLAIMS, "default", "p-v"), "Resizing")
    cluster.advance(60)
    bind(cluster, conditions=[unused(cluster)], capacity={"storage": "2Gi"})  # by somebody else
    assert unused(cluster)["lastTransitionTime"] == began
    cluster.remove("pods", "default/p")
    cluster.settle()
    text = "No pods are currently referencing this PVC"
    free = {"type": "Unused", "status": "True", "reason": "NoPodsUsingPVC", "message": text}
    assert unused(cluster) == {**free, "lastTransitionTime": cluster.now.stamp}
    before = cluster.require(CLAIMS, "default", "p-v")
    cluster.advance(60)
    bind(cluster, conditions=before["status"]["conditions"])
    assert unused(cluster)["lastTransitionTime"] == unused_at(before)


def unused_at(claim: dict[str, Any]) -> str:
    return (meta.get_condition(claim, "Unused") or {})["lastTransitionTime"]


@pytest.mark.parametrize(("state", "value"), [("running", "False"), ("waiting", "True"), ("terminated", "True")])
def test_a_deleted_pod_uses_its_claim_while_a_container_runs(state: str, value: str) -> None:
    cluster = bind(cluster_with(NAMED))
    pod = cluster.require("pods", "default", "p")
    cluster.put("pods", {**pod, "status": {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}})
    cluster.delete("pods", "p", "default", grace_s=30)
    cluster.settle()
    assert unused(cluster)["status"] == "False"
    pod = cluster.require("pods", "default", "p")
    cluster.put("pods", {**pod, "status": {"phase": "Running", "containerStatuses": [{"state": {state: {}}}]}})
    cluster.settle()
    assert unused(cluster)["status"] == value


def test_a_claim_that_is_being_deleted_says_what_it_said() -> None:
    cluster = bind(cluster_with(NAMED))
    assert is_left(cluster)
    pod = cluster.require("pods", "default", "p")
    cluster.put("pods", {**pod, "status": {"phase": "Succeeded"}})
    cluster.settle()
    assert unused(cluster)["status"] == "False"
