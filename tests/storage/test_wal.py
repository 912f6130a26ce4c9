"""The write-ahead log: what was saved is there after any crash, and damage is never served."""

import asyncio
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.storage.env import Disk, DiskError, LocalDisk, SimulatedDisk, failpoints
from rayplane.storage.wal import (
    CorruptLog,
    CorruptSnapshotFile,
    LogEntry,
    LogExists,
    LogFailed,
    LogMissing,
    SnapshotFiles,
    SnapshotMark,
    Wal,
)
from tests.tiers import examples

SMALL = 4096


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return LocalDisk(tmp_path) if request.param == "local" else SimulatedDisk()


def entries(first: int, last: int, term: int = 1, size: int = 20) -> list[LogEntry]:
    return [LogEntry(n, term, b"%d/%d " % (n, term) + b"x" * size) for n in range(first, last + 1)]


async def reopen(disk: Disk) -> tuple[Wal, list[LogEntry]]:
    wal, recovered = await Wal.open(disk, segment_bytes=SMALL)
    return wal, recovered.entries


async def test_everything_saved_is_recovered(disk: Disk) -> None:
    wal = await Wal.create(disk, b"identity", segment_bytes=SMALL)
    await wal.save(b"hard-1", entries(1, 3))
    await wal.save(None, entries(4, 4))
    await wal.save(b"hard-2")
    await wal.close()
    wal, recovered = await Wal.open(disk, segment_bytes=SMALL)
    assert (recovered.metadata, recovered.hard_state) == (b"identity", b"hard-2")
    assert (recovered.entries, recovered.snapshot) == (entries(1, 4), None)
    assert wal.last_index == 4
    await wal.save(None, entries(5, 5))
    await wal.close()
    assert (await reopen(disk))[1] == entries(1, 5)


async def test_a_new_leaders_entries_replace_a_tail(disk: Disk) -> None:
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.save(None, entries(1, 9))
    await wal.save(None, entries(4, 5, term=2))
    await wal.close()
    assert (await reopen(disk))[1] == entries(1, 3) + entries(4, 5, term=2)


async def test_segments_rotate_and_are_released(disk: Disk) -> None:
    wal = await Wal.create(disk, b"identity", segment_bytes=SMALL)
    for n in range(1, 101):
        await wal.save(b"hard-%d" % n, entries(n, n, size=300))
    assert len(disk.list("wal")) > 5
    await wal.mark_snapshot(90, 1)
    await wal.release(90)
    assert len(disk.list("wal")) < 4
    await wal.save(None, entries(101, 101))
    await wal.close()
    _, recovered = await Wal.open(disk, segment_bytes=SMALL)
    assert (recovered.metadata, recovered.hard_state) == (b"identity", b"hard-100")
    assert recovered.snapshot == (90, 1)
    assert recovered.entries == entries(91, 100, size=300) + entries(101, 101)


async def test_a_snapshot_from_a_leader_starts_the_log_anew(disk: Disk) -> None:
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.save(None, entries(1, 5))
    await wal.mark_snapshot(50, 2)
    await wal.save(None, entries(51, 52, term=2))
    await wal.close()
    _, recovered = await Wal.open(disk, segment_bytes=SMALL)
    assert (recovered.snapshot, recovered.entries) == ((50, 2), entries(51, 52, term=2))


async def test_a_snapshot_of_another_history_drops_what_follows_it(disk: Disk) -> None:
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.save(None, entries(1, 9))
    await wal.mark_snapshot(5, 2)
    await wal.close()
    _, recovered = await Wal.open(disk, segment_bytes=SMALL)
    assert (recovered.snapshot, recovered.entries) == ((5, 2), [])


async def test_callers_share_a_sync() -> None:
    syncs = 0

    def one() -> float:
        nonlocal syncs
        syncs += 1
        return 0

    disk = SimulatedDisk(sync_seconds=one)
    wal = await Wal.create(disk, b"")
    syncs = 0
    await asyncio.gather(*(wal.save(None, entries(n, n)) for n in range(1, 51)))
    assert syncs <= 2
    await wal.close()
    assert (await reopen(disk))[1] == entries(1, 50)


