"""DaemonSets: one pod on every node that fits, and rolling updates of them."""

from __future__ import annotations

from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.pods.state import pod_is_ready
from rayplane.control_plane.controllers.daemonset import DaemonSetController
from tests.controllers.cluster import Cluster

DAEMONS = "daemonsets.apps"


def status(cluster: Cluster) -> dict[str, Any]:
    return meta.status(cluster.require(DAEMONS, "default", "agent"))


def daemons(*, nodes: int = 3, **spec: Any) -> Cluster:
    cluster = Cluster(DaemonSetController())
    for n in range(nodes):
        cluster.node(f"n{n}", metadata={"labels": {"disk": "ssd" if n else "hdd"}})
    template = {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": "a:1"}]}}
    fields = {
        "selector": {"matchLabels": {"app": "agent"}},
        "template": template,
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        **spec,
    }
    cluster.add(DAEMONS, "agent", spec=fields)
    cluster.settle()
    return cluster


def run(cluster: Cluster) -> None:
    """What scheduler and kubelets do."""
    for _ in range(40):
        before = cluster.version
        for pod in list(cluster.list("pods")):
            if meta.is_deleting(pod):
                cluster.remove_object("pods", pod)
            elif not pod_is_ready(pod):
                cluster.set_pod(cluster.place(pod, pinned(pod)), ready=True)
        cluster.settle()
        if cluster.version == before:
            return


def pinned(pod: meta.Object) -> str:
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return str(required["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])


def where(cluster: Cluster) -> list[str]:
    return sorted(map(pinned, cluster.pods()))


def test_a_daemon_on_every_node_and_on_new_ones() -> None:
    cluster = daemons()
    run(cluster)
    assert where(cluster) == ["n0", "n1", "n2"]
    assert status(cluster) == {
        "observedGeneration": 1,
        "currentNumberScheduled": 3,
        "desiredNumberScheduled": 3,
        "numberAvailable": 3,
        "numberMisscheduled": 0,
        "numberReady": 3,
        "updatedNumberScheduled": 3,
    }
    cluster.node("n3")
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0", "n1", "n2", "n3"]


def test_daemons_follow_node_labels_and_taints() -> None:
    spec = {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": "a:1"}]}
    cluster = daemons(template={"metadata": {"labels": {"app": "agent"}}, "spec": spec})
    assert where(cluster) == ["n1", "n2"]
    run(cluster)
    cluster.change("nodes", "n0", metadata={"labels": {"disk": "ssd"}})
    cluster.change("nodes", "n1", metadata={"labels": {"disk": "hdd"}})
    cluster.change("nodes", "n2", spec={"taints": [{"key": "own", "effect": "NoSchedule"}]})
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0", "n2"]  # a taint against scheduling drives nobody away
    cluster.change("nodes", "n2", spec={"taints": [{"key": "own", "effect": "NoExecute"}]})
    cluster.settle()
    assert where(cluster) == ["n0"]


def test_daemons_stay_on_lost_and_cordoned_nodes() -> None:
    cluster = daemons()
    run(cluster)
    taints = [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
    ]
    cluster.change("nodes", "n1", spec={"unschedulable": True, "taints": taints})
    cluster.settle()
    assert where(cluster) == ["n0", "n1", "n2"]


@pytest.mark.parametrize("rolling", [{"maxUnavailable": 1, "maxSurge": 0}, {"maxUnavailable": 0, "maxSurge": 1}])
def test_rolling_update_of_daemons_one_node_at_a_time(rolling: dict[str, Any]) -> None:
    cluster = daemons(updateStrategy={"type": "RollingUpdate", "rollingUpdate": rolling})
    run(cluster)
    least = 3 - rolling["maxUnavailable"]

    def check(resource: str, *_: Any) -> None:
        if resource == "pods":
            up = {pinned(p) for p in cluster.pods() if pod_is_ready(p)}
            assert len(up) >= least

    cluster.listeners.append(check)
    spec = {"containers": [{"name": "c", "image": "a:2"}]}
    cluster.change(DAEMONS, "agent", spec={"template": {"spec": spec}})
    cluster.settle()
    run(cluster)
    assert {p["spec"]["containers"][0]["image"] for p in cluster.pods()} == {"a:2"}
    assert where(cluster) == ["n0", "n1", "n2"]
    assert status(cluster)["updatedNumberScheduled"] == 3
    assert len(cluster.list("controllerrevisions.apps")) == 2


def test_failed_daemon_is_replaced() -> None:
    cluster = daemons(nodes=1)
    run(cluster)
    cluster.set_pod(cluster.pods()[0], ready=False, phase="Failed")
    cluster.settle()
    run(cluster)
    assert where(cluster) == ["n0"]
    assert "FailedDaemonPod" in cluster.reasons()
