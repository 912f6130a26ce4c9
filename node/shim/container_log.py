"""The log of one container, as its shim writes it: lines in the format of CRI, in a few files that are bounded.

A line is its stamp, its stream, a tag and the text. The tag is F, or P for a piece that its line goes on behind: what
is longer than LINE_MAX is cut, and the last line may have no end.

Source: "CRI: log management", kubernetes/design-proposals-archive; containerd's pieces of 16 KiB.
"""

import os
import time

LINE_MAX = 16 * 1024
STDOUT, STDERR = b"stdout", b"stderr"


class Log:
    """Output of one container. At `limit` bytes the file becomes `<name>.1`, that `<name>.2` and so on, `files` in all.

    `directory` is an open descriptor, closed with the log. The container may plant links in there: none is followed.
    """

    def __init__(self, directory: int, name: str, limit: int, files: int = 2) -> None:
        self._directory, self._name, self._limit, self._files = directory, name, limit, files
        self._rest = {STDOUT: b"", STDERR: b""}
        self._open()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._fd = os.open(self._name, flags, 0o600, dir_fd=self._directory)
        self._size = os.fstat(self._fd).st_size

    def add(self, data: bytes, stream: bytes = STDOUT) -> None:
        data = self._rest[stream] + data
        end = data.rfind(b"\n") + 1
        begin = stamp() + stream
        if end:
            self._write(_stored(data[: end - 1], begin))
        rest = data[end:]
        while len(rest) > LINE_MAX:
            self._write(b"%s P %s\n" % (begin, rest[:LINE_MAX]))
            rest = rest[LINE_MAX:]
        self._rest[stream] = rest

    def close(self) -> None:
        for stream, rest in self._rest.items():
            if rest:
                self._write(b"%s%s P %s\n" % (stamp(), stream, rest))
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
        full = self._fd
        try:
            for older in range(self._files - 1, 0, -1):
                self._rename(generation(self._name, older - 1), generation(self._name, older))
            if self._files == 1:
                os.unlink(self._name, dir_fd=self._directory)
            self._open()
        except OSError:
            # The container has put something in the way: its log stays small all the same.
            os.ftruncate(full, 0)
            self._size = 0
        else:
            os.close(full)

    def _rename(self, name: str, older: str) -> None:
        try:
            os.replace(name, older, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except FileNotFoundError:
            return


def generation(name: str, number: int) -> str:
    """The name of a log's file: 0 is the one that is written, greater numbers are older."""
    return f"{name}.{number}" if number else name


def _stored(lines: bytes, begin: bytes) -> bytes:
    """Whole lines as they are stored; `lines`: without the last one's end."""
    whole, parts = begin + b" F ", lines.split(b"\n")
    if max(map(len, parts)) <= LINE_MAX:
        return whole + (b"\n" + whole).join(parts) + b"\n"
    found = []
    for line in parts:
        while len(line) > LINE_MAX:
            found.append(b"%s P %s\n" % (begin, line[:LINE_MAX]))
            line = line[LINE_MAX:]
        found.append(b"%s%s\n" % (whole, line))
    return b"".join(found)


def stamp() -> bytes:
    """Now as RFC 3339 with nanoseconds, and a blank."""
    seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ " % nanos
