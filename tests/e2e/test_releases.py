"""kubectl of other releases, a working day with each. `--release 1.28` or `--release all` tries what is not usual."""

import contextlib
import json
import select
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import COMMAND_TIMEOUT_S, Cluster, Kubectl, until
from tests.e2e.test_processes import container, deployment, fetch, service, typed


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--runtime", "process", "--members", "1", "--apiservers", "1", "--nodes", "2")


@pytest.fixture(scope="module")
def kubectl(cluster: Cluster, release: str, binaries_of: Callable[[str], Path]) -> Kubectl:
    """In a namespace of its own, with two pods behind a Service that are ready."""
    binary, name = str(binaries_of(release) / "kubectl"), f"with-{release.replace('.', '-')}"
    cluster.kubectl(binary)("create", "namespace", name)
    kubectl = cluster.kubectl(binary, namespace=name)
    assert kubectl.json("version")["clientVersion"]["gitVersion"].startswith(f"v{release}.")
    kubectl("apply", "-f", "-", stdin=_application())
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    return kubectl


def _application() -> str:
    items = [deployment("web", 2, {"containers": [container()]}), service("web")]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def _settings(name: str, labels: dict[str, str] | None = None, **fields: Any) -> str:
    """A ConfigMap. Older kubectl takes what begins with a brace for JSON."""
    return json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, **fields})


