"""The store: revisions over a backend. Semantics are those of etcd v3 (its API reference, "KV API guarantees").

A new store is at revision 1; each write transaction that changes something is one main revision. The records (see
`records`) are in the order of revisions, so the change log is the data. Range conventions: `end` empty means the
single key, b"\\0" all keys from `key` on.
"""

import asyncio
import struct
from collections.abc import Callable, Generator, Iterable, Iterator
from time import perf_counter
from zlib import crc32

from google.protobuf.message import DecodeError

from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.storage.env.failpoints import hit
from rayplane.storage.key_ranges import FROM_KEY
from rayplane.storage.keyvalue import Backend, BackendError, CorruptSnapshot, Reader, Record, Replacement, stream
from rayplane.storage.keyvalue.slices import RECORD_BYTES, SLICE_BYTES, at_once, gently
from rayplane.storage.mvcc.buckets import BUCKETS
from rayplane.storage.mvcc.errors import CompactedError, FutureRevisionError
from rayplane.storage.mvcc.key_index import KeyIndex
from rayplane.storage.mvcc.records import Change, key_of, pack, unpack
from rayplane.storage.mvcc.results import Applied, EventBatch, Found, RangeResult
from rayplane.storage.mvcc.write_txn import WriteTxn

COMMIT_OPS = 10_000
"""Backend writes after which `set_applied` commits by itself."""
VALUES_KEPT, VALUE_BYTES_KEPT = 64, 4096
"""Values that were compared with, to be compared with again; and how large they may be."""
SLICE_NAMES = 4096
"""Keys whose past is looked at in one slice."""
_APPLIED = struct.Struct(">QQ")
_META_APPLIED, META_REVISION, _META_COMPACTED = b"applied", b"revision", b"compacted"


