"""What kube-controller-manager's smaller controllers do, as users of kubectl notice it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.harness import Cluster, Kubectl, until


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--nodes", "2")


@pytest.fixture
def kubectl(
    cluster: Cluster, fresh_namespace: Callable[[Cluster, str, str], Kubectl], request: pytest.FixtureRequest
) -> Kubectl:
    return fresh_namespace(cluster, "", request.node.originalname.replace("_", "-").removeprefix("test-"))


def nodes_of(kubectl: Kubectl) -> list[str]:
    return [pod["spec"]["nodeName"] for pod in kubectl.items("pods")]


def test_a_drain_waits_for_the_budget_and_ends(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=nginx", "--replicas=3")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    kubectl("create", "pdb", "web", "--selector=app=web", "--max-unavailable=1")
    kubectl.until("pdb web", "{.status.disruptionsAllowed}", ["1"])
    node = max(nodes_of(kubectl), key=nodes_of(kubectl).count)
    try:
        assert f"node/{node} drained" in kubectl("drain", node, "--ignore-daemonsets", "--timeout=180s")
        kubectl("rollout", "status", "deployment/web", "--timeout=180s")
        assert node not in nodes_of(kubectl)
    finally:
        kubectl("uncordon", node)
    kubectl.until(
        "pdb web", "{.status.currentHealthy} {.status.desiredHealthy} {.status.disruptionsAllowed}", ["3 2 1"]
    )


def test_an_eviction_over_budget_is_refused(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "web", "--image=nginx")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    kubectl("create", "pdb", "web", "--selector=app=web", "--min-available=1")
    kubectl.until("pdb web", "{.status.currentHealthy}", ["1"])
    (pod,) = (item["metadata"]["name"] for item in kubectl.items("pods"))
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{pod}/eviction"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    refused = kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction), code=1)
    assert "Cannot evict pod as it would violate the pod's disruption budget." in refused


COUNTED = """
apiVersion: batch/v1
kind: Job
metadata: {name: counted}
spec:
  completions: 6
  parallelism: 2
  template:
    metadata: {annotations: {rayplane.io/run-duration: "1"}}
    spec: {restartPolicy: Never, containers: [{name: c, image: busybox}]}
"""


def test_pods_of_a_job_that_are_removed_as_they_end_are_not_run_again(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=COUNTED)
    made: set[str] = set()

    def is_complete() -> bool:
        made.update(kubectl.names("pods"))
        ended = [pod["metadata"]["name"] for pod in kubectl.items("pods") if pod["status"]["phase"] == "Succeeded"]
        for name in ended:
            kubectl("delete", "pod", name, "--force", "--wait=false", "--ignore-not-found")
        return "Complete" in kubectl("get", "job", "counted", "-o", "jsonpath={.status.conditions[*].type}").split()

    until("the job is complete", is_complete)
    (job,) = kubectl.items("jobs")
    counts = {field: job["status"].get(field, 0) for field in ("succeeded", "failed", "terminating")}
    assert counts == {"succeeded": 6, "failed": 0, "terminating": 0}
    assert len(made) <= 6
    assert [pod for pod in kubectl.items("pods") if "finalizers" in pod["metadata"]] == []


AUTOSCALED = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {rayplane.io/cpu-usage: 200m}
    spec:
      containers: [{name: web, image: nginx, resources: {requests: {cpu: 100m}}}]
"""


def test_an_autoscaler_follows_what_pods_use(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=AUTOSCALED)
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    kubectl("autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu=50%")
    soon = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}}}}
    kubectl("patch", "hpa", "web", "--type=merge", "-p", json.dumps(soon))
    kubectl.until("deployment web", "{.spec.replicas}", ["3"])
    kubectl.until(
        "hpa web",
        "{.status.currentReplicas} {.status.currentMetrics[0].resource.current.averageUtilization}",
        ["3 200"],
    )
    row = kubectl("get", "hpa", "web", "--no-headers").split()
    assert row[:7] == ["web", "Deployment/web", "cpu:", "200%/50%", "1", "3", "3"]
    until("the event of the larger size", lambda: "New size: " in kubectl("describe", "hpa", "web"))
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    kubectl("annotate", "pods", "-l", "app=web", "rayplane.io/cpu-usage=1m", "--overwrite")
    kubectl.until("deployment web", "{.spec.replicas}", ["1"])

    def told() -> bool:
        messages = {event["message"] for event in kubectl.items("events") if event["reason"] == "SuccessfulRescale"}
        return "New size: 1; reason: All metrics below target" in messages

    until("the event of the smaller size", told)


CLAIM = """
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: CLASS, resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  containers: [{name: c, image: img, volumeMounts: [{name: data, mountPath: /data}]}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"""


def test_a_claim_grows_while_it_is_used(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=CLAIM.replace("CLASS", "replicated"))
    kubectl("wait", "--for=condition=Ready", "pod/user", "--timeout=180s")
    kubectl("patch", "pvc", "data", "-p", '{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}')
    kubectl.until("pvc data", "{.status.capacity.storage} {.status.allocatedResourceStatuses}", ["2Gi"])
    until("the event", lambda: "Resize volume succeeded" in kubectl("describe", "pvc", "data"))


def test_addresses_of_services_are_objects(kubectl: Kubectl) -> None:
    kubectl("create", "service", "clusterip", "web", "--tcp=80")
    ip = kubectl.json("get", "service", "web")["spec"]["clusterIP"]
    kubectl.until(f"ipaddress {ip}", "{.spec.parentRef.namespace}/{.spec.parentRef.name}", [f"{kubectl.namespace}/web"])
    kubectl.until(
        "servicecidr kubernetes", "{.status.conditions[0].type}={.status.conditions[0].status}", ["Ready=True"]
    )
    kubectl("delete", "service", "web")
    kubectl("wait", "--for=delete", f"ipaddress/{ip}", "--timeout=180s")
