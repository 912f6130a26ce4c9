"""Files that were written and then spoiled: the log, snapshots, backups. What is read is what was written, or a typed
error."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator

from rayplane.storage.backup import BackupError, BackupHeader, read_backup, verify_backup, write_backup
from rayplane.storage.env import SimulatedDisk
from rayplane.storage.wal import CorruptSnapshotFile, LogEntry, SnapshotFiles, SnapshotMark, Wal, WalError
from tests.fuzz import mutate

CASES = 200
CASES_PER_WORLD = 2000
_SEGMENT_BYTES = 4096
_CONTENT = [b"the first" * 50, b"", b"\0" * 700, b"the last"]
_HEADER = BackupHeader(cluster="c", revision=7, created="2026-01-02T03:04:05Z")
_MARK = SnapshotMark(5, 1)

Case = tuple[str, int, int]
"""What is spoiled ("log", "snapshot", "backup"), which of its files, and the rng of how."""


def make(rng: random.Random) -> Case:
    return rng.choice(("log", "log", "snapshot", "backup")), rng.randrange(8), rng.randrange(1 << 32)


class Disks:
    """Disks that are made once; each case spoils a copy."""

    def __init__(
        self, log: dict[str, bytes], entries: list[LogEntry], snapshot: dict[str, bytes], backup: bytes
    ) -> None:
        self._log, self._entries, self._snapshot, self._backup = log, entries, snapshot, backup

    async def run(self, case: Case) -> None:
        what, which, seed = case
        await getattr(self, f"_{what}_is_true")(which, random.Random(seed))

    async def _log_is_true(self, which: int, rng: random.Random) -> None:
        disk = await _spoiled(self._log, which, rng)
        try:
            wal, recovered = await Wal.open(disk, segment_bytes=_SEGMENT_BYTES)
        except WalError:
            return
        await wal.close()
        read = recovered.entries
        # What was being written when the machine died may be missing, and nothing before it.
        short = len(self._entries) - len(read)
        assert read == self._entries[: len(read)] and short <= _LAST_SAVE, f"{short} entries are missing or wrong"
        assert recovered.metadata == b"identity", recovered.metadata

    async def _snapshot_is_true(self, which: int, rng: random.Random) -> None:
        files = SnapshotFiles(await _spoiled(self._snapshot, which, rng))
        for mark in files.marks():
            with contextlib.suppress(CorruptSnapshotFile):
                assert b"".join(files.read(mark)) == b"".join(_CONTENT)

    async def _backup_is_true(self, which: int, rng: random.Random) -> None:
        disk = await _spoiled({"x": self._backup}, which, rng)
        with contextlib.suppress(BackupError):
            assert verify_backup(disk, "x") == _HEADER
            header, chunks = read_backup(disk, "x")
            assert (header, b"".join(chunks)) == (_HEADER, b"".join(_CONTENT))

    async def good(self) -> None:
        disk = await _disk(self._log)
        wal, recovered = await Wal.open(disk, segment_bytes=_SEGMENT_BYTES)
        await wal.close()
        assert recovered.entries == self._entries

    def sizes(self) -> dict[str, int]:
        return {}


#: Entries of the last write of the log.
_LAST_SAVE = 2


async def _disk(files: dict[str, bytes]) -> SimulatedDisk:
    disk = SimulatedDisk()
    for path, data in files.items():
        await disk.write_atomic(path, data)
    return disk


async def _spoiled(files: dict[str, bytes], which: int, rng: random.Random) -> SimulatedDisk:
    files = dict(files)
    path = sorted(files)[which % len(files)]
    others = list(files.values())
    files[path] = mutate.of_bytes(rng, files[path], others)
    if rng.random() < 0.1:
        files[path] = rng.choice(others)
    if rng.random() < 0.1:
        del files[path]
    return await _disk(files)


def _files(disk: SimulatedDisk, directory: str) -> dict[str, bytes]:
    return {f"{directory}/{name}": disk.read(f"{directory}/{name}") for name in disk.list(directory)}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Disks]:
    rng = random.Random(1)
    disk = SimulatedDisk()
    wal = await Wal.create(disk, b"identity", segment_bytes=_SEGMENT_BYTES)
    entries: list[LogEntry] = []
    for n in range(1, 40):
        some = [LogEntry(2 * n - 1 + i, 1, rng.randbytes(rng.choice((3, 50, 300)))) for i in range(_LAST_SAVE)]
        await wal.save(b"hard-%d" % n, some)
        entries += some
    await wal.close()
    snapshots = SnapshotFiles(disk)
    await snapshots.write(_MARK, _CONTENT)
    await write_backup(disk, "x", _HEADER, _CONTENT)
    yield Disks(_files(disk, "wal"), entries, _files(disk, "snap"), disk.read("x"))
