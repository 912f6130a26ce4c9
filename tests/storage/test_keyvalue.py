"""One contract, every backend of the MVCC store."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.storage.env import LocalDisk, SimulatedDisk
from rayplane.storage.keyvalue import Backend, BackendError, LmdbBackend, MemoryBackend
from rayplane.storage.mvcc import BUCKETS
from tests.tiers import examples


@pytest.fixture(params=["memory", "lmdb"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend(BUCKETS) if request.param == "memory" else LmdbBackend(tmp_path, BUCKETS)
    yield made
    made.close()


WRITE = st.tuples(st.sampled_from(BUCKETS[:2]), st.binary(min_size=1, max_size=3), st.none() | st.binary(max_size=4))


@settings(max_examples=examples(50), deadline=None, suppress_health_check=list(HealthCheck))
@given(writes=st.lists(WRITE, max_size=20), start=st.binary(max_size=2), end=st.none() | st.binary(max_size=2))
def test_buckets_are_ordered_maps(
    backend: Backend,
    writes: list[tuple[str, bytes, bytes | None]],
    start: bytes,
    end: bytes | None,
) -> None:
    backend.replace(iter(()))
    model: dict[str, dict[bytes, bytes]] = {bucket: {} for bucket in BUCKETS}
    for bucket, key, value in writes:
        if value is None:
            backend.delete(bucket, key)
            model[bucket].pop(key, None)
        else:
            backend.put(bucket, key, value)
            model[bucket][key] = value
        assert backend.get(bucket, key) == value
    for bucket, content in model.items():
        wanted = [(k, v) for k, v in sorted(content.items()) if k >= start and (end is None or k < end)]
        assert list(backend.scan(bucket, start, end)) == wanted
    assert list(backend.view()) == [(b, k, v) for b in BUCKETS for k, v in sorted(model[b].items())]


def test_a_view_does_not_move(backend: Backend) -> None:
    backend.put("meta", b"a", b"1")
    view = backend.view()
    backend.put("meta", b"a", b"2")
    backend.commit()
    assert list(view) == [("meta", b"a", b"1")]


def test_unknown_buckets_are_refused(backend: Backend) -> None:
    with pytest.raises(KeyError):
        backend.put("surprise", b"a", b"1")


def test_a_failed_replacement_changes_nothing(backend: Backend) -> None:
    backend.put("meta", b"a", b"1")

    def broken() -> Iterator[tuple[str, bytes, bytes]]:
        yield "meta", b"b", b"2"
        raise ValueError

    with pytest.raises(ValueError):
        backend.replace(broken())
    assert list(backend.view()) == [("meta", b"a", b"1")]


def test_pending_counts_writes_since_the_commit(backend: Backend) -> None:
    backend.put("meta", b"a", b"1")
    backend.delete("meta", b"b")
    assert backend.pending == 2
    backend.commit()
    assert backend.pending == 0


@pytest.mark.parametrize("simulated", [False, True])
async def test_the_memory_backend_starts_from_its_last_flush(tmp_path: Path, simulated: bool) -> None:
    disk = SimulatedDisk() if simulated else LocalDisk(tmp_path)
    backend = MemoryBackend(BUCKETS, disk)
    backend.put("meta", b"a", b"1")
    await backend.flush()
    backend.put("meta", b"a", b"2")
    assert MemoryBackend(BUCKETS, disk).get("meta", b"a") == b"1"


async def test_lmdb_keeps_what_was_committed_when_the_process_dies(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS)
    backend.put("meta", b"a", b"1")
    backend.commit()
    backend.put("meta", b"a", b"2")
    backend._file.env.close()
    again = LmdbBackend(tmp_path, BUCKETS)
    assert again.trusted
    assert again.get("meta", b"a") == b"1"
    again.close()


def test_lmdb_is_not_trusted_after_the_machine_stopped_uncleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (boot := tmp_path / "boot_id").write_text("first\n")
    monkeypatch.setattr("rayplane.storage.keyvalue.lmdb_backend._BOOT_ID", boot)
    path = tmp_path / "store"
    clean = LmdbBackend(path, BUCKETS)
    clean.close()
    boot.write_text("second\n")
    backend = LmdbBackend(path, BUCKETS)
    assert backend.trusted  # it was closed before the machine stopped
    backend._file.env.close()
    boot.write_text("third\n")
    for _ in range(2):  # the verdict lasts until something good is restored
        backend = LmdbBackend(path, BUCKETS)
        assert not backend.trusted
        backend.close()
    backend = LmdbBackend(path, BUCKETS)
    backend.replace(iter([("meta", b"a", b"1")]))
    backend._file.env.close()
    assert LmdbBackend(path, BUCKETS).trusted


def test_lmdb_grows_its_map(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS, map_bytes=1 << 20)
    for n in range(64):
        backend.put("key", b"%04d" % n, bytes(64 * 1024))
        backend.commit()
    assert sum(1 for _ in backend.scan("key")) == 64
    assert backend.size()[0] > 4 << 20
    backend.close()


def test_a_full_lmdb_serves_nothing_any_more(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS, map_bytes=1 << 20)
    with pytest.raises(BackendError, match="free disk space"):
        for n in range(64):
            backend.put("key", b"%04d" % n, bytes(64 * 1024))
    with pytest.raises(BackendError):
        backend.commit()
    backend.close()


class SlowSync:
    """An LMDB environment whose sync lasts until it may end; tells what was done, in its order."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self.began, self.may_end = threading.Event(), threading.Event()
        self.done: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def sync(self, force: bool) -> None:
        self.began.set()
        assert self.may_end.wait(20)
        self._env.sync(force)
        self.done.append("synced")

    def close(self) -> None:
        self.done.append("closed")
        self._env.close()


async def given_up_flush(backend: LmdbBackend) -> SlowSync:
    """A flush whose caller has gone while a thread still syncs the file."""
    backend.put("meta", b"a", b"1")
    backend._file.env = env = SlowSync(backend._file.env)  # type: ignore[assignment]
    flush = asyncio.get_running_loop().create_task(backend.flush())
    await asyncio.to_thread(env.began.wait, 20)
    flush.cancel()
    await asyncio.gather(flush, return_exceptions=True)
    return env


async def test_who_closes_lmdb_can_wait_for_the_thread_that_syncs_it(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS)
    env = await given_up_flush(backend)
    idle = asyncio.get_running_loop().create_task(backend.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    env.may_end.set()
    await idle
    backend.close()
    assert env.done == ["synced", "synced", "closed"]
    again = LmdbBackend(tmp_path, BUCKETS)
    assert again.get("meta", b"a") == b"1"
    again.close()


async def test_lmdb_is_not_closed_under_a_thread_that_syncs_it(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS)
    env = await given_up_flush(backend)
    backend.abandon()
    assert env.done == []
    env.may_end.set()
    await backend.idle()
    assert env.done == ["synced", "closed"]


def test_what_still_reads_lmdb_when_it_is_closed_is_refused(tmp_path: Path) -> None:
    backend = LmdbBackend(tmp_path, BUCKETS)
    for number in range(10):
        backend.put("meta", b"%d" % number, b"v")
    reader, begun, view = backend.reader(), backend.reader(), backend.view()
    pairs = begun.scan("meta")
    next(pairs)
    backend.close()
    for read in (lambda: reader.get_many("meta", [b"1"]), lambda: list(reader.scan("meta")), lambda: list(view)):
        with pytest.raises(BackendError, match="closed while it was read"):
            read()
    with pytest.raises((BackendError, lmdb.Error)):
        list(pairs)
    reader.close()
    begun.close()