class Store:
    """The MVCC store, see the package. The constructor rebuilds the key index from the backend (a million keys: 3 s).

    `index`, `writing`, `advance` and `read` are for write transactions.
    """

    on_commit: Callable[[float], None] | None = None
    """Told the seconds that each commit took."""

    def __init__(self, backend: Backend, *, commit_ops: int = COMMIT_OPS) -> None:
        self.backend = backend
        self._commit_ops = commit_ops
        self.index = KeyIndex()
        self.writing = False
        self.changes = 0
        """Written so far in the life of this object."""
        self._load()

    def _load(self) -> None:
        index = KeyIndex()
        at_once(_index_steps(index, (("key", key, value) for key, value in self.backend.scan("key"))))
        self._begin(index)

    def _begin(self, index: KeyIndex) -> None:
        """Start with what the backend holds and its index."""
        self.index = index
        self._values: dict[int, bytes] = {}
        self._untrimmed: list[bytes] = []
        self.writing = False
        meta = self.backend.get
        self._applied = Applied(*_APPLIED.unpack(meta("meta", _META_APPLIED) or bytes(_APPLIED.size)))
        self._saved_applied = self._applied
        compacted = meta("meta", _META_COMPACTED)
        self._compacted = -1 if compacted is None else int.from_bytes(compacted)
        # A compaction may have removed the very last change, so the revision is kept by itself too.
        self._revision = max(1, index.newest, int.from_bytes(meta("meta", META_REVISION) or b""))
        self._saved_revision = self._revision
        if self._compacted > 0:
            self._untrimmed = index.trimmable()

    @property
    def revision(self) -> int:
        """Main revision of the last write; 1 in an empty store."""
        return self._revision

    @property
    def compacted_revision(self) -> int:
        """The oldest readable revision after a compaction; -1 before the first."""
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
        hit("store.before_commit")
        began = perf_counter()
        self.backend.commit()
        if self.on_commit is not None:
            self.on_commit(perf_counter() - began)
        hit("store.after_commit")

    async def flush(self) -> None:
        """Make everything so far survive a lost machine."""
        self.commit()
        await self.backend.flush()

    def _save_meta(self) -> None:
        assert not self.writing, "commit inside a write transaction"
        if self._applied != self._saved_applied:
            self.backend.put("meta", _META_APPLIED, _APPLIED.pack(*self._applied))
            self._saved_applied = self._applied
        if self._revision != self._saved_revision:
            self.backend.put("meta", META_REVISION, self._revision.to_bytes(8))
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
        found = self.find(key, end, revision=revision, limit=limit, count_only=count_only)
        parse, read = KeyValue.FromString, self.read
        return RangeResult([parse(read(rev)) for rev in found.revisions], found.count, found.more)

    def find(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> Found:
        """As `range`, without reading: `record` has the values, `reader` has them for as long as one wants."""
        if revision > 0 and (self.writing or revision != self._revision):
            self._check(revision)
            revisions = self.index.revisions_at(revision, key, end)
            count = len(revisions)
            if limit > 0:
                del revisions[limit:]
        else:
            count = self.index.count(key, end)
            revisions = [] if count_only else self.index.revisions(key, end, limit)
        return Found([], count, False) if count_only else Found(revisions, count, 0 < limit < count)

    async def find_gently(self, key: bytes, end: bytes, *, revision: int = 0, limit: int = 0) -> Found:
        """As `find`; looks for the past of many keys in slices. Raises CompactedError, FutureRevisionError."""
        if revision <= 0 or revision == self._revision:
            return self.find(key, end, limit=limit)
        self._check(revision)
        names, revisions = self.index.names(key, end), list[int]()
        for start in range(0, len(names), SLICE_NAMES):
            if start:
                await asyncio.sleep(0)
            revisions += self.index.visible(names[start : start + SLICE_NAMES], revision)
        self._check(revision)  # unless a compaction came in between, nothing of it was forgotten
        count = len(revisions)
        if limit > 0:
            del revisions[limit:]
        return Found(revisions, count, 0 < limit < count)

    def get(self, key: bytes) -> KeyValue | None:
        """One key, now."""
        rev = self.index.last(key)
        return KeyValue.FromString(self.read(rev)) if rev else None

    def value(self, key: bytes) -> bytes | None:
        """What a key holds now, None if it is not there; quick for the few that are asked for again and again."""
        rev = self.index.last(key)
        if not rev:
            return None
        value = self._values.get(rev)
        if value is None:
            value = KeyValue.FromString(self.read(rev)).value
            if len(value) <= VALUE_BYTES_KEPT:
                if len(self._values) >= VALUES_KEPT:
                    self._values.clear()
                self._values[rev] = value
        return value

    def attachments(self) -> dict[int, list[bytes]]:
        """Keys attached to each lease now, to rebuild a lessor at start."""
        return self.index.attachments()

    def _check(self, revision: int) -> None:
        if revision > self._revision:
            raise FutureRevisionError(revision, self._revision)
        if revision < self._compacted:
            raise CompactedError(revision, self._compacted)

    def record(self, rev: int) -> bytes | None:
        """A serialized KeyValue by its revision as the index writes it; None once it is compacted away."""
        return self.backend.get("key", pack(rev))

    def read(self, rev: int) -> bytes:
        """A record that the index says is there."""
        data = self.backend.get("key", pack(rev))
        assert data is not None, f"revision {rev >> 32} is in the index but not in the backend"
        return data

    def reader(self) -> Reader:
        """The backend as of now, for reading in slices while writes and compactions go on. Close it."""
        self._save_meta()
        return self.backend.reader()

    def events(
        self, start_revision: int, key: bytes, end: bytes = b"", *, max_events: int = 1000, max_bytes: int = 1 << 30
    ) -> EventBatch:
        """Changes of a range from a revision on, with previous values where history still has them.

        Looks at about `max_events` changes of any key and `max_bytes` of them, never splitting a main revision. A
        start beyond the present gives an empty batch. Raises CompactedError.
        """
        if start_revision < self._compacted:
            raise CompactedError(start_revision, self._compacted)
        groups: list[tuple[int, list[Change]]] = []
        seen, size, main = 0, 0, 0
        for packed, record in self.backend.scan("key", pack(start_revision << 32)):
            rev = unpack(packed)
            current = rev >> 32
            if current != main and (seen >= max_events or size >= max_bytes):
                return EventBatch(groups, current)
            main = current
            seen += 1
            size += len(record)
            name = key_of(record)
            if not contains(key, end, name):
                continue
            if not groups or groups[-1][0] != current:
                groups.append((current, []))
            groups[-1][1].append(self._change(rev, name, record))
        return EventBatch(groups, max(start_revision, self._revision + 1))

    def _change(self, rev: int, key: bytes, record: bytes) -> Change:
        # What a compaction made unreadable is not shown, however far its removal has come.
        before = self.index.before(key, rev) if rev >> 32 > self._compacted else 0
        lease = 0 if rev & 1 else KeyValue.FromString(record).lease
        return Change(self, rev, record, before, key=key, lease=lease)

    # Writing

    def write(self) -> WriteTxn:
        """Begin a write transaction, as a context manager. An exception inside takes all its changes back."""
        return WriteTxn(self)

    def advance(self, revision: int, changes: int) -> None:
        """A write transaction with so many changes has ended at this revision."""
        self._revision = revision
        self.changes += changes

    def compact(self, revision: int) -> None:
        """Forget history below `revision`. Raises CompactedError if that is done already, FutureRevisionError.

        It cannot be read any more at once; `scrub` removes it.
        """
        if revision > self._revision:
            raise FutureRevisionError(revision, self._revision)
        if revision <= self._compacted:
            raise CompactedError(revision, self._compacted)
        self._compacted = revision
        self.backend.put("meta", _META_COMPACTED, revision.to_bytes(8))
        # What the last compaction has left is the first to be looked at, lest it never is.
        left = set(self._untrimmed)
        self._untrimmed = [key for key in self.index.trimmable() if key not in left] + self._untrimmed
        hit("apply.after_compaction")

    def scrub(self, budget: int = 1000) -> int:
        """Remove about `budget` compacted changes from index and backend; returns how many keys are left to look at.

        One key's changes go together.
        """
        waiting, dropped, looked = self._untrimmed, list[int](), 0
        while waiting and len(dropped) + looked < budget:
            dropped += self.index.trim(waiting.pop(), self._compacted)
            looked += 1
        dropped.sort()
        for rev in dropped:
            self.backend.delete("key", pack(rev))
        return len(waiting)

    # Whole content

    def hash_kv(self, revision: int = 0) -> tuple[int, int, int]:
        """(hash, compacted revision, hashed revision): equal on members that hold the same history up to `revision`.

        CRC-32 over every kept change; how far the scrubbing has come makes no difference. Reads everything.
        Raises CompactedError, FutureRevisionError.
        """
        return at_once(self._hash_steps(revision))

    async def hash_kv_gently(self, revision: int = 0) -> tuple[int, int, int]:
        """As `hash_kv`, of the moment it was asked for, with other work in between."""
        return await gently(self._hash_steps(revision or self._revision))

    def _hash_steps(self, revision: int) -> Generator[None, None, tuple[int, int, int]]:
        revision = revision or self._revision
        while True:
            self._check(revision)
            compacted = self._compacted
            value = yield from self._hash_once(revision, compacted)
            # A compaction in between may have trimmed the index that tells what is kept: begin again.
            if compacted == self._compacted:
                return value, compacted, revision

    def _hash_once(self, revision: int, compacted: int) -> Generator[None, None, int]:
        value, size, keeps = crc32(compacted.to_bytes(8, signed=True)), 0, self.index.keeps
        reader = self.reader()
        try:
            for packed, record in reader.scan("key", b"", pack((revision + 1) << 32)):
                rev = unpack(packed)
                if rev >> 32 > compacted or keeps(key_of(record), rev, compacted):
                    value = crc32(record, crc32(packed, value))
                size += len(record) + RECORD_BYTES
                if size >= SLICE_BYTES:
                    size = 0
                    yield
        finally:
            reader.close()
        return value

    def snapshot(self) -> Iterator[bytes]:
        """The whole backend as of this call, as a stream that checks itself (see `stream`); writes may go on."""
        self._save_meta()
        return stream.encode(self.backend.view(), BUCKETS)

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace everything with a snapshot. Raises CorruptSnapshot, with the content as at the last commit."""
        self.commit()
        hit("store.before_replace")
        new, index = self.backend.replacement(), KeyIndex()
        try:
            at_once(_index_steps(index, stream.decode(chunks, BUCKETS), new))
            hit("store.in_replace")
            new.finish()
        finally:
            new.abandon()
        hit("store.after_replace")
        self._begin(index)

    async def restore_gently(self, chunks: Iterable[bytes]) -> None:
        """As `restore`, durable, with other work in between: until it is done, everybody sees the old content.

        Nothing may be written meanwhile but what may be lost.
        """
        self.commit()
        hit("store.before_replace")
        new, index = self.backend.replacement(), KeyIndex()
        try:
            await gently(_index_steps(index, stream.decode(chunks, BUCKETS), new))
            hit("store.in_replace")
            await new.finish_durable()
        finally:
            new.abandon()
        hit("store.after_replace")
        self._begin(index)

    async def defragment(self) -> None:
        """Finish removing what was compacted, and give the freed space back; reading and writing go on."""
        while self.scrub():
            self.commit()
            await gently(_pause())
        self._save_meta()
        await self.backend.defragment()

    def clear(self) -> None:
        """Back to an empty store at revision 1."""
        self.backend.replace(iter(()))
        self._load()


def _index_steps(index: KeyIndex, records: Iterable[Record], new: Replacement | None = None) -> Generator[None]:
    """Fill an index, and new content if given, in slices."""
    parse, size, load = KeyValue.FromString, 0, index.load
    for bucket, key, value in records:
        if bucket == "key":
            try:
                kv, rev = parse(value), unpack(key)
            except (DecodeError, struct.error):
                if new is not None:
                    raise CorruptSnapshot("a record of the snapshot is damaged: fetch it again") from None
                raise BackendError("a record of the store is damaged: move it away and restore a snapshot") from None
            load(kv.key, rev, kv.create_revision, kv.version, kv.lease)
        if new is not None:
            new.add(bucket, key, value)
        size += len(value) + RECORD_BYTES
        if size >= SLICE_BYTES:
            size = 0
            yield
    index.finish_load()


def _pause() -> Generator[None]:
    yield


def contains(key: bytes, end: bytes, candidate: bytes) -> bool:
    """Whether a range has a key, by the conventions above."""
    if not end:
        return candidate == key
    return key <= candidate and (end == FROM_KEY or candidate < end)
