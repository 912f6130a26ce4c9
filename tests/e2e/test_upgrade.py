"""A rolling upgrade under traffic: no write is lost, no pod starts anew but with its node host, what failed goes on."""

import itertools
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import rayplane
from tests.e2e.harness import ROOT, Cluster, until

NEWER = "0.2.0-test"
FAILED = 1


def another_build(place: Path) -> Path:
    """An environment with this tree under another version: its Python. A file `broken` names an actor that it fails."""
    package = place / "lib" / "rayplane"
    package.mkdir(parents=True)
    own = (ROOT / ".src" / "rayplane" / "__init__.py").read_text()
    (package / "__init__.py").write_text(re.sub('__version__ = ".*"', f'__version__ = "{NEWER}"', own))
    for part in ("control_plane", "node", "proto", "storage"):
        (package / part).symlink_to((ROOT / part).resolve())
    python = place / "bin" / "python"
    python.parent.mkdir()
    (place / "broken").write_text("nothing")
    python.write_text(
        f"#!/bin/sh\nfor word; do case $word in */$(cat {place}/broken)) echo 'it is broken' >&2; exit 1;; esac; done\n"
        f'PYTHONPATH={place}/lib exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return python


class Traffic:
    """A writer without end, to whoever answers."""

    def __init__(self, cluster: Cluster) -> None:
        self._ways = cluster.endpoints()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.acknowledged: list[str] = []

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        numbers = itertools.count()
        ways = self._ways
        with rayplane.Client(ways["grpc"], ca=ways["ca"], cert=ways["cert"], key=ways["key"]) as client:
            while not self._ended.is_set():
                name = f"written-{next(numbers)}"
                try:
                    client.create("configmaps", {"metadata": {"name": name, "namespace": "default"}})
                except rayplane.errors.ApiError:
                    continue  # nobody said that it is done
                self.acknowledged.append(name)


def pods(cluster: Cluster) -> dict[str, tuple[str, int]]:
    """Their uids and how often their containers were started again."""
    found = json.loads(cluster.kubectl()("get", "pods", "-o", "json"))["items"]
    return {
        p["metadata"]["name"]: (p["metadata"]["uid"], p["status"]["containerStatuses"][0]["restartCount"])
        for p in found
        if p["status"].get("containerStatuses")
    }


def uids(found: dict[str, tuple[str, int]]) -> dict[str, str]:
    return {name: uid for name, (uid, _) in found.items()}


def versions(cluster: Cluster) -> set[str]:
    found = cluster.status()
    return {row["version"] for row in (*found["members"], *found["actors"])}


@pytest.mark.turn(1, of=2)
def test_another_build_takes_over_part_by_part(bring_up: Callable[..., Cluster], tmp_path: Path) -> None:
    sizes = ("--apiservers", "2", "--schedulers", "1", "--controllers", "1", "--nodes", "1")
    cluster = bring_up("--host", "process", *sizes)
    kubectl = cluster.kubectl()
    kubectl("create", "deployment", "web", "--image=nginx", "--replicas=3")
    kubectl("rollout", "status", "deployment/web")
    before = pods(cluster)
    assert versions(cluster) == {rayplane.__version__}
    python = another_build(tmp_path)
    planned = cluster.rayplane("upgrade", "--from", str(tmp_path), "--dry-run").stdout.splitlines()
    assert len(planned) == 3 + 1 + 2 + 1 + 1 + 1 + 1 + 1
    with Traffic(cluster) as traffic:
        (tmp_path / "broken").write_text("apiserver-1")
        stopped = cluster.rayplane("upgrade", "--python", str(python), code=FAILED).stderr
        assert "apiserver-1 starts anew" in stopped and "same command again" in stopped
        assert versions(cluster) >= {rayplane.__version__, NEWER}
        # An API server is away: on a busy machine a node may have begun its containers anew, but never its pods.
        assert uids(pods(cluster)) == uids(before)
        (tmp_path / "broken").write_text("nothing")
        done = cluster.rayplane("upgrade", "--python", str(python)).stdout
        # The supervisor may have brought back by itself what the broken environment could not start.
        assert re.search(f"rayplane {NEWER}: [56] steps", done), done
        count = len(traffic.acknowledged)
        until("writes go on", lambda: len(traffic.acknowledged) > count)
    assert versions(cluster) == {NEWER}
    there = set(kubectl("get", "configmaps", "-o", "name").split())
    assert {f"configmap/{name}" for name in traffic.acknowledged} <= there
    # No runtime lets another host go on with its containers: each starts once with its node's, where it is.
    kubectl("rollout", "status", "deployment/web")
    after = pods(cluster)
    assert uids(after) == uids(before)
    assert max(restarts for _, restarts in after.values()) <= 1
    assert "nothing to do" in cluster.rayplane("upgrade", "--python", str(python)).stdout
    assert os.path.samefile(cluster.state()["host"]["python"], python)
