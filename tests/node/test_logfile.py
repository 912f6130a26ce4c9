"""Logs are read in pieces, whatever they hold, and give what a simple reading of the whole would give."""

import asyncio
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.node.runtime import LogOptions
from rayplane.node.runtime import logfile as module
from rayplane.node.runtime.logfile import LogFile
from rayplane.node.runtime.logs import parse_line, select_lines
from rayplane.node.shim.container_log import Log
from rayplane.storage.env import Beneath
from tests.tiers import examples


async def read(file: LogFile, **options: object) -> bytes:
    return b"".join([chunk async for chunk in file.read(LogOptions(**options))])  # type: ignore[arg-type]


def stamped(number: int) -> bytes:
    return b"2026-01-01T00:%02d:%02d.000000000Z " % divmod(number, 60)


@settings(deadline=None, max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=30),
    cut=st.integers(0, 30),
    ended=st.booleans(),
    tail=st.none() | st.integers(0, 35),
    since=st.none() | st.integers(0, 40),
    limit=st.none() | st.integers(0, 200),
    timestamps=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_pieces_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    cut: int,
    ended: bool,
    tail: int | None,
    since: int | None,
    limit: int | None,
    timestamps: bool,
    chunk: int,
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    stored = [stamped(n) + line + b"\n" for n, line in enumerate(lines)]
    if stored and not ended:
        stored[-1] = stored[-1][:-1]
    if cut:
        (directory / "1.log.1").write_bytes(b"".join(stored[:cut]))
    (directory / "1.log").write_bytes(b"".join(stored[cut:]))
    options = LogOptions(
        timestamps=timestamps,
        tail_lines=tail,
        since="" if since is None else stamped(since).decode().strip(),
        limit_bytes=limit,
    )
    file = LogFile(Beneath(directory), "1.log", lambda: True)

    async def all_of(follow: bool) -> bytes:
        wanted = LogOptions(follow, timestamps, options.tail_lines, options.since, options.limit_bytes)
        return b"".join([chunk async for chunk in file.read(wanted)])

    expected = select_lines([parse_line(line) for line in stored], options)
    before, module.CHUNK = module.CHUNK, chunk
    try:
        assert asyncio.run(all_of(False)) == expected
        assert asyncio.run(all_of(True)) == expected
    finally:
        module.CHUNK = before


async def test_a_huge_file_is_never_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may write to its own log file, without a newline and without end."""
    path = tmp_path / "1.log"
    path.touch()
    os.truncate(path, 256 << 20)
    with path.open("ab") as file:
        file.write(b"\n" + stamped(1) + b"last\n")
    largest = 0
    pread = os.pread

    def counted(fd: int, size: int, offset: int) -> bytes:
        nonlocal largest
        largest = max(largest, size)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    log = LogFile(Beneath(tmp_path), "1.log", lambda: True)
    assert await read(log, tail_lines=1) == b"last\n"
    assert await read(log) == b"last\n"  # what is there without a stamp is no text
    assert log.tail(5, 80) == b"last\n"
    assert largest <= module.CHUNK


async def test_a_follower_sees_every_line_while_the_log_rotates(tmp_path: Path) -> None:
    over = False
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 4000)
    log.add(b"0\n")
    file = LogFile(Beneath(tmp_path), "1.log", lambda: over)
    seen = b""
    chance = random.Random(1)

    async def follow() -> None:
        nonlocal seen
        async for data in file.read(LogOptions(follow=True)):
            seen += data

    task = asyncio.create_task(follow())
    number = 1
    for _ in range(30):
        for _ in range(chance.randint(1, 40)):
            log.add(b"%d\n" % number)
            number += 1
        while not seen.endswith(b"%d\n" % (number - 1)):
            await asyncio.sleep(0.005)
    log.close()
    over = True
    await task
    assert seen == b"".join(b"%d\n" % n for n in range(number))
    assert (tmp_path / "1.log.1").exists()


def test_a_log_stays_small_whatever_is_in_its_way(tmp_path: Path) -> None:
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 10_000)
    (tmp_path / "1.log.1").mkdir()
    (tmp_path / "1.log.1/in-the-way").touch()
    for _ in range(1000):
        log.add(b"x" * 100 + b"\n")
    log.close()
    assert (tmp_path / "1.log").stat().st_size <= 10_000
    outside = tmp_path / "outside"
    outside.write_bytes(b"")
    (tmp_path / "2.log").symlink_to(outside)
    with pytest.raises(OSError):
        Log(os.open(tmp_path, os.O_RDONLY), "2.log", 10)
    assert outside.read_bytes() == b""
