"""What rayplane may delete: what it made, and nothing else."""

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import ending, launch, ray_cluster
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError, NotUp, UsageError
from rayplane.control_plane.cluster.launch import down
from rayplane.control_plane.cluster.ours import MARKER, forget
from rayplane.control_plane.cluster.pki import Secrets
from rayplane.control_plane.cluster.ports import share, with_ports
from rayplane.control_plane.cluster.state import BUILD_CACHE, BUILDS, ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Machine, Topology, founding
from rayplane.storage.env.private import wider


def quiet(_: str) -> None:
    """Nobody looks."""


def state(host: dict[str, object] | None = None) -> ClusterState:
    config = ClusterConfig(name="x", nodes=1, host="process")
    return ClusterState(config, AddressPlan(2), founding(config, (Machine(),)), False, host or {"pid": 0})


def filled(path: Path) -> StateDir:
    """A state directory as a cluster leaves it."""
    directory = StateDir(path)
    directory.create()
    Secrets.create("x").write(directory.pki)
    directory.write(state())
    (path / "data" / "member-0" / "store").mkdir(parents=True)
    (path / "data" / "member-0" / "store" / "data.mdb").write_bytes(b"x")
    (path / "logs" / "member-0.log").write_text("x")
    (path / "kubeconfig").write_text("x")
    (path / BUILD_CACHE).mkdir()
    (path / BUILD_CACHE / "layer").write_text("x")
    (path / BUILDS / "killed" / "images").mkdir(parents=True)
    return directory


def tree(path: Path) -> set[str]:
    return {str(p.relative_to(path)) for p in path.rglob("*")}


