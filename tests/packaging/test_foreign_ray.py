"""A cluster on somebody's Ray that knows nothing of rayplane: it is sent what it runs, and is left as it was."""

import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.cluster import processes, ray_cluster
from rayplane.control_plane.cluster.ports import can_bind, free_port
from tests.e2e.harness import COMMAND_TIMEOUT_S, Cluster, Traces, until
from tests.packaging.conftest import PIP_TIMEOUT_S, environment_without_rayplane, packages_of, pip

pytestmark = [pytest.mark.e2e, pytest.mark.processes, pytest.mark.timeout(PIP_TIMEOUT_S)]

ANSWERS_TIMEOUT_S = 300.0
SMALL = ("--members", "1", "--apiservers", "1", "--schedulers", "1", "--controllers", "1", "--nodes", "1")
# What another user of this Ray sees: whose actors there are, and whether work of his own could import rayplane.
OTHER_USER = """
import importlib.util, json, sys, ray

@ray.remote
def knows_rayplane():
    return importlib.util.find_spec("rayplane") is not None

ray.init(address=sys.argv[1], log_to_driver=False)
actors = [a["namespace"] for a in ray.util.list_named_actors(all_namespaces=True)]
print(json.dumps({"actors": actors, "knows rayplane": ray.get(knows_rayplane.remote())}))
"""
NOTHING_OF_OURS = {"actors": [], "knows rayplane": False}


@dataclass(frozen=True)
class ForeignRay:
    """A head that its user has started by `ray start`."""

    python: Path
    host: dict[str, Any]

    @property
    def address(self) -> str:
        return f"{ray_cluster.LOOPBACK}:{self.host['port']}"

    @property
    def env(self) -> dict[str, str]:
        return os.environ | ray_cluster.environment(self.host)

    def start(self, log_file: Path) -> None:
        command = [
            *(str(self.python), "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus", "4"),
            *("--port", str(self.host["port"]), "--node-ip-address", ray_cluster.LOOPBACK),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--ray-client-server-port", str(self.host["client port"])),
            *("--include-dashboard", "false", "--temp-dir", self.host["dir"]),
            *("--object-store-memory", str(ray_cluster.OBJECT_STORE_BYTES)),
        ]
        self.host["pid"] = processes.start(command, log_file, environment=self.env)

    def seen_by_another(self) -> dict[str, Any]:
        """What OTHER_USER says; empty when Ray does not let him in."""
        command = [str(self.python), "-c", OTHER_USER, self.address]
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 else {}


@pytest.fixture
def foreign_ray(tmp_path: Path) -> Iterator[ForeignRay]:
    log = tmp_path / "ray.log"
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory:
        port = free_port(ray_cluster.LOOPBACK, (), random.Random())
        client_port = free_port(ray_cluster.LOOPBACK, (port,), random.Random())
        host = {"owned": True, "pid": 0, "port": port, "client port": client_port, "dir": directory}
        host["token"] = secrets.token_hex(32)
        ray = ForeignRay(environment_without_rayplane(tmp_path / "theirs"), host)

        def answers() -> bool:
            if not ray_cluster.is_alive(host):
                assert not host["pid"] or ray_cluster.was_slow(host, log), log.read_text()
                ray.start(log)
            # Ray's own drivers would wait for a head that has ended.
            return not can_bind(ray_cluster.LOOPBACK, port) and bool(ray.seen_by_another())

        try:
            until("Ray answers", answers, timeout_s=ANSWERS_TIMEOUT_S)
            yield ray
        finally:
            ray_cluster.stop(host)


@pytest.fixture
def cluster(wheel: Path, foreign_ray: ForeignRay, tmp_path: Path) -> Cluster:
    """A cluster whose user has installed the wheel."""
    mine = tmp_path / "mine"
    python = environment_without_rayplane(mine)
    pip(sys.executable, "install", "--no-deps", "--no-compile", "--target", packages_of(mine), wheel)
    return Cluster("foreign", tmp_path, python=python, variables=foreign_ray.env)


@pytest.mark.turn(1, of=2)
def test_a_cluster_on_a_ray_without_rayplane_comes_heals_and_goes(cluster: Cluster, foreign_ray: ForeignRay) -> None:
    assert foreign_ray.seen_by_another() == NOTHING_OF_OURS
    try:
        cluster.rayplane("up", "--host", "ray", "--address", foreign_ray.address, "--runtime", "process", *SMALL)
        traces = Traces.of(cluster)
        kubectl = cluster.kubectl()
        kubectl("run", "server", "--image=python", "--command", "--", "python", "-m", "http.server")
        kubectl.until("pod server", "{.status.phase}", ["Running"])
        # Its second process is sent what it runs too, long after the command that brought it up has ended.
        cluster.rayplane("chaos", "kill", "apiserver", "apiserver-0")
        until("the cluster is healthy again", lambda: cluster.status().get("healthy"))
        assert kubectl.names("pods") == ["pod/server"]
        assert set(foreign_ray.seen_by_another()["actors"]) == {ray_cluster.namespace(cluster.name)}
    finally:
        cluster.rayplane("down", "--purge")
    assert traces.left() == []
    assert foreign_ray.seen_by_another() == NOTHING_OF_OURS