@contextlib.contextmanager
def _speaking(kubectl: Kubectl, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A kubectl that goes on until it is no longer wanted; what it says is not buffered here."""
    command, env = kubectl.command(*arguments), kubectl.cluster.env
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.terminate()


def _line_with(process: "subprocess.Popen[bytes]", text: str) -> str:
    """The next line that has this text."""
    assert process.stdout is not None
    end = time.monotonic() + COMMAND_TIMEOUT_S
    while select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
        line = process.stdout.readline().decode()
        if text in line or not line:
            return line
    return ""


def test_what_is_written_is_validated_merged_compared_and_explained(kubectl: Kubectl, tmp_path: Path) -> None:
    again = kubectl("apply", "-f", "-", stdin=_application())
    assert again == "deployment.apps/web unchanged\nservice/web unchanged\n"
    with pytest.raises(AssertionError, match=r'unknown field "(spec\.)?replica"'):
        kubectl("create", "-f", "-", stdin=_application().replace("replicas", "replica"))
    unknown = kubectl(
        "apply", "-f", "-", stdin='{"apiVersion": "v9", "kind": "Thing", "metadata": {"name": "a"}}', code=1
    )
    assert 'no matches for kind "Thing" in version "v9"' in unknown
    settings = _settings("settings", data={"color": "blue"})
    assert kubectl("create", "-f", "-", "--save-config", stdin=settings) == "configmap/settings created\n"
    assert "-  color: blue\n+  color: red" in kubectl("diff", "-f", "-", stdin=settings.replace("blue", "red"), code=1)
    assert "color: blue" in kubectl("apply", "view-last-applied", "configmap/settings")
    other = ("apply", "--server-side", "--field-manager=other", "-f", "-")
    said = kubectl(*other, stdin=settings.replace("blue", "red"), code=1)
    assert "conflict" in said and ".data.color" in said
    kubectl(*other, "--force-conflicts", stdin=settings.replace("blue", "red"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/color: red/color: green/" "$1"\n')
    editor.chmod(0o755)
    kubectl("edit", "configmap", "settings", env={"KUBE_EDITOR": str(editor)})
    kubectl("patch", "configmap", "settings", "--type=json", "-p", '[{"op":"add","path":"/data/size","value":"L"}]')
    assert kubectl.json("get", "configmap", "settings")["data"] == {"color": "green", "size": "L"}
    kubectl("replace", "--save-config", "-f", "-", stdin=settings)
    kubectl("label", "configmap", "settings", "tier=back")
    kubectl("annotate", "configmap", "settings", "note=hello")
    assert kubectl.names("configmaps", "-l", "tier=back") == ["configmap/settings"]
    pruned = ("--prune", "-l", "tier=back", "--prune-allowlist=core/v1/ConfigMap")
    kept = _settings("kept", {"tier": "back"})
    assert "configmap/settings pruned" in kubectl("apply", *pruned, "-f", "-", stdin=kept)
    assert "<RollingUpdateDeployment>" in kubectl("explain", "deployment.spec.strategy")
    assert "topologySpreadConstraints" in kubectl("explain", "pods.spec", "--recursive")


def test_what_is_read_changed_and_deleted(kubectl: Kubectl) -> None:
    table = kubectl("get", "deployments,services", "-o", "wide")
    assert "web" in table and "app=web" in table
    assert kubectl("get", "pods", "--no-headers", "--show-labels").count("Running") == 2
    assert "2 desired | 2 updated | 2 total | 2 available" in kubectl("describe", "deployment", "web")
    assert "8000/TCP" in kubectl("describe", "pods") and "Allocatable" in kubectl("describe", "nodes")
    assert ["poddisruptionbudgets", "pdb", "policy/v1", "true", "PodDisruptionBudget"] in [
        line.split() for line in kubectl("api-resources").splitlines()
    ]
    for arguments in (
        ("namespace", "{}-too"),
        ("secret", "generic", "s", "--from-literal=a=b"),
        ("job", "j", "--image=busybox", "--", "true"),
        ("cronjob", "cj", "--image=busybox", "--schedule=*/5 * * * *", "--", "true"),
        ("serviceaccount", "robot"),
        ("role", "r", "--verb=get", "--resource=pods"),
        ("rolebinding", "r", "--role=r", "--serviceaccount={}:robot"),
        ("quota", "q", "--hard=pods=10"),
        ("ingress", "i", "--rule=a.example.com/=web:9000"),
        ("poddisruptionbudget", "b", "--selector=app=web", "--min-available=1"),
    ):
        kubectl("create", *(argument.replace("{}", kubectl.namespace) for argument in arguments))
    who = f"--as=system:serviceaccount:{kubectl.namespace}:robot"
    assert kubectl("auth", "can-i", "get", "pods", who) == "yes\n"
    assert kubectl("auth", "can-i", "delete", "pods", who, code=1).startswith("no")
    assert "pods" in kubectl("auth", "can-i", "--list", who)
    assert kubectl("create", "token", "robot").count(".") == 2
    kubectl("wait", "--for=condition=Complete", "job/j", "--timeout=180s")
    kubectl("autoscale", "deployment", "web", "--max=5")
    until("an event", lambda: "SuccessfulCreate" in kubectl("events", "--for", "job/j"))
    kubectl("delete", "hpa/web", "job/j", "cronjob/cj", "quota/q", "ingress/i", "pdb/b", "secret/s", "sa/robot")
    kubectl("delete", "namespace", f"{kubectl.namespace}-too", "--timeout=180s")


def test_rollouts_are_followed_undone_and_scaled(kubectl: Kubectl) -> None:
    kubectl("create", "deployment", "app", "--image=busybox:1", "--replicas=0", "--", "sleep", "1000000")
    # Before there is a pod that would take half a minute to end.
    patience = '{"spec":{"replicas":1,"template":{"spec":{"terminationGracePeriodSeconds":1}}}}'
    kubectl("patch", "deployment", "app", "-p", patience)
    kubectl("rollout", "status", "deployment/app", "--timeout=180s")
    kubectl("set", "image", "deployment/app", "busybox=busybox:2")
    assert "successfully rolled out" in kubectl("rollout", "status", "deployment/app", "--timeout=180s")
    assert "busybox:1" in kubectl("rollout", "history", "deployment/app", "--revision=2")
    kubectl("rollout", "undo", "deployment/app")
    kubectl("rollout", "status", "deployment/app", "--timeout=180s")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert kubectl("get", "deployment", "app", "-o", image) == "busybox:1"
    kubectl("scale", "deployment/app", "--replicas=2", "--current-replicas=1")
    kubectl("wait", "--for=jsonpath={.status.readyReplicas}=2", "deployment/app", "--timeout=180s")
    kubectl("patch", "deployment", "app", "--subresource=scale", "--type=merge", "-p", '{"spec":{"replicas":1}}')
    assert kubectl.json("get", "deployment", "app", "--subresource=scale")["kind"] == "Scale"
    kubectl("delete", "deployment", "app", "--cascade=foreground", "--timeout=180s")
    assert kubectl.names("replicasets", "-l", "app=app") == []


def test_streams_of_a_pod(kubectl: Kubectl, tmp_path: Path) -> None:
    pod = kubectl.names("pods", "-l", "app=web")[0]
    name = pod.partition("/")[2]
    assert kubectl("exec", pod, "--", "sh", "-c", 'echo "$HOSTNAME"').strip() == name
    assert kubectl("exec", "-i", pod, "--", "cat", stdin="to and back") == "to and back"
    assert "exit code 7" in kubectl("exec", pod, "--", "sh", "-c", "exit 7", code=7)
    assert "size is 42" in typed(kubectl, "exec", "-it", pod, "--", "sh", text="echo size is $((40+2)); exit\n")
    (tmp_path / "sent").write_text("a file")
    kubectl("cp", str(tmp_path / "sent"), f"{name}:/tmp/sent")
    kubectl("cp", f"{name}:/tmp/sent", str(tmp_path / "received"))
    assert (tmp_path / "received").read_text() == "a file"
    with _speaking(kubectl, "port-forward", pod, ":8000") as forwarder:
        line = _line_with(forwarder, "Forwarding from 127.0.0.1")
        port = line.split(":")[1].split()[0]
        with _speaking(kubectl, "logs", "-f", pod) as follower:
            assert "ready to serve" in _line_with(follower, "ready to serve")
            assert fetch(f"http://127.0.0.1:{port}/seen") == name
            assert fetch(f"http://127.0.0.1:{port}/again") == name
            assert "/again" in _line_with(follower, "/again")
    assert "1970" not in kubectl("logs", "deployment/web", "--tail=1", "--timestamps")
    seen = typed(kubectl, "debug", "-it", pod, "--image=busybox", "-c", "look", text="echo found-$((40+2)); exit 3\n")
    assert "found-42" in seen
    options = ("run", "-it", "--rm", "--restart=Never", "shell", "--image=busybox")
    assert "size is 42" in typed(kubectl, *options, "--", "sh", text="echo size is $((40+2)); exit\n")
    until("the pod is gone", lambda: "pod/shell" not in kubectl.names("pods"))


def test_a_watch_shows_changes_and_the_proxy_carries_them(kubectl: Kubectl) -> None:
    with _speaking(kubectl, "get", "configmaps", "--watch", "--no-headers") as watch:
        kubectl("create", "configmap", "seen")
        assert _line_with(watch, "seen").split()[:2] == ["seen", "0"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _speaking(kubectl, "proxy", f"--port={port}") as proxy:
        assert str(port) in _line_with(proxy, "Starting to serve")
        inside = f"http://127.0.0.1:{port}/api/v1/namespaces/{kubectl.namespace}"
        assert '"name":"seen"' in fetch(f"{inside}/configmaps/seen")
        assert fetch(f"{inside}/services/web:9000/proxy/") in {p["metadata"]["name"] for p in kubectl.items("pods")}


def test_a_node_is_drained(kubectl: Kubectl) -> None:
    node = kubectl.items("pods", "-l", "app=web")[0]["spec"]["nodeName"]
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s", "--pod-selector=app=web")
    try:
        assert "drained" in kubectl("drain", node, *options)
        assert "SchedulingDisabled" in kubectl("get", "node", node)
        kubectl("rollout", "status", "deployment/web", "--timeout=180s")
        assert node not in {p["spec"]["nodeName"] for p in kubectl.items("pods", "-l", "app=web")}
        kubectl("taint", "node", node, "example.com/tried=yes:NoSchedule")
        kubectl("taint", "node", node, "example.com/tried-")
    finally:
        kubectl("uncordon", node)
