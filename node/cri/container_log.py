"""Logs of containers as CRI has them: files of lines, each with a stamp, its stream, and whether it is whole.

Source: Kubernetes design proposal "CRI: Log management for container stdout/stderr streams".
"""

import contextlib
import os
from collections.abc import AsyncIterator

from rayplane.node.runtime import ContainerRun, LogOptions

#: A file that its owner does not rotate begins anew at this size; the one before is kept as `<name>.1`.
LOG_BYTES_MAX = 10 * 1024 * 1024
_ALL = LogOptions(follow=True, timestamps=True)


def entry(stamped: bytes, *, whole: bool = True) -> bytes:
    """A stored line of a stamped one: which of its streams a container wrote to is not kept."""
    stamp, _, text = stamped.rstrip(b"\n").partition(b" ")
    return b"%s stdout %s %s\n" % (stamp, b"F" if whole else b"P", text)


class ContainerLog:
    """The log of one run at a path that its owner chose. `reopen` after the file was moved away."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1

    async def follow(self, run: ContainerRun) -> None:
        """Write all that it writes, until it has ended."""
        try:
            self.reopen()
            async with contextlib.aclosing(run.logs(_ALL)) as chunks:  # type: ignore[type-var]
                async for data in entries(chunks):
                    self._write(data)
        finally:
            self.close()

    def reopen(self) -> None:
        """Raises OSError."""
        os.makedirs(os.path.dirname(self._path), mode=0o755, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o640)
        self.close()
        self._file = fd

    def _write(self, data: bytes) -> None:
        # A full disk costs log lines, never the container.
        with contextlib.suppress(OSError):
            os.write(self._file, data)
            if os.fstat(self._file).st_size > LOG_BYTES_MAX:
                os.replace(self._path, f"{self._path}.1")
                self.reopen()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


async def entries(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Stored lines of a log that comes in pieces, with stamps. A last line without a newline is a partial one."""
    rest = b""
    async for data in chunks:
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield b"".join(map(entry, lines))
    if rest:
        yield entry(rest, whole=False)
