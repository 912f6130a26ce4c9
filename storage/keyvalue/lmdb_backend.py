"""The backend on LMDB, without syncs between flushes.

A commit goes to the page cache (about 20 us), so a killed process loses nothing committed; after a lost machine the
file may hold any mix of old and new pages. A marker beside it with the machine's boot id tells the two apart:
`trusted` is False after an unclean stop of the machine, and the owner then restores a snapshot.

New content (a restore, a defragmentation) is a new file that is renamed over the old one when it is whole.
"""

import asyncio
import contextlib
import logging
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import lmdb

from rayplane.storage.env.disk import DiskError
from rayplane.storage.env.failpoints import hit
from rayplane.storage.env.private import make_private_dir
from rayplane.storage.keyvalue.backend import PENDING_SHIFT, Record
from rayplane.storage.keyvalue.errors import BackendError, CorruptStore
from rayplane.storage.keyvalue.lmdb_check import check_file
from rayplane.storage.keyvalue.lmdb_file import (
    DATA,
    NEW,
    LmdbFile,
    LmdbReader,
    new_directory,
    sync_directory,
    take_over,
)
from rayplane.storage.keyvalue.seals import seal
from rayplane.storage.keyvalue.slices import RECORD_BYTES, SLICE_BYTES, gently

log = logging.getLogger(__name__)

