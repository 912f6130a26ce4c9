"""A directory of a disk, as a disk of its own."""

import contextlib

from rayplane.storage.env.disk import Disk, File


class SubDisk:
    """A directory of another disk, as a disk."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory

    def _path(self, path: str) -> str:
        return f"{self._directory}/{path}" if path else self._directory

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> File:
        return self._disk.append_file(self._path(path), preallocate=preallocate, at=at)

    def read(self, path: str) -> bytes:
        return self._disk.read(self._path(path))

    def read_at(self, path: str, offset: int, size: int) -> bytes:
        return self._disk.read_at(self._path(path), offset, size)

    def size(self, path: str) -> int:
        return self._disk.size(self._path(path))

    async def write_atomic(self, path: str, data: bytes) -> None:
        await self._disk.write_atomic(self._path(path), data)

    def list(self, path: str = "") -> list[str]:
        return self._disk.list(self._path(path))

    def exists(self, path: str) -> bool:
        return self._disk.exists(self._path(path))

    def make_dir(self, path: str) -> None:
        self._disk.make_dir(self._path(path))

    def remove(self, path: str) -> None:
        self._disk.remove(self._path(path))

    async def discard(self, path: str) -> None:
        await self._disk.discard(self._path(path))

    def rename(self, old: str, new: str) -> None:
        self._disk.rename(self._path(old), self._path(new))

    async def sync_dir(self, path: str = "") -> None:
        await self._disk.sync_dir(self._path(path))

    def lock(self, path: str) -> contextlib.AbstractContextManager[None]:
        return self._disk.lock(self._path(path))

    def local_path(self, path: str = "") -> str | None:
        return self._disk.local_path(self._path(path))
