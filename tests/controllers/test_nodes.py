"""Nodes that stop reporting: conditions, taints, eviction, forced deletion; and their address ranges."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.nodeipam import NodeIpamController
from rayplane.control_plane.controllers.nodelifecycle import NodeLifecycleController
from rayplane.control_plane.controllers.podgc import PodGCController
from rayplane.control_plane.controllers.statefulset import StatefulSetController
from rayplane.control_plane.controllers.tainteviction import TaintEvictionController
from rayplane.control_plane.timings import FAST
from tests.controllers.cluster import Cluster
from tests.controllers.test_statefulset import create as create_statefulset

NODES = ("n1", "n2", "n3", "n4")
DEFAULT_TOLERATIONS = [
    {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
]


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster(
        NodeLifecycleController(Timing()),
        TaintEvictionController(Timing()),
        PodGCController(Timing()),
        StatefulSetController(),
    )
    for name in NODES:
        found.node(name)
    found.settle()
    return found


def node(cluster: Cluster, name: str) -> Object:
    found = cluster.get("nodes", "", name)
    assert found is not None
    return found


def ready(cluster: Cluster, name: str) -> str:
    condition = meta.get_condition(node(cluster, name), "Ready")
    assert condition
    return str(condition["status"])


def taints(cluster: Cluster, name: str) -> set[tuple[str, str]]:
    found = meta.spec(node(cluster, name)).get("taints") or []
    return {(t["key"].rpartition("/")[2], t["effect"]) for t in found}


def pod(cluster: Cluster, name: str, on: str, **spec: Any) -> Object:
    fields = {"nodeName": on, "tolerations": DEFAULT_TOLERATIONS, **spec}
    return cluster.set_pod(cluster.add("pods", name, spec=fields), ready=True)


def pods(cluster: Cluster) -> list[str]:
    return sorted(meta.name(p) for p in cluster.list("pods"))


def without(*lost: str) -> list[str]:
    return [name for name in NODES if name not in lost]


def test_heartbeats_keep_a_node_ready(cluster: Cluster) -> None:
    cluster.advance(60, heartbeats=NODES)
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    assert [taints(cluster, name) for name in NODES] == [set()] * 4


def test_a_silent_node_is_unknown_tainted_and_its_pods_not_ready(cluster: Cluster) -> None:
    pod(cluster, "a", "n1")
    cluster.advance(3.5, heartbeats=without("n1"))
    assert ready(cluster, "n1") == "True"
    cluster.advance(2, heartbeats=without("n1"))
    condition = meta.get_condition(node(cluster, "n1"), "Ready")
    assert condition
    assert condition["status"] == "Unknown"
    assert condition["reason"] == "NodeStatusUnknown"
    assert condition["message"] == "Kubelet stopped posting node status."
    assert taints(cluster, "n1") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}
    left = cluster.get("pods", "default", "a")
    assert left and not pod_is_ready(left)
    assert "NodeNotReady" in cluster.reasons()
    assert [ready(cluster, name) for name in without("n1")] == ["True"] * 3


def test_a_node_that_comes_back_loses_its_taints_and_keeps_its_pods(cluster: Cluster) -> None:
    pod(cluster, "a", "n1")
    cluster.advance(6, heartbeats=without("n1"))
    cluster.heartbeat("n1")
    report = {"type": "Ready", "status": "True", "lastTransitionTime": cluster.now.stamp}
    cluster.change("nodes", "n1", status={"conditions": [report]})
    cluster.advance(30, heartbeats=NODES)
    assert taints(cluster, "n1") == set()
    assert pods(cluster) == ["a"]
    assert not meta.is_deleting(cluster.list("pods")[0])


def test_a_kubelet_that_says_not_ready(cluster: Cluster) -> None:
    pod(cluster, "a", "n1")
    report = {"type": "Ready", "status": "False", "lastTransitionTime": cluster.now.stamp}
    cluster.change("nodes", "n1", status={"conditions": [report]})
    cluster.settle()
    assert taints(cluster, "n1") == {("not-ready", "NoSchedule"), ("not-ready", "NoExecute")}
    cluster.advance(7, heartbeats=NODES)
    assert meta.is_deleting(cluster.list("pods")[0])
    cluster.advance(60, heartbeats=NODES)
    assert pods(cluster) == ["a"]  # its kubelet is alive and will finish it


def test_a_node_that_never_reported_is_not_ready_until_it_does(cluster: Cluster) -> None:
    cluster.add("nodes", "n5", spec={"unschedulable": True})
    cluster.settle()
    assert taints(cluster, "n5") == {("not-ready", "NoSchedule"), ("unschedulable", "NoSchedule")}
    cluster.change("nodes", "n5", spec={"unschedulable": None})
    seen = []
    for _ in range(3):
        cluster.advance(1, heartbeats=NODES)
        seen.append((taints(cluster, "n5"), meta.resource_version(node(cluster, "n5"))))
    assert seen == [({("not-ready", "NoSchedule")}, seen[0][1])] * 3
    cluster.node("n6")
    report = {"type": "Ready", "status": "True", "lastTransitionTime": cluster.now.stamp}
    cluster.change("nodes", "n5", status={"conditions": [report]})
    cluster.settle()
    assert [taints(cluster, name) for name in ("n5", "n6")] == [set(), set()]


def test_a_node_that_never_reports_is_given_up(cluster: Cluster) -> None:
    cluster.add("nodes", "n5", spec={})
    cluster.advance(6, heartbeats=NODES)
    condition = meta.get_condition(node(cluster, "n5"), "Ready") or {}
    assert (condition["status"], condition["reason"]) == ("Unknown", "NodeStatusNeverUpdated")
    assert taints(cluster, "n5") == {("unreachable", "NoSchedule"), ("unreachable", "NoExecute")}


@pytest.mark.parametrize(
    ("kind", "taint"),
    [
        ("MemoryPressure", "memory-pressure"),
        ("DiskPressure", "disk-pressure"),
        ("PIDPressure", "pid-pressure"),
        ("NetworkUnavailable", "network-unavailable"),
    ],
)
def test_each_condition_has_its_taint(cluster: Cluster, kind: str, taint: str) -> None:
    before = node(cluster, "n1")["status"]["conditions"]
    for status, expected in (("True", {(taint, "NoSchedule")}), ("Unknown", set()), ("False", set())):
        cluster.change("nodes", "n1", status={"conditions": [*before, {"type": kind, "status": status}]})
        cluster.settle()
        assert taints(cluster, "n1") == expected


def test_cordon_taint_comes_and_goes_beside_taints_of_users(cluster: Cluster) -> None:
    own = {"key": "example.org/own", "effect": "NoSchedule"}
    cluster.change("nodes", "n1", spec={"unschedulable": True, "taints": [own]})
    cluster.settle()
    assert taints(cluster, "n1") == {("own", "NoSchedule"), ("unschedulable", "NoSchedule")}
    cluster.change("nodes", "n1", spec={"unschedulable": None})
    cluster.settle()
    assert taints(cluster, "n1") == {("own", "NoSchedule")}


def test_eviction_respects_tolerations(cluster: Cluster) -> None:
    pod(cluster, "default", "n1")
    pod(cluster, "none", "n1", tolerations=[])
    pod(cluster, "forever", "n1", tolerations=[{"operator": "Exists"}])
    long = [{**t, "tolerationSeconds": 60} for t in DEFAULT_TOLERATIONS]
    pod(cluster, "long", "n1", tolerations=long)
    pod(cluster, "elsewhere", "n2")
    cluster.advance(4.5, heartbeats=without("n1"))

    def leaving() -> list[str]:
        return [meta.name(p) for p in cluster.list("pods") if meta.is_deleting(p)]

    assert leaving() == ["none"]
    cluster.advance(6, heartbeats=without("n1"))
    assert leaving() == ["default", "none"]
    cluster.advance(10, heartbeats=without("n1"))
    assert pods(cluster) == ["elsewhere", "forever", "long"]  # the evicted ones are forced out
    cluster.advance(60, heartbeats=without("n1"))
    assert pods(cluster) == ["elsewhere", "forever"]
    assert "TaintManagerEviction" in cluster.reasons()


@pytest.mark.parametrize("lost", [NODES, NODES[:3]])
def test_nobody_is_evicted_while_most_nodes_seem_lost(cluster: Cluster, lost: tuple[str, ...]) -> None:
    for name in NODES:
        pod(cluster, f"on-{name}", name)
    cluster.advance(60, heartbeats=without(*lost))
    assert [ready(cluster, name) for name in lost] == ["Unknown"] * len(lost)
    assert not any(("unreachable", "NoExecute") in taints(cluster, name) for name in NODES)
    assert len(pods(cluster)) == 4
    assert not any(meta.is_deleting(p) for p in cluster.list("pods"))


def test_two_of_three_nodes_may_go_and_their_pods_move(cluster: Cluster) -> None:
    cluster.remove_object("nodes", node(cluster, "n4"))
    for name in NODES[:3]:
        pod(cluster, f"on-{name}", name)
    cluster.advance(30, heartbeats=["n3"])
    assert pods(cluster) == ["on-n3"]


def test_statefulset_pods_of_a_lost_node_start_elsewhere(cluster: Cluster) -> None:
    create_statefulset(cluster, replicas=2)
    for n, where in enumerate(("n1", "n2")):
        cluster.settle()
        made = cluster.get("pods", "default", f"db-{n}")
        assert made
        made = cluster.update("pods", {**made, "spec": {**made["spec"], "tolerations": DEFAULT_TOLERATIONS}})
        cluster.set_pod(cluster.place(made, where), ready=True)
    before = cluster.get("pods", "default", "db-0")
    cluster.advance(30, heartbeats=without("n1"))
    again = cluster.get("pods", "default", "db-0")
    assert before and again and meta.uid(again) != meta.uid(before)
    assert not meta.node_name(again)  # for the scheduler


def test_a_taint_of_an_earlier_loss_does_not_hasten_the_next() -> None:
    cluster = Cluster(PodGCController(Timing()))
    old = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "timeAdded": cluster.now.stamp}
    cluster.advance(60)
    lost = {"type": "Ready", "status": "Unknown", "lastTransitionTime": cluster.now.stamp}
    cluster.add("nodes", "n1", spec={"taints": [old]}, status={"conditions": [lost]})
    cluster.delete_object("pods", pod(cluster, "a", "n1"))
    cluster.advance(5)
    assert pods(cluster) == ["a"]
    cluster.advance(5)
    assert pods(cluster) == []


def test_pods_of_nodes_that_are_gone_are_removed(cluster: Cluster) -> None:
    pod(cluster, "a", "n1")
    pod(cluster, "b", "n2")
    cluster.remove_object("nodes", node(cluster, "n1"))
    cluster.advance(5, heartbeats=without("n1"))
    assert pods(cluster) == ["b"]


def test_a_deleted_pod_without_a_node_does_not_linger(cluster: Cluster) -> None:
    made = cluster.add("pods", "a", metadata={"finalizers": ["example.org/x"]}, spec={})
    cluster.delete_object("pods", made)
    cluster.change("pods", "a", metadata={"finalizers": None})
    cluster.advance(3, heartbeats=NODES)
    assert pods(cluster) == []


def test_address_ranges_do_not_overlap_and_are_given_once() -> None:
    cluster = Cluster(NodeIpamController(cluster_cidr="127.64.0.0/22", mask=24))
    for n in range(3):
        cluster.add("nodes", f"n{n}", spec={})
    cluster.settle()
    cidrs = {meta.name(n): n["spec"]["podCIDR"] for n in cluster.list("nodes")}
    assert cidrs == {"n0": "127.64.0.0/24", "n1": "127.64.1.0/24", "n2": "127.64.2.0/24"}
    assert cluster.list("nodes")[0]["spec"]["podCIDRs"] == ["127.64.0.0/24"]
    cluster.remove_object("nodes", cluster.list("nodes")[1])
    for n in range(3, 6):
        cluster.add("nodes", f"n{n}", spec={})
    cluster.settle()
    found = [n["spec"].get("podCIDR") for n in cluster.list("nodes")]
    assert found == ["127.64.0.0/24", "127.64.2.0/24", "127.64.3.0/24", "127.64.1.0/24", None]
    assert "CIDRNotAvailable" in cluster.reasons()


def test_address_ranges_do_not_overlap_with_those_of_another_length() -> None:
    cluster = Cluster(NodeIpamController(cluster_cidr="127.64.0.0/22", mask=25))
    for n, cidr in enumerate(("127.64.0.0/24", "127.64.2.0/26", "10.0.0.0/8", "nowhere")):
        cluster.add("nodes", f"old{n}", spec={"podCIDR": cidr})
    for n in range(5):
        cluster.add("nodes", f"n{n}", spec={})
    cluster.settle()
    found = [n["spec"].get("podCIDR") for n in cluster.list("nodes")][4:]
    assert found == ["127.64.1.0/25", "127.64.1.128/25", "127.64.2.128/25", "127.64.3.0/25", "127.64.3.128/25"]


# --- news that are late -----------------------------------------------------------------------------


def _leads(cluster: Cluster, seconds: float, *, heartbeats: Any = ()) -> None:
    """Let time pass while the controller manager renews its own lease, and hears of it."""
    for _ in range(round(seconds / 0.5)):
        name, space = "kube-controller-manager", "kube-system"
        spec = {"renewTime": str(cluster.seconds)}
        if cluster.get("leases.coordination.k8s.io", space, name) is None:
            cluster.add("leases.coordination.k8s.io", name, space, spec=spec)
        else:
            cluster.change("leases.coordination.k8s.io", name, space, spec=spec)
        for node in heartbeats:
            cluster.heartbeat(node)
        cluster.advance(0.5)


def test_nobody_is_judged_while_news_are_late_and_all_have_a_whole_grace_period_after(cluster: Cluster) -> None:
    _leads(cluster, 3, heartbeats=NODES)
    cluster.advance(30)
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    _leads(cluster, FAST.nodes.grace_s - 1)
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    _leads(cluster, 10, heartbeats=without("n1"))
    assert [ready(cluster, name) for name in NODES] == ["Unknown", "True", "True", "True"]


def test_a_silent_node_is_found_while_news_are_in_time(cluster: Cluster) -> None:
    _leads(cluster, 3, heartbeats=NODES)
    _leads(cluster, FAST.nodes.grace_s + 1, heartbeats=without("n1"))
    assert ready(cluster, "n1") == "Unknown"


def hosted(*names: str) -> Cluster:
    """Nodes of one host, heard of by the Lease of the first."""
    found = Cluster(NodeLifecycleController(Timing()))
    for name in names:
        found.node(name, metadata={"annotations": {"rayplane.io/heartbeat": names[0]}})
    found.settle()
    return found


def test_the_lease_of_one_node_keeps_all_of_its_host_ready_and_only_that_one_is_looked_at() -> None:
    cluster = hosted(*NODES)
    cluster.advance(60, heartbeats=["n1"])
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    assert {key for _, key in cluster.timers} == {"n1"}


def test_all_nodes_of_a_silent_host_are_lost_when_the_first_is_and_come_back_with_it() -> None:
    cluster = hosted(*NODES)
    cluster.advance(60, heartbeats=["n1"])
    cluster.advance(3.5)
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    cluster.advance(1)
    assert [ready(cluster, name) for name in NODES] == ["Unknown"] * 4
    # Each kubelet writes its status when it sees that it was given up.
    report = {"type": "Ready", "status": "True", "lastTransitionTime": cluster.now.stamp}
    cluster.heartbeat("n1")
    for name in NODES:
        cluster.change("nodes", name, status={"conditions": [report]})
    cluster.advance(10, heartbeats=["n1"])
    assert [ready(cluster, name) for name in NODES] == ["True"] * 4
    assert {key for _, key in cluster.timers} == {"n1"}


@pytest.mark.parametrize("how", ["the Node of the first is deleted", "it is heard of by its own Lease now"])
def test_a_node_that_nobody_stands_for_any_more_is_looked_at_itself(how: str) -> None:
    cluster = hosted(*NODES)
    cluster.advance(10, heartbeats=["n1"])
    if how.startswith("the Node"):
        cluster.delete_object("nodes", node(cluster, "n1"))
    else:
        annotated = meta.copy_for_write(node(cluster, "n2"))
        annotated["metadata"]["annotations"] = {}
        cluster.update("nodes", annotated)
    cluster.advance(10)
    assert ready(cluster, "n2") == "Unknown"


def test_nodes_that_name_each_other_are_looked_at_each() -> None:
    cluster = Cluster(NodeLifecycleController(Timing()))
    for name, lead in (("n1", "n2"), ("n2", "n1")):
        cluster.node(name, metadata={"annotations": {"rayplane.io/heartbeat": lead}})
    cluster.settle()
    cluster.advance(10)
    assert [ready(cluster, name) for name in ("n1", "n2")] == ["Unknown"] * 2


def test_labels_have_their_old_names_too() -> None:
    cluster = Cluster(NodeLifecycleController(Timing()))
    names = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "arm64"}
    cluster.node("n1", metadata={"labels": {**names, "beta.kubernetes.io/os": "plan9"}})
    cluster.node("n2", metadata={"labels": {"beta.kubernetes.io/os": "plan9"}})
    cluster.settle()
    old = {f"beta.{name}": value for name, value in names.items()}
    assert meta.labels(node(cluster, "n1")) == {**names, **old}
    assert meta.labels(node(cluster, "n2")) == {"beta.kubernetes.io/os": "plan9"}
    cluster.change("nodes", "n1", metadata={"labels": names})
    cluster.settle()
    assert meta.labels(node(cluster, "n1")) == {**names, **old}


def test_nothing_is_kept_of_a_node_whose_lease_is_renewed_once_more_after_it_has_gone() -> None:
    controller = NodeLifecycleController(Timing())
    cluster = Cluster(controller)
    cluster.node("n1")
    cluster.advance(2, heartbeats=["n1"])
    kept = deepcopy(vars(controller))
    cluster.node("n2")
    cluster.advance(2, heartbeats=["n2"])
    cluster.delete_object("nodes", node(cluster, "n2"))
    cluster.advance(1, heartbeats=["n1", "n2"])
    cluster.delete("leases.coordination.k8s.io", "n2", "kube-node-lease")
    cluster.settle()
    assert sizes(vars(controller)) == sizes(kept)


def sizes(fields: Mapping[str, Any]) -> dict[str, int]:
    return {name: len(field) for name, field in fields.items() if isinstance(field, dict)}
