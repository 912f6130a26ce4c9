"""Control groups are their host's while it is there; what killed hosts have left goes."""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.control_plane.api.meta import Object
from rayplane.node.runtime import host_group
from rayplane.node.runtime.isolation import held_groups, janitor
from rayplane.node.runtime.isolation.cgroups import PREFIX, Group, find
from rayplane.node.runtime.isolation.held_groups import held, remove_left
from rayplane.node.runtime.isolation.limits import Limits
from tests.node.conftest import make_pod

needs_groups = pytest.mark.skipif(find("test") is None, reason="no control groups here")


def test_what_a_host_holds_stays_and_what_is_left_goes(tmp_path: Path) -> None:
    mine, left, theirs = (tmp_path / "slice" / name for name in (f"{PREFIX}mine", f"{PREFIX}left", "somebody"))
    (left / "pod").mkdir(parents=True)
    theirs.mkdir()
    fds = held(Group({"pids": str(mine)}, 1))
    remove_left([str(tmp_path)])
    assert {*(tmp_path / "slice").iterdir()} == {mine, theirs}
    for fd in fds:
        os.close(fd)
    remove_left([str(tmp_path)])
    assert {*(tmp_path / "slice").iterdir()} == {theirs}


def test_a_group_that_is_removed_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = tmp_path / f"{PREFIX}mine", held_groups._opened

    def opened_late(place: str) -> int:
        monkeypatch.setattr(held_groups, "_opened", opened)
        fd = opened(place)
        path.rmdir()
        return fd

    monkeypatch.setattr(held_groups, "_opened", opened_late)
    (fd,) = held(Group({"pids": str(path)}, 1))
    assert os.path.samestat(os.fstat(fd), path.stat())
    os.close(fd)


def test_nobody_who_keeps_a_group_locked_is_waited_for_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_groups, "_PAUSE_S", 0.0)
    path = tmp_path / f"{PREFIX}mine"
    path.mkdir()
    locked = os.open(path, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="keeps it locked"):
        held(Group({"pids": str(path)}, 1))
    os.close(locked)


@pytest.fixture
def stray() -> Iterator[subprocess.Popen[bytes]]:
    """A process that nobody ends otherwise."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]) as process:
        yield process
        process.kill()


@pytest.mark.processes
@needs_groups
def test_a_host_that_was_killed_with_its_janitor_leaves_nothing_to_the_next(stray: subprocess.Popen[bytes]) -> None:
    group = find("killed")
    assert group is not None
    group.below("pod").make()
    for path in group.below("pod").paths:
        Path(path, "cgroup.procs").write_text(str(stray.pid))

    async def live() -> None:
        another = host_group.HostGroup("another", 10)
        await another.open()
        try:
            assert not there(group)
            assert another.top is not None and there(another.top)
        finally:
            await another.close()

    asyncio.run(live())
    assert stray.wait(60) == -signal.SIGKILL


@pytest.mark.processes
@needs_groups
async def test_a_pod_that_is_less_as_a_whole_is_held_to_that() -> None:
    def pod(cpu: str) -> Object:
        status = {"resources": {"limits": {"cpu": "500m"}}}
        return make_pod("p", resources={"limits": {"cpu": cpu}}) | {"status": status}

    def bound() -> str:
        name = "cpu.max" if group.version == 2 else "cpu.cfs_quota_us"
        (path,) = [path for path in group.paths if os.path.exists(f"{path}/{name}")]
        return Path(path, name).read_text().split()[0]

    host = host_group.HostGroup("resized", 10)
    await host.open()
    try:
        host.add("uid", pod("500m"))
        host.container("uid", "c-1", Limits())
        group = host.pod("uid")
        bounds = [bound()]
        for reported in (True, False):
            host.limit("uid", pod("200m"), reported=reported)
            bounds.append(bound())
        host.limit("uid")
        assert [*bounds, bound()] == ["50000", "50000", "20000", "20000"]
    finally:
        await host.close()


@pytest.mark.processes
async def test_a_janitor_ends_processes_and_leaves_the_next_life_of_its_host_alone(
    tmp_path: Path, stray: subprocess.Popen[bytes]
) -> None:
    path, next_life = tmp_path / f"{PREFIX}mine", tmp_path / f"{PREFIX}next"
    path.mkdir()
    next_life.mkdir()
    fds = [janitor.watch([str(path)]), janitor.watch([str(next_life)])]
    next_life.rmdir()
    (tmp_path / "that it has another number").mkdir()
    next_life.mkdir()
    (path / "cgroup.procs").write_text(f"0\n{stray.pid}\n")
    for fd in fds:
        os.close(fd)
    async with asyncio.timeout(60):
        while stray.poll() is None:
            await asyncio.sleep(0.01)
        (path / "cgroup.procs").unlink()  # the kernel's are no obstacle to the end of a group
        while path.exists():
            await asyncio.sleep(0.01)
    assert next_life.exists()


def there(group: Group) -> bool:
    return any(os.path.exists(path) for path in group.paths)
