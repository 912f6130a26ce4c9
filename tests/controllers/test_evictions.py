"""Taint-based eviction and garbage of pods: whose time runs, from when, who is reprieved, what a pod's status says."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.podgc import PodGCController
from rayplane.control_plane.controllers.tainteviction import TaintEvictionController
from tests.controllers.cluster import Cluster


def taint(key: str, effect: str = "NoExecute", **fields: Any) -> Object:
    return {"key": key, "effect": effect, **fields}


def toleration(key: str, seconds: int | None = None) -> Object:
    found: Object = {"key": key, "operator": "Exists", "effect": "NoExecute"}
    return found if seconds is None else {**found, "tolerationSeconds": seconds}


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(TaintEvictionController(Timing()), PodGCController(Timing(), terminated_max=3))
    for name in ("n1", "n2"):
        found.node(name)
    found.settle()
    return found


def pod(cluster: Cluster, name: str, *tolerations: Object, on: str = "n1", **metadata: Any) -> Object:
    made = cluster.add("pods", name, metadata=metadata, spec={"nodeName": on, "tolerations": list(tolerations)})
    return cluster.set_pod(made, ready=True)


def is_leaving(cluster: Cluster, name: str) -> bool:
    found = cluster.get("pods", "default", name)
    return found is None or meta.is_deleting(found)


def pods(cluster: Cluster) -> list[str]:
    return sorted(meta.name(p) for p in cluster.list("pods"))


def target_of(cluster: Cluster, name: str) -> tuple[str, str]:
    found = meta.get_condition(cluster.require("pods", "default", name), "DisruptionTarget") or {}
    assert found["status"] == "True"
    assert found["observedGeneration"] == 1  # which its deletion makes another
    return found["reason"], found["message"]


# --- eviction -----------------------------------------------------------------------------------


def test_of_several_taints_the_shortest_toleration_counts(cluster: Cluster) -> None:
    pod(cluster, "p", toleration("a", 20), toleration("b", 8))
    cluster.change("nodes", "n1", spec={"taints": [taint("a"), taint("b")]})
    cluster.advance(7)
    assert not is_leaving(cluster, "p")
    cluster.advance(2)
    assert is_leaving(cluster, "p")
    assert target_of(cluster, "p") == ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
    assert meta.condition_is(cluster.require("pods", "default", "p"), "Ready")  # which is for its kubelet to change
    assert cluster.events == [("p", "TaintManagerEviction", "Marking for deletion Pod default/p")]


def test_the_first_toleration_that_fits_a_taint_counts(cluster: Cluster) -> None:
    pod(cluster, "forever", toleration("a"), toleration("a", 1))
    pod(cluster, "soon", toleration("a", 1), toleration("a"))
    cluster.change("nodes", "n1", spec={"taints": [taint("a")]})
    cluster.advance(30)
    assert (is_leaving(cluster, "forever"), is_leaving(cluster, "soon")) == (False, True)


@pytest.mark.parametrize("seconds", [0, -5])
def test_a_toleration_for_no_time_is_none(cluster: Cluster, seconds: int) -> None:
    pod(cluster, "p", toleration("a", seconds))
    cluster.change("nodes", "n1", spec={"taints": [taint("a")]})
    cluster.settle()
    assert is_leaving(cluster, "p")


def test_who_comes_late_has_the_whole_time(cluster: Cluster) -> None:
    cluster.change("nodes", "n1", spec={"taints": [taint("a", timeAdded=cluster.now.stamp)]})
    cluster.advance(60)
    pod(cluster, "p", toleration("a", 10))
    cluster.advance(9)
    assert not is_leaving(cluster, "p")
    cluster.advance(2)
    assert is_leaving(cluster, "p")


def test_a_taint_that_goes_reprieves_and_an_event_says_so(cluster: Cluster) -> None:
    pod(cluster, "p", toleration("a", 10))
    pod(cluster, "forever", toleration("a"))
    cluster.change("nodes", "n1", spec={"taints": [taint("a")]})
    cluster.advance(5)
    cluster.change("nodes", "n1", spec={"taints": None})
    cluster.advance(30)
    assert not is_leaving(cluster, "p")
    assert cluster.events == [("p", "TaintManagerEviction", "Cancelling deletion of Pod default/p")]
    # The same taint once more is a new one.
    cluster.change("nodes", "n1", spec={"taints": [taint("a")]})
    cluster.advance(9)
    assert not is_leaving(cluster, "p")
    cluster.advance(2)
    assert is_leaving(cluster, "p")


def test_other_effects_evict_nobody(cluster: Cluster) -> None:
    pod(cluster, "p")
    cluster.change("nodes", "n1", spec={"taints": [taint("a", "NoSchedule"), taint("b", "PreferNoSchedule")]})
    cluster.advance(60)
    assert not is_leaving(cluster, "p")


# --- garbage ------------------------------------------------------------------------------------


def test_orphans_are_marked_failed_after_a_quarantine(cluster: Cluster) -> None:
    pod(cluster, "p", finalizers=["example.org/wait"])
    pod(cluster, "free")
    node = cluster.require("nodes", "", "n1")
    cluster.remove_object("nodes", node)
    cluster.advance(1.5)
    assert pods(cluster) == ["free", "p"]
    assert not is_leaving(cluster, "p")
    cluster.advance(5)
    assert pods(cluster) == ["p"]
    assert target_of(cluster, "p") == ("DeletionByPodGC", "PodGC: node no longer exists")
    assert meta.status(cluster.require("pods", "default", "p"))["phase"] == "Failed"


def test_a_node_that_is_made_anew_within_the_quarantine_keeps_its_pods(cluster: Cluster) -> None:
    pod(cluster, "p")
    for _ in range(3):
        cluster.remove_object("nodes", cluster.require("nodes", "", "n1"))
        cluster.advance(1.5)
        cluster.node("n1")
        cluster.advance(1.5)
    assert pods(cluster) == ["p"]
    assert not is_leaving(cluster, "p")


@pytest.mark.parametrize("effect", ["NoExecute", "NoSchedule"])
def test_terminating_pods_of_a_node_out_of_service_are_forced_out(cluster: Cluster, effect: str) -> None:
    made = pod(cluster, "p", toleration("node.kubernetes.io/out-of-service"))
    cluster.delete_object("pods", made)
    cluster.change("nodes", "n1", spec={"taints": [taint("node.kubernetes.io/out-of-service", effect)]})
    cluster.advance(10)
    assert pods(cluster) == ["p"]  # the node says that it is ready
    report = {"type": "Ready", "status": "Unknown", "lastTransitionTime": cluster.now.stamp}
    cluster.change("nodes", "n1", status={"conditions": [report]})
    cluster.advance(3)
    assert pods(cluster) == []


def test_of_ended_pods_only_so_many_are_kept_evicted_ones_and_old_ones_go_first(cluster: Cluster) -> None:
    for name, phase in (("a", "Succeeded"), ("b", "Failed"), ("c", "Failed"), ("d", "Succeeded"), ("e", "Failed")):
        made = pod(cluster, name)
        cluster.set_pod(made, ready=False, phase=phase)
        cluster.advance(1)
    cluster.change("pods", "d", status={"reason": "Evicted"})
    cluster.add("pods", "waits", spec={})
    cluster.advance(3)
    assert pods(cluster) == ["b", "c", "e", "waits"]


def test_all_ended_pods_are_kept_where_no_number_is_given() -> None:
    cluster = Cluster(PodGCController(Timing()))
    cluster.node("n1")
    for n in range(9):
        cluster.set_pod(pod(cluster, f"p{n}"), ready=False, phase="Succeeded")
    cluster.advance(9)
    assert len(pods(cluster)) == 9
