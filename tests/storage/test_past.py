"""A store as it was: cut at any revision, it is what it was right after it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, CompactedError, FutureRevisionError, Store, as_of

KEYS = [b"a", b"b", b"c"]
WRITES = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=3)), min_size=1, max_size=12)


def everything(store: Store) -> object:
    events = [
        (revision, [(c.type, c.kv, c.prev_kv) for c in group])
        for revision, group in store.events(max(1, store.compacted_revision), b"\0", b"\0").groups
    ]
    return store.revision, store.compacted_revision, store.range(b"\0", b"\0").kvs, events, store.hash_kv()


def write(store: Store, key: bytes, value: bytes | None) -> None:
    with store.write() as txn:
        if value is None:
            txn.delete_range(key)
        else:
            txn.put(key, value)


@given(WRITES, st.integers(0, 12), st.integers(0, 11), st.booleans())
def test_what_came_after_is_as_if_it_had_never_been(
    writes: list[tuple[bytes, bytes | None]], compacted: int, then: int, scrubbed: bool
) -> None:
    short, long = Store(MemoryBackend(BUCKETS)), Store(MemoryBackend(BUCKETS))
    then = min(then, len(writes) - 1)
    for number, (key, value) in enumerate(writes):
        write(long, key, value)
        if number <= then:
            write(short, key, value)
    if 1 < compacted <= short.revision:
        long.compact(compacted)
        short.compact(compacted)
        if scrubbed:
            long.scrub()
            short.scrub()
    found = Store(MemoryBackend(BUCKETS))
    found.restore(as_of(long, short.revision))
    assert everything(found) == everything(short)
    write(found, b"a", b"on")
    assert found.revision == short.revision + 1


def test_what_is_forgotten_or_to_come_is_refused() -> None:
    store = Store(MemoryBackend(BUCKETS))
    for _ in range(4):
        write(store, b"a", b"x")
    store.compact(3)
    with pytest.raises(CompactedError):
        as_of(store, 2)
    with pytest.raises(FutureRevisionError):
        as_of(store, 6)
