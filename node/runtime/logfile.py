"""Readers of the log files that the shim writes: `<name>`, and older lines in `<name>.1`, `<name>.2` and so on.

A chunk at a time, whatever a file holds: a container may have written to its own. What may take long runs in a thread.
"""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from rayplane.node.runtime import LogOptions
from rayplane.node.runtime.logs import Wanted, parse_line
from rayplane.node.shim.container_log import generation
from rayplane.storage.beneath import Beneath

GENERATIONS_MAX = 64
"""More files than that no log has."""
CHUNK = 256 * 1024
LINE_BYTES_MAX = 512 * 1024
"""A longer line is cut up. The shim writes none."""
TAIL_BYTES = 128 * 1024
FINDS_MAX = 5
"""So often the files are looked for until none was moved meanwhile."""
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class LogLimits:
    """Bounds of each container's log, as a kubelet's containerLogMaxSize and containerLogMaxFiles."""

    file_bytes: int = 10 * 1024 * 1024
    files: int = 5


class LogFile:
    """One run's output, in a directory that its processes may write to. `is_over`: nothing more can be written.

    `lags`: what its writer has in hand may come to a file when the next one is there already, or it is over.
    """

    def __init__(self, files: Beneath, name: str, is_over: Callable[[], bool], *, lags: bool = False) -> None:
        self._files, self._name = files, name
        self._is_over, self._lags = is_over, lags

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        left = options.limit_bytes
        async for text in self._rendered(options):
            if left is not None:
                text = text[:left]
                left -= len(text)
            if text:
                yield text
            if left == 0:
                return

    async def _rendered(self, options: LogOptions) -> AsyncIterator[bytes]:
        run = asyncio.get_running_loop().run_in_executor
        over, rest = self._is_over(), b""
        wanted = Wanted(options)
        cursor = _Cursor(self._files, self._name, options, lags=self._lags)
        try:
            await run(None, cursor.open)
            while data := await run(None, cursor.more):
                whole, rest = _split(rest + data)
                yield await run(None, wanted.render, whole)
            while options.follow:
                if data := cursor.more():
                    whole, rest = _split(rest + data)
                    yield wanted.render(whole)
                elif over and cursor.is_last:
                    break
                elif not (over := self._is_over()) or self._lags:
                    await asyncio.sleep(POLL_S)
            if over and rest:
                yield wanted.render(rest)
        finally:
            # In a thread too: whoever gives up may do so while another thread opens or reads.
            run(None, cursor.close)

    def tail(self, size: int, lines: int) -> bytes:
        """The end of its text, without stamps: at most so many bytes, of at most so many lines."""
        cursor = _Cursor(self._files, self._name, LogOptions())
        try:
            cursor.open()
            data = cursor.end(TAIL_BYTES)
        finally:
            cursor.close()
        *whole, rest = data.split(b"\n")
        stored = [line + b"\n" for line in whole] + ([rest] if rest else [])
        return b"".join(parse_line(line).text for line in stored[-lines:])[-size:]


def _split(data: bytes) -> tuple[bytes, bytes]:
    """Whole lines with their newlines, and what follows the last."""
    end = data.rfind(b"\n") + 1
    if len(data) - end > LINE_BYTES_MAX:
        return data, b""
    return data[:end], data[end:]


