"""The store: revisions over a backend. Semantics are those of etcd v3 (its API reference, "KV API guarantees").

A new store is at revision 1; each write transaction that changes something is one main revision. A change is kept
under its 17-byte revision (main u64, sub u64, tombstone u8, big-endian) as a serialized mvccpb.KeyValue, so the
change log is the data. Range conventions: `end` empty means the single key, b"\\0" all keys from `key` on.
"""

import struct
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self
from zlib import crc32

from proto.etcd.kv_pb2 import Event, KeyValue
from storage.mvcc import stream
from storage.mvcc.backend import Backend
from storage.mvcc.errors import CompactedError, FutureRevisionError
from storage.mvcc.key_index import FROM_KEY, SUB_MAX, KeyIndex

COMMIT_OPS = 10_000
"""Backend writes after which `set_applied` commits by itself."""
CACHE_ENTRIES = 8192
"""Decoded key-values kept for reads of what was just written; the oldest goes first."""
_REVISION = struct.Struct(">QQB")
_APPLIED = struct.Struct(">QQ")
_META_APPLIED, _META_REVISION, _META_COMPACTED = b"applied", b"revision", b"compacted"


class Applied(NamedTuple):
    """The last log entry whose effect is in the store."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    term: int


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`count` is the number of keys in the range whatever the limit; `more` says that the limit cut some off."""

    kvs: list[KeyValue]
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class EventBatch:
    """Events by main revision, ascending; go on from `next_revision`, which is `Store.revision + 1` at the end."""

    groups: list[tuple[int, list[Event]]] = field(default_factory=list)
    next_revision: int = 0


