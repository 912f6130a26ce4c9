"""The MVCC store against its twin, on every backend, through restarts, compactions and snapshots."""

import asyncio
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.proto.etcd.kv_pb2 import Event, KeyValue
from rayplane.storage.keyvalue import Backend, CorruptSnapshot, LmdbBackend, MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Change, CompactedError, FutureRevisionError, Store, key_index
from rayplane.storage.mvcc.key_index import KeyIndex, revision
from rayplane.storage.mvcc.store import VALUE_BYTES_KEPT, VALUES_KEPT
from tests.storage.mvcc_twin import Kv, Twin
from tests.tiers import examples

Open = Callable[[], Backend]


@pytest.fixture(params=["memory", "lmdb"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    stores: list[Store] = []

    def make() -> Store:
        path = tmp_path / f"store-{len(stores)}"
        backend = MemoryBackend(BUCKETS) if request.param == "memory" else LmdbBackend(path, BUCKETS)
        stores.append(Store(backend))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


def seen(kv: KeyValue) -> Kv:
    return Kv(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def put(store: Store, key: bytes, value: bytes = b"", lease: int = 0) -> int:
    with store.write() as txn:
        txn.put(key, value, lease)
    return txn.revision


def value_of(kv: KeyValue | None) -> bytes:
    assert kv is not None
    return kv.value


KEYS = st.sampled_from([b"a", b"aa", b"b", b"b\0", b"c", b"\xff"])
ENDS = st.sampled_from([b"", b"\0", b"b", b"c", b"a"])
OPERATION = st.one_of(
    st.tuples(st.just("put"), KEYS, st.binary(max_size=3), st.integers(0, 2)),
    st.tuples(st.just("delete"), KEYS, ENDS, st.just(0)),
)
STEP = st.one_of(
    st.tuples(st.just("write"), st.lists(OPERATION, max_size=4)),
    st.tuples(st.just("compact"), st.integers(0, 100)),
    st.tuples(st.just("scrub"), st.integers(0, 5)),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("snapshot"), st.none()),
    st.tuples(st.just("abort"), st.lists(OPERATION, max_size=4)),
)


class Abort(Exception):
    pass


def apply(store: Store, operations: list[tuple[str, bytes, bytes, int]], *, abort: bool = False) -> list[Change]:
    txn = store.write()
    try:
        with txn:
            for kind, key, argument, lease in operations:
                if kind == "put":
                    txn.put(key, argument, lease)
                else:
                    txn.delete_range(key, argument)
            if abort:
                raise Abort
    except Abort:
        pass
    return txn.events


def same(store: Store, twin: Twin, key: bytes, end: bytes, limit: int) -> None:
    assert store.revision == twin.revision
    for kv in twin.range(b"", b"\0", twin.revision):
        assert store.value(kv.key) == kv.value
    assert store.value(key) == next((kv.value for kv in twin.range(key, b"", twin.revision)), None)
    for rev in range(max(1, twin.compacted), twin.revision + 1):
        wanted = twin.range(key, end, rev)
        result = store.range(key, end, revision=rev, limit=limit)
        assert [seen(kv) for kv in result.kvs] == (wanted[:limit] if limit else wanted)
        assert (result.count, result.more) == (len(wanted), 0 < limit < len(wanted))
        assert store.range(key, end, revision=rev, count_only=True).count == len(wanted)
    if twin.compacted > 1:
        with pytest.raises(CompactedError):
            store.range(key, end, revision=twin.compacted - 1)
        with pytest.raises(CompactedError):
            store.events(twin.compacted - 1, key, end)
    with pytest.raises(FutureRevisionError):
        store.range(key, end, revision=twin.revision + 1)
    start = twin.compacted + 1
    got, position = [], start
    while position <= store.revision:
        batch = store.events(position, key, end, max_events=2)
        for main, events in batch.groups:
            got += [(main, "delete" if e.type == Event.DELETE else "put", e.kv.key) for e in events]
        assert batch.next_revision > position
        position = batch.next_revision
    assert got == twin.events(start, key, end)


# A reopened store sorts its keys in runs; these are short enough to be several.
@mock.patch.object(key_index, "RUN_KEYS", 2)
@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEP, max_size=14), key=KEYS, end=ENDS, limit=st.integers(0, 3))
def test_store_does_what_a_store_of_all_states_does(
    steps: list[tuple[str, Any]], key: bytes, end: bytes, limit: int
) -> None:
    backend = MemoryBackend(BUCKETS)
    store, twin = Store(backend), Twin()
    for kind, argument in steps:
        if kind == "write":
            twin.write(argument)
            apply(store, argument)
        elif kind == "abort":
            apply(store, argument, abort=True)
        elif kind == "compact":
            target = min(argument, twin.revision)
            if target > twin.compacted:
                store.compact(target)
                twin.compacted = target
        elif kind == "scrub":
            store.scrub(argument)
        elif kind == "reopen":
            store.commit()
            store = Store(backend)
        else:
            chunks = list(store.snapshot())
            before = store.hash_kv()
            store = Store(backend := MemoryBackend(BUCKETS))
            store.restore(chunks)
            assert store.hash_kv() == before
        same(store, twin, key, end, limit)