class _Cursor:
    """The place of a reader. Without `follow` it ends where the log ended when it was opened."""

    def __init__(self, files: Beneath, name: str, options: LogOptions, *, lags: bool = False) -> None:
        self._files, self._name, self._options, self._lags = files, name, options, lags
        self._todo: list[tuple[int, int, int]] = []  # descriptor, offset, end
        self._closed = False
        self._lock = threading.Lock()

    def open(self) -> None:
        with self._lock:
            self._find()
            if self._options.tail_lines is not None:
                self._skip_to(self._options.tail_lines)

    @property
    def is_last(self) -> bool:
        """Tells whether no file is known to come after the one that is read."""
        return len(self._todo) <= 1

    def _find(self) -> None:
        for _ in range(FINDS_MAX):
            self._todo = self._found()
            newest = self._files.lstat(self._name)
            if not self._todo or newest is None or os.path.samestat(os.fstat(self._todo[-1][0]), newest):
                return
            # There was a rotation meanwhile: with one more, a file would stand where it does not belong.
            self._drop()
        self._todo = self._found()

    def _found(self) -> list[tuple[int, int, int]]:
        # Newer ones first: should there be a rotation meanwhile, one is found twice, and nothing is missed.
        found: list[tuple[int, int, int]] = []
        for number in range(GENERATIONS_MAX):
            one = self._open(generation(self._name, number))
            if one is None and number:
                break
            if one is not None and found and os.path.sameopenfile(found[-1][0], one[0]):
                os.close(one[0])
            elif one is not None:
                found.append(one)
        return found[::-1]

    def _open(self, name: str) -> tuple[int, int, int] | None:
        try:
            fd = self._files.open_file(name)
        except OSError:
            return None
        return fd, 0, os.fstat(fd).st_size

    def _skip_to(self, lines: int) -> None:
        """Go to where the last `lines` lines begin."""
        begin = []
        for fd, _, end in reversed(self._todo):
            at, lines = _tail_start(fd, end, lines)
            begin.append((fd, at, end))
        self._todo = begin[::-1]

    def more(self) -> bytes:
        """Return at most a chunk; empty when there is no more now."""
        with self._lock:
            return self._next()

    def _next(self) -> bytes:
        if not self._todo and self._options.follow and not self._closed:
            # There was none when it was opened: all that it holds came after.
            self._find()
        while self._todo:
            fd, offset, end = self._todo[0]
            last = len(self._todo) == 1
            size = CHUNK if self._options.follow else min(CHUNK, end - offset)
            data = os.pread(fd, size, offset) if size > 0 else b""
            if data:
                self._todo[0] = (fd, offset + len(data), end)
                return data
            if not last:
                os.close(self._todo.pop(0)[0])
            elif not self._options.follow:
                return b""
            elif os.fstat(fd).st_size < offset:
                self._todo[0] = (fd, 0, end)  # cut where it stands, as one that cannot be moved
            elif not self._rotated(fd) or self._lags:
                return b""
        return b""

    def _rotated(self, fd: int) -> bool:
        """Whether there is a newer file by now; go on with it then."""
        oldest = 0
        for number in range(GENERATIONS_MAX):
            if self._is(number, fd):
                return number > 0 and self._go_on(number - 1, number, fd)
            if number and self._files.lstat(generation(self._name, number)) is None:
                break
            oldest = number
        # It is no more, and so may be those that came after it.
        return self._files.lstat(self._name) is not None and self._go_on(oldest, None, fd)

    def _is(self, number: int, fd: int) -> bool:
        found = self._open(generation(self._name, number))
        if found is None:
            return False
        same = os.path.sameopenfile(found[0], fd)
        os.close(found[0])
        return same

    def _go_on(self, number: int, ours: int | None, fd: int) -> bool:
        """Go on with a file, if the one read so far (`fd`) still stands at `ours`: else there was a rotation."""
        newer = self._open(generation(self._name, number))
        if newer is None:
            return False
        if ours is not None and not self._is(ours, fd):
            os.close(newer[0])
            return False
        self._todo.append(newer)
        return True

    def end(self, size: int) -> bytes:
        """The last bytes, from the beginning of a line on."""
        data = b""
        for fd, _, end in reversed(self._todo):
            want = min(size - len(data), end)
            data = os.pread(fd, want, end - want) + data
            if want < end:
                return data.partition(b"\n")[2]
        return data

    def close(self) -> None:
        with self._lock:
            self._drop()
            self._closed = True

    def _drop(self) -> None:
        for fd, _, _ in self._todo:
            os.close(fd)
        self._todo = []


def _tail_start(fd: int, end: int, lines: int) -> tuple[int, int]:
    """Offset where the last `lines` lines before `end` begin, and how many lines are missing (then it is 0)."""
    if lines <= 0 or end == 0:
        return end, max(0, lines)
    # The newline that ends the last line begins none.
    at = end - 1
    while at > 0:
        size = min(CHUNK, at)
        data = os.pread(fd, size, at - size)
        found = data.count(b"\n")
        if found >= lines:
            place = len(data)
            for _ in range(lines):
                place = data.rfind(b"\n", 0, place)
            return at - size + place + 1, 0
        lines -= found
        at -= size
    return 0, lines - 1