async def test_a_cancelled_caller_disturbs_nobody() -> None:
    disk = SimulatedDisk(sync_seconds=lambda: 0)
    wal = await Wal.create(disk, b"")
    tasks = [asyncio.ensure_future(wal.save(None, entries(n, n))) for n in range(1, 4)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert tasks[0].cancelled()
    await wal.close()
    assert (await reopen(disk))[1] == entries(1, 3)


async def test_a_lazy_hard_state_goes_with_the_next_save() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.save(b"first")
    await wal.save(b"second", sync=False)
    assert (await Wal.open(disk, segment_bytes=SMALL))[1].hard_state == b"first"
    await wal.save(None, entries(1, 1))
    assert (await Wal.open(disk, segment_bytes=SMALL))[1].hard_state == b"second"


async def test_missing_and_present_logs_are_told_apart(disk: Disk) -> None:
    with pytest.raises(LogMissing):
        await Wal.open(disk)
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.close()
    with pytest.raises(LogExists):
        await Wal.create(disk, b"")


async def test_a_full_disk_stops_the_log_and_loses_nothing() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    await wal.save(None, entries(1, 10))
    disk.capacity = disk.capacity - disk.room() + 100
    with pytest.raises(LogFailed, match=r"no space left.*restart"):
        await wal.save(None, entries(11, 20))
    with pytest.raises(LogFailed):
        await wal.save(None, entries(11, 11))
    await wal.close()
    disk.capacity = 1 << 30
    wal, found = await reopen(disk)
    assert found == entries(1, 10)
    await wal.save(None, entries(11, 11))
    assert (await reopen(disk))[1] == entries(1, 11)


async def test_a_failed_sync_is_never_trusted_again() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    disk.failing = True
    with pytest.raises(LogFailed):
        await wal.save(None, entries(1, 1))
    disk.failing = False
    with pytest.raises(LogFailed):
        await wal.save(None, entries(1, 1))


async def one_segment() -> tuple[SimulatedDisk, str, bytes, int]:
    """A disk with a log of entries 1 to 4, its only segment, its bytes, and where the last frame begins."""
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"identity", segment_bytes=SMALL)
    await wal.save(b"hard", entries(1, 3))
    path = f"wal/{disk.list('wal')[0]}"
    begin = len(disk.read(path).rstrip(b"\0"))
    await wal.save(None, [*entries(4, 4), LogEntry(5, 1, bytes(700) + b"zeros are data too")])
    await wal.close()
    return disk, path, disk.read(path), begin


async def test_a_torn_tail_is_cut_off_at_every_byte() -> None:
    disk, path, data, begin = await one_segment()
    end = len(data.rstrip(b"\0"))
    for cut in range(begin, end):
        await disk.write_atomic(path, data[:cut].ljust(SMALL, b"\0"))
        wal, found = await reopen(disk)
        assert found == entries(1, 3)
        await wal.save(None, entries(4, 6))
        await wal.close()
        assert (await reopen(disk))[1] == entries(1, 6)


async def test_a_file_that_was_cut_short_is_no_torn_tail() -> None:
    disk, path, data, begin = await one_segment()
    head = len(data.rstrip(b"\0")) // 8  # within the first frame nothing was ever promised
    for length in range(begin - head, SMALL, 3):
        await disk.write_atomic(path, data[:length])
        with pytest.raises(CorruptLog):
            await Wal.open(disk, segment_bytes=SMALL)


