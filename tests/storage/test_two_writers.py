"""Two writers of one file: each has a temporary file of its own, and the last one asked has the last word."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from rayplane.storage.env import Disk, LocalDisk, SimulatedDisk


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "local":
        return LocalDisk(tmp_path / "disk")
    waits = iter(range(1000, 0, -1))  # whoever comes first is slowest
    return SimulatedDisk(sync_seconds=lambda: next(waits) / 1e5)


async def test_the_last_one_asked_stays(disk: Disk) -> None:
    for turn in range(20):
        data = [b"%d-%d" % (turn, n) * 1000 for n in range(10)]
        await asyncio.gather(*(disk.write_atomic("dir/file", one) for one in data))
        assert disk.read("dir/file") == data[-1]
    assert disk.list("dir") == ["file"]


async def test_two_hosts_share_a_directory(tmp_path: Path) -> None:
    disks = [LocalDisk(tmp_path) for _ in range(4)]
    await asyncio.gather(*(d.write_atomic("file", b"%d" % n) for n, d in enumerate(disks) for _ in range(10)))
    assert disks[0].list() == ["file"]


async def test_what_killed_writers_left_goes(tmp_path: Path) -> None:
    left, young, other = (tmp_path / name for name in (".file.x.tmp", ".file.y.tmp", ".other.x.tmp"))
    for path in (left, young, other):
        path.touch()
    for path in (left, other):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    await LocalDisk(tmp_path).write_atomic("file", b"new")
    assert sorted(os.listdir(tmp_path)) == [".file.y.tmp", ".other.x.tmp", "file"]
