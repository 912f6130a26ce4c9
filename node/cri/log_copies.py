"""Copies of logs in CRI's form, of containers whose log is kept in another: made when a client asks where a log is.

Bounds: how many copies there are, the one that was asked for longest ago goes first, and the size of each.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from pathlib import Path

from rayplane.node.cri.container_log import entries
from rayplane.node.runtime import ContainerRun, LogOptions

COPIES_MAX = 64
COPY_BYTES_MAX = 4 * 1024 * 1024
COPY_S = 5.0
_SO_FAR = LogOptions(timestamps=True, limit_bytes=COPY_BYTES_MAX, tail_lines=50_000)


class LogCopies:
    """A keeper of copies, in a directory that is this host's own."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._made: OrderedDict[str, None] = OrderedDict()

    async def path_of(self, ident: str, run: ContainerRun) -> str:
        """The path of a copy of its log as it is now; empty where none can be made."""
        path = os.path.join(self._directory, f"{ident}.log")
        lines = []
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(COPY_S):
                async with contextlib.aclosing(run.logs(_SO_FAR)) as chunks:  # type: ignore[type-var]
                    lines = [data async for data in entries(chunks)]
            self._write(path, b"".join(lines))
            return path
        return ""

    def _write(self, path: str, data: bytes) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        Path(path).write_bytes(data)
        self._note(path)

    def _note(self, path: str) -> None:
        self._made.pop(path, None)
        self._made[path] = None
        while len(self._made) > COPIES_MAX:
            oldest, _ = self._made.popitem(last=False)
            with contextlib.suppress(OSError):
                os.unlink(oldest)

    def clear(self) -> None:
        for path in self._made:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self._made.clear()