async def test_opening_never_makes_a_file_shorter(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    wal = await Wal.create(disk, b"", segment_bytes=2 * SMALL)
    await wal.save(None, entries(1, 3))
    path = f"wal/{disk.list('wal')[0]}"
    await wal.close()
    data = disk.read(path)
    end = len(data.rstrip(b"\0"))
    (tmp_path / path).write_bytes(data[:end] + b"torn".ljust(600, b"\0") + data[end + 600 :])
    wal, found = await reopen(disk)  # which wants smaller files than it was made with
    assert (found, disk.read(path)) == (entries(1, 3), data)
    await wal.close()
    assert (await reopen(disk))[1] == entries(1, 3)


async def test_lost_sectors_of_the_last_frame_are_a_torn_tail() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=1 << 16)
    await wal.save(None, entries(1, 3))
    path = f"wal/{disk.list('wal')[0]}"
    begin = len(disk.read(path).rstrip(b"\0"))
    await wal.save(None, entries(4, 40, size=100))
    data = disk.read(path)
    end = len(data.rstrip(b"\0"))
    for sector in range(begin // 512, (end - 1) // 512 + 1):
        low, high = max(begin, sector * 512), min(end, sector * 512 + 512)
        await disk.write_atomic(path, data[:low] + bytes(high - low) + data[high:])
        _, found = await reopen(disk)
        assert found == entries(1, 3), sector


async def test_a_flipped_bit_is_refused_wherever_it_is() -> None:
    disk, path, data, _ = await one_segment()
    end = len(data.rstrip(b"\0"))
    for offset in range(end):
        for bit in (0, 7):
            disk.flip(path, offset, bit)
            try:
                _, recovered = await Wal.open(disk, segment_bytes=SMALL)
            except CorruptLog as e:
                assert path in str(e) and "offset" in str(e) and "remove this member" in str(e)
            else:
                # Only in the zeros between frames, which mean nothing.
                assert data[offset] == 0 and len(recovered.entries) == 5
            await disk.write_atomic(path, data)


async def test_a_missing_or_foreign_segment_is_refused() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    for n in range(1, 60):
        await wal.save(None, entries(n, n, size=300))
    await wal.close()
    names = disk.list("wal")
    kept = disk.read(f"wal/{names[2]}")
    disk.remove(f"wal/{names[2]}")
    with pytest.raises(CorruptLog, match="missing"):
        await Wal.open(disk, segment_bytes=SMALL)
    await disk.write_atomic(f"wal/{names[2]}", disk.read(f"wal/{names[1]}"))
    with pytest.raises(CorruptLog):
        await Wal.open(disk, segment_bytes=SMALL)
    await disk.write_atomic(f"wal/{names[2]}", bytes(SMALL))
    with pytest.raises(CorruptLog):
        await Wal.open(disk, segment_bytes=SMALL)
    await disk.write_atomic(f"wal/{names[2]}", kept)
    assert (await reopen(disk))[1] == entries(1, 59, size=300)


async def test_a_missing_last_segment_is_refused() -> None:
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    for n in range(1, 60):
        await wal.save(None, entries(n, n, size=300))
    await wal.close()
    disk.remove(f"wal/{disk.list('wal')[-1]}")
    with pytest.raises(CorruptLog, match=r"the segment after it.*missing"):
        await Wal.open(disk, segment_bytes=SMALL)


async def test_a_segment_whose_end_a_crash_prevented_is_ended_at_the_next_start(disk: Disk) -> None:
    def crash(name: str) -> None:
        raise DiskError("crash")

    wal = await Wal.create(disk, b"", segment_bytes=SMALL)
    failpoints.arm_call("wal.before_finish", crash)
    count = 0
    try:
        with pytest.raises(LogFailed):
            for n in range(1, 60):
                await wal.save(None, entries(n, n, size=300))
                count = n
    finally:
        failpoints.disarm()
    await wal.close()
    wal, found = await reopen(disk)
    assert found == entries(1, count, size=300)
    await wal.save(None, entries(count + 1, count + 1))
    await wal.close()
    disk.remove(f"wal/{disk.list('wal')[-1]}")
    with pytest.raises(CorruptLog, match=r"the segment after it.*missing"):
        await Wal.open(disk, segment_bytes=SMALL)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 4))
