"""Snapshot files: one per mark, each with a digest, each there as a whole or not at all.

    magic "RPSNAP1\\n" | index u64 | term u64 | content | content length u64 | sha256 of all bytes before it

Integers are big-endian. Written beside the target and renamed once synced.
"""

import asyncio
import hashlib
import re
import struct
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from rayplane.storage.env import Disk
from rayplane.storage.env.failpoints import hit
from rayplane.storage.wal.errors import CorruptSnapshotFile
from rayplane.storage.wal.frames import SnapshotMark

DIRECTORY = "snap"
CHUNK_BYTES = 256 * 1024
SYNC_BYTES = 8 * 1024 * 1024
"""Written between two syncs of a file in the making."""
_MAGIC = b"RPSNAP1\n"
# Anything else in the directory is not ours, and left alone.
_NAME = re.compile(r"(?P<term>[0-9a-f]{16})-(?P<index>[0-9a-f]{16})\.snap")
_HEAD = struct.Struct(">8sQQ")
_TAIL = struct.Struct(">Q32s")


async def _each(chunks: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
    else:
        for chunk in chunks:
            yield chunk


class SnapshotFiles:
    """The snapshots of one member."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def _path(self, mark: SnapshotMark) -> str:
        return f"{DIRECTORY}/{mark.term:016x}-{mark.index:016x}.snap"

    async def write(self, mark: SnapshotMark, chunks: Iterable[bytes] | AsyncIterable[bytes]) -> int:
        """Store a snapshot durably; returns its size in bytes. Raises DiskError; then there is none."""
        temporary = f"{self._path(mark)}.tmp"
        hit("snapshot.before_write")
        self._disk.make_dir(DIRECTORY)
        file = self._disk.append_file(temporary, at=0)
        try:
            digest = hashlib.sha256()
            length = unsynced = 0

            async def put(data: bytes) -> None:
                nonlocal unsynced
                digest.update(data)
                file.append(data)
                unsynced += len(data)
                if unsynced >= SYNC_BYTES:
                    # The disk is never given so much at once that the log's syncs wait behind it.
                    unsynced = 0
                    await file.sync()

            await put(_HEAD.pack(_MAGIC, mark.index, mark.term))
            async for chunk in _each(chunks):
                length += len(chunk)
                await put(chunk)
            hit("snapshot.in_write")
            await put(length.to_bytes(8))
            file.append(digest.digest())
            hit("snapshot.before_sync")
            await file.sync()
            size = file.size()
        except BaseException:
            file.close()
            self._disk.remove(temporary)
            raise
        file.close()
        hit("snapshot.before_rename")
        self._disk.rename(temporary, self._path(mark))
        hit("snapshot.before_name")
        await self._disk.sync_dir(DIRECTORY)
        hit("snapshot.after_write")
        return size

    def marks(self) -> list[SnapshotMark]:
        """Snapshots there are, oldest first."""
        found = []
        for name in self._disk.list(DIRECTORY):
            if (named := _NAME.fullmatch(name)) is not None:
                found.append(SnapshotMark(int(named["index"], 16), int(named["term"], 16)))
        return sorted(found)

    def exists(self, mark: SnapshotMark) -> bool:
        return self._disk.exists(self._path(mark))

    def read(self, mark: SnapshotMark) -> Iterator[bytes]:
        """The content in chunks; the digest is checked before the first. Raises CorruptSnapshotFile."""
        for _ in self._content(mark):
            pass
        return self._content(mark)

    async def verify(self, mark: SnapshotMark) -> None:
        """Check the digest, with other work between the chunks. Raises CorruptSnapshotFile."""
        for _ in self._content(mark):
            await asyncio.sleep(0)

    def content(self, mark: SnapshotMark) -> Iterator[bytes]:
        """The content in chunks; the digest is checked after the last. Raises CorruptSnapshotFile."""
        return self._content(mark)

    def _content(self, mark: SnapshotMark) -> Iterator[bytes]:
        path = self._path(mark)
        try:
            size = self._disk.size(path)
        except FileNotFoundError as e:
            raise CorruptSnapshotFile(path, "it is missing") from e
        if size < _HEAD.size + _TAIL.size:
            raise CorruptSnapshotFile(path, "it is cut short")
        head = self._disk.read_at(path, 0, _HEAD.size)
        stop = size - _TAIL.size
        tail = self._disk.read_at(path, stop, _TAIL.size)
        checked = hashlib.sha256(head)
        for at in range(_HEAD.size, stop, CHUNK_BYTES):
            chunk = self._disk.read_at(path, at, min(CHUNK_BYTES, stop - at))
            checked.update(chunk)
            yield chunk
        length, digest = _TAIL.unpack(tail)
        checked.update(tail[: -len(digest)])
        if checked.digest() != digest:
            raise CorruptSnapshotFile(path, "its digest does not match")
        if _HEAD.unpack(head) != (_MAGIC, *mark) or length != stop - _HEAD.size:
            raise CorruptSnapshotFile(path, "it is another snapshot under this name")

    async def prune(self, *, keep: int = 2) -> None:
        """Delete all but the newest `keep`, and what interrupted writes left."""
        doomed = [self._path(mark) for mark in self.marks()[:-keep]]
        doomed += [f"{DIRECTORY}/{n}" for n in self._disk.list(DIRECTORY) if n.endswith(".tmp")]
        for path in doomed:
            self._disk.remove(path)
        if doomed:
            await self._disk.sync_dir(DIRECTORY)

    async def prune_before(self, mark: SnapshotMark) -> None:
        """Delete the snapshots older than this one, whatever newer ones there are."""
        doomed = [self._path(m) for m in self.marks() if m.index < mark.index]
        if doomed:
            hit("snapshot.before_prune")
        for path in doomed:
            await self._disk.discard(path)
        if doomed:
            await self._disk.sync_dir(DIRECTORY)
            hit("snapshot.after_prune")