def test_events_carry_the_previous_value(make_store: Callable[[], Store]) -> None:
    store = make_store()
    put(store, b"a", b"1")
    with store.write() as txn:
        txn.put(b"a", b"2")
        txn.delete_range(b"a")
        txn.put(b"b", b"3")
    events = [change.message(prev_kv=True) for change in txn.events]
    assert [(e.type, e.kv.key, e.prev_kv.value) for e in events] == [
        (Event.PUT, b"a", b"1"),
        (Event.DELETE, b"a", b"1"),
        (Event.PUT, b"b", b""),
    ]
    assert not events[2].HasField("prev_kv")
    assert not any(change.message(prev_kv=False).HasField("prev_kv") for change in txn.events)
    ((main, read),) = store.events(txn.revision, b"a", b"\0").groups
    assert (main, [change.message(prev_kv=True) for change in read]) == (3, events)
    assert [(c.key, c.lease, c.type) for c in read] == [(c.key, c.lease, c.type) for c in txn.events]


def test_a_transaction_reads_its_own_writes_and_the_past(make_store: Callable[[], Store]) -> None:
    store = make_store()
    put(store, b"a", b"old")
    with store.write() as txn:
        assert value_of(txn.put(b"a", b"new")) == b"old"
        txn.put(b"b", b"")
        assert [kv.value for kv in txn.range(b"a", b"c").kvs] == [b"new", b""]
        assert txn.range(b"a", revision=2).kvs[0].value == b"old"
        assert [kv.key for kv in txn.delete_range(b"a", b"c")] == [b"a", b"b"]
        assert txn.range(b"a", b"c").count == 0
    assert txn.revision == store.revision == 3


def test_a_transaction_without_changes_takes_no_revision(make_store: Callable[[], Store]) -> None:
    store = make_store()
    with store.write() as txn:
        txn.delete_range(b"a", b"\0")
        txn.range(b"a")
    assert (txn.revision, store.revision, txn.events) == (1, 1, [])


def test_a_failed_transaction_leaves_nothing(make_store: Callable[[], Store]) -> None:
    store = make_store()
    put(store, b"kept", b"1", lease=7)
    before = list(store.snapshot())
    apply(store, [("delete", b"a", b"\0", 0), ("put", b"kept", b"2", 0), ("put", b"new", b"3", 0)], abort=True)
    assert list(store.snapshot()) == before
    assert store.attachments() == {7: [b"kept"]}
    assert put(store, b"next") == 3


def test_values_that_are_compared_again_and_again_take_little_memory(make_store: Callable[[], Store]) -> None:
    store = make_store()
    for number in range(2 * VALUES_KEPT):
        put(store, b"%d" % number, bytes(VALUE_BYTES_KEPT + number % 2))
        assert store.value(b"%d" % number) == bytes(VALUE_BYTES_KEPT + number % 2)
    assert len(store._values) <= VALUES_KEPT
    assert max(map(len, store._values.values())) == VALUE_BYTES_KEPT


