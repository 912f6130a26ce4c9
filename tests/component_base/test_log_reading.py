"""Logs read back: the end of them over all files that are kept, and what comes while files take each other's place."""

import contextlib
import logging.handlers
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.component_base import log_reading
from rayplane.control_plane.component_base.log_reading import ALL, LogReader
from rayplane.control_plane.component_base.logs import FILES_KEPT


@contextlib.contextmanager
def reading(path: Path, tail: int = ALL) -> Iterator[LogReader]:
    with contextlib.closing(LogReader(path, tail)) as reader:
        yield reader


def rest(reader: LogReader) -> bytes:
    return b"".join(iter(reader.read, b""))


@given(
    files=st.lists(st.lists(st.binary(max_size=9).map(lambda b: b.replace(b"\n", b""))), min_size=1, max_size=3),
    tail=st.integers(-1, 12),
    chunk=st.integers(1, 12),
)
@settings(deadline=None)
def test_the_end_is_as_many_lines_over_all_files(
    files: list[list[bytes]], tail: int, chunk: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("logs") / "x.log"
    names = [path, path.with_name("x.log.1"), path.with_name("x.log.2")]
    for name, lines in zip(names, files, strict=False):
        name.write_bytes(b"".join(line + b"\n" for line in lines))
    lines = [line + b"\n" for lines in reversed(files) for line in lines]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(log_reading, "CHUNK_BYTES", chunk)
        with reading(path, tail) as reader:
            assert rest(reader) == b"".join(lines[len(lines) - tail :] if 0 <= tail < len(lines) else lines)


def test_nothing_is_lost_or_told_twice_while_files_become_full(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=40, backupCount=FILES_KEPT)
    written, told = [], b""
    with contextlib.closing(handler), reading(path) as reader:
        for number in range(60):
            line = f"line {number}"
            handler.emit(logging.makeLogRecord({"msg": line}))
            written.append(line)
            # It looks now and then: some files are full already, none is dropped that it has not seen.
            if number % 3 == 0:
                told += rest(reader)
        told += rest(reader)
    assert path.with_name("x.log.2").exists()
    assert told.decode().splitlines() == written


def test_who_was_away_for_long_goes_on_with_the_oldest_that_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=40, backupCount=FILES_KEPT)
    with contextlib.closing(handler), reading(path) as reader:
        for number in range(60):
            handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
        told = rest(reader).decode().splitlines()
    kept = [path.with_name(f"x.log.{n}").read_text() for n in range(FILES_KEPT, 0, -1)] + [path.read_text()]
    assert told[0] == "line 0" and told[-1] == "line 59"
    assert "".join(kept).splitlines() == told[-len("".join(kept).splitlines()) :]


def test_where_no_log_is_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LogReader(tmp_path / "x.log")
