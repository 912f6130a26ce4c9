"""The bytes of the store's records, and of what is made of them without decoding. Pure.

A change is kept under its packed revision (main u64, sub u64, tombstone u8, big-endian) as a serialized
mvccpb.KeyValue; so responses and events can be put together from stored bytes. Encodings as in the Protocol Buffers
wire format.
"""

import struct
from collections.abc import Sequence
from typing import Protocol

from rayplane.proto.etcd.kv_pb2 import Event, KeyValue

REVISION = struct.Struct(">QQB")
_KEY_TAG = 0x0A  # field 1, length-delimited
_DELETED = b"\x08\x01"  # Event.type = DELETE
_SHORT = tuple(bytes((n,)) for n in range(128))


def pack(rev: int) -> bytes:
    """The record's key of a revision as the key index writes it."""
    return REVISION.pack(rev >> 32, (rev & 0xFFFFFFFF) >> 1, rev & 1)


def unpack(packed: bytes) -> int:
    """Back from `pack`."""
    main, sub, tombstone = REVISION.unpack(packed)
    rev: int = main << 32 | sub << 1 | tombstone
    return rev


def varint(number: int) -> bytes:
    """A number that is not negative."""
    if number < 128:
        return _SHORT[number]
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(tag: bytes, content: bytes) -> bytes:
    """A length-delimited field; `tag` as encoded."""
    return tag + varint(len(content)) + content


def fields(tag: bytes, contents: Sequence[bytes]) -> list[bytes]:
    """Parts of a repeated length-delimited field, to be joined."""
    parts: list[bytes] = []
    for content in contents:
        length = len(content)
        parts += (tag, _SHORT[length] if length < 128 else varint(length), content)
    return parts


def key_of(record: bytes) -> bytes:
    """The key in a serialized KeyValue."""
    if len(record) > 1 and record[0] == _KEY_TAG and record[1] < 128:
        return record[2 : 2 + record[1]]
    key: bytes = KeyValue.FromString(record).key
    return key


class RecordSource(Protocol):
    """The source of earlier records."""

    def record(self, rev: int) -> bytes | None: ...


class Change:
    """One change of one key: what an mvccpb.Event says, decoded and read only as far as somebody asks.

    The value before is read when it is asked for first; that must be before a later compaction is scrubbed, so
    whoever keeps a change asks at once (by `encoded` or `message`).
    """

    __slots__ = ("_before", "_encoded", "_kv", "_messages", "_previous", "_source", "key", "lease", "record", "rev")

    def __init__(self, source: RecordSource, rev: int, record: bytes, before: int, *, key: bytes, lease: int) -> None:
        """`before`: the put there was before this main revision, 0 for none. `lease`: of the put, 0 for a delete."""
        self.rev = rev
        self.record = record
        self.key = key
        self.lease = lease
        self._source = source
        self._before = before
        self._previous: bytes | None = None
        self._kv: KeyValue | None = None
        self._encoded: list[bytes | None] = [None, None]
        self._messages: list[Event | None] = [None, None]

    @property
    def type(self) -> int:
        """Event.PUT or Event.DELETE."""
        return self.rev & 1

    @property
    def kv(self) -> KeyValue:
        """Key and value after the change; only key and mod_revision for a delete, as in etcd."""
        if self._kv is None:
            self._kv = KeyValue.FromString(self.record)
        return self._kv

    @property
    def previous(self) -> bytes | None:
        """The record that was replaced, if there was one and history still has it."""
        if self._previous is None and self._before:
            self._previous = self._source.record(self._before)
            if self._previous is None:
                self._before = 0
        return self._previous

    @property
    def prev_kv(self) -> KeyValue | None:
        """`previous`, decoded."""
        previous = self.previous
        return None if previous is None else KeyValue.FromString(previous)

    def encoded(self, *, prev_kv: bool) -> bytes:
        """The change as a serialized Event, made once."""
        data = self._encoded[prev_kv]
        if data is None:
            data = (_DELETED if self.rev & 1 else b"") + field(b"\x12", self.record)
            if prev_kv and (previous := self.previous) is not None:
                data += field(b"\x1a", previous)
            self._encoded[prev_kv] = data
        return data

    def message(self, *, prev_kv: bool) -> Event:
        """The change as an Event, made once; do not change it."""
        event = self._messages[prev_kv]
        if event is None:
            event = self._messages[prev_kv] = Event.FromString(self.encoded(prev_kv=prev_kv))
        return event

    def __repr__(self) -> str:
        return f"Change({'delete' if self.rev & 1 else 'put'} {self.key!r} at {self.rev >> 32})"
