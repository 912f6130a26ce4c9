"""The pods of workloads are as many as their controllers would make, and as those would make them."""

from typing import Any

import pytest

from rayplane.control_plane.planning.workloads import is_workload, wanted

POD: dict[str, Any] = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {"containers": [{"name": "main", "image": "app:1"}]},
}


def workload(version: str, kind: str, **spec: Any) -> dict[str, Any]:
    own = {"name": "a", "namespace": "shop"}
    return {"apiVersion": version, "kind": kind, "metadata": own, "spec": {"template": POD, **spec}}


@pytest.mark.parametrize(
    ("found", "count"),
    [
        (workload("apps/v1", "Deployment"), 1),
        (workload("apps/v1", "Deployment", replicas=0), 0),
        (workload("apps/v1", "ReplicaSet", replicas=3), 3),
        (workload("v1", "ReplicationController", replicas=2), 2),
        (workload("apps/v1", "StatefulSet", replicas=5), 5),
        (workload("batch/v1", "Job"), 1),
        (workload("batch/v1", "Job", parallelism=4), 4),
        (workload("batch/v1", "Job", parallelism=4, completions=3), 3),
        (workload("batch/v1", "CronJob", jobTemplate={"spec": {"template": POD, "parallelism": 2}}), 2),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "shop"}, "spec": POD["spec"]}, 1),
    ],
)
def test_a_workload_has_so_many_pods(found: dict[str, Any], count: int) -> None:
    one = wanted(found)
    assert is_workload(found) and (one.count, one.set_of) == (count, None)
    assert one.pod["metadata"]["namespace"] == "shop"
    assert one.pod["spec"]["containers"] == POD["spec"]["containers"]
    assert wanted(found, times=1.5).count == -(-count * 3 // 2)


def test_a_tenth_more_is_no_pod_more_than_that() -> None:
    assert wanted(workload("apps/v1", "Deployment", replicas=100), times=1.1).count == 110


def test_a_daemon_set_has_a_pod_for_each_node_that_it_is_for() -> None:
    one = wanted(
        workload("apps/v1", "DaemonSet", template={**POD, "spec": {**POD["spec"], "nodeSelector": {"a": "b"}}})
    )
    pod = one.on({"metadata": {"name": "node-7", "labels": {"a": "b"}}})
    assert pod is not None and one.on({"metadata": {"name": "node-8"}}) is None
    required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert required["nodeSelectorTerms"][0]["matchFields"][0]["values"] == ["node-7"]
    assert {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"} in pod["spec"][
        "tolerations"
    ]


def test_volumes_of_a_stateful_set_are_there_to_be_mounted() -> None:
    claims = [{"metadata": {"name": "data"}, "spec": {}}]
    one = wanted(workload("apps/v1", "StatefulSet", volumeClaimTemplates=claims))
    assert [volume["name"] for volume in one.pod["spec"]["volumes"]] == ["data"]


def test_what_is_no_workload_is_told_apart_whatever_its_kind_is_called() -> None:
    assert not is_workload({"apiVersion": "v1", "kind": "Service"})
    assert not is_workload(workload("example.com/v1", "Deployment"))