async def test_a_purge_deletes_a_cluster_whole(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    assert await down(directory, quiet, purge=True) == []
    assert tree(tmp_path) == set()


def photos(path: Path) -> None:
    (path / "photos").mkdir(parents=True)
    (path / "photos" / "1.jpg").write_bytes(b"x")


def photos_beside_such_names(path: Path) -> None:
    photos(path)
    (path / "data").mkdir()
    (path / "data" / "thesis.tex").write_text("x")
    (path / "logs").mkdir()


def somebody_elses_state(path: Path) -> None:
    photos(path)
    (path / "cluster.json").write_text(json.dumps({"config": {}}))


def a_marker_of_another_kind(path: Path) -> None:
    photos(path)
    (path / MARKER).write_text("mine")


@pytest.mark.parametrize(
    "fill", [photos, photos_beside_such_names, somebody_elses_state, a_marker_of_another_kind, Path.mkdir]
)
@pytest.mark.parametrize("purge", [True, False])
async def test_a_directory_that_is_no_cluster_is_refused_and_left(
    tmp_path: Path, fill: Callable[[Path], None], purge: bool
) -> None:
    fill(tmp_path / "mine")
    before = tree(tmp_path)
    with pytest.raises(ClusterError, match=f"{tmp_path}/mine holds no cluster"):
        await down(StateDir(tmp_path / "mine"), quiet, purge=purge)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("fill", [photos, photos_beside_such_names, somebody_elses_state, a_marker_of_another_kind])
async def test_a_cluster_does_not_move_in_where_somebody_lives(tmp_path: Path, fill: Callable[[Path], None]) -> None:
    fill(tmp_path / "mine")
    before = tree(tmp_path)
    config = ClusterConfig(name="x", host="process")
    with pytest.raises(ClusterError):
        await launch.up(config, StateDir(tmp_path / "mine"), quiet)
    assert tree(tmp_path) == before


def test_a_cluster_does_not_move_into_a_directory_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who owns a directory renames what is in it, whoever owns that: keys too."""
    mode = tmp_path.stat().st_mode
    mine = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    with pytest.raises(ClusterError, match="belongs to another user"):
        StateDir(tmp_path).create()
    assert (os.listdir(tmp_path), tmp_path.stat().st_mode) == ([], mode)


async def test_what_somebody_put_into_a_state_directory_stays_and_is_told(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    (tmp_path / "x" / "notes.txt").write_text("mine")
    (tmp_path / "x" / "photos").mkdir()
    assert await down(directory, quiet, purge=True) == ["notes.txt", "photos"]
    assert tree(tmp_path / "x") == {"notes.txt", "photos", MARKER}


async def test_no_link_is_followed(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    photos(tmp_path / "mine")
    (directory.logs / "member-0.log").unlink()
    directory.logs.rmdir()
    directory.logs.symlink_to(tmp_path / "mine")
    (directory.path / "data" / "member-1").symlink_to(tmp_path / "mine")
    assert await down(directory, quiet, purge=True) == ["logs"]
    assert tree(tmp_path / "mine") == {"photos", "photos/1.jpg"}
    assert tree(tmp_path / "x") == {"logs", MARKER}


async def test_a_link_to_a_state_directory_is_not_the_directory(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    (tmp_path / "link").symlink_to(directory.path)
    with pytest.raises(ClusterError, match="symbolic link"):
        await down(StateDir(tmp_path / "link"), quiet, purge=True)
    assert directory.read() == state()


async def test_a_cluster_of_a_version_without_markers_is_known(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    (directory.path / MARKER).unlink()
    (directory.pki / "ca.key").chmod(0o644)
    directory.create()
    assert wider(directory.pki) == []
    (directory.path / MARKER).unlink()
    assert await down(directory, quiet, purge=True) == []
    assert tree(tmp_path) == set()


async def test_the_log_of_an_up_that_failed_without_a_marker_is_known(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "ray.log").write_text("x")
    StateDir(tmp_path).create()
    assert (tmp_path / "logs" / "ray.log").exists()
    (tmp_path / MARKER).unlink()
    (tmp_path / "logs" / "thesis.log").write_text("x")
    with pytest.raises(ClusterError, match="holds files and no cluster"):
        StateDir(tmp_path).create()


async def test_data_behind_a_link_is_not_taken_for_deleted(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    (directory.path / "data").rename(tmp_path / "elsewhere")
    (directory.path / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClusterError, match="cannot be deleted"):
        directory.forget_data()
    assert (tmp_path / "elsewhere" / "member-0").is_dir()


@pytest.mark.parametrize("name", ["photos", "rayplane-photos"])
async def test_a_folder_that_a_state_calls_rays_is_left_unless_rayplane_made_it(tmp_path: Path, name: str) -> None:
    directory = filled(tmp_path / "x")
    photos(tmp_path / name)
    directory.write(state({"owned": True, "pid": 0, "dir": str(tmp_path / name), "token": "", "port": 1}))
    text = json.loads((directory.path / "cluster.json").read_text())
    text["running"], text["config"]["host"] = True, "ray"
    (directory.path / "cluster.json").write_text(json.dumps(text))
    with pytest.raises(ClusterError, match="is left as it is"):
        await down(directory, quiet, purge=True)
    assert tree(tmp_path / name) == {"photos", "photos/1.jpg"}
    # It is told once: the cluster is down.
    assert await down(directory, quiet, purge=True) == []


def test_rays_folder_is_closed_and_goes_with_what_ray_put_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    host = ray_cluster.reserve(20_100, "token", slot=0)
    folder = Path(host["dir"])
    (folder / "ray" / "session_1").mkdir(parents=True)
    (folder / "ray").chmod(0o777)
    (folder / "ray" / "session_latest").symlink_to(folder / "ray" / "session_1")
    assert folder.stat().st_mode & 0o777 == 0o700
    ray_cluster.close_folders(host)
    assert wider(folder) == []
    ray_cluster.remove_folder(host)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("address", "wide"),
    [("127.0.0.1", False), ("::1", False), ("::ffff:127.0.0.1", False), ("0.0.0.0", True), ("::", True)],
)
def test_a_ray_that_can_be_reached_from_outside_is_noticed(address: str, wide: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as head:
        head.bind((address, 0))
        head.listen()
        host = {"owned": True, "port": head.getsockname()[1]}
        assert ray_cluster.listens_widely(host) is wide
        assert not ray_cluster.listens_widely({"owned": False})


@pytest.mark.processes
def test_the_process_of_another_cluster_is_not_ended(tmp_path: Path) -> None:
    """Its number may have been given to another cluster's process since."""
    directory = filled(tmp_path / "x")
    code = "import time; time.sleep(60)"
    other = subprocess.Popen(
        [sys.executable, "-c", code, "rayplane.control_plane.cluster.process_host", str(tmp_path / "y")]
    )
    try:
        directory.write(state({"pid": other.pid}))
        text = json.loads((directory.path / "cluster.json").read_text())
        text["running"] = True
        (directory.path / "cluster.json").write_text(json.dumps(text))
        asyncio.run(down(directory, quiet))
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("others", [[], ["cluster.json"], ["data/member-9-tls/ca.crt"]])
def test_what_actors_left_on_a_machine_is_deleted_if_nobody_elses_is_there(tmp_path: Path, others: list[str]) -> None:
    kept = [tmp_path / name for name in ("other/file", *(f"x/{other}" for other in others))]
    mine = [tmp_path / "x" / name for name in ("data/member-0/log", "data/member-0-tls/ca.crt", "logs/member-0.log")]
    for path in (*kept, *mine):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine" if path in mine else b"another's")
    assert forget(str(tmp_path / "x"), b"mine") is not bool(others)
    assert all(path.exists() for path in kept)
    assert [path.exists() for path in (*mine, tmp_path / "x")] == [bool(others)] * 4
    assert forget(str(tmp_path / "nowhere"), b"mine"), "nothing is left there"


def test_all_that_a_command_writes_down_is_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        directory = filled(tmp_path / "new" / "x")
        launch._write_access(directory, state_with_ports(), Secrets.create("x"))
    finally:
        os.umask(before)
    written = (directory.path, directory.pki, directory.logs, directory.path / "cluster.json", directory.kubeconfig)
    assert [p for p in (*written, *directory.pki.rglob("*")) if p.stat().st_mode & 0o077] == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def state_with_ports() -> ClusterState:
    found = state()
    return replace(found, topology=with_ports(found.topology, random.Random()))


def test_rays_directory_is_short_where_the_temporary_directory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps Unix sockets there, and ends when their paths are too long."""
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    host = ray_cluster.reserve(20_100, "token", slot=0)
    ray_cluster.remove_folder(host)
    path = Path(host["dir"]) / "ray" / "session_2026-01-01_00-00-00_000000_1234567" / "sockets" / "plasma_store"
    assert len(str(path)) <= 107


@contextlib.contextmanager
def session(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a session of its own, as Ray's first one does."""
    made = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(made.pid, 9)
        made.communicate()


def test_what_is_not_up_yet_is_not_reached_for(tmp_path: Path) -> None:
    directory = filled(tmp_path / "x")
    directory.write(replace(state(), running=True, topology=Topology(())))
    assert directory.read_running().running
    with pytest.raises(NotUp, match="is not up yet"):
        directory.read_reachable()


def test_a_path_that_is_none_is_told_as_such() -> None:
    with pytest.raises(UsageError, match="has a byte 0"):
        StateDir.of("x", "/tmp/a\0b")


@pytest.mark.processes
async def test_a_port_of_somebody_else_is_no_cluster_that_is_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, session("") as ended:
        ended.wait()
        host = {"owned": True, "pid": ended.pid, "port": other.getsockname()[1], "dir": str(tmp_path)}
        config = ClusterConfig(name="x", nodes=1, host="ray")
        gone = replace(state(host), config=config, running=True)
        assert not await ending.is_running(gone, StateDir(tmp_path))


@pytest.mark.processes
async def test_what_was_killed_a_moment_ago_is_not_up(tmp_path: Path) -> None:
    # The first process is gone, another of its session holds the port for a moment more.
    code = """import os, socket, sys, time
with socket.create_server(("127.0.0.1", 0)) as held:
    if os.fork():
        os._exit(0)
    print(held.getsockname()[1], flush=True)
    time.sleep(SECONDS)"""
    config = ClusterConfig(name="x", nodes=1, host="ray")
    for seconds, up in ((0.3, False), (30, True)):
        with session(code.replace("SECONDS", str(seconds))) as first:
            assert first.stdout is not None
            port = int(first.stdout.readline())
            first.wait()
            host = {"owned": True, "pid": first.pid, "port": port, "dir": str(tmp_path)}
            found = replace(state(host), config=config, running=True)
            assert await ending.is_running(found, StateDir(tmp_path)) == up
            if not up:
                assert not ray_cluster.processes_of(host)


async def test_ports_that_are_about_to_be_free_are_waited_for_and_others_taken_for_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        first = state().topology.instances[0]
        topology = Topology((replace(first, ports={"grpc": held.getsockname()[1]}),))
        before, said = replace(state(), topology=topology), list[str]()
        waiting = asyncio.create_task(launch._with_free_ports(before, said.append))
        await asyncio.sleep(0)
        held.close()
        assert (await waiting, said) == (before, [])
    with socket.create_server(("127.0.0.1", held_port(topology))):
        monkeypatch.setattr(launch, "FREE_TIMEOUT_S", 0.1)
        after = await launch._with_free_ports(before, said.append)
    assert held_port(after.topology) in share(before.plan)
    assert said == [
        f"port {held_port(topology)} of {first.name} is in use by another program: it gets {held_port(after.topology)}"
    ]


def held_port(topology: Topology) -> int:
    return topology.instances[0].ports["grpc"]
