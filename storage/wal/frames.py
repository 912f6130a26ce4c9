"""Frames and records as bytes: pure. The format is described in the package."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from rayplane.storage.wal.errors import CorruptLog

SECTOR = 512
ALIGNMENT = 8
_FIELDS = struct.Struct("<IIBH")
_HEADER_CRC = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _HEADER_CRC.size + 1
_BEGIN, _FINISH = b"\xa5", b"\x5a"
_EMPTY = bytes(SECTOR)
_RECORD = struct.Struct("<BI")
_ENTRY = struct.Struct("<QQ")
_HEAD = struct.Struct("<QQI")
_SIZE = struct.Struct("<Q")


class FrameType(IntEnum):
    HEAD = 1
    BATCH = 2
    FINISH = 3


class RecordType(IntEnum):
    METADATA = 1
    HARD_STATE = 2
    SNAPSHOT = 3
    ENTRY = 4
    SIZE = 5


class LogEntry(NamedTuple):
    """One entry; an entry at an index that is there already replaces it and all after it."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    term: int
    data: bytes


class SnapshotMark(NamedTuple):
    """A snapshot holds the effect of all entries up to this one."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    term: int


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a segment: its place in the sequence, the first index it may hold, the crc before it."""

    sequence: int
    first_index: int
    crc: int

    def encode(self) -> bytes:
        return _HEAD.pack(self.sequence, self.first_index, self.crc)


@dataclass(frozen=True, slots=True)
class Frame:
    type: FrameType
    payload: bytes
    crc: int
    end: int  # offset after it


def encode_frame(kind: FrameType, payload: bytes, crc: int, offset: int) -> tuple[bytes, int]:
    """A frame to be written at `offset`, and the crc to chain the next one to."""
    crc = crc32(payload, crc)
    padding = bytes(_padding(len(payload)))
    empty = 0
    if _EMPTY in payload:
        body = bytes(offset % SECTOR) + b"\1" * HEADER_BYTES + payload
        empty = min(0xFFFF, _empty_sectors(body, offset % SECTOR, len(body)))
    fields = _FIELDS.pack(len(payload), crc, kind, empty)
    return b"".join((fields, _HEADER_CRC.pack(crc32(fields)), _BEGIN, payload, padding, _FINISH)), crc


def _padding(length: int) -> int:
    """Zeros between a payload of this length and the closing mark, so that frames begin at multiples of 8."""
    return -(HEADER_BYTES + length + 1) % ALIGNMENT


def _empty_sectors(data: bytes, start: int, stop: int) -> int:
    """How many sectors have nothing but zeros in their part between two offsets."""
    found = 0
    while start < stop:
        following = min(stop, (start // SECTOR + 1) * SECTOR)
        found += not any(data[start:following])
        start = following
    return found


def encode_record(kind: RecordType, data: bytes) -> bytes:
    return _RECORD.pack(kind, len(data)) + data


def encode_entry(entry: LogEntry) -> bytes:
    return _RECORD.pack(RecordType.ENTRY, len(entry.data) + _ENTRY.size) + _ENTRY.pack(*entry[:2]) + entry.data


def encode_mark(mark: SnapshotMark) -> bytes:
    return encode_record(RecordType.SNAPSHOT, _ENTRY.pack(*mark))


def decode_records(payload: bytes) -> Iterator[tuple[RecordType, bytes]]:
    """Records of a frame whose checksum matched."""
    position = 0
    while position < len(payload):
        kind, length = _RECORD.unpack_from(payload, position)
        position += _RECORD.size
        yield RecordType(kind), payload[position : position + length]
        position += length


def decode_entry(data: bytes) -> LogEntry:
    index, term = _ENTRY.unpack_from(data)
    return LogEntry(index, term, data[_ENTRY.size :])


def decode_mark(data: bytes) -> SnapshotMark:
    return SnapshotMark(*_ENTRY.unpack(data))


def encode_size(size: int) -> bytes:
    """How long the segment's file is, at least."""
    return encode_record(RecordType.SIZE, _SIZE.pack(size))


def decode_size(data: bytes) -> int:
    size: int = _SIZE.unpack(data)[0]
    return size


def decode_head(payload: bytes) -> tuple[Head, bytes]:
    """The head and the records behind it."""
    return Head(*_HEAD.unpack_from(payload)), payload[_HEAD.size :]


class Segment:
    """A reader that reads the frames of one segment's bytes, telling its end from a torn frame from corruption."""

    def __init__(self, path: str, data: bytes, *, last: bool) -> None:
        self._path, self._data, self._last = path, data, last
        # Where the zeros of preallocation begin.
        self._used = len(data.rstrip(b"\0"))

    def frame(self, offset: int, crc: int | None) -> Frame | None:
        """The frame at an offset, chained to `crc` (None: whatever it says). None: the log ends here.

        In the last segment a torn frame ends the log as well. Raises CorruptLog.
        """
        if offset >= self._used:
            return None
        data, start = self._data, offset + HEADER_BYTES
        header = data[offset:start]
        if len(header) < HEADER_BYTES or header[-1:] != _BEGIN or not _header_matches(header):
            lost = self._used < start or _empty_sectors(data, offset, start) > 0
            self._end(offset, "the frame header does not match its checksum", torn=lost)
            return None
        length, stated, kind, empty = _FIELDS.unpack_from(header)
        stop = start + length + _padding(length) + 1
        payload = data[start : start + length]
        if crc is None:
            crc = decode_head(payload)[0].crc if len(payload) >= _HEAD.size else 0
        if data[stop - 1 : stop] == _FINISH and crc32(payload, crc) == stated:
            return Frame(FrameType(kind), payload, stated, stop)
        lost = self._used < stop or (self._used == stop and _empty_sectors(data, offset, stop) > empty)
        self._end(offset, "the frame does not match its checksum", torn=lost)
        return None

    def _end(self, offset: int, reason: str, *, torn: bool) -> None:
        """The log ends before a frame that a crash tore; anything else is corruption."""
        if not self._last:
            raise CorruptLog(self._path, offset, f"{reason}, in a segment that was finished")
        if not torn:
            raise CorruptLog(self._path, offset, f"{reason}, and a crash cannot have done that")
        behind = self._header_after(offset)
        if behind is not None:
            raise CorruptLog(self._path, offset, f"{reason}, and a frame that was written later is at {behind}")

    def _header_after(self, offset: int) -> int | None:
        """Where the next thing that looks like a frame begins."""
        for position in range(offset + ALIGNMENT, self._used - HEADER_BYTES + 1, ALIGNMENT):
            header = self._data[position : position + HEADER_BYTES]
            if header[-1:] == _BEGIN and _header_matches(header):
                return position
        return None


def _header_matches(header: bytes) -> bool:
    (stated,) = _HEADER_CRC.unpack_from(header, _FIELDS.size)
    return bool(crc32(header[: _FIELDS.size]) == stated)
