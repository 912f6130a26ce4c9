"""Backup files: whole or refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from rayplane.storage.backup import (
    BackupError,
    BackupHeader,
    CorruptBackup,
    NotABackup,
    TruncatedBackup,
    UnsupportedBackup,
    read_backup,
    verify_backup,
    write_backup,
)
from rayplane.storage.env import LocalDisk, SimulatedDisk
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store

HEADER = BackupHeader(cluster="default", revision=7, created="2026-01-02T03:04:05Z")


async def test_a_store_comes_back_from_a_backup(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    store = Store(MemoryBackend(BUCKETS))
    for n in range(3000):
        with store.write() as txn:
            txn.put(b"key-%d" % n, bytes(500))
    size = await write_backup(disk, "full.rpbackup", HEADER, store.snapshot())
    assert size == (tmp_path / "full.rpbackup").stat().st_size
    header, chunks = read_backup(disk, "full.rpbackup")
    restored = Store(MemoryBackend(BUCKETS))
    restored.restore(chunks)
    assert (header, restored.hash_kv()) == (HEADER, store.hash_kv())
    assert disk.list() == ["full.rpbackup"]


async def test_async_sources_and_empty_content() -> None:
    disk = SimulatedDisk()

    async def source() -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"

    await write_backup(disk, "a", HEADER, source())
    assert b"".join(read_backup(disk, "a")[1]) == b"onetwo"
    await write_backup(disk, "b", HEADER, [])
    assert list(read_backup(disk, "b")[1]) == []


async def test_every_cut_and_every_changed_byte_is_refused() -> None:
    disk = SimulatedDisk()
    await write_backup(disk, "x", HEADER, [b"the content"])
    data = disk.read("x")
    for cut in range(len(data)):
        await disk.write_atomic("x", data[:cut])
        with pytest.raises(TruncatedBackup if cut else NotABackup):
            verify_backup(disk, "x")
    for offset in range(len(data)):
        await disk.write_atomic("x", data)
        disk.flip("x", offset)
        with pytest.raises(BackupError, match="x "):
            verify_backup(disk, "x")
    await disk.write_atomic("x", data.replace(b"content", b"cOntent"))
    with pytest.raises(CorruptBackup):
        read_backup(disk, "x")
    await disk.write_atomic("x", data.replace(b"RPBACKUP\0\x01", b"RPBACKUP\0\x02"))
    with pytest.raises(UnsupportedBackup):
        read_backup(disk, "x")
    with pytest.raises(NotABackup, match="no file"):
        verify_backup(disk, "other")


async def test_a_failed_backup_leaves_the_old_one() -> None:
    disk = SimulatedDisk()
    await write_backup(disk, "x", HEADER, [b"old"])

    def source() -> Iterator[bytes]:
        yield b"new"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await write_backup(disk, "x", HEADER, source())
    assert b"".join(read_backup(disk, "x")[1]) == b"old"
    assert disk.list() == ["x"]


async def test_two_backups_into_one_file_leave_one_of_them(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)

    async def chunks(of: bytes) -> AsyncIterator[bytes]:
        for _ in range(20):
            yield of * 100
            await asyncio.sleep(0)

    await asyncio.gather(*(write_backup(disk, "x", HEADER, chunks(of)) for of in (b"a", b"b")))
    _, content = read_backup(disk, "x")
    assert b"".join(content) in (b"a" * 2000, b"b" * 2000)
    assert disk.list() == ["x"]
