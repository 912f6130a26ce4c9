"""Files, as the durable components need them: append, sync, atomic replace, lock.

Durability contract (the simulation's disk enforces it at a crash): bytes given to `File.append` are lost unless a
later `sync` of that file returned; a created, renamed or removed name is lost unless `sync_dir` returned, which
`write_atomic` does by itself.
"""

import asyncio
import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol


class DiskError(Exception):
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

    async def write_atomic(self, path: str, data: bytes) -> None:
        """Replace a file's content so that a crash leaves the old or the new, whole and durable."""

    def list(self, path: str = "") -> list[str]:
        """Names in a directory, sorted; empty if there is none."""

    def exists(self, path: str) -> bool: ...

    def make_dir(self, path: str) -> None: ...

    def remove(self, path: str) -> None:
        """Remove a file or a directory with all it holds; nothing if there is none."""

    def rename(self, old: str, new: str) -> None: ...

    async def sync_dir(self, path: str = "") -> None:
        """Make names created, renamed and removed in this directory durable."""

    def lock(self, path: str) -> "contextlib.AbstractContextManager[None]":
        """Hold a lock file until the context ends or the process dies. Raises LockHeld."""

    def local_path(self, path: str = "") -> str | None:
        """The real path, for libraries that open files themselves (LMDB); None where there is none."""


class LocalFile:
    """A real file; syncs run in a thread so that the event loop goes on."""

    def __init__(self, path: Path, *, preallocate: int, at: int | None) -> None:
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if at is not None:
                os.ftruncate(self._fd, at)
            self._end = os.fstat(self._fd).st_size
            if preallocate > self._end:
                # Blocks are reserved beyond the end so that fdatasync need not write the file's size each time.
                os.posix_fallocate(self._fd, 0, preallocate)
        except OSError as e:
            raise DiskError(f"cannot open {path} for writing: {e.strerror}") from e
        self._path = path

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
        try:
            await asyncio.get_running_loop().run_in_executor(None, os.fdatasync, self._fd)
        except OSError as e:
            raise DiskError(f"cannot sync {self._path}: {e.strerror}") from e

    def size(self) -> int:
        return self._end

    def close(self) -> None:
        os.close(self._fd)


class LocalDisk:
    """A real directory on the machine."""

    def __init__(self, root: str | Path) -> None:
        self._root = Path(root)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise DiskError(f"cannot create {self._root}: {e.strerror}; choose a writable directory") from e

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> LocalFile:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return LocalFile(target, preallocate=preallocate, at=at)

    def read(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    async def write_atomic(self, path: str, data: bytes) -> None:
        def write() -> None:
            target = self._root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".tmp")
            with open(temporary, "wb") as f:
                f.write(data)
                f.flush()
                os.fdatasync(f.fileno())
            os.replace(temporary, target)
            _fsync_dir(target.parent)

        try:
            await asyncio.get_running_loop().run_in_executor(None, write)
        except OSError as e:
            raise DiskError(f"cannot write {self._root / path}: {e.strerror}") from e

    def list(self, path: str = "") -> list[str]:
        try:
            return sorted(os.listdir(self._root / path))
        except FileNotFoundError:
            return []

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def make_dir(self, path: str) -> None:
        (self._root / path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        target = self._root / path
        if target.is_dir() and not target.is_symlink():
            for child in target.iterdir():
                self.remove(str(child.relative_to(self._root)))
            target.rmdir()
        else:
            target.unlink(missing_ok=True)

    def rename(self, old: str, new: str) -> None:
        os.replace(self._root / old, self._root / new)

    async def sync_dir(self, path: str = "") -> None:
        await asyncio.get_running_loop().run_in_executor(None, _fsync_dir, self._root / path)

    @contextlib.contextmanager
    def _locked(self, path: str):  # type: ignore[no-untyped-def]
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
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


def _fsync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