async def test_no_crash_loses_what_was_acknowledged(seed: int, rounds: int) -> None:
    rng = random.Random(seed)
    disk = SimulatedDisk(sync_seconds=lambda: 0)
    wal = await Wal.create(disk, b"identity", segment_bytes=SMALL)
    index, acknowledged, snapshot = 0, 0, 0
    for _ in range(rounds):
        saves = []
        for _ in range(rng.randint(0, 8)):
            first, last = index + 1, index + rng.randint(1, 3)
            saves.append(
                asyncio.ensure_future(wal.save(b"hard", entries(first, last, size=rng.choice((0, 100, 2000)))))
            )
            saves[-1].last = last  # type: ignore[attr-defined]
            index = last
            for _ in range(rng.randint(0, 12)):
                await asyncio.sleep(0)
        if acknowledged > snapshot and rng.random() < 0.5:
            await wal.mark_snapshot(acknowledged, 1)
            snapshot = acknowledged
            await wal.release(snapshot)
        acknowledged = max([acknowledged, *(s.last for s in saves if s.done() and not s.exception())])  # type: ignore[attr-defined]
        disk.crash(rng)
        await asyncio.gather(*saves, return_exceptions=True)
        await wal.close()
        wal, recovered = await Wal.open(disk, segment_bytes=SMALL)
        assert recovered.metadata == b"identity"
        assert (recovered.snapshot or (0, 0))[0] == snapshot
        got = [(e.index, e.data.split()[0]) for e in recovered.entries]
        assert got == [(n, b"%d/1" % n) for n in range(snapshot + 1, snapshot + len(got) + 1)]
        assert snapshot + len(got) >= acknowledged
        index = acknowledged = snapshot + len(got)
    await wal.close()


# Snapshot files


async def test_snapshot_files_come_back_whole(disk: Disk) -> None:
    files = SnapshotFiles(disk)
    content = random.Random(1).randbytes(3_000_000)
    for n in (1, 2, 3):
        await files.write(SnapshotMark(n, 1), (content[at : at + 7777] for at in range(0, len(content), 7777)))
    assert files.marks() == [(1, 1), (2, 1), (3, 1)]
    assert b"".join(files.read(SnapshotMark(2, 1))) == content
    await files.prune(keep=1)
    assert files.marks() == [(3, 1)]


async def test_a_damaged_snapshot_file_is_refused() -> None:
    disk = SimulatedDisk()
    files = SnapshotFiles(disk)
    mark = SnapshotMark(7, 2)
    await files.write(mark, [b"content"])
    (name,) = disk.list("snap")
    path, size = f"snap/{name}", len(disk.read(f"snap/{name}"))
    for offset in range(size):
        disk.flip(path, offset)
        with pytest.raises(CorruptSnapshotFile, match="snap/"):
            files.read(mark)
        disk.flip(path, offset)
    data = disk.read(path)
    for cut in range(size):
        await disk.write_atomic(path, data[:cut])
        with pytest.raises(CorruptSnapshotFile):
            files.read(mark)
    with pytest.raises(CorruptSnapshotFile, match="missing"):
        files.read(SnapshotMark(8, 2))


async def test_a_failed_snapshot_leaves_none() -> None:
    disk = SimulatedDisk(capacity=100)
    files = SnapshotFiles(disk)
    with pytest.raises(DiskError):
        await files.write(SnapshotMark(1, 1), [bytes(1000)])
    assert (files.marks(), disk.list("snap")) == ([], [])


async def test_a_written_snapshot_survives_a_crash() -> None:
    for seed in range(30):
        disk = SimulatedDisk()
        files = SnapshotFiles(disk)
        await files.write(SnapshotMark(1, 1), [b"content"])
        disk.crash(random.Random(seed))
        assert b"".join(files.read(SnapshotMark(1, 1))) == b"content"
