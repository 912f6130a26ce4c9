"""The snapshot stream: records of a backend with a digest at the end.

    magic "RPKV" | format u16
    record: bucket u8 | key length u32 | value length u32 | key | value        (by bucket, then key)
    end:    bucket 0xFF | records u64 | sha256 of all bytes before it

Integers are big-endian. Chunk borders mean nothing. Pure: bytes in, records out, and back.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence

from rayplane.storage.keyvalue.backend import Record
from rayplane.storage.keyvalue.errors import CorruptSnapshot

MAGIC = b"RPKV\x00\x01"
CHUNK_BYTES = 256 * 1024
RECORD_BYTES_MAX = 512 * 1024 * 1024
_HEAD = struct.Struct(">BII")
_END = struct.Struct(">BQ")
_END_MARK = 0xFF


def encode(records: Iterable[Record], buckets: Sequence[str]) -> Iterator[bytes]:
    """Records as chunks of about `CHUNK_BYTES`."""
    numbers = {name: number for number, name in enumerate(buckets)}
    digest = hashlib.sha256()
    buffer = bytearray(MAGIC)
    count = 0
    for bucket, key, value in records:
        buffer += _HEAD.pack(numbers[bucket], len(key), len(value))
        buffer += key
        buffer += value
        count += 1
        if len(buffer) >= CHUNK_BYTES:
            chunk = bytes(buffer)
            buffer.clear()
            digest.update(chunk)
            yield chunk
    buffer += _END.pack(_END_MARK, count)
    digest.update(buffer)
    yield bytes(buffer + digest.digest())


def decode(chunks: Iterable[bytes], buckets: Sequence[str]) -> Iterator[Record]:
    """Records of a stream. Whoever keeps them must drop them if CorruptSnapshot comes, be it after the last one."""
    reader = _Reader(chunks)
    if reader.take(len(MAGIC)) != MAGIC:
        raise CorruptSnapshot("not a snapshot stream, or one of another version: fetch it again from its source")
    count = 0
    while (mark := reader.take(1)[0]) != _END_MARK:
        _, key_length, value_length = _HEAD.unpack(bytes([mark]) + reader.take(_HEAD.size - 1))
        if mark >= len(buckets) or key_length + value_length > RECORD_BYTES_MAX:
            raise CorruptSnapshot(f"record {count} of the snapshot stream is damaged: fetch it again")
        body = reader.take(key_length + value_length)
        yield buckets[mark], body[:key_length], body[key_length:]
        count += 1
    (said,) = struct.unpack(">Q", reader.take(8))
    computed = reader.digest()
    if said != count or reader.take(len(computed)) != computed or reader.rest():
        raise CorruptSnapshot("the digest of the snapshot stream does not match: fetch it again from its source")


class _Reader:
    """Exact reads over chunks of any size, with the running digest of what was read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b""
        self._position = 0
        self._digest = hashlib.sha256()

    def take(self, size: int) -> bytes:
        end = self._position + size
        if end > len(self._buffer):
            parts = [self._buffer[self._position :]]
            have = len(parts[0])
            while have < size:
                chunk = next(self._chunks, None)
                if chunk is None:
                    raise CorruptSnapshot("the snapshot stream is cut short: fetch it again from its source")
                parts.append(chunk)
                have += len(chunk)
            self._digest.update(self._buffer[: self._position])
            self._buffer, self._position, end = b"".join(parts), 0, size
        data = self._buffer[self._position : end]
        self._position = end
        return data

    def digest(self) -> bytes:
        """Return the digest of all bytes taken so far."""
        digest = self._digest.copy()
        digest.update(self._buffer[: self._position])
        return digest.digest()

    def rest(self) -> bool:
        """Tell whether bytes are left."""
        return self._position < len(self._buffer) or any(self._chunks)