class Store:
    """See the package. The constructor rebuilds the key index from the backend (100 000 keys: about a second)."""

    def __init__(self, backend: Backend, *, commit_ops: int = COMMIT_OPS) -> None:
        self.backend = backend
        self._commit_ops = commit_ops
        self._load()

    def _load(self) -> None:
        self._index = KeyIndex()
        self._cache: OrderedDict[int, KeyValue] = OrderedDict()
        self._unscrubbed: deque[int] = deque()
        self._writing = False
        meta = self.backend.get
        self._applied = Applied(*_APPLIED.unpack(meta("meta", _META_APPLIED) or bytes(_APPLIED.size)))
        self._saved_applied = self._applied
        self._compacted = int.from_bytes(meta("meta", _META_COMPACTED) or b"")
        last = 1
        load, parse, unpack = self._index.load, KeyValue.FromString, _REVISION.unpack
        for key, value in self.backend.scan("key"):
            main, sub, tombstone = unpack(key)
            kv = parse(value)
            rev = main << 32 | sub << 1 | tombstone
            load(kv.key, rev, kv.create_revision, kv.version, kv.lease)
            last = main
        self._index.finish_load()
        # A compaction may have removed the very last change, so the revision is kept by itself too.
        self._revision = max(last, int.from_bytes(meta("meta", _META_REVISION) or b""))
        self._saved_revision = self._revision
        if self._compacted:
            self._unscrubbed.extend(self._index.compact(self._compacted))

    @property
    def revision(self) -> int:
        """Main revision of the last write; 1 in an empty store."""
        return self._revision

    @property
    def compacted_revision(self) -> int:
        """The oldest readable revision after a compaction; 0 before the first."""
        return self._compacted

    @property
    def applied(self) -> Applied:
        """What `set_applied` said last; after a restart, as of the last commit."""
        return self._applied

    def set_applied(self, index: int, term: int) -> None:
        """The writes so far are the effect of log entries up to this one. Commits once enough writes wait."""
        self._applied = Applied(index, term)
        if self.backend.pending >= self._commit_ops:
            self.commit()

    def commit(self) -> None:
        """Make everything so far survive a killed process."""
        self._save_meta()
        self.backend.commit()

    async def flush(self) -> None:
        """Make everything so far survive a lost machine."""
        self._save_meta()
        await self.backend.flush()

    def _save_meta(self) -> None:
        assert not self._writing, "commit inside a write transaction"
        if self._applied != self._saved_applied:
            self.backend.put("meta", _META_APPLIED, _APPLIED.pack(*self._applied))
            self._saved_applied = self._applied
        if self._revision != self._saved_revision:
            self.backend.put("meta", _META_REVISION, self._revision.to_bytes(8))
            self._saved_revision = self._revision

    def close(self) -> None:
        self._save_meta()
        self.backend.close()

    # Reading

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> RangeResult:
        """Key-values of a range in key order, now (`revision` 0 or less) or as of a past revision.

        Raises CompactedError, FutureRevisionError.
        """
        if revision > 0 and (self._writing or revision != self._revision):
            self._check(revision)
            revisions = self._index.revisions_at(revision, key, end)
            count = len(revisions)
            chosen = revisions[:limit] if limit > 0 else revisions
        else:
            count = self._index.count(key, end)
            chosen = [] if count_only else self._index.revisions(key, end, limit)
        if count_only:
            return RangeResult([], count, False)
        return RangeResult([self._read(rev) for rev in chosen], count, 0 < limit < count)

    def get(self, key: bytes) -> KeyValue | None:
        """One key, now."""
        history = self._index.history(key)
        return self._read(history.revisions[-1]) if history is not None and history.version else None

    def lease_of(self, key: bytes) -> int:
        """The lease that a key is attached to now; 0 if none."""
        history = self._index.history(key)
        return history.lease if history is not None else 0

    def attachments(self) -> dict[int, list[bytes]]:
        """Keys attached to each lease now, to rebuild a lessor at start."""
        return self._index.attachments()

    def _check(self, revision: int) -> None:
        if revision > self._revision:
            raise FutureRevisionError(revision, self._revision)
        if revision < self._compacted:
            raise CompactedError(revision, self._compacted)

    def _read(self, rev: int) -> KeyValue:
        kv = self._cache.get(rev)
        if kv is None:
            data = self.backend.get("key", _pack(rev))
            assert data is not None, f"revision {rev >> 32} is in the index but not in the backend"
            kv = KeyValue.FromString(data)
            self._keep(rev, kv)
        return kv

    def _keep(self, rev: int, kv: KeyValue) -> None:
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.popitem(last=False)
        self._cache[rev] = kv

    def events(self, start_revision: int, key: bytes, end: bytes = b"", *, max_events: int = 1000) -> EventBatch:
        """Changes of a range from a revision on, with previous values where history still has them.

        Looks at about `max_events` changes of any key, never splitting a main revision. A start beyond the present
        gives an empty batch. Raises CompactedError.
        """
        if start_revision < self._compacted:
            raise CompactedError(start_revision, self._compacted)
        groups: list[tuple[int, list[Event]]] = []
        seen, main = 0, 0
        for packed, data in self.backend.scan("key", _pack(start_revision << 32)):
            current, sub, tombstone = _REVISION.unpack(packed)
            if current != main and seen >= max_events:
                return EventBatch(groups, current)
            main = current
            seen += 1
            kv = KeyValue.FromString(data)
            if not contains(key, end, kv.key):
                continue
            rev = current << 32 | sub << 1 | tombstone
            if not groups or groups[-1][0] != current:
                groups.append((current, []))
            groups[-1][1].append(self._event(rev, kv))
        return EventBatch(groups, max(start_revision, self._revision + 1))

    def _event(self, rev: int, kv: KeyValue) -> Event:
        event = Event(type=Event.DELETE if rev & 1 else Event.PUT, kv=kv)
        before = self._index.before(kv.key, rev)
        if before is not None:
            event.prev_kv.CopyFrom(self._read(before))
        return event

    # Writing

    def write(self) -> "WriteTxn":
        """Begin a write transaction, as a context manager. An exception inside takes all its changes back."""
        return WriteTxn(self)

    def compact(self, revision: int) -> None:
        """Forget history below `revision`. Raises CompactedError if that is done already, FutureRevisionError."""
        if revision > self._revision:
            raise FutureRevisionError(revision, self._revision)
        if revision <= self._compacted:
            raise CompactedError(revision, self._compacted)
        self._compacted = revision
        self.backend.put("meta", _META_COMPACTED, revision.to_bytes(8))
        self._unscrubbed.extend(self._index.compact(revision))

    def scrub(self, budget: int = 1000) -> int:
        """Remove up to `budget` compacted changes from the backend; returns how many are left to remove."""
        waiting = self._unscrubbed
        for _ in range(min(budget, len(waiting))):
            rev = waiting.popleft()
            self._cache.pop(rev, None)
            self.backend.delete("key", _pack(rev))
        return len(waiting)

    # Whole content

    def hash_kv(self, revision: int = 0) -> tuple[int, int, int]:
        """(hash, compacted revision, hashed revision): equal on members that hold the same history up to `revision`.

        CRC-32 over every kept change; how far the scrubbing has come makes no difference. Reads everything.
        """
        revision = revision or self._revision
        self._check(revision)
        gone = set(self._unscrubbed)
        value = crc32(self._compacted.to_bytes(8))
        for packed, data in self.backend.scan("key", b"", _pack((revision + 1) << 32)):
            main, sub, tombstone = _REVISION.unpack(packed)
            if not gone or (main << 32 | sub << 1 | tombstone) not in gone:
                value = crc32(data, crc32(packed, value))
        return value, self._compacted, revision

    def snapshot(self) -> Iterator[bytes]:
        """The whole backend as of this call, as a stream that checks itself (see `stream`); writes may go on."""
        self._save_meta()
        return stream.encode(self.backend.view())

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace everything with a snapshot. Raises CorruptSnapshot, with the content as at the last commit."""
        self.commit()
        try:
            self.backend.replace(stream.decode(chunks))
        finally:
            self._load()

    def clear(self) -> None:
        """Back to an empty store at revision 1."""
        self.backend.replace(iter(()))
        self._load()


class WriteTxn:
    """One main revision in the making; `events` and `revision` tell what became of it. Reads see its own writes."""

    def __init__(self, store: Store) -> None:
        assert not store._writing, "a write transaction is open already"
        store._writing = True
        self._store = store
        self._index = store._index
        self._main = store._revision + 1
        self._undo: list[tuple[int, bytes, int, int, int]] = []
        self.events: list[Event] = []

    @property
    def revision(self) -> int:
        """The main revision of its changes, or the store's present one as long as there are none."""
        return self._main if self.events else self._main - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        store = self._store
        store._writing = False
        if kind is None:
            store._revision = self.revision
            return
        while self._undo:
            rev, key, created, version, lease = self._undo.pop()
            store._cache.pop(rev, None)
            store.backend.delete("key", _pack(rev))
            self._index.undo(key, created, version, lease)
        self.events.clear()

    def put(self, key: bytes, value: bytes, lease: int = 0) -> KeyValue | None:
        """Set a key; returns what it held."""
        store = self._store
        rev = self._main << 32 | len(self.events) << 1
        history = self._index.history(key)
        if history is None:
            previous = None
            self._undo.append((rev, key, 0, 0, 0))
        else:
            previous = store._read(history.revisions[-1]) if history.version else None
            self._undo.append((rev, key, history.created, history.version, history.lease))
        history = self._index.put(key, rev, lease)
        kv = KeyValue(
            key=key,
            value=value,
            lease=lease,
            create_revision=history.created,
            mod_revision=self._main,
            version=history.version,
        )
        store.backend.put("key", _REVISION.pack(self._main, len(self.events), 0), kv.SerializeToString())
        store._keep(rev, kv)
        self.events.append(Event(kv=kv, prev_kv=previous))
        return previous

    def delete_range(self, key: bytes, end: bytes = b"") -> list[KeyValue]:
        """Delete the keys of a range; returns what they held."""
        store, index = self._store, self._index
        deleted = []
        for name in list(index.keys(key, end)):
            history = index.history(name)
            assert history is not None and len(self.events) < SUB_MAX
            previous = store._read(history.revisions[-1])
            rev = self._main << 32 | len(self.events) << 1 | 1
            self._undo.append((rev, name, history.created, history.version, history.lease))
            index.tombstone(name, rev)
            # Only key and revision, as in etcd's delete events.
            kv = KeyValue(key=name, mod_revision=self._main)
            store.backend.put("key", _pack(rev), kv.SerializeToString())
            self.events.append(Event(type=Event.DELETE, kv=kv, prev_kv=previous))
            deleted.append(previous)
        return deleted

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> RangeResult:
        """As `Store.range`; revision 0 sees this transaction's writes, so does its own main revision."""
        now = revision == self.revision or revision <= 0
        return self._store.range(key, end, revision=0 if now else revision, limit=limit, count_only=count_only)


def contains(key: bytes, end: bytes, candidate: bytes) -> bool:
    """Whether a range has a key, by the conventions above."""
    if not end:
        return candidate == key
    return key <= candidate and (end == FROM_KEY or candidate < end)


def _pack(rev: int) -> bytes:
    return _REVISION.pack(rev >> 32, (rev & 0xFFFFFFFF) >> 1, rev & 1)
