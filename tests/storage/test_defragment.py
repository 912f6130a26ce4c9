"""Defragmentation and replacement of an LMDB store: what is given back, what goes on meanwhile, what a crash leaves."""

import asyncio
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.storage.env.failpoints import arm, disarm
from rayplane.storage.keyvalue import BackendError, LmdbBackend
from rayplane.storage.keyvalue.lmdb_file import DATA, NEW
from rayplane.storage.mvcc import BUCKETS, Store
from tests.storage.test_mvcc import put

KEYS = 200
VALUE = bytes(3_000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(LmdbBackend(tmp_path / "store", BUCKETS))
    yield made
    disarm()
    made.close()


def fill(store: Store, *, rounds: int = 10) -> None:
    """Much history over few keys, compacted and scrubbed."""
    for number in range(rounds * KEYS):
        put(store, b"key-%03d" % (number % KEYS), b"%d" % number + VALUE)
    store.compact(store.revision)
    while store.scrub():
        pass
    store.commit()


def content(store: Store) -> dict[bytes, bytes]:
    return {kv.key: kv.value for kv in store.range(b"", b"\0").kvs}


def on_disk(store: Store) -> int:
    assert isinstance(store.backend, LmdbBackend)
    return (store.backend._path / DATA).stat().st_size


async def test_space_of_what_was_deleted_is_given_back(store: Store) -> None:
    fill(store)
    before, held, was = on_disk(store), content(store), store.hash_kv()
    size, in_use = store.backend.size()
    assert size == before > 5 * in_use
    await store.defragment()
    after, in_use_after = store.backend.size()
    assert on_disk(store) == after < before // 5
    assert in_use_after <= in_use
    assert (content(store), store.hash_kv()) == (held, was)
    for _ in range(3):  # again and again, and it goes on as before
        put(store, b"new", b"1")
        await store.defragment()
    assert content(store) == held | {b"new": b"1"}


async def test_writes_during_a_defragmentation_are_kept(store: Store, tmp_path: Path) -> None:
    fill(store)
    rng, wanted = random.Random(1), content(store)
    task = asyncio.ensure_future(store.defragment())
    turns = 0
    while not task.done():
        turns += 1
        key = b"key-%03d" % rng.randrange(2 * KEYS)
        if rng.random() < 0.3:
            with store.write() as txn:
                txn.delete_range(key)
            wanted.pop(key, None)
        else:
            wanted[key] = b"%d" % turns
            put(store, key, wanted[key])
        if rng.random() < 0.1:
            store.compact(store.revision)
        store.scrub(3)
        store.commit()
        assert content(store) == wanted
        await asyncio.sleep(0)
    await task
    assert turns > 5
    assert content(store) == wanted
    expected = store.hash_kv()
    store.backend._file.env.close()  # type: ignore[attr-defined]  # the process dies
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    again = Store(LmdbBackend(tmp_path / "copy", BUCKETS))
    assert (content(again), again.hash_kv()) == (wanted, expected)
    again.close()
    store.backend._failed = "closed"  # type: ignore[attr-defined]


async def test_readers_of_the_old_file_see_it_to_the_end(store: Store) -> None:
    fill(store)
    reader, chunks = store.reader(), store.snapshot()
    whole = list(reader.records())
    first = next(chunks)
    put(store, b"later", b"1")
    await store.defragment()
    put(store, b"later", b"2")
    assert list(reader.records()) == whole
    reader.close()
    other = Store(LmdbBackend(store.backend._path.parent / "other", BUCKETS))  # type: ignore[attr-defined]
    other.restore([first, *chunks])
    assert other.get(b"later") is None
    assert len(content(other)) == KEYS
    other.close()


@pytest.mark.parametrize("point", ["store.before_swap", "store.after_swap"])
async def test_a_crash_while_files_are_changed_leaves_one_whole_store(store: Store, tmp_path: Path, point: str) -> None:
    fill(store)
    held, was = content(store), store.hash_kv()
    arm(f"{point}=error(EIO)")
    with pytest.raises(Exception, match="cannot go on"):
        await store.defragment()
    disarm()
    # What the disk has at this moment is what a killed process leaves.
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    again = Store(LmdbBackend(tmp_path / "copy", BUCKETS))
    assert (content(again), again.hash_kv()) == (held, was)
    assert not (tmp_path / "copy" / NEW).exists()
    put(again, b"new", b"1")
    again.close()
    store.backend._failed = "broken"  # type: ignore[attr-defined]


async def test_a_cancelled_defragmentation_changes_nothing(store: Store) -> None:
    fill(store)
    held, size = content(store), on_disk(store)
    task = asyncio.ensure_future(store.defragment())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (content(store), on_disk(store)) == (held, size)
    put(store, b"new", b"1")
    await store.defragment()
    assert on_disk(store) < size // 5
    assert content(store) == held | {b"new": b"1"}


async def test_a_restore_during_a_defragmentation_wins(store: Store, tmp_path: Path) -> None:
    fill(store)
    other = Store(LmdbBackend(tmp_path / "other", BUCKETS))
    put(other, b"only", b"1")
    chunks = list(other.snapshot())
    other.close()
    task = asyncio.ensure_future(store.defragment())
    for _ in range(3):
        await asyncio.sleep(0)
    store.restore(chunks)
    await task
    assert content(store) == {b"only": b"1"}
    put(store, b"more", b"2")
    assert content(store) == {b"only": b"1", b"more": b"2"}


async def test_a_gentle_restore_shows_the_old_content_until_it_is_done(store: Store, tmp_path: Path) -> None:
    other = Store(LmdbBackend(tmp_path / "other", BUCKETS))
    for number in range(600):
        put(other, b"%04d" % number, VALUE)
    chunks, wanted = list(other.snapshot()), content(other)
    other.close()
    put(store, b"old", b"1")
    task, turns = asyncio.ensure_future(store.restore_gently(chunks)), 0
    while not task.done():
        assert content(store) in ({b"old": b"1"}, wanted)
        store.commit()
        turns += 1
        await asyncio.sleep(0)
    await task
    assert turns > 3
    assert content(store) == wanted
    assert store.revision == 601
    broken = [chunks[0][:-1] + bytes([chunks[0][-1] ^ 1]), *chunks[1:]]
    with pytest.raises(Exception, match="snapshot"):
        await store.restore_gently(broken)
    assert content(store) == wanted


def test_a_failed_store_is_not_replaced(store: Store) -> None:
    store.backend._failed = "it failed"  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="it failed"):
        store.backend.replacement()


async def test_a_restore_and_a_defragmentation_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path / "store", BUCKETS)
    backend.put("key", b"old", b"1")
    restored = backend.replacement()
    restored.add("key", b"new", b"2")
    await backend.defragment()
    assert list(backend.scan("key")) == [(b"old", b"1")]
    await restored.finish_durable()
    assert list(backend.scan("key")) == [(b"new", b"2")]
    backend.close()
    assert list(LmdbBackend(tmp_path / "store", BUCKETS).scan("key")) == [(b"new", b"2")]