MAP_BYTES = 4 * 1024**3
"""Address space at first, not disk space; it doubles when half of it is used."""
NEW_COMMIT_BYTES = 4 * 1024**2
"""What is written to a new file between two commits: it is held in memory until then."""
JOURNAL_SLICE = 1_000
"""Writes made during a defragmentation that are repeated on the new file at once."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MARKER = "boot"
_FORM = "sealed"
_Write = tuple[str, bytes, bytes | None]


class LmdbBackend:
    """One LMDB environment; one process at a time (its owner locks the data directory)."""

    def __init__(
        self,
        path: str | Path,
        buckets: Sequence[str],
        *,
        map_bytes: int = MAP_BYTES,
        durable: bool = False,
    ) -> None:
        """`durable`: each commit survives a lost machine, for some milliseconds each."""
        self._path = Path(path)
        self._names, self._durable = tuple(buckets), durable
        self._failed: str = ""
        self._pending = 0
        # Threads that sync a file of this backend.
        self._syncing: dict[asyncio.Future[None], None] = {}
        # What is written while a defragmentation copies, to be repeated on its copy.
        self._journal: list[_Write] | None = None
        with self._opening():
            make_private_dir(self._path)
            shutil.rmtree(self._path / NEW, ignore_errors=True)
            fresh = not (self._path / DATA).exists()
            self.trusted = fresh or ((durable or self._survived()) and self._is_sound())
            if self.trusted:
                self._mark("open")
            elif not fresh:
                # The library must not follow what it says: it would end the process.
                (self._path / DATA).unlink()
            self._file = LmdbFile(self._path, self._names, map_bytes=map_bytes, durable=durable)
            self._begin()

    def _begin(self) -> None:
        self._txn = self._file.env.begin(write=True)
        self._databases = self._file.databases

    @contextlib.contextmanager
    def _opening(self) -> Generator[None]:
        try:
            yield
        except (OSError, lmdb.Error) as e:
            raise BackendError(
                f"cannot open the store in {self._path}: {e}; free space or fix permissions, or move it away and "
                "restore it from a snapshot"
            ) from e

    def _survived(self) -> bool:
        """Whether the last user closed the store or at least the machine has been up since."""
        try:
            boot_id, state, form = (self._path / _MARKER).read_text().split()
        except (OSError, ValueError):
            return False
        return form == _FORM and (state == "clean" or boot_id == _boot_id() != "unknown")

    def _is_sound(self) -> bool:
        """Raises CorruptStore where nothing could make the content again."""
        try:
            check_file(self._path / DATA)
        except CorruptStore as e:
            if self._durable:
                raise
            log.warning("%s", e)
            return False
        return True

    def _mark(self, state: str) -> None:
        hit("store.before_marker")
        temporary = self._path / f"{_MARKER}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{_boot_id()} {state} {_FORM}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self._path / _MARKER)
        sync_directory(self._path)
        hit("store.after_marker")

    @contextlib.contextmanager
    def _guard(self) -> Generator[None]:
        """After one failed write nothing is served any more: memory may be ahead of the file."""
        if self._file.damaged is not None:
            raise self._file.damaged
        if self._failed:
            raise BackendError(self._failed)
        try:
            yield
        except (OSError, DiskError, lmdb.Error) as e:
            self._failed = f"the store in {self._path} failed: {e}; free disk space, then restart"
            raise BackendError(self._failed) from e

    @property
    def pending(self) -> int:
        # Whoever commits what waits learns of the damage that a reader has found.
        return self._pending or int(self._file.damaged is not None)

    def get(self, bucket: str, key: bytes) -> bytes | None:
        try:
            sealed: bytes | None = self._txn.get(key, db=self._databases[bucket])
            return None if sealed is None else self._file.opened(key, sealed)
        except lmdb.Error:
            with self._guard():
                raise

    def put(self, bucket: str, key: bytes, value: bytes) -> None:
        self._pending += 1 + (len(value) >> PENDING_SHIFT)
        if self._journal is not None:
            self._journal.append((bucket, key, value))
        try:
            self._txn.put(key, seal(key, value), db=self._databases[bucket])
        except lmdb.Error:
            with self._guard():
                raise

    def append(self, bucket: str, key: bytes, value: bytes) -> None:
        self._pending += 1 + (len(value) >> PENDING_SHIFT)
        if self._journal is not None:
            self._journal.append((bucket, key, value))
        try:
            if not self._txn.put(key, seal(key, value), append=True, db=self._databases[bucket]):
                # Not above all others after all.
                self._txn.put(key, seal(key, value), db=self._databases[bucket])
        except lmdb.Error:
            with self._guard():
                raise

    def delete(self, bucket: str, key: bytes) -> None:
        self._pending += 1
        if self._journal is not None:
            self._journal.append((bucket, key, None))
        try:
            self._txn.delete(key, db=self._databases[bucket])
        except lmdb.Error:
            with self._guard():
                raise

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._databases[bucket]) as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return
            opened = self._file.opened
            for key, sealed in cursor.iternext():
                if end is not None and key >= end:
                    return
                yield key, opened(key, sealed)

    def commit(self) -> None:
        with self._guard():
            if not self._pending:
                return
            self._txn.commit()
            self._pending = 0
            self._file.grow()
            self._begin()

    async def flush(self) -> None:
        self.commit()
        if not self._durable:
            await self._sync(self._file)

    async def _sync(self, file: LmdbFile) -> None:
        file.enter()
        syncing = asyncio.get_running_loop().run_in_executor(None, file.env.sync, True)
        self._syncing[syncing] = None

        def ended(_: object) -> None:
            del self._syncing[syncing]
            file.leave()

        # Even if the caller gives up: the file must not be closed under the thread.
        syncing.add_done_callback(ended)
        try:
            await asyncio.shield(syncing)
        except lmdb.Error:
            with self._guard():
                raise

    def reader(self) -> LmdbReader:
        self.commit()
        with self._guard():
            return LmdbReader(self._file)

    def view(self) -> Iterator[Record]:
        records = _closing(self.reader())
        next(records)  # from here on its `finally` runs, even if nobody reads on
        return records

    def replacement(self) -> "LmdbReplacement":
        self.commit()
        with self._guard():
            file = LmdbFile(
                new_directory(self._path), self._names, map_bytes=self._file.map_bytes, durable=self._durable
            )
        return LmdbReplacement(self, file)

    def replace(self, records: Iterator[Record]) -> None:
        new = self.replacement()
        try:
            for record in records:
                new.add(*record)
            new.finish()
        finally:
            new.abandon()

    def swap(self, file: LmdbFile) -> None:
        """A new file, complete, takes the place of the present one."""
        with self._guard():
            hit("store.before_swap")
            self._file.hold()
            take_over(self._path, file.directory)
            file.directory = self._path
            hit("store.after_swap")
            self._txn.abort()
            self._file.retire()
            self._file, self._pending = file, 0
            self._begin()
        # What a defragmentation has copied is not the content any more.
        self._journal = None

    def trust(self) -> None:
        """The present file is known to be whole, and durable."""
        if not self.trusted:
            with self._guard():
                self._mark("open")
            self.trusted = True

    async def defragment(self) -> None:
        """See the protocol. Nothing happens if one is under way; a replacement that comes meanwhile ends it."""
        if self._journal is not None:
            return
        new = self.replacement()
        journal = self._journal = []
        reader = self.reader()
        try:
            await gently(_copy(reader.records(), new))
            while self._journal is journal and len(journal) > JOURNAL_SLICE:
                new.repeat(journal, JOURNAL_SLICE)
                await asyncio.sleep(0)
            if self._journal is journal:
                await self._sync(new.file)
            if self._journal is journal:
                # The last ones, written during the sync, and the change of files are one step for everybody else.
                self.commit()
                new.repeat(journal, len(journal))
                new.finish()
        finally:
            reader.close()
            new.abandon()
            if self._journal is journal:
                self._journal = None

    def size(self) -> tuple[int, int]:
        return self._file.used(self._txn)

    async def idle(self) -> None:
        await asyncio.gather(*self._syncing, return_exceptions=True)

    def close(self) -> None:
        sound = not self._failed and self._file.damaged is None
        if sound:
            self._txn.commit()
            self._file.env.sync(True)
        self._file.close()
        if sound and self.trusted:
            self._mark("clean")

    def abandon(self) -> None:
        self._failed = self._failed or f"the store in {self._path} was abandoned: open it again"
        self.close()


class LmdbReplacement:
    """A new file beside the present one."""

    def __init__(self, backend: LmdbBackend, file: LmdbFile) -> None:
        self._backend = backend
        self.file = file
        self._txn = file.env.begin(write=True)
        self._bytes = 0
        self._done = False

    def add(self, bucket: str, key: bytes, value: bytes) -> None:
        self._write(bucket, key, value, append=True)

    def _write(self, bucket: str, key: bytes, value: bytes | None, *, append: bool) -> None:
        try:
            if value is None:
                self._txn.delete(key, db=self.file.databases[bucket])
            else:
                self._txn.put(key, seal(key, value), append=append, db=self.file.databases[bucket])
                self._bytes += len(value) + RECORD_BYTES
            if self._bytes >= NEW_COMMIT_BYTES:
                self._commit()
        except lmdb.Error as e:
            raise BackendError(f"cannot write a new store: {e}; free disk space") from e

    def _commit(self) -> None:
        self._txn.commit()
        self._bytes = 0
        self.file.grow()
        self._txn = self.file.env.begin(write=True)

    def repeat(self, journal: list[_Write], count: int) -> None:
        """Do the first writes of a journal here too, and take them from it."""
        for bucket, key, value in journal[:count]:
            self._write(bucket, key, value, append=False)
        del journal[:count]

    def finish(self) -> None:
        self._txn.commit()
        self._done = True
        self._backend.swap(self.file)
        if not self._backend.trusted:
            self.file.env.sync(True)
            self._backend.trust()

    async def finish_durable(self) -> None:
        self._commit()
        await self._backend._sync(self.file)
        self.finish()

    def abandon(self) -> None:
        if not self._done:
            self._done = True
            self._txn.abort()
            self.file.retire()
            shutil.rmtree(self.file.directory, ignore_errors=True)


def _copy(records: Iterator[Record], new: LmdbReplacement) -> Generator[None]:
    """Fill a new file, in slices."""
    size = 0
    for bucket, key, value in records:
        new.add(bucket, key, value)
        size += len(value) + RECORD_BYTES
        if size >= SLICE_BYTES:
            size = 0
            yield


def _closing(reader: LmdbReader) -> Iterator[Record]:
    try:
        yield "", b"", b""
        yield from reader.records()
    finally:
        reader.close()


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
