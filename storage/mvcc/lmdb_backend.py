"""The backend on LMDB, without syncs between flushes.

A commit goes to the page cache (about 20 us), so a killed process loses nothing committed; after a lost machine the
file may hold any mix of old and new pages. A marker beside it with the machine's boot id tells the two apart:
`trusted` is False after an unclean stop of the machine, and the owner then restores a snapshot.
"""

import asyncio
import contextlib
import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import lmdb

from storage.mvcc.backend import BUCKETS, Record
from storage.mvcc.errors import BackendError

MAP_BYTES = 4 * 1024**3
"""Address space at first, not disk space; it doubles when half of it is used."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MARKER = "boot"


class LmdbBackend:
    """One LMDB environment; one process at a time (its owner locks the data directory)."""

    def __init__(
        self,
        path: str | Path,
        *,
        map_bytes: int = MAP_BYTES,
        buckets: Sequence[str] = BUCKETS,
        durable: bool = False,
    ) -> None:
        """`durable`: each commit survives a lost machine, for some milliseconds each."""
        self._path = Path(path)
        self._names, self._durable = tuple(buckets), durable
        self._failed: str = ""
        self._views = 0
        self._pending = 0
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            fresh = not (self._path / "data.mdb").exists()
            self.trusted = fresh or durable or self._survived()
            if self.trusted:
                self._mark("open")
            self._env = lmdb.open(
                str(self._path),
                map_size=max(map_bytes, 2 * self._file_bytes()),
                max_dbs=len(self._names),
                sync=durable,
                metasync=durable,
            )
            self._databases = {name: self._env.open_db(name.encode()) for name in self._names}
        except (OSError, lmdb.Error) as e:
            raise BackendError(
                f"cannot open the store in {self._path}: {e}; free space or fix permissions, or move it away and "
                "restore it from a snapshot"
            ) from e
        self._map_bytes = self._env.info()["map_size"]
        self._txn = self._env.begin(write=True)

    def _file_bytes(self) -> int:
        data = self._path / "data.mdb"
        return data.stat().st_size if data.exists() else 0

    def _survived(self) -> bool:
        """Whether the last user closed the store or at least the machine has been up since."""
        try:
            boot_id, state = (self._path / _MARKER).read_text().split()
        except (OSError, ValueError):
            return False
        return state == "clean" or boot_id == _boot_id() != "unknown"

    def _mark(self, state: str) -> None:
        temporary = self._path / f"{_MARKER}.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{_boot_id()} {state}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, self._path / _MARKER)
        directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextlib.contextmanager
    def _guard(self) -> Generator[None]:
        """After one failed write nothing is served any more: memory may be ahead of the file."""
        if self._failed:
            raise BackendError(self._failed)
        try:
            yield
        except lmdb.Error as e:
            self._failed = f"the store in {self._path} failed: {e}; free disk space, then restart"
            raise BackendError(self._failed) from e

    @property
    def pending(self) -> int:
        return self._pending

    def get(self, bucket: str, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._txn.get(key, db=self._databases[bucket])
            return value
        except lmdb.Error:
            with self._guard():
                raise

    def put(self, bucket: str, key: bytes, value: bytes) -> None:
        self._pending += 1
        try:
            self._txn.put(key, value, db=self._databases[bucket])
        except lmdb.Error:
            with self._guard():
                raise

    def delete(self, bucket: str, key: bytes) -> None:
        self._pending += 1
        with self._guard():
            self._txn.delete(key, db=self._databases[bucket])

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._databases[bucket]) as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return
            for key, value in cursor.iternext():
                if end is not None and key >= end:
                    return
                yield key, value

    def commit(self) -> None:
        with self._guard():
            if not self._pending:
                return
            self._txn.commit()
            self._pending = 0
            self._grow()
            self._txn = self._env.begin(write=True)

    def _grow(self) -> None:
        """Double the map at half use. LMDB forbids it while a view is open; the other half is for that time."""
        info = self._env.info()
        used = info["last_pgno"] * self._env.stat()["psize"]
        if used > self._map_bytes // 2 and not self._views:
            self._map_bytes *= 2
            self._env.set_mapsize(self._map_bytes)

    async def flush(self) -> None:
        self.commit()
        if self._durable:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._env.sync, True)
        except lmdb.Error:
            with self._guard():
                raise

    def view(self) -> Iterator[Record]:
        self.commit()
        records = self._records(self._env.begin())
        next(records)  # from here on its `finally` runs, even if nobody reads on
        return records

    def _records(self, txn: lmdb.Transaction) -> Iterator[Record]:
        self._views += 1
        try:
            yield "", b"", b""
            for bucket in self._names:
                with txn.cursor(db=self._databases[bucket]) as cursor:
                    for key, value in cursor.iternext():
                        yield bucket, bytes(key), bytes(value)
        finally:
            self._views -= 1
            txn.abort()

    def replace(self, records: Iterator[Record]) -> None:
        self.commit()
        try:
            for database in self._databases.values():
                self._txn.drop(database, delete=False)
            with self._guard():
                for bucket, key, value in records:
                    self._txn.put(key, value, db=self._databases[bucket], append=True)
            self._pending = 1
        except BaseException:
            if not self._failed:
                self._txn.abort()
                self._txn = self._env.begin(write=True)
            raise
        self.commit()
        if not self.trusted:
            self._env.sync(True)
            self._mark("open")
            self.trusted = True

    def size(self) -> tuple[int, int]:
        page = self._env.stat()["psize"]
        pages = self._env.info()["last_pgno"] + 1
        used = sum(
            stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            for stat in (self._txn.stat(database) for database in self._databases.values())
        )
        return pages * page, used * page

    def close(self) -> None:
        if not self._failed:
            self._txn.commit()
            self._env.sync(True)
        self._env.close()
        if not self._failed and self.trusted:
            self._mark("clean")


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"
