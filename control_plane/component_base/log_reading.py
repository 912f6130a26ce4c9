"""Reading of a component's log: its bounded files, from so many lines before the end, and on as lines come."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rayplane.control_plane.component_base.logs import FILES_KEPT

CHUNK_BYTES = 64 * 1024
#: As `tail`: all lines that are kept.
ALL = -1


class LogReader:
    """A reader that begins `tail` lines before the end of a log. FileNotFoundError where there is none."""

    def __init__(self, path: Path, tail: int = ALL) -> None:
        # The newest first: a full file takes the next name, and the last one is dropped.
        self._names = [path, *(path.with_name(f"{path.name}.{n}") for n in range(1, FILES_KEPT + 1))]
        self._files: list[BinaryIO] = [path.open("rb")]
        while (tail := _seek_back(self._files[0], tail)) and (older := self._older(self._files[0])):
            self._files.insert(0, older)

    def read(self) -> bytes:
        """The next bytes, CHUNK_BYTES at most; none when there are none yet."""
        while True:
            if data := self._files[0].read(CHUNK_BYTES):
                return data
            if len(self._files) > 1:
                self._files.pop(0).close()
            elif newer := self._newer(self._files[0]):
                # What was written into the old one until it was full is read first.
                self._files.append(newer)
            else:
                return b""

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _older(self, file: BinaryIO) -> BinaryIO | None:
        return _first(self._names[self._place(file) + 1 :])

    def _newer(self, file: BinaryIO) -> BinaryIO | None:
        return _first(reversed(self._names[: self._place(file)]))

    def _place(self, file: BinaryIO) -> int:
        """The place of an open file among the names now; behind them all when it was dropped."""
        found = os.fstat(file.fileno())
        for place, name in enumerate(self._names):
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(found, name.stat()):
                    return place
        return len(self._names)


def _first(names: Iterable[Path]) -> BinaryIO | None:
    for name in names:
        # They are renamed at any time.
        with contextlib.suppress(FileNotFoundError):
            return name.open("rb")
    return None


def _seek_back(file: BinaryIO, lines: int) -> int:
    """Go `lines` lines before the end of a file, all for ALL; how many more are wanted than it has."""
    position = file.seek(0, os.SEEK_END)
    left = lines
    while left >= 0 and position > 0:
        size = min(CHUNK_BYTES, position)
        position = file.seek(position - size)
        block = file.read(size)
        at = size
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if left == 0:
                file.seek(position + at + 1)
                return 0
            left -= 1
    file.seek(0)
    return left
