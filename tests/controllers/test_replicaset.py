"""ReplicaSets and ReplicationControllers: who goes first, what they say of failures, how carefully they ask."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.controllers.actions import Create, Delete
from rayplane.control_plane.controllers.core import slow_start
from rayplane.control_plane.controllers.replicaset import ReplicaSetController
from rayplane.control_plane.controllers.templates import ranked_for_deletion
from tests.controllers.cluster import Cluster

SETS, OLD_SETS = "replicasets.apps", "replicationcontrollers"
LABELS = {"app": "web"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "web:1"}]}}


def sets(replicas: int, resource: str = SETS, **spec: Any) -> Cluster:
    cluster = Cluster(ReplicaSetController(resource=resource))
    selector = LABELS if resource == OLD_SETS else {"matchLabels": LABELS}
    cluster.add(resource, "rs", spec={"replicas": replicas, "selector": selector, "template": TEMPLATE, **spec})
    return cluster


def status(cluster: Cluster, resource: str = SETS) -> dict[str, Any]:
    return meta.status(cluster.list(resource)[0])


# --- who goes first -------------------------------------------------------------------------------

READY = {"type": "Ready", "status": "True"}


def pod(uid: str, cluster: Cluster, *, node: str = "n1", phase: str = "Running", cost: str = "", **more: Any) -> Any:
    """`ready`, `age`: seconds ago. `restarts`, `sidecar`: counts."""
    ago = {k: meta.format_time(cluster.now.wall - timedelta(seconds=more[k])) for k in ("ready", "age") if k in more}
    own: dict[str, Any] = {"name": uid, "uid": uid, "creationTimestamp": ago.get("age")}
    if cost:
        own["annotations"] = {"controller.kubernetes.io/pod-deletion-cost": cost}
    found: dict[str, Any] = {"phase": phase, "conditions": []}
    if "ready" in ago:
        found["conditions"] = [{**READY, "lastTransitionTime": ago["ready"]}]
    found["containerStatuses"] = [{"name": "c", "restartCount": more.get("restarts", 0)}]
    beside = [{"name": "s", "restartCount": more.get("sidecar", 0)}, {"name": "i", "restartCount": more.get("init", 0)}]
    found["initContainerStatuses"] = beside
    inits = [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}]
    return {"metadata": own, "spec": {"nodeName": node, "initContainers": inits}, "status": found}


@pytest.mark.parametrize(
    ("goes", "stays"),
    [
        ({"node": ""}, {"phase": "Pending"}),
        ({"phase": "Pending"}, {"phase": "Unknown"}),
        ({"phase": "Unknown"}, {"phase": "Running"}),
        ({}, {"ready": 9, "cost": "-5"}),
        ({"ready": 9, "cost": "-5"}, {"ready": 9}),
        ({"ready": 9, "cost": "nonsense"}, {"ready": 9, "cost": "1"}),
        ({"ready": 9, "cost": "+7"}, {"ready": 9, "cost": "1"}),
        ({"ready": 9, "node": "crowd"}, {"ready": 2, "node": "n1"}),
        ({"ready": 3}, {"ready": 100}),
        ({"ready": 9, "restarts": 2}, {"ready": 9, "restarts": 1, "sidecar": 7}),
        ({"ready": 9, "sidecar": 2}, {"ready": 9, "init": 7}),
        ({"ready": 9, "age": 10}, {"ready": 9, "age": 100}),
        ({"restarts": 5, "ready": 1000}, {"ready": 1024}),  # about as old: one wave
    ],
)
def test_surplus_pods_are_ranked(goes: dict[str, Any], stays: dict[str, Any]) -> None:
    cluster = Cluster()
    first, second = pod("z", cluster, **goes), pod("a", cluster, **stays)
    crowd = {"crowd": 2}
    for pods in ([first, second], [second, first]):
        ranked = ranked_for_deletion(pods, companions=lambda p: crowd.get(meta.node_name(p), 1), now=cluster.now)
        assert [meta.name(p) for p in ranked] == ["z", "a"]


def test_pods_that_share_a_node_with_a_sibling_go_first() -> None:
    """Of all ReplicaSets of one Deployment: what counts is how they lie together."""
    cluster = sets(2)
    cluster.settle()
    one, two = cluster.pods()
    for each, node in ((one, "shared"), (two, "alone")):
        cluster.set_pod(cluster.place(each, node), ready=True)
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "d", "controller": True}
    cluster.change(SETS, "rs", metadata={"ownerReferences": [owner]})
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "other"}}, "template": TEMPLATE}
    other = cluster.add(SETS, "other", metadata={"ownerReferences": [owner]}, spec=spec)
    reference = [meta.owner_reference(other)]
    own = {"labels": {"app": "other"}, "ownerReferences": reference}
    cluster.add("pods", "x", metadata=own, spec={"nodeName": "shared"}, status={"phase": "Running"})
    cluster.change(SETS, "rs", spec={"replicas": 1})
    cluster.settle()
    assert [meta.node_name(p) for p in cluster.pods() if meta.name(p) != "x"] == ["alone"]


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", [SETS, OLD_SETS])
def test_refused_pods_show_in_the_status_and_are_asked_for_with_care(resource: str) -> None:
    cluster = sets(100, resource)
    asked = 0

    def admit(action: Any) -> None:
        nonlocal asked
        if isinstance(action, Create):
            asked += 1
            if len(cluster.pods()) >= 10:
                raise Forbidden("exceeded quota")

    cluster.admit = admit
    cluster.steps(1)
    assert (len(cluster.pods()), asked) == (10, 32)
    [failure] = status(cluster, resource)["conditions"]
    shown = (failure["type"], failure["status"], failure["reason"], failure["message"])
    assert shown == ("ReplicaFailure", "True", "FailedCreate", "exceeded quota")
    assert status(cluster, resource)["replicas"] == 0  # as it was when pods were asked for
    for _ in range(5):
        before = asked
        cluster.steps(1)
        assert asked - before <= 1
    assert status(cluster, resource)["replicas"] == 10
    cluster.admit = None
    cluster.settle()
    assert (len(cluster.pods()), status(cluster, resource)["replicas"]) == (100, 100)
    assert "conditions" not in status(cluster, resource)
    assert ("terminatingReplicas" in status(cluster, resource)) == (resource == SETS)


def test_a_delete_that_is_refused_shows_in_the_status() -> None:
    cluster = sets(3)
    cluster.settle()

    def admit(action: Any) -> None:
        if isinstance(action, Delete):
            raise Forbidden("not today")

    cluster.admit = admit
    cluster.change(SETS, "rs", spec={"replicas": 1})
    cluster.steps(5)
    failure = status(cluster)["conditions"][0]
    assert (failure["reason"], failure["message"]) == ("FailedDelete", "not today")
    assert "Error deleting: not today" in [message for _, _, message in cluster.events]


@pytest.mark.parametrize(
    ("count", "first", "sizes"), [(0, 1, []), (1, 1, [1]), (10, 1, [1, 2, 4, 3]), (40, 32, [32, 8]), (3, 32, [3])]
)
def test_stages_double(count: int, first: int, sizes: list[int]) -> None:
    stages = slow_start([Create("pods", {})] * count, first=first)
    assert [len(stage) for stage in stages] == sizes


# --- ReplicationControllers -----------------------------------------------------------------------


def test_a_replication_controller_adopts_what_it_selects() -> None:
    cluster = sets(2, OLD_SETS)
    cluster.settle()
    cluster.add("pods", "stray", metadata={"labels": LABELS}, spec={}, status={})
    cluster.settle()
    stray = cluster.require("pods", "default", "stray")
    assert meta.is_controlled_by(stray, cluster.list(OLD_SETS)[0]) and len(cluster.pods()) == 2
