"""Stock kubectl, each verb as people use it, against a cluster in one process with the simulated runtime."""

import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Cluster, Failed, Kubectl, until

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      containers:
        - name: web
          image: nginx:1.25
          ports: [{containerPort: 80}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: blue}
"""


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--nodes", "2")


@pytest.fixture
def kubectl(
    cluster: Cluster, fresh_namespace: Callable[[Cluster, str, str], Kubectl], request: pytest.FixtureRequest
) -> Kubectl:
    name = request.node.name.lower()
    return fresh_namespace(cluster, "", "".join(c if c.isalnum() else "-" for c in name).strip("-"))


@pytest.fixture
def web(kubectl: Kubectl) -> Kubectl:
    """With the manifest applied and rolled out."""
    kubectl("apply", "-f", "-", stdin=MANIFEST)
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    return kubectl


def test_what_is_served(kubectl: Kubectl) -> None:
    versions = kubectl.json("version")
    assert versions["serverVersion"]["gitVersion"].startswith("v1.37.")
    lines = kubectl("api-resources").splitlines()
    rows = [line.split() for line in lines[1:]]
    assert ["deployments", "deploy", "apps/v1", "true", "Deployment"] in rows
    assert ["nodes", "no", "v1", "false", "Node"] in rows
    assert "apps/v1" in kubectl("api-versions").split()
    assert kubectl("get", "--raw", "/readyz") == "ok"
    assert "Kubernetes control plane" in kubectl("cluster-info")


def test_every_output_form(web: Kubectl) -> None:
    assert web.names("deploy") == ["deployment.apps/web"]
    table = web("get", "deployments").splitlines()
    assert table[0].split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert table[1].split()[:4] == ["web", "2/2", "2", "2"]
    assert "nginx:1.25" in web("get", "deployments", "-o", "wide")
    assert web.json("get", "deployment", "web")["spec"]["replicas"] == 2
    assert "replicas: 2" in web("get", "deployment", "web", "-o", "yaml")
    assert web("get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}") == "2"
    assert web("get", "deployment", "web", "-o", "go-template={{.spec.replicas}}") == "2"
    columns = "custom-columns=N:.metadata.name,R:.spec.replicas"
    assert web("get", "deployments", "-o", columns).split() == ["N", "R", "web", "2"]
    assert web("get", "pods", "--no-headers", "--show-labels").count("app=web,pod-template-hash=") == 2


def test_choosing_objects(web: Kubectl) -> None:
    pods = web.names("pods", "-l", "app=web")
    assert len(pods) == 2
    assert web.names("pods", "-l", "app in (web),app!=db") == pods
    assert web.names("pods", "-l", "app=db") == []
    assert web.names("pods", "--field-selector", "status.phase=Running") == pods
    assert web.names("configmaps", "--sort-by=.data.color") == ["configmap/kube-root-ca.crt", "configmap/settings"]
    assert web.names("pods", "--chunk-size=1") == pods
    everywhere = web("get", "pods", "--all-namespaces").splitlines()
    assert everywhere[0].startswith("NAMESPACE")
    assert set(web.names("deploy,cm")) >= {"deployment.apps/web", "configmap/settings"}
    assert 'pods "nothing" not found' in web("get", "pod", "nothing", code=1)
    assert "the server doesn't have a resource type" in web("get", "nonsense", code=1)


def test_get_all_shows_the_whole_workload(web: Kubectl) -> None:
    web("expose", "deployment", "web", "--port=80")
    kinds = {name.partition("/")[0] for name in web.names("all")}
    assert kinds == {"pod", "service", "deployment.apps", "replicaset.apps"}


def test_watch_follows_a_pod_through_its_life(kubectl: Kubectl) -> None:
    kubectl("run", "first", "--image=busybox")
    columns = "custom-columns=N:.metadata.name,P:.status.phase"
    watch = subprocess.Popen(
        kubectl.command("get", "pods", "--watch", "--no-headers", "-o", columns),
        env=kubectl.cluster.env,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watch.stdout is not None
    try:
        assert watch.stdout.readline().split()[0] == "first"
        # What is listed is shown: from here on the watch reports.
        kubectl("run", "second", "--image=busybox")
        rows = (line.split() for line in watch.stdout)
        phases = [phase for name, phase in itertools.takewhile(lambda row: row != ["second", "Running"], rows)]
        assert "Pending" in phases
    finally:
        watch.terminate()
        watch.communicate()


def test_create_describe_and_delete(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "api", "--image=nginx", "--replicas=2")
    kubectl("create", "configmap", "conf", "--from-literal=a=1")
    kubectl("create", "secret", "generic", "hidden", "--from-literal=password=x")
    kubectl("create", "serviceaccount", "robot")
    assert "already exists" in kubectl("create", "configmap", "conf", code=1)
    kubectl("wait", "--for=condition=Available", "deployment/api", "--timeout=180s")
    described = kubectl("describe", "deployment", "api")
    assert "2 desired | 2 updated | 2 total | 2 available" in described
    pod = kubectl.names("pods")[0]
    # Events are written beside the work they tell of, a moment later.
    until("events", lambda: "ScalingReplicaSet" in kubectl("describe", "deployment", "api"))
    until("events", lambda: "Successfully assigned" in kubectl("describe", pod))
    assert "password:  1 bytes" in kubectl("describe", "secret", "hidden")
    assert "Name:" in kubectl("describe", "node")
    kubectl("delete", "deployment/api", "configmap/conf", "secret/hidden", "serviceaccount/robot")
    kubectl("wait", "--for=delete", pod, "--timeout=180s")
    assert kubectl.names("all") == []


def test_apply_merges_with_what_others_changed(web: Kubectl) -> None:
    assert web("apply", "-f", "-", stdin=MANIFEST).split("\n")[0] == "deployment.apps/web unchanged"
    web("scale", "deployment/web", "--replicas=3")
    changed = MANIFEST.replace("color: blue", "color: red, size: large").replace("  replicas: 2\n", "")
    assert "deployment.apps/web configured" in web("apply", "-f", "-", stdin=changed)
    assert web("get", "cm", "settings", "-o", "jsonpath={.data}") == '{"color":"red","size":"large"}'
    # A field that is no longer applied goes back to its default.
    assert web.json("get", "deployment", "web")["spec"]["replicas"] == 1
    assert "-  color: red" in web("diff", "-f", "-", stdin=changed.replace("red", "green"), code=1)
    assert 'unknown field "spec.replica"' in web(
        "apply", "-f", "-", stdin=MANIFEST.replace("replicas", "replica"), code=1
    )


def test_server_side_apply_reports_who_owns_a_field(kubectl: Kubectl) -> None:
    first = '{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"},"data":{"a":"1"}}'
    kubectl("apply", "--server-side", "--field-manager=one", "-f", "-", stdin=first)
    other = first.replace('"1"', '"2"')
    said = kubectl("apply", "--server-side", "--field-manager=two", "-f", "-", stdin=other, code=1)
    assert 'conflict with "one"' in said
    kubectl("apply", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-", stdin=other)
    assert kubectl("get", "cm", "c", "-o", "jsonpath={.data.a}") == "2"


def test_edit(web: Kubectl, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/color: blue/color: green/" "$1"\n')
    editor.chmod(0o755)
    assert "configmap/settings edited" in web("edit", "configmap", "settings", env={"KUBE_EDITOR": str(editor)})
    assert web("get", "cm", "settings", "-o", "jsonpath={.data.color}") == "green"


def test_patches_of_three_kinds(web: Kubectl) -> None:
    containers = "jsonpath={.spec.template.spec.containers[*].name}"
    web("patch", "cm", "settings", "--type=merge", "-p", '{"data":{"color":null,"shape":"round"}}')
    assert web("get", "cm", "settings", "-o", "jsonpath={.data}") == '{"shape":"round"}'
    side = '{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"busybox"}]}}}}'
    web("patch", "deployment", "web", "-p", side)
    assert sorted(web("get", "deployment", "web", "-o", containers).split()) == ["side", "web"]
    web("patch", "deployment", "web", "--type=json", "-p", '[{"op":"replace","path":"/spec/replicas","value":4}]')
    assert web.json("get", "deployment", "web")["spec"]["replicas"] == 4
    failed = '[{"op":"test","path":"/spec/replicas","value":9}]'
    web("patch", "deployment", "web", "--type=json", "-p", failed, code=1)
    web("patch", "deployment", "web", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":1}}')
    assert web.json("get", "deployment", "web")["spec"]["replicas"] == 1


def test_label_and_annotate(web: Kubectl) -> None:
    web("label", "cm", "settings", "tier=back")
    assert web.names("cm", "-l", "tier=back") == ["configmap/settings"]
    assert "--overwrite is false" in web("label", "cm", "settings", "tier=front", code=1)
    web("label", "cm", "settings", "tier=front", "--overwrite")
    web("label", "cm", "settings", "tier-")
    assert web.names("cm", "-l", "tier") == []
    web("annotate", "cm", "settings", "note=hello")
    assert web("get", "cm", "settings", "-o", "jsonpath={.metadata.annotations.note}") == "hello"


def test_scale_and_expose(web: Kubectl) -> None:
    web("scale", "deployment", "web", "--replicas=3", "--current-replicas=2")
    assert "Expected replicas to be 2, was 3" in web(
        "scale", "deployment", "web", "--replicas=1", "--current-replicas=2", code=1
    )
    web("rollout", "status", "deployment/web", "--timeout=180s")
    web("expose", "deployment", "web", "--port=8080", "--target-port=80", "--name=front")
    service = web.json("get", "service", "front")
    assert service["spec"]["clusterIP"].startswith("127.")

    def addresses() -> list[str]:
        slices = web.items("endpointslices", "-l", "kubernetes.io/service-name=front")
        return [a for s in slices for e in s.get("endpoints") or [] for a in e["addresses"]]

    until("three endpoints", lambda: len(set(addresses())) == 3)


def test_rollouts_go_forward_and_back(web: Kubectl) -> None:
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    web("set", "image", "deployment/web", "web=nginx:1.27")
    assert "successfully rolled out" in web("rollout", "status", "deployment/web", "--timeout=180s")
    assert [line.split()[0] for line in web("rollout", "history", "deployment/web").splitlines()[2:] if line] == [
        "1",
        "2",
    ]
    assert "nginx:1.25" in web("rollout", "history", "deployment/web", "--revision=1")
    web("rollout", "undo", "deployment/web")
    web("rollout", "status", "deployment/web", "--timeout=180s")
    assert web("get", "deployment", "web", "-o", image) == "nginx:1.25"
    before = set(web.names("pods"))
    web("rollout", "restart", "deployment/web")
    web("rollout", "status", "deployment/web", "--timeout=180s")
    web("wait", "--for=delete", *before, "--timeout=180s")
    assert before.isdisjoint(web.names("pods"))
    web("rollout", "pause", "deployment/web")
    web("set", "image", "deployment/web", "web=nginx:9")
    web("rollout", "resume", "deployment/web")
    web("rollout", "status", "deployment/web", "--timeout=180s")
    web("set", "env", "deployment/web", "COLOR=red")
    web("set", "resources", "deployment/web", "--requests=cpu=10m")
    web("rollout", "status", "deployment/web", "--timeout=180s")
    assert {p["spec"]["containers"][0]["image"] for p in web.items("pods", "-l", "app=web")} == {"nginx:9"}


def test_wait_ends_with_what_it_waited_for(kubectl: Kubectl) -> None:
    kubectl("run", "one", "--image=busybox")
    kubectl("wait", "--for=condition=Ready", "pod/one", "--timeout=180s")
    kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/one", "--timeout=180s")
    assert "timed out" in kubectl("wait", "--for=condition=Nonsense", "pod/one", "--timeout=1s", code=1)
    kubectl("delete", "pod", "one", "--now")
    assert kubectl.names("pods") == []


def test_explain_knows_fields_and_types(kubectl: Kubectl) -> None:
    said = kubectl("explain", "deployment.spec.strategy")
    assert "rollingUpdate" in said and "<RollingUpdateDeployment>" in said
    assert "containers" in kubectl("explain", "pods.spec", "--recursive")
    assert "does not exist" in kubectl("explain", "pods.spec.nonsense", code=1)


def test_logs_and_pods_that_have_none(kubectl: Kubectl) -> None:
    kubectl("run", "talker", "--image=busybox")
    kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=180s")
    kubectl("logs", "talker")
    assert "not found" in kubectl("logs", "nobody", code=1)


def test_cordoned_nodes_get_no_pods(cluster: Cluster, kubectl: Kubectl) -> None:
    nodes = [n.partition("/")[2] for n in kubectl.names("nodes")]
    try:
        kubectl("cordon", *nodes)
        kubectl("run", "waiting", "--image=busybox")
        kubectl.until("pod waiting", '{.status.conditions[?(@.type=="PodScheduled")].reason}', ["Unschedulable"])
        until("an event says so", lambda: "FailedScheduling" in kubectl("events", "--for", "pod/waiting"))
    finally:
        kubectl("uncordon", *nodes)
    kubectl("wait", "--for=condition=Ready", "pod/waiting", "--timeout=180s")


def test_who_may_do_what(kubectl: Kubectl) -> None:
    kubectl("create", "serviceaccount", "reader")
    kubectl("create", "role", "look", "--verb=get,list", "--resource=pods")
    kubectl("create", "rolebinding", "look", "--role=look", f"--serviceaccount={kubectl.namespace}:reader")
    who = f"--as=system:serviceaccount:{kubectl.namespace}:reader"
    assert kubectl("auth", "can-i", "list", "pods", who) == "yes\n"
    assert kubectl("get", "pods", who) == ""
    said = kubectl("get", "secrets", who, code=1)
    assert "(Forbidden)" in said and 'cannot list resource "secrets"' in said
    assert kubectl("create", "token", "reader").count(".") == 2


def test_namespaces_go_with_everything_in_them(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=MANIFEST)
    kubectl("delete", "namespace", kubectl.namespace, "--timeout=180s")
    with pytest.raises(Failed, match="not found"):
        kubectl("get", "namespace", kubectl.namespace)
    assert kubectl.items("deployments") == []


@pytest.mark.parametrize("verb", ["create", "apply", "replace"])
def test_a_list_is_validated_like_its_items(kubectl: Kubectl, verb: str) -> None:
    """What `kubectl get -o yaml` prints can be given back."""
    if verb == "replace":
        kubectl("create", "configmap", "in-a-list")
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "in-a-list"}, "data": {"color": "green"}}
    manifest = {"apiVersion": "v1", "kind": "List", "items": [item]}
    kubectl(verb, "-f", "-", stdin=json.dumps(manifest))
    assert kubectl("get", "configmap", "in-a-list", "-o", "jsonpath={.data.color}") == "green"
    item["dota"] = {}
    with pytest.raises(Failed, match='unknown field "dota"'):
        kubectl(verb, "-f", "-", stdin=json.dumps(manifest))
