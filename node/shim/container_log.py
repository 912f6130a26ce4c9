"""The log of one container, as its shim writes it."""

import os
import time

LINE_MAX = 256 * 1024


class Log:
    """Output of one container: a stamp before each line; at `limit` bytes the file becomes `<name>.1`.

    `directory` is an open descriptor, closed with the log. The container may plant links in there: none is followed.
    """

    def __init__(self, directory: int, name: str, limit: int) -> None:
        self._directory, self._name, self._limit = directory, name, limit
        self._rest = b""
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._name, flags, 0o600, dir_fd=self._directory)
        self._size = os.fstat(self._fd).st_size

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            lines.append(self._rest)
            self._rest = b""
        if lines:
            now = stamp()
            self._write(b"".join(now + line + b"\n" for line in lines))

    def close(self) -> None:
        if self._rest:
            self._write(stamp() + self._rest)
        os.close(self._fd)
        os.close(self._directory)

    def _write(self, data: bytes) -> None:
        try:
            self._size += os.write(self._fd, data)
            if self._size > self._limit:
                self._rotate()
        except OSError:
            # A full disk costs log lines, never the container.
            return

    def _rotate(self) -> None:
        full, older = self._fd, f"{self._name}.1"
        try:
            os.replace(self._name, older, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            self._open()
        except OSError:
            # The container has put something in the way: its log stays small all the same.
            os.ftruncate(full, 0)
            self._size = 0
        else:
            os.close(full)


def stamp() -> bytes:
    """Now as RFC 3339 with nanoseconds, and a blank."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ " % nanos
