"""The write-ahead log: group commit, rotation, recovery. See the package for the format and its rules."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Self

from rayplane.storage.env import Disk, DiskError, File
from rayplane.storage.env.failpoints import hit
from rayplane.storage.wal.errors import CorruptLog, LogExists, LogFailed, LogMissing
from rayplane.storage.wal.frames import (
    Frame,
    FrameType,
    Head,
    LogEntry,
    RecordType,
    Segment,
    SnapshotMark,
    decode_entry,
    decode_head,
    decode_mark,
    decode_records,
    decode_size,
    encode_entry,
    encode_frame,
    encode_mark,
    encode_record,
    encode_size,
)

# Anything else in the directory is not ours, and left alone.
_NAME = re.compile(r"(?P<sequence>[0-9a-f]{16})-(?P<first>[0-9a-f]{16})\.wal")
SEGMENT_BYTES = 64 * 1024 * 1024
DIRECTORY = "wal"


@dataclass(slots=True)
class Recovered:
    """The contents of a log: `entries` come after `snapshot`, without a gap, ascending."""

    metadata: bytes = b""
    hard_state: bytes | None = None
    snapshot: SnapshotMark | None = None
    entries: list[LogEntry] = field(default_factory=list)

    def take(self, records: bytes) -> None:
        """Replay one frame's records."""
        for kind, data in decode_records(records):
            if kind is RecordType.ENTRY:
                entry = decode_entry(data)
                if self.entries:
                    # Replaces what is there from its index on; cannot leave a gap (the caller checks).
                    del self.entries[max(0, entry.index - self.entries[0].index) :]
                self.entries.append(entry)
            elif kind is RecordType.HARD_STATE:
                self.hard_state = data
            elif kind is RecordType.SNAPSHOT:
                self._take_mark(decode_mark(data))
            elif kind is RecordType.METADATA:
                self.metadata = data

    def _take_mark(self, mark: SnapshotMark) -> None:
        """A snapshot of this log keeps what follows it; one from elsewhere replaces a log that differs from it."""
        if mark == self.snapshot:
            return  # repeated by a segment's head
        self.snapshot = mark
        position = mark.index - self.entries[0].index if self.entries else -1
        # Below the first entry it is of this log: what it covers was released.
        if position >= 0 and (position >= len(self.entries) or self.entries[position].term != mark.term):
            self.entries.clear()

    def check(self, path: str) -> None:
        """Drop what the snapshot covers; the rest must follow it without a gap."""
        after = self.snapshot.index if self.snapshot else 0
        self.entries = [entry for entry in self.entries if entry.index > after]
        for expected, entry in enumerate(self.entries, after + 1):
            if entry.index != expected:
                raise CorruptLog(path, 0, f"entry {expected} is missing before entry {entry.index}")


@dataclass(slots=True)
class _Position:
    """The end of the log."""

    sequence: int
    offset: int
    crc: int


@dataclass(slots=True)
class _Save:
    """One caller's records, and what a segment's head must repeat once they are written."""

    records: bytes
    done: asyncio.Future[None]
    last_index: int
    hard_state: bytes | None
    snapshot: SnapshotMark | None


async def _finish(file: File, offset: int, crc: int) -> None:
    """End a segment for good, and close its file."""
    try:
        file.append(encode_frame(FrameType.FINISH, b"", crc, offset)[0])
        await file.sync()
    finally:
        file.close()


