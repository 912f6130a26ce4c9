"""Bad input and interruptions: one clear line, the right exit code, and nothing left."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import ours
from rayplane.storage.env.private import wider
from scripts.demo_job.commands import leftovers
from tests.e2e.harness import COMMAND_TIMEOUT_S, ROOT, Cluster, Kubectl, Traces, listeners, stock_kubectl, told, until

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def said(process: "subprocess.CompletedProcess[str]") -> str:
    """The one line on standard error."""
    lines = process.stderr.strip().splitlines()
    assert len(lines) == 1, process.stderr
    return lines[0]


def test_wrong_usage_is_one_line_that_names_the_mistake(lone_cluster: Cluster) -> None:
    """More of it, without a process for each: `tests/cli/test_usage.py`."""
    done = lone_cluster.rayplane("up", "--members", "2", code=WRONG_USAGE)
    assert "--members 2" in said(done)
    assert not lone_cluster.directory.exists()


def test_without_a_cluster_the_line_says_how_to_get_one(lone_cluster: Cluster) -> None:
    assert "rayplane up" in said(lone_cluster.rayplane("status", code=FAILED))


def test_down_of_nothing_is_no_mistake(lone_cluster: Cluster) -> None:
    lone_cluster.rayplane("down")
    assert not lone_cluster.directory.exists()


def test_a_directory_that_cannot_be_made(lone_cluster: Cluster) -> None:
    file = lone_cluster.home / "file"
    file.write_text("")
    done = lone_cluster.rayplane("up", "--host", "process", "--state-dir", str(file / "below"), code=FAILED)
    assert "--state-dir" in said(done)
    assert leftovers([str(lone_cluster.home)]) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(lone_cluster: Cluster) -> None:
    place = lone_cluster.home / "locked"
    place.mkdir(mode=0o500)
    done = lone_cluster.rayplane("up", "--host", "process", "--state-dir", str(place), code=FAILED)
    assert "--state-dir" in said(done)


@pytest.fixture(scope="module")
def small_cluster(bring_up: Callable[..., Cluster]) -> Cluster:
    return bring_up("--host", "process", "--members", "1", "--apiservers", "1", "--nodes", "1")


def test_a_cluster_is_not_started_twice(small_cluster: Cluster) -> None:
    before = small_cluster.state()
    assert "is up" in said(small_cluster.rayplane("up", "--host", "process", code=FAILED))
    assert small_cluster.state() == before
    assert small_cluster.status()["healthy"]


@pytest.mark.turn(0, of=2)
def test_clusters_that_come_up_together_do_not_take_each_others_addresses(tmp_path: Path) -> None:
    clusters = [Cluster(name, tmp_path) for name in ("e2e-left", "e2e-right")]
    small = ("--host", "process", "--members", "1", "--apiservers", "1", "--nodes", "1")
    try:
        for process in [c.start("up", *small) for c in clusters]:
            _, err = told(process)
            assert process.returncode == 0, err
        entrances = {c.endpoints()["ingress"] for c in clusters}
        assert len(entrances) == 2
    finally:
        for cluster in clusters:
            cluster.rayplane("down", "--purge")


def test_what_a_program_asks_for_is_explained(small_cluster: Cluster) -> None:
    main = [str(small_cluster.python), "-m", "rayplane.control_plane.cli.main", "trace", "--name", small_cluster.name]
    asking = ["--", stock_kubectl(), "create", "configmap", "explained", "--from-literal=a=1"]
    done = subprocess.run(
        main + asking, env=small_cluster.env, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("configmap/explained created\n")
    assert "POST /api/v1/namespaces/default/configmaps" in done.stdout
    for step in ("authentication", "flow control", "authorization", "admission NamespaceLifecycle", "etcd create"):
        assert step in done.stdout
    assert "there is no API server" in said(small_cluster.rayplane("trace", "--id", "nobody-1", code=FAILED))
    missing = small_cluster.rayplane("trace", "no-such-program", code=WRONG_USAGE)
    assert "no-such-program cannot be run" in said(missing)


def test_who_acted_on_an_object_and_why_nothing_happens(small_cluster: Cluster) -> None:
    kubectl = small_cluster.kubectl()
    kubectl("create", "quota", "none", "--hard=pods=0")
    kubectl("create", "deployment", "held", "--image=img")
    until("a replica set", lambda: kubectl("get", "rs", "-o", "name"))
    name = kubectl("get", "rs", "-o", "name").partition("/")[2].strip()
    until("a refusal", lambda: "was refused to create" in small_cluster.rayplane("why", "rs", name).stdout)
    told = small_cluster.rayplane("why", f"deploy/{name.rpartition('-')[0]}").stdout
    assert "deployments.apps default/held added @" in told
    assert f"created replicasets.apps default/{name} @" in told
    replicas = json.loads(small_cluster.rayplane("why", "replicaset", name, "-o", "json").stdout)["replicas"]
    (replica,) = (one for one in replicas if one["leads"])
    assert any("exceeded quota" in look["error"] for look in replica["looks"] if look["controller"] == "replicaset")
    assert "They see no such object" in small_cluster.rayplane("why", "po", "nobody").stdout
    assert "resource type" in said(small_cluster.rayplane("why", "cat", "tom", code=FAILED))
    assert "name one object" in said(small_cluster.rayplane("why", "po", code=WRONG_USAGE))


def test_a_running_cluster_keeps_all_that_it_writes_to_itself_and_listens_on_loopback(
    small_cluster: Cluster, fresh_namespace: Callable[..., Kubectl]
) -> None:
    kubectl = fresh_namespace(small_cluster, "", "writes")
    kubectl("create", "deployment", "web", "--image=nginx")
    kubectl("rollout", "status", "deployment/web", "--timeout=180s")
    file = small_cluster.home / "backup"
    small_cluster.rayplane("backup", str(file))
    assert wider(small_cluster.home / ".rayplane") == []
    assert file.stat().st_mode & 0o777 == 0o600
    found = listeners(small_cluster)
    assert found and [a for a in found if not a[0].startswith("127.")] == []


@pytest.mark.parametrize("command", [["up", "--host", "process"], ["down", "--purge"], ["down"]], ids=" ".join)
def test_a_directory_of_somebody_else_is_refused_and_left(lone_cluster: Cluster, command: list[str]) -> None:
    mine = lone_cluster.home / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("x")
    assert "no cluster" in said(lone_cluster.rayplane(*command, "--state-dir", str(mine), code=FAILED))
    assert [p.name for p in mine.iterdir()] == ["thesis.tex"]


def test_a_purge_tells_what_it_left(lone_cluster: Cluster) -> None:
    (lone_cluster.directory / "photos").mkdir(parents=True)
    (lone_cluster.directory / ".rayplane").write_bytes(ours.MARKED)
    assert "photos" in lone_cluster.rayplane("down", "--purge").stdout
    assert (lone_cluster.directory / "photos").is_dir()


def test_down_keeps_the_data_and_up_goes_on_from_it_at_another_port_where_someone_took_one(
    small_cluster: Cluster,
) -> None:
    kubectl = small_cluster.kubectl()
    kubectl("create", "configmap", "kept", "--from-literal=a=1")
    traces = Traces.of(small_cluster)
    ports = [i["ports"]["client"] for i in small_cluster.state()["topology"]["instances"] if i["role"] == "member"]
    small_cluster.rayplane("down")
    assert traces.left() == []
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        done = small_cluster.rayplane("up", "--host", "process")
        assert f"port {ports[0]} of member-0 is in use by another program" in done.stdout
    small_cluster.rayplane("status")
    assert kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "1"


@pytest.mark.parametrize("host", ["process", "ray"])
def test_an_interrupted_up_leaves_nothing(lone_cluster: Cluster, host: str) -> None:
    process = lone_cluster.start("up", "--host", host)
    started = [str(lone_cluster.directory)]

    def begun() -> bool:
        directory = lone_cluster.state().get("host", {}).get("dir")
        if directory and directory not in started:
            started.append(directory)
        # Something of the cluster runs beside the command itself.
        others = [p for p in leftovers(started) if not p.startswith(f"{process.pid}:")]
        return process.poll() is not None or (bool(others) and (host == "process" or len(others) > 3))

    until("something is started", begun)
    traces = Traces.of(lone_cluster)
    process.send_signal(signal.SIGTERM)
    out, err = told(process)
    assert process.returncode == INTERRUPTED, out + err
    assert err.strip() == "rayplane: interrupted"
    assert traces.left() == []
    assert leftovers(started) == []
    if lone_cluster.directory.exists():
        assert {p.name for p in lone_cluster.directory.iterdir()} == {".rayplane", "logs"}
