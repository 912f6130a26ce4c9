"""A process that joins a cluster is a node of it, with nothing but a token."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayplane.control_plane.cluster.errors import ClusterError, NotAdmitted, NotTrusted, UsageError
from rayplane.control_plane.cluster.join.admission import admitted
from rayplane.control_plane.cluster.join.config import JoinConfig
from rayplane.storage.env import SystemClock
from tests.e2e.harness import COMMAND_TIMEOUT_S, Cluster, told, until

NODE = "edge"
POD = """
apiVersion: v1
kind: Pod
metadata: {name: app, labels: {app: app}}
spec:
  nodeName: edge
  tolerations: [{operator: Exists}]
  containers:
  - name: app
    image: python
    command: [python3, -m, http.server, "8000", --bind, $(POD_IP)]
    env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    readinessProbe: {httpGet: {port: 8000}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{port: 80, targetPort: 8000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  nodeName: node-0
  containers: [{name: client, image: python, command: [sleep, "1000000"]}]
"""
ASK = "import urllib.request; print(urllib.request.urlopen('http://%s:%s', timeout=10).status)"


@pytest.fixture(scope="module")
def cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    small = ("--members", "1", "--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")
    return bring_up("--host", "process", "--runtime", "process", "--isolation", "none", *small)


@pytest.fixture(scope="module")
def command(cluster: Cluster) -> list[str]:
    """What `token create` prints for a machine that is to join."""
    made = cluster.rayplane("token", "create", "--description", "a test", "--print-join-command")
    assert "only this machine can join" in made.stderr
    return made.stdout.split()[1:]


def start(cluster: Cluster, directory: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "rayplane.control_plane.cli.main", *arguments, "--data-dir", str(directory)],
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def joined(cluster: Cluster, directory: Path, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    process = start(cluster, directory, *arguments, "--node-name", NODE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=COMMAND_TIMEOUT_S)


def refusal(place: Path, url: str, token: str, *pins: str, node: str = "other") -> ClusterError:
    """Why whoever joins so is not let in."""
    config = JoinConfig(url=url, node=node, directory=place, token=token, pins=pins)
    with pytest.raises(ClusterError) as refused:
        asyncio.run(admitted(config, SystemClock(), print))
    return refused.value


@pytest.mark.turn(0, of=2)
def test_a_joined_process_runs_pods_is_killed_and_comes_back_without_its_token(
    cluster: Cluster, command: list[str], tmp_path: Path
) -> None:
    kubectl, place = cluster.kubectl(), tmp_path / "node"
    at_token = command.index("--token")
    with joined(cluster, place, *command) as process:
        until("the node is there", lambda: f"node/{NODE}" in kubectl.names("nodes"))
        kubectl("apply", "-f", "-", stdin=POD)
        kubectl("wait", "--for=condition=Ready", "pod/app", "pod/client", f"--timeout={COMMAND_TIMEOUT_S:.0f}s")
        assert "Serving HTTP" in kubectl("logs", "app")
        assert kubectl("exec", "app", "--", "sh", "-c", "echo in $HOSTNAME").strip() == "in app"
        # A pod of the cluster's own node reaches it through its service.
        ip = kubectl("get", "service", "app", "-o", "jsonpath={.spec.clusterIP}")
        assert kubectl("exec", "client", "--", "python3", "-c", ASK % (ip, 80)).strip() == "200"
        before = kubectl.json("get", "pod", "app")["metadata"]["uid"]
        process.kill()
        process.wait(timeout=COMMAND_TIMEOUT_S)
    with joined(cluster, place, *command[:at_token], *command[at_token + 2 :]) as process:
        kubectl.until("pod app", "{.status.containerStatuses[0].restartCount}", ["1"])
        kubectl("wait", "--for=condition=Ready", "pod/app", f"--timeout={COMMAND_TIMEOUT_S:.0f}s")
        assert kubectl.json("get", "pod", "app")["metadata"]["uid"] == before
        assert kubectl("exec", "app", "--", "echo", "again").strip() == "again"
        process.send_signal(signal.SIGTERM)
        out, err = told(process)
    assert process.returncode == 0 and "ending the pods" in out, err
    kubectl("delete", "pod", "app", "client", "--force", "--grace-period=0")
    kubectl("delete", "node", NODE)


def test_who_cannot_be_trusted_or_does_not_know_the_token_is_told_so(
    cluster: Cluster, command: list[str], tmp_path: Path
) -> None:
    _, url, _, token, _, pin = command
    short = cluster.rayplane("token", "create").stdout.strip()
    for given, kind, said in (
        ((token,), UsageError, "give --discovery-token-ca-cert-hash"),
        ((token, "sha256:" + 64 * "0"), NotTrusted, f"has the key {pin}"),
        (("zzzzzz.0123456789abcdef", pin), NotTrusted, "does not know token zzzzzz"),
        ((f"{token[:7]}0123456789abcdef", pin), NotTrusted, "its secret is wrong"),
    ):
        refused = refusal(tmp_path, url, *given)
        assert type(refused) is kind and said in str(refused)
    taken = refusal(tmp_path, url, token, pin, node="node-0")
    assert type(taken) is NotAdmitted and "a node node-0 that is ready" in str(taken)
    over = json.dumps({"stringData": {"expiration": "2020-01-01T00:00:00Z"}})
    cluster.kubectl(namespace="kube-system")("patch", "secret", f"bootstrap-token-{short[:6]}", "--patch", over)
    until("the token has expired", lambda: "it has expired" in str(refusal(tmp_path, url, short, pin)))

    def tokens() -> list[tuple[str, str]]:
        found = json.loads(cluster.rayplane("token", "list", "-o", "json").stdout)
        return [(one["token"], one["description"]) for one in found]

    until("the expired token is deleted", lambda: tokens() == [(token, "a test")])
    cluster.rayplane("token", "delete", token[:6])
    until("the token is gone", lambda: "does not know token" in str(refusal(tmp_path, url, token, pin)))