class Wal:
    """The write-ahead log, see the package. Made by `create` and `open`, never by its constructor."""

    on_sync: Callable[[float, int], None] | None = None
    """Told the seconds and bytes of each write to the disk."""

    def __init__(self, disk: Disk, directory: str, segment_bytes: int) -> None:
        self._disk, self._directory, self._segment_bytes = disk, directory, segment_bytes
        self._segments: list[tuple[int, int]] = []  # sequence, first index
        self._position = _Position(0, 0, 0)
        self._file: File | None = None
        # As accepted, and (what the next segment's head repeats) as written.
        self._last_index = 0
        self._metadata = b""
        self._written_index = 0
        self._written_hard_state: bytes | None = None
        self._written_snapshot: SnapshotMark | None = None
        self._queue: list[_Save] = []
        self._lazy_hard_state: bytes | None = None
        self._writer: asyncio.Task[None] | None = None
        self._failure: LogFailed | None = None
        # The segment before the last, if a crash came before its end: path, offset, crc, size of the file.
        self._unfinished: tuple[str, int, int, int] | None = None
        self._last_bytes = 0

    # Opening

    @staticmethod
    def exists(disk: Disk, *, directory: str = DIRECTORY) -> bool:
        return bool(disk.list(directory))

    @classmethod
    async def create(
        cls, disk: Disk, metadata: bytes, *, directory: str = DIRECTORY, segment_bytes: int = SEGMENT_BYTES
    ) -> Self:
        """A new log; `metadata` (member and cluster identity) is kept in every segment. Raises LogExists."""
        if cls.exists(disk, directory=directory):
            raise LogExists(f"there is a log in {directory} already: open it, or use another directory")
        staging = f"{directory}.new"
        disk.remove(staging)
        disk.make_dir(staging)
        wal = cls(disk, staging, segment_bytes)
        wal._metadata = metadata
        await wal._start_segment()
        wal._close_file()
        hit("identity.before_rename")
        disk.rename(staging, directory)
        await disk.sync_dir("")
        wal._directory = directory
        wal._file = disk.append_file(wal._path(*wal._segments[0]), preallocate=segment_bytes, at=wal._position.offset)
        return wal

    @classmethod
    async def open(
        cls, disk: Disk, *, directory: str = DIRECTORY, segment_bytes: int = SEGMENT_BYTES
    ) -> tuple[Self, Recovered]:
        """Read the whole log, cut off a frame torn by a crash, and get ready to append.

        Raises LogMissing, CorruptLog.
        """
        wal = cls(disk, directory, segment_bytes)
        named = [found for name in disk.list(directory) if (found := _NAME.fullmatch(name)) is not None]
        wal._segments = [(int(found["sequence"], 16), int(found["first"], 16)) for found in named]
        if not wal._segments:
            raise LogMissing(
                f"there is no log in {directory}: remove this member from the cluster, delete its data directory and "
                "add it as a new one"
            )
        recovered = wal._read()
        hit("wal.before_cut")
        if wal._file is None:
            wal._file = disk.append_file(
                wal._path(*wal._segments[-1]),
                preallocate=max(segment_bytes, wal._last_bytes),
                at=wal._position.offset,
            )
        if wal._unfinished is not None:
            path, offset, crc, size = wal._unfinished
            await _finish(disk.append_file(path, preallocate=size, at=offset), offset, crc)
        # What was cut off must be gone before a new frame takes its place, lest a crash mixes the two.
        await wal._file.sync()
        await disk.sync_dir(directory)
        hit("wal.after_cut")
        wal._metadata = recovered.metadata
        wal._written_hard_state = recovered.hard_state
        wal._written_snapshot = recovered.snapshot
        after = recovered.snapshot.index if recovered.snapshot else 0
        wal._written_index = recovered.entries[-1].index if recovered.entries else after
        wal._last_index = wal._written_index
        return wal, recovered

    def _read(self) -> Recovered:
        recovered = Recovered()
        crc: int | None = None
        for number, name in enumerate(list(self._segments)):
            last = number == len(self._segments) - 1
            path = self._path(*name)
            if number and name[0] != self._segments[number - 1][0] + 1:
                raise CorruptLog(path, 0, f"the segment before it, {name[0] - 1:016x}, is missing")
            # The one before the last may end with a torn FINISH; the next head's crc tells if it was anything else.
            data = self._disk.read(path)
            segment = Segment(path, data, last=number >= len(self._segments) - 2)
            head = segment.frame(0, crc)
            if head is None:
                if self._unfinished is None or not last:
                    raise CorruptLog(path, 0, "the segment has no head")
                # A crash came while the segment was begun; nothing was written to it yet.
                self._unfinished = None
                self._disk.remove(path)
                self._segments.pop()
                break
            end = self._read_segment(segment, head, recovered, name)
            if len(data) < self._size_of(head):
                raise CorruptLog(path, len(data), "the file is cut short")
            if not last:
                self._unfinished = None if end.type is FrameType.FINISH else (path, end.end, end.crc, len(data))
            self._last_bytes = len(data)
            if end.type is FrameType.FINISH and last:
                raise CorruptLog(path, end.end, f"the segment after it, {name[0] + 1:016x}, is missing")
            crc = end.crc
            self._position = _Position(name[0], end.end, end.crc)
        recovered.check(self._path(*self._segments[-1]))
        return recovered

    def _read_segment(self, segment: Segment, head: Frame, recovered: Recovered, name: tuple[int, int]) -> Frame:
        """Replay a segment; returns its last frame."""
        path = self._path(*name)
        if head.type is not FrameType.HEAD:
            raise CorruptLog(path, 0, "the segment does not begin with a head")
        about, records = decode_head(head.payload)
        if about.sequence != name[0]:
            raise CorruptLog(path, 0, f"it is segment {about.sequence:016x} under another name")
        recovered.take(records)
        frame = head
        while (following := segment.frame(frame.end, frame.crc)) is not None:
            if frame.type is FrameType.FINISH or following.type is FrameType.HEAD:
                raise CorruptLog(path, frame.end, "a head in the middle of a segment, or something after its end")
            self._check_gap(path, frame.end, following.payload, recovered)
            recovered.take(following.payload)
            frame = following
        return frame

    @staticmethod
    def _size_of(head: Frame) -> int:
        """Bytes that the file of a segment has at least; 0 if its head does not say."""
        records = decode_records(decode_head(head.payload)[1])
        return next((decode_size(data) for kind, data in records if kind is RecordType.SIZE), 0)

    @staticmethod
    def _check_gap(path: str, offset: int, payload: bytes, recovered: Recovered) -> None:
        """Entries of one frame ascend by one and join what came before."""
        last = recovered.entries[-1].index if recovered.entries else None
        for kind, data in decode_records(payload):
            if kind is RecordType.ENTRY:
                index = decode_entry(data).index
                if last is not None and index > last + 1:
                    raise CorruptLog(path, offset, f"entry {last + 1} is missing before entry {index}")
                last = index
            elif kind is RecordType.SNAPSHOT and last is not None:
                last = max(last, decode_mark(data).index)

    def _path(self, sequence: int, first_index: int) -> str:
        return f"{self._directory}/{sequence:016x}-{first_index:016x}.wal"

    # Writing

    @property
    def last_index(self) -> int:
        """Index of the last entry saved (or covered by the snapshot)."""
        return self._last_index

    async def save(
        self, hard_state: bytes | None = None, entries: Sequence[LogEntry] = (), *, sync: bool = True
    ) -> None:
        """Append, in call order, and return when durable. Entries ascend by one.

        `sync` False, for a hard state whose loss does no harm: returns at once, it goes with the next save.
        Raises LogFailed.
        """
        if not sync and not entries:
            self._lazy_hard_state = hard_state or self._lazy_hard_state
            return
        hard_state = hard_state or self._lazy_hard_state
        self._lazy_hard_state = None
        records = b"".join(map(encode_entry, entries))
        if entries:
            self._last_index = entries[-1].index
        if hard_state is not None:
            records += encode_record(RecordType.HARD_STATE, hard_state)
        if records:
            await self._submit(records, hard_state, None)

    async def mark_snapshot(self, index: int, term: int) -> None:
        """A durable snapshot holds everything up to `index`; recovery starts from it. Raises LogFailed."""
        mark = SnapshotMark(index, term)
        hit("wal.before_mark")
        self._last_index = max(self._last_index, index)
        await self._submit(encode_mark(mark), None, mark)
        hit("wal.after_mark")

    async def _submit(self, records: bytes, hard_state: bytes | None, mark: SnapshotMark | None) -> None:
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        save = _Save(records, loop.create_future(), self._last_index, hard_state, mark)
        self._queue.append(save)
        if self._writer is None:
            self._writer = loop.create_task(self._write())
        await save.done

    async def _write(self) -> None:
        """Write what waits, one frame and one sync for all of it, until nothing waits."""
        batch: list[_Save] = []
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                if self._position.offset >= self._segment_bytes:
                    await self._start_segment()
                hit("wal.before_append")
                await self._append(FrameType.BATCH, b"".join(save.records for save in batch))
                for save in batch:
                    self._written_index = save.last_index
                    self._written_hard_state = save.hard_state or self._written_hard_state
                    self._written_snapshot = save.snapshot or self._written_snapshot
                    if not save.done.done():
                        save.done.set_result(None)
                batch = []
        except BaseException as e:
            self._failure = LogFailed(f"the log cannot be written: {e}; repair the disk, then restart this member")
            self._failure.__cause__ = e
            for save in batch + self._queue:
                if not save.done.done():
                    save.done.set_exception(self._failure)
            self._queue = []
            if not isinstance(e, DiskError):
                raise
        finally:
            self._writer = None

    async def _append(self, kind: FrameType, payload: bytes) -> None:
        assert self._file is not None
        frame, crc = encode_frame(kind, payload, self._position.crc, self._position.offset)
        began = perf_counter()
        self._file.append(frame)
        hit("wal.before_sync")
        await self._file.sync()
        hit("wal.after_sync")
        if self.on_sync is not None:
            self.on_sync(perf_counter() - began, len(frame))
        self._position.offset += len(frame)
        self._position.crc = crc

    async def _start_segment(self) -> None:
        """Begin the next segment; its head stands alone without the ones before. The present one is synced."""
        sequence, first = self._position.sequence + 1, self._written_index + 1
        records = encode_record(RecordType.METADATA, self._metadata)
        if self._written_snapshot is not None:
            records += encode_mark(self._written_snapshot)
        if self._written_hard_state is not None:
            records += encode_record(RecordType.HARD_STATE, self._written_hard_state)
        records += encode_size(self._segment_bytes)
        head = Head(sequence, first, self._position.crc)
        hit("wal.before_segment")
        before, self._file = self._file, None
        ended = self._position
        self._file = self._disk.append_file(self._path(sequence, first), preallocate=self._segment_bytes, at=0)
        self._position = _Position(sequence, 0, head.crc)
        hit("wal.after_preallocate")
        await self._append(FrameType.HEAD, head.encode() + records)
        hit("wal.before_segment_name")
        await self._disk.sync_dir(self._directory)
        self._segments.append((sequence, first))
        if before is not None:
            hit("wal.before_finish")
            await _finish(before, ended.offset, ended.crc)
        hit("wal.after_segment")

    async def release(self, index: int) -> None:
        """Delete segments that hold nothing above `index`, which a durable, marked snapshot covers."""
        mark = self._written_snapshot
        assert mark is not None and index <= mark.index, "release beyond the snapshot"
        released = False
        while len(self._segments) > 1 and self._segments[1][1] <= index + 1:
            hit("wal.in_release" if released else "wal.before_release")
            self._disk.remove(self._path(*self._segments.pop(0)))
            released = True
        if released:
            await self._disk.sync_dir(self._directory)
            hit("wal.after_release")

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    async def close(self) -> None:
        """Wait for what is being written, then close the file."""
        if self._lazy_hard_state is not None and self._failure is None:
            with contextlib.suppress(LogFailed):
                await self.save()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        self._close_file()
