"""Pod groups stay while pods of theirs are not done."""

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.kinds.scheduling.fields import GROUPS
from rayplane.control_plane.api.kinds.scheduling.pod_group import PROTECTION
from rayplane.control_plane.controllers.podgroupprotection import PodGroupProtectionController
from tests.controllers.cluster import Cluster


def grouped(*pods: str) -> Cluster:
    cluster = Cluster(PodGroupProtectionController())
    cluster.add(GROUPS, "g", metadata={"finalizers": [PROTECTION]}, spec={"schedulingPolicy": {"basic": {}}})
    for name in pods:
        cluster.add("pods", name, spec={"containers": [], "schedulingGroup": {"podGroupName": "g"}})
    cluster.settle()
    return cluster


def end(cluster: Cluster, name: str) -> None:
    pod = cluster.require("pods", "default", name)
    cluster.update("pods", {**pod, "status": {"phase": "Succeeded"}}, subresource="status")
    cluster.settle()


def test_a_deleted_group_waits_for_its_last_pod() -> None:
    cluster = grouped("a", "b")
    cluster.delete(GROUPS, "g", "default")
    cluster.settle()
    end(cluster, "a")
    assert meta.is_deleting(cluster.require(GROUPS, "default", "g"))
    cluster.delete("pods", "b", "default")
    cluster.settle()
    assert cluster.get(GROUPS, "default", "g") is None


def test_pods_that_are_done_hold_nothing() -> None:
    cluster = grouped("a")
    end(cluster, "a")
    cluster.delete(GROUPS, "g", "default")
    cluster.settle()
    assert cluster.get(GROUPS, "default", "g") is None


def test_a_group_without_protection_gets_it() -> None:
    cluster = Cluster(PodGroupProtectionController())
    cluster.add(GROUPS, "g", metadata={"finalizers": ["example.com/mine"]}, spec={})
    cluster.settle()
    assert meta.finalizers(cluster.require(GROUPS, "default", "g")) == ["example.com/mine", PROTECTION]
