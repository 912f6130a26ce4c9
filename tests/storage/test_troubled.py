"""A real machine that has trouble with its clock and its disk."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from rayplane.storage.env import DiskError, SystemClock
from rayplane.storage.env.troubled import Trouble, Troubled, TroubledClock, TroubledDisk


def test_a_clock_is_off_until_that_is_over() -> None:
    troubled = Troubled()
    clock = TroubledClock(troubled)
    troubled.now = Trouble(clock_ahead_s=3600.0)
    assert clock.now() - SystemClock().now() > timedelta(minutes=59)
    troubled.now = Trouble(clock_ahead_s=-3600.0)
    assert clock.now() - SystemClock().now() < timedelta(minutes=-59)
    troubled.now = Trouble()
    assert abs(clock.now() - SystemClock().now()) < timedelta(minutes=59)


async def written(disk: TroubledDisk, path: str) -> None:
    """Return when it is there, and a thread's answer would have come."""
    while not disk.exists(path):
        await asyncio.sleep(0)
    for _ in range(1000):
        await asyncio.sleep(0)


async def test_a_sync_that_begins_while_the_disk_stands_still_ends_when_that_is_over(tmp_path: Path) -> None:
    troubled = Troubled()
    disk = TroubledDisk(tmp_path, troubled)
    file = disk.append_file("a/f")
    file.append(b"x")
    await file.sync()
    troubled.now = Trouble(stalled=True)
    syncs = [file.sync(), disk.write_atomic("g", b"y"), disk.sync_dir()]
    stuck = [asyncio.create_task(one) for one in syncs]
    await written(disk, "g")
    assert not any(one.done() for one in stuck), "what is written is not acknowledged"
    troubled.now = Trouble(stalled=True, clock_ahead_s=1.0)
    after = asyncio.create_task(disk.write_atomic("h", b""))
    await written(disk, "h")
    assert not any(one.done() for one in (*stuck, after)), "another trouble ends none of it"
    troubled.now = Trouble()
    await after
    await asyncio.gather(*stuck)
    await file.sync()
    file.close()


async def test_a_slow_disk_takes_its_time_for_every_sync(tmp_path: Path) -> None:
    troubled = Troubled()
    disk, loop = TroubledDisk(tmp_path, troubled), asyncio.get_running_loop()
    file = disk.append_file("f")
    troubled.now = Trouble(sync_least_s=0.02)
    for sync in (file.sync, disk.sync_dir):
        began = loop.time()
        await sync()
        assert loop.time() - began >= 0.02
    file.close()


async def test_a_sync_is_slow_no_longer_than_its_disk(tmp_path: Path) -> None:
    troubled = Troubled()
    disk = TroubledDisk(tmp_path, troubled)
    troubled.now = Trouble(sync_least_s=3600.0)
    under_way = asyncio.create_task(disk.write_atomic("f", b""))
    await written(disk, "f")
    troubled.now = Trouble(sync_least_s=3500.0)
    await written(disk, "f")
    assert not under_way.done()
    troubled.now = Trouble()
    await under_way


async def test_nothing_more_can_be_written_to_a_full_disk(tmp_path: Path) -> None:
    troubled = Troubled()
    disk = TroubledDisk(tmp_path, troubled)
    file = disk.append_file("f")
    file.append(b"before")
    troubled.now = Trouble(full=True)
    with pytest.raises(DiskError, match="No space left"):
        file.append(b"meanwhile")
    with pytest.raises(DiskError, match="No space left"):
        await disk.write_atomic("g", b"")
    await file.sync()
    troubled.now = Trouble()
    file.append(b" and after")
    file.close()
    assert disk.read("f") == b"before and after" and not disk.exists("g")
