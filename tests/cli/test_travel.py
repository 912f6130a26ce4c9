"""Commands on a cluster's past, as they are given."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from rayplane.control_plane.cli import cluster, travel
from rayplane.control_plane.cluster import backup
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Topology


def fork(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Path]:
    """Of which directory, and into which."""
    paths: list[Path] = []

    async def forked(source: StateDir, directory: StateDir, *_: Any) -> Any:
        await asyncio.sleep(0)
        paths.extend((source.path, directory.path))
        return None, SimpleNamespace(revision=7)

    monkeypatch.setattr(backup, "fork", forked)
    monkeypatch.setattr(cluster, "print_access", lambda *_, **__: None)
    app = typer.Typer()
    app.callback()(lambda: None)
    travel.register(app)
    app(args=["fork", *arguments], standalone_mode=False)
    return paths


def test_the_variable_of_a_directory_is_of_the_cluster_that_is_forked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = StateDir(tmp_path / "x")
    there.create()
    there.write(ClusterState(ClusterConfig(name="default"), AddressPlan(0), Topology(()), False, {}))
    monkeypatch.setenv("RAYPLANE_STATE_DIR", str(there.path))
    given = ("--at", "-5m", "--name", "copy")
    assert fork(monkeypatch, "default", *given) == [there.path, StateDir.of("copy", None).path]
    with pytest.raises(UsageError, match="give NAME default, or the --from-state-dir of 'other'"):
        fork(monkeypatch, "other", *given)
