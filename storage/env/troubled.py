"""A real machine's clock and disk that can be given trouble: time that is off, syncs that take long or stand still."""

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rayplane.storage.env.clock import AheadClock, Clock
from rayplane.storage.env.disk import DiskError, LocalDisk, LocalFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The trouble of a machine; without any it is well."""

    clock_ahead_s: float = 0.0
    """Its clock shows so much more than the time; less where that is negative."""
    sync_least_s: float = 0.0
    """Every sync takes so long at least."""
    stalled: bool = False
    """A sync that begins now ends only when this is over."""
    full: bool = False
    """Nothing more can be written to its files. Libraries that open files themselves find room yet."""


class Troubled:
    """A machine's trouble of the moment, which its clock and its disk look at."""

    def __init__(self) -> None:
        self._now = Trouble()
        self._over = asyncio.Event()
        self._changed = asyncio.Event()

    @property
    def now(self) -> Trouble:
        return self._now

    @now.setter
    def now(self, trouble: Trouble) -> None:
        over = self._now.stalled and not trouble.stalled
        self._now = trouble
        self._changed.set()
        self._changed = asyncio.Event()
        if over:
            self._over.set()
            self._over = asyncio.Event()

    def check_room(self, path: Path) -> None:
        """Raise DiskError when there is none."""
        if self._now.full:
            raise DiskError(f"cannot write {path}: {os.strerror(errno.ENOSPC)}")

    @contextlib.asynccontextmanager
    async def syncing(self) -> AsyncIterator[None]:
        """Around a sync: what troubles it is what is wrong when it begins, until that is over."""
        trouble, over, loop = self._now, self._over, asyncio.get_running_loop()
        began = loop.time()
        yield
        if trouble.stalled:
            await over.wait()
        least_s = min(trouble.sync_least_s, self._now.sync_least_s)
        while (rest_s := began + least_s - loop.time()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest_s):
                    await self._changed.wait()
            least_s = min(least_s, self._now.sync_least_s)


class TroubledClock(AheadClock):
    """The machine's clock, off by what troubles it."""

    def __init__(self, troubled: Troubled, clock: Clock | None = None) -> None:
        super().__init__(lambda: troubled.now.clock_ahead_s, clock)


class _TroubledFile(LocalFile):
    def __init__(self, path: Path, troubled: Troubled, *, preallocate: int, at: int | None) -> None:
        super().__init__(path, preallocate=preallocate, at=at)
        self._troubled = troubled

    def append(self, data: bytes) -> None:
        self._troubled.check_room(self._path)
        super().append(data)

    async def sync(self) -> None:
        async with self._troubled.syncing():
            await super().sync()


class TroubledDisk(LocalDisk):
    """A directory on the machine, whose syncs end when its trouble lets them; what is read is read at once."""

    def __init__(self, root: str | Path, troubled: Troubled) -> None:
        super().__init__(root)
        self._troubled = troubled

    def append_file(self, path: str, *, preallocate: int = 0, at: int | None = None) -> LocalFile:
        self.make_dir(os.path.dirname(path))
        return _TroubledFile(self._root / path, self._troubled, preallocate=preallocate, at=at)

    async def write_atomic(self, path: str, data: bytes) -> None:
        self._troubled.check_room(self._root / path)
        async with self._troubled.syncing():
            await super().write_atomic(path, data)

    async def sync_dir(self, path: str = "") -> None:
        async with self._troubled.syncing():
            await super().sync_dir(path)
