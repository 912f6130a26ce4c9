"""A write transaction of the store: one main revision in the making."""

from types import TracebackType
from typing import Protocol, Self

from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.storage.keyvalue import Backend
from rayplane.storage.mvcc.key_index import SUB_MAX, Head, KeyIndex
from rayplane.storage.mvcc.records import REVISION, Change, pack
from rayplane.storage.mvcc.results import RangeResult


class WrittenStore(Protocol):
    """The store that a transaction changes."""

    backend: Backend
    writing: bool
    """Whether a transaction is open."""

    @property
    def index(self) -> KeyIndex: ...

    @property
    def revision(self) -> int: ...

    def advance(self, revision: int, changes: int) -> None:
        """The transaction has ended: its revision is the store's now."""

    def read(self, rev: int) -> bytes:
        """Return the record of a revision."""

    def value(self, key: bytes) -> bytes | None:
        """Return what a key holds."""

    def record(self, rev: int) -> bytes | None:
        """Return the record of a revision, if history still has it."""

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> RangeResult: ...


class WriteTxn:
    """A write transaction. `events` and `revision` tell what became of it. Reads see its own writes."""

    __slots__ = ("_index", "_main", "_store", "_undo", "events")

    def __init__(self, store: WrittenStore) -> None:
        assert not store.writing, "a write transaction is open already"
        store.writing = True
        self._store = store
        self._index = store.index
        self._main = store.revision + 1
        # Revision, key, and what the index had before it.
        self._undo: list[tuple[int, bytes, Head | None, int]] = []
        self.events: list[Change] = []

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
        store.writing = False
        if kind is None:
            store.advance(self.revision, len(self.events))
            return
        while self._undo:
            rev, key, before, lease = self._undo.pop()
            store.backend.delete("key", pack(rev))
            self._index.undo(key, before, lease)
        self.events.clear()

    def put(self, key: bytes, value: bytes, lease: int = 0, *, prev_kv: bool = True) -> KeyValue | None:
        """Set a key; returns what it held, unless `prev_kv` says that nobody wants to know."""
        store, index, sub = self._store, self._index, len(self.events)
        rev = self._main << 32 | sub << 1
        old_lease = index.lease(key)
        created, version, before = index.put(key, rev, lease)
        self._undo.append((rev, key, before, old_lease))
        record = KeyValue(
            key=key, value=value, lease=lease, create_revision=created, mod_revision=self._main, version=version
        ).SerializeToString()
        store.backend.append("key", REVISION.pack(self._main, sub, 0), record)
        previous = 0 if version == 1 else before if type(before) is int else before[0]  # type: ignore[index]
        self.events.append(Change(store, rev, record, self._shown(key, rev, previous), key=key, lease=lease))
        return KeyValue.FromString(store.read(previous)) if prev_kv and previous else None

    def delete_range(self, key: bytes, end: bytes = b"", *, prev_kv: bool = True) -> list[KeyValue]:
        """Delete the keys of a range; returns what they held (only the keys, if `prev_kv` is False)."""
        store, index = self._store, self._index
        deleted = []
        for name in list(index.keys(key, end)):
            assert len(self.events) < SUB_MAX
            previous, lease = index.last(name), index.lease(name)
            rev = self._main << 32 | len(self.events) << 1 | 1
            self._undo.append((rev, name, index.tombstone(name, rev), lease))
            # Only key and revision, as in etcd's delete events.
            record = KeyValue(key=name, mod_revision=self._main).SerializeToString()
            store.backend.append("key", pack(rev), record)
            self.events.append(Change(store, rev, record, self._shown(name, rev, previous), key=name, lease=0))
            deleted.append(KeyValue.FromString(store.read(previous)) if prev_kv else KeyValue(key=name))
        return deleted

    def _shown(self, key: bytes, rev: int, previous: int) -> int:
        """What a watch shows as the value before: never one of this same revision."""
        return previous if previous >> 32 < self._main else self._index.before(key, rev)

    @property
    def index(self) -> KeyIndex:
        """The keys as this transaction sees them."""
        return self._index

    def value(self, key: bytes) -> bytes | None:
        """As `Store.value`; only before the transaction's first write."""
        assert not self.events, "a value is asked for before the first write"
        return self._store.value(key)

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> RangeResult:
        """As `Store.range`; revision 0 sees this transaction's writes, so does its own main revision."""
        now = revision == self.revision or revision <= 0
        return self._store.range(key, end, revision=0 if now else revision, limit=limit, count_only=count_only)
