"""One open LMDB file: its buckets, what reads it, and new ones made beside it.

A file that was replaced stays open until its last reader is closed.
"""

import asyncio
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import lmdb

from rayplane.storage.env.private import make_private_dir
from rayplane.storage.keyvalue.backend import Record
from rayplane.storage.keyvalue.errors import BackendError, CorruptStore
from rayplane.storage.keyvalue.seals import unseal

DATA = "data.mdb"
NEW = "new"
"""Directory, beside the data file, below which next ones are made; what was left there is worth nothing."""
READERS_MAX = 1024
"""Readers open at the same time: ranges, snapshots and hashes under way."""


class LmdbFile:
    """An LMDB environment and its buckets."""

    def __init__(self, directory: Path, names: Sequence[str], *, map_bytes: int, durable: bool) -> None:
        """Raises lmdb.Error, OSError."""
        self.directory = directory
        self.names = tuple(names)
        data = directory / DATA
        self.env = lmdb.open(
            str(directory),
            map_size=max(map_bytes, 2 * data.stat().st_size if data.exists() else 0),
            max_dbs=len(self.names),
            max_readers=READERS_MAX,
            sync=durable,
            metasync=durable,
            mode=0o600,
        )
        self.databases = {name: self.env.open_db(name.encode()) for name in self.names}
        self.map_bytes: int = self.env.info()["map_size"]
        self.page_bytes: int = self.env.stat()["psize"]
        self.damaged: CorruptStore | None = None
        self._users = 0
        self._readers: dict[LmdbReader, None] = {}
        self._retired = False
        self._held = -1

    def opened(self, key: bytes, sealed: bytes) -> bytes:
        """The value of a record. Raises CorruptStore, and knows itself `damaged` from then on."""
        value = unseal(key, sealed)
        if value is None:
            self.damaged = CorruptStore(str(self.directory), f"the record of key {key[:40]!r} is not what it was")
            raise self.damaged
        return value

    def read_by(self, reader: "LmdbReader") -> None:
        self._readers[reader] = None
        self.enter()

    def not_read_by(self, reader: "LmdbReader") -> None:
        self._readers.pop(reader, None)
        self.leave()

    def enter(self) -> None:
        """Somebody reads it outside the write transaction: until `leave` it is neither closed nor grown."""
        self._users += 1

    def leave(self) -> None:
        self._users -= 1
        if self._retired and not self._users:
            self._end()

    def hold(self) -> None:
        """It is about to lose its name: keep its space until it is closed. Raises OSError."""
        self._held = os.open(self.directory / DATA, os.O_RDONLY | os.O_CLOEXEC)

    def retire(self) -> None:
        """It was replaced: close it as soon as nobody reads it."""
        self._retired = True
        if not self._users:
            self._end()

    def close(self) -> None:
        """End those that read it, and close it: at once, or when the thread that syncs it is done."""
        for reader in list(self._readers):
            reader.close()
        self.retire()

    def _end(self) -> None:
        self.env.close()
        if self._held >= 0:
            # Giving back a gigabyte takes the system a good part of a second: not in the loop's time.
            try:
                asyncio.get_running_loop().run_in_executor(None, os.close, self._held)
            except RuntimeError:
                os.close(self._held)
            self._held = -1

    def grow(self) -> None:
        """Double the map at half use. LMDB forbids it while somebody reads; the other half is for that time."""
        if self.env.info()["last_pgno"] * self.page_bytes > self.map_bytes // 2 and not self._users:
            self.map_bytes *= 2
            self.env.set_mapsize(self.map_bytes)

    def used(self, txn: lmdb.Transaction) -> tuple[int, int]:
        """Bytes of the file, and of the pages that hold something."""
        pages = self.env.info()["last_pgno"] + 1
        stats = [txn.stat(database) for database in self.databases.values()]
        held = sum(s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"] for s in stats)
        # What is not committed yet may be beyond the end.
        return max(pages, held) * self.page_bytes, held * self.page_bytes


class LmdbReader:
    """Content of a file when the reader was made."""

    def __init__(self, file: LmdbFile) -> None:
        self._file = file
        self._txn: lmdb.Transaction | None = file.env.begin()
        file.read_by(self)

    def _open(self) -> lmdb.Transaction:
        if self._txn is None:
            raise BackendError(f"the store in {self._file.directory} was closed while it was read: read it again")
        return self._txn

    def get_many(self, bucket: str, keys: Sequence[bytes]) -> list[bytes]:
        with self._open().cursor(db=self._file.databases[bucket]) as cursor:
            found: list[Any] = cursor.getmulti(keys)
        if len(found) != len(keys):
            raise KeyError(f"{len(keys) - len(found)} of {len(keys)} keys are not in bucket {bucket}")
        return [self._file.opened(key, sealed) for key, sealed in found]

    def scan(self, bucket: str, start: bytes = b"", end: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        with self._open().cursor(db=self._file.databases[bucket]) as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return
            opened, pairs = self._file.opened, cast(Iterator[tuple[bytes, bytes]], cursor.iternext())
            for key, sealed in pairs:
                if end is not None and key >= end:
                    return
                yield key, opened(key, sealed)

    def records(self) -> Iterator[Record]:
        for bucket in self._file.names:
            for key, value in self.scan(bucket):
                yield bucket, key, value

    def close(self) -> None:
        if self._txn is not None:
            self._txn.abort()
            self._txn = None
            self._file.not_read_by(self)


def new_directory(directory: Path) -> Path:
    """An empty directory for a next file: several may be made at the same time. Raises OSError."""
    for number in itertools.count():
        path = directory / NEW / str(number)
        if not path.exists():
            break
    make_private_dir(path.parent)
    path.mkdir(mode=0o700)
    return path


def take_over(directory: Path, made: Path) -> None:
    """The file in a new directory becomes the data file; its lock file is of this process alone. Raises OSError."""
    os.replace(made / DATA, directory / DATA)
    sync_directory(directory)
    shutil.rmtree(made, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Make names in a directory durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