def test_values_of_a_state_that_was_replaced_are_forgotten(make_store: Callable[[], Store]) -> None:
    store, other = make_store(), make_store()
    put(store, b"k", b"old")
    put(other, b"k", b"new")
    assert store.value(b"k") == b"old"
    store.restore(other.snapshot())
    assert store.value(b"k") == b"new"


def test_lease_attachments_survive_a_restart(make_store: Callable[[], Store]) -> None:
    store = make_store()
    for key, lease in ((b"a", 1), (b"b", 2), (b"c", 1), (b"d", 0), (b"e", 3), (b"b", 0)):
        put(store, key, lease=lease)
    with store.write() as txn:
        txn.delete_range(b"e")
    other = make_store()
    other.restore(store.snapshot())
    assert store.attachments() == other.attachments() == {1: [b"a", b"c"]}


def test_applied_index_and_writes_are_one(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS)
    store = Store(backend, commit_ops=4)
    for index in range(1, 11):
        put(store, b"%d" % index)
        store.set_applied(index, 1)
    backend._file.env.close()  # the process dies: what was not committed is gone
    again = Store(LmdbBackend(tmp_path, BUCKETS))
    assert 4 <= again.applied.index < 10
    assert again.range(b"", b"\0").count == again.applied.index
    assert again.revision == again.applied.index + 1
    again.close()


def test_the_revision_survives_the_compaction_of_its_last_change(make_store: Callable[[], Store]) -> None:
    store = make_store()
    put(store, b"a")
    with store.write() as txn:
        txn.delete_range(b"a")
    put(store, b"b")
    with store.write() as txn:
        txn.delete_range(b"b")
    store.compact(5)
    store.scrub()
    other = make_store()
    other.restore(store.snapshot())
    assert (other.revision, other.compacted_revision) == (5, 5)
    assert put(other, b"c") == 6


def test_a_snapshot_is_of_the_moment_it_was_asked_for(make_store: Callable[[], Store]) -> None:
    store, other = make_store(), make_store()
    for n in range(2000):
        put(store, b"%04d" % n, bytes(1000))
    store.set_applied(2000, 3)
    chunks = store.snapshot()
    first = next(chunks)
    put(store, b"0000", b"later")
    with store.write() as txn:
        txn.delete_range(b"1", b"\0")
    store.commit()
    other.restore([first, *chunks])
    assert (other.revision, other.range(b"", b"\0", count_only=True).count) == (2001, 2000)
    assert other.applied == (2000, 3)
    assert value_of(other.get(b"0000")) == bytes(1000)


def test_a_damaged_snapshot_changes_nothing(make_store: Callable[[], Store]) -> None:
    store, other = make_store(), make_store()
    put(store, b"a", b"value")
    put(other, b"mine", b"x")
    stream = b"".join(store.snapshot())
    before = list(other.snapshot())
    for damaged in (
        [stream[:cut] for cut in range(len(stream))]
        + [stream[:n] + bytes([stream[n] ^ 1]) + stream[n + 1 :] for n in range(len(stream))]
        + [stream + b"x"]
    ):
        with pytest.raises(CorruptSnapshot):
            other.restore([damaged])
        assert other.get(b"mine") is not None
    assert list(other.snapshot()) == before
    other.restore(bytes([b]) for b in stream)  # chunk borders mean nothing
    assert value_of(other.get(b"a")) == b"value"


def test_hash_tells_histories_apart_but_not_scrub_progress(make_store: Callable[[], Store]) -> None:
    one, two = make_store(), make_store()
    for store in (one, two):
        for n in range(20):
            put(store, b"k%d" % (n % 3), b"%d" % n)
        store.compact(15)
    one.scrub(3)
    two.scrub(100)
    assert one.hash_kv() == two.hash_kv()
    assert one.hash_kv(18) == two.hash_kv(18) != one.hash_kv()
    put(one, b"x", b"1")
    put(two, b"x", b"2")
    assert one.hash_kv() != two.hash_kv()
    assert one.hash_kv(21) == two.hash_kv(21)


