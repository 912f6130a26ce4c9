"""Reads the log files that the shim writes: `<path>.1` (older lines, if any) and `<path>`."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator

from node.runtime import LogOptions
from node.runtime.logs import LogLine, parse_line, render, select_lines

LOG_BYTES_MAX = 5 * 1024 * 1024
CHUNK = 256 * 1024
POLL_S = 0.05


class LogFile:
    """One run's output. `is_over` tells whether nothing more can be written."""

    def __init__(self, path: str, is_over: Callable[[], bool]) -> None:
        self._path = path
        self._is_over = is_over

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        # Rotation happens only between reads of whole files: follow from where the snapshot ended.
        over = self._is_over()
        inode, end, data = self._snapshot()
        chosen = select_lines(_lines(data), options)
        for start in range(0, len(chosen), CHUNK):
            yield chosen[start : start + CHUNK]
        if not options.follow:
            return
        left = None if options.limit_bytes is None else options.limit_bytes - len(chosen)
        rest = b""
        while left is None or left > 0:
            inode, end, data = self._since(inode, end)
            if data:
                *lines, rest = (rest + data).split(b"\n")
                text = b"".join(render(parse_line(line + b"\n"), timestamps=options.timestamps) for line in lines)[
                    :left
                ]
                left = None if left is None else left - len(text)
                if text:
                    yield text
                continue
            if over:
                if rest:
                    yield render(parse_line(rest), timestamps=options.timestamps)[:left]
                return
            over = self._is_over()
            if not over:
                await asyncio.sleep(POLL_S)

    def tail(self, size: int) -> bytes:
        """The last `size` bytes of text, without stamps."""
        _, _, data = self._snapshot()
        return b"".join(line.text for line in _lines(data))[-size:]

    def _snapshot(self) -> tuple[int, int, bytes]:
        """(inode, whole-line end offset of the current file, everything up to there)."""
        older = _read(self._path + ".1", 0)[1]
        inode, data = _read(self._path, 0)
        end = len(data) if self._is_over() else data.rfind(b"\n") + 1
        return inode, end, older + data[:end]

    def _since(self, inode: int, offset: int) -> tuple[int, int, bytes]:
        """What was written after `offset` of the file with that inode, which may have been rotated meanwhile."""
        now, data = _read(self._path, offset)
        if now == inode:
            return inode, offset + len(data), data
        then, missed = _read(self._path + ".1", offset)
        head = missed if then == inode else b""
        now, data = _read(self._path, 0)
        return now, len(data), head + data


def _read(path: str, offset: int) -> tuple[int, bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, b""
    try:
        status = os.fstat(fd)
        return status.st_ino, os.pread(fd, max(0, status.st_size - offset), offset)
    finally:
        os.close(fd)


def _lines(data: bytes) -> Iterator[LogLine]:
    *lines, rest = data.split(b"\n")
    for line in lines:
        yield parse_line(line + b"\n")
    if rest:
        yield parse_line(rest)
