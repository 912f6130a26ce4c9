"""Files, as the durable components need them: append, sync, atomic replace, lock.

Durability contract (the simulation's disk enforces it at a crash): bytes given to `File.append` are lost unless a
later `sync` of that file returned; a created, renamed or removed name is lost unless `sync_dir` returned, which
`write_atomic` does by itself.
"""

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Protocol

from rayplane.storage.beneath import Beneath
from rayplane.storage.env.private import drop_left, make_private_dir, sync_folder, write_private
from rayplane.storage.errors import StorageError


class DiskError(StorageError):
    """The disk refused: full, unwritable or failing. The data written so far stays as it was."""


class LockHeld(DiskError):
    """Another process holds this directory: stop it first, or use another directory."""


class File(Protocol):
    """A file open for appending."""

    def append(self, data: bytes) -> None:
        """Write at the end; not durable before `sync`."""

    async def sync(self) -> None:
        """Return when everything appended before the call is durable (fdatasync)."""

    def size(self) -> int:
        """Bytes appended so far, without preallocated space."""

    def close(self) -> None: ...


class Disk(Protocol):
    """A directory. Paths are relative to it, with `/`."""

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> File:
        """Open for appending, creating it if need be. `at`: write from this offset on, dropping what follows."""

    def read(self, path: str) -> bytes:
        """All bytes; FileNotFoundError if there is none."""

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        """Some bytes, fewer at the end; FileNotFoundError if there is no file."""

    def size(self, path: str) -> int:
        """The size of a file, in bytes; FileNotFoundError if there is none."""

    async def write_atomic(self, path: str, data: bytes) -> None:
        """Replace a file's content so that a crash leaves the old or the new, whole and durable.

        Calls for one file that overlap take effect in the order in which they were made: the last one stays.
        """

    def list(self, path: str = "") -> list[str]:
        """Names in a directory, sorted; empty if there is none."""

    def exists(self, path: str) -> bool: ...

    def make_dir(self, path: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file or a directory with all it holds; nothing if there is none."""

    async def discard(self, path: str) -> None:
        """Remove a large file or a directory, without holding up the loop; nothing if there is none."""

    def rename(self, old: str, new: str) -> None: ...

    async def sync_dir(self, path: str = "") -> None:
        """Make names created, renamed and removed in this directory durable."""

    def lock(self, path: str) -> "contextlib.AbstractContextManager[None]":
        """Hold a lock file until the context ends or the process dies. Raises LockHeld."""

    def local_path(self, path: str = "") -> str | None:
        """The real path, for libraries that open files themselves (LMDB); None where there is none."""


#: A sync that took less time than it takes to hand one to a thread and back.
QUICK_SYNC_S = 0.0005
#: Of these a sync is no longer quick on any disk.
LARGE_SYNC_BYTES = 256 * 1024
#: Turns of the event loop after which what was handed to connections before a sync is on its way.
SENDING_TURNS = 2


class LocalFile:
    """A real file. Syncs run in a thread so that the event loop goes on; where the last one was quick, the next is not
    worth a thread, whose switches cost more than it.
    """

    def __init__(self, path: Path, *, preallocate: int, at: int | None) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._end = os.fstat(self._fd).st_size if at is None else at
            if at is not None:
                self._cut(preallocate)
            if preallocate > os.fstat(self._fd).st_size:
                # Blocks are reserved beyond the end so that fdatasync need not write the file's size each time.
                os.posix_fallocate(self._fd, 0, preallocate)
        except OSError as e:
            raise DiskError(f"cannot open {path} for writing: {e.strerror}") from e
        self._path = path
        self._synced = self._end
        self._quick = False

    def _cut(self, preallocate: int) -> None:
        """Nothing is to follow the end. A file that has its whole size keeps it, with zeros, whenever a kill comes."""
        size = os.fstat(self._fd).st_size
        if size < max(preallocate, self._end):
            os.ftruncate(self._fd, self._end)
        elif not preallocate or size > preallocate:
            os.ftruncate(self._fd, max(self._end, preallocate))
        at = self._end
        while at < preallocate:
            try:
                begin = os.lseek(self._fd, at, os.SEEK_DATA)  # what was only reserved is not read
            except OSError as e:
                if e.errno == errno.ENXIO:  # no data up to the file's end
                    return
                raise
            at = os.lseek(self._fd, begin, os.SEEK_HOLE)
            used = len(os.pread(self._fd, at - begin, begin).rstrip(b"\0"))
            if used:
                os.pwrite(self._fd, bytes(used), begin)

    def append(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                written = os.pwrite(self._fd, view, self._end)
                self._end += written
                view = view[written:]
        except OSError as e:
            raise DiskError(f"cannot write {self._path}: {e.strerror}") from e

    async def sync(self) -> None:
        size, self._synced = self._end - self._synced, self._end
        try:
            if self._quick and size < LARGE_SYNC_BYTES:
                for _ in range(SENDING_TURNS):
                    await asyncio.sleep(0)
                took = self._sync()
            else:
                took = await asyncio.get_running_loop().run_in_executor(None, self._sync)
        except OSError as e:
            raise DiskError(f"cannot sync {self._path}: {e.strerror}") from e
        self._quick = took < QUICK_SYNC_S

    def _sync(self) -> float:
        """Sync, in seconds."""
        began = perf_counter()
        os.fdatasync(self._fd)
        return perf_counter() - began

    def size(self) -> int:
        return self._end

    def close(self) -> None:
        os.close(self._fd)


class LocalDisk:
    """A real directory on the machine."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        self._turns: weakref.WeakValueDictionary[str, _Turn] = weakref.WeakValueDictionary()
        try:
            make_private_dir(self._root)
        except OSError as e:
            raise DiskError(f"cannot create {self._root}: {e.strerror}; choose a writable directory") from e

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> LocalFile:
        target = self._root / path
        self.make_dir(os.path.dirname(path))
        return LocalFile(target, preallocate=preallocate, at=at)

    def read(self, path: str) -> bytes:
        with self._refusing("read", path):
            return (self._root / path).read_bytes()

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        with self._refusing("read", path), open(self._root / path, "rb") as f:
            return os.pread(f.fileno(), size, offset)

    def size(self, path: str) -> int:
        with self._refusing("look at", path):
            return (self._root / path).stat().st_size

    async def write_atomic(self, path: str, data: bytes) -> None:
        turn = self._turns.setdefault(path, _Turn())
        number = turn.take()
        try:
            await asyncio.get_running_loop().run_in_executor(None, turn.write, number, self._root / path, data)
        except OSError as e:
            raise DiskError(f"cannot write {self._root / path}: {e.strerror}") from e

    def list(self, path: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self._root / path))
        except FileNotFoundError:
            return []
        except OSError as e:
            raise DiskError(f"cannot list {self._root / path}: {e.strerror}") from e

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def make_dir(self, path: str) -> None:
        with self._refusing("create", path):
            make_private_dir(self._root / path)

    def remove(self, path: str) -> None:
        # Pods write into directories here: what they leave may be deep, read-only, or a link.
        with self._refusing("remove", path):
            Beneath(os.path.realpath(self._root)).remove(path)

    async def discard(self, path: str) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.remove, path)

    def rename(self, old: str, new: str) -> None:
        with self._refusing("rename", old):
            os.replace(self._root / old, self._root / new)

    @contextlib.contextmanager
    def _refusing(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as e:
            raise DiskError(
                f"cannot {what} {self._root / path}: {e.strerror}; check the disk and the permissions there"
            ) from e

    async def sync_dir(self, path: str = "") -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(None, sync_folder, self._root / path)
        except OSError as e:
            raise DiskError(f"cannot sync {self._root / path}: {e.strerror}") from e

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        target = self._root / path
        self.make_dir(os.path.dirname(path))
        with self._refusing("lock", path):
            fd = os.open(target, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise LockHeld(f"{target} is held by another process; stop it or use another directory") from e
            yield
        finally:
            os.close(fd)

    def lock(self, path: str) -> contextlib.AbstractContextManager[None]:
        return self._locked(path)

    def local_path(self, path: str = "") -> str | None:
        return str(self._root / path)


class _Turn:
    """The writers of one file, in worker threads that may be scheduled in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = itertools.count(1)
        self._written = 0

    def take(self) -> int:
        return next(self._asked)

    def write(self, number: int, target: Path, data: bytes) -> None:
        """Replace the file unless a later writer already has, whose content then stands for ours too."""
        with self._lock:
            if number < self._written:
                return
            make_private_dir(target.parent)
            if not self._written:
                drop_left(target)
            write_private(target, data, durable=True)
            self._written = number