def test_the_index_forgets_as_its_documentation_says() -> None:
    wanted = {3: [3, 5, 7], 4: [3, 5, 7], 5: [5, 7], 6: [7], 7: [7]}
    for at, left in wanted.items():
        index = KeyIndex()
        index.put(b"k", revision(2, 0), 0)
        index.put(b"k", revision(3, 0), 0)
        index.tombstone(b"k", revision(5, 0, tombstone=True))
        index.put(b"k", revision(7, 0), 0)
        assert index.trimmable() == [b"k"]
        index.trim(b"k", at)
        assert [rev >> 32 for rev in index.history(b"k")] == left


def test_keys_are_in_order_after_a_load_in_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_index, "RUN_KEYS", 4)
    rng, index, wanted = random.Random(3), KeyIndex(), dict[bytes, int]()
    for main in range(2, 500):
        key = b"%02x" % rng.randrange(200)
        if wanted.get(key) and rng.random() < 0.2:
            index.load(key, revision(main, 0, tombstone=True), 0, 0, 0)
            wanted[key] = 0
        else:
            wanted[key] = revision(main, 0)
            index.load(key, wanted[key], main, 1, 0)
    index.finish_load()
    live = sorted(key for key, rev in wanted.items() if rev)
    assert list(index.keys(b"", b"\0")) == live
    assert index.revisions(b"", b"\0", 0) == [wanted[key] for key in live]
    assert (len(index), index.newest) == (len(live), 499)


async def test_a_hash_in_slices_is_that_of_its_moment(make_store: Callable[[], Store]) -> None:
    store = make_store()
    for n in range(600):
        put(store, b"k%d" % (n % 50), bytes(2_000))
    store.compact(300)
    before = store.hash_kv()
    hashing, turns = asyncio.ensure_future(store.hash_kv_gently()), 0
    await asyncio.sleep(0)
    while not hashing.done():
        put(store, b"k%d" % (turns % 70), b"later")
        store.scrub(2)
        turns += 1
        await asyncio.sleep(0)
    assert (await hashing, turns > 2) == (before, True)
    # A compaction meanwhile: the hash is that of the history that is left.
    hashing = asyncio.ensure_future(store.hash_kv_gently(600))
    await asyncio.sleep(0)
    store.compact(500)
    store.scrub(10_000)
    assert await hashing == store.hash_kv(600)
    hashing = asyncio.ensure_future(store.hash_kv_gently(600))
    await asyncio.sleep(0)
    store.compact(601)
    with pytest.raises(CompactedError):
        await hashing


def test_a_compaction_hides_at_once_what_it_removes_later(make_store: Callable[[], Store]) -> None:
    store = make_store()
    for value in (b"1", b"2", b"3"):
        put(store, b"a", value)
    store.compact(3)
    for _ in range(2):  # before and after the bytes are removed
        ((_, (first,)), (_, (second,))) = store.events(3, b"a").groups
        assert first.prev_kv is None and value_of(second.prev_kv) == b"2"
        while store.scrub():
            pass
    assert store.record(revision(2, 0)) is None


def test_the_value_before_is_that_of_the_revision_before() -> None:
    """Changes of one revision are seen at once: a watch never shows what was there in between."""
    store = Store(MemoryBackend(BUCKETS))
    with store.write() as txn:
        txn.put(b"k", b"old")
    with store.write() as txn:
        txn.put(b"k", b"between")
        txn.delete_range(b"k")
        txn.put(b"k", b"again")
        txn.put(b"k", b"last")
        txn.delete_range(b"k")
    expected = [b"old", b"old", None, None, b"old"]
    live = [None if c.prev_kv is None else c.prev_kv.value for c in txn.events]
    [(_, changes)] = store.events(3, b"k").groups
    assert live == [None if c.prev_kv is None else c.prev_kv.value for c in changes] == expected


def test_frequent_compactions_starve_no_key_of_its_scrubbing() -> None:
    backend = MemoryBackend(BUCKETS)
    store = Store(backend)
    for _ in range(200):
        for key in range(20):
            put(store, b"k%d" % key, b"v")
        store.compact(store.revision)
        # Just as much as was written: what is left over must not be the same keys each time.
        store.scrub(30)
    assert len(list(backend.scan("key"))) < 20 * 10
