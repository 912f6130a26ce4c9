"""Logs are read in pieces, whatever they hold, and give what a simple reading of the whole would give."""

import asyncio
import os
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.node.runtime import LogOptions
from rayplane.node.runtime import logfile as module
from rayplane.node.runtime.logfile import LogFile
from rayplane.node.runtime.logs import parse_line, select_lines
from rayplane.node.shim.container_log import LINE_MAX, STDERR, STDOUT, Log, generation
from rayplane.storage.beneath import Beneath
from tests.tiers import examples


async def read(file: LogFile, **options: object) -> bytes:
    return b"".join([chunk async for chunk in file.read(LogOptions(**options))])  # type: ignore[arg-type]


def stamped(number: int) -> bytes:
    return b"2026-01-01T00:%02d:%02d.000000000Z " % divmod(number, 60)


@settings(deadline=None, max_examples=examples(80), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(
        st.tuples(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), st.sampled_from([b"F", b"F", b"P"])),
        max_size=30,
    ),
    cuts=st.lists(st.integers(0, 30), max_size=3).map(sorted),
    ended=st.booleans(),
    tail=st.none() | st.integers(0, 35),
    since=st.none() | st.integers(0, 40),
    limit=st.none() | st.integers(0, 200),
    timestamps=st.booleans(),
    chunk=st.integers(1, 64),
)
def test_pieces_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[bytes, bytes]],
    cuts: list[int],
    ended: bool,
    tail: int | None,
    since: int | None,
    limit: int | None,
    timestamps: bool,
    chunk: int,
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    stored = [b"%sstdout %s %s\n" % (stamped(n), tag, line) for n, (line, tag) in enumerate(lines)]
    if stored and not ended:
        stored[-1] = stored[-1][:-1]
    for number, (begin, end) in enumerate(reversed([*pairwise([0, *cuts, len(stored)])])):
        (directory / generation("1.log", number)).write_bytes(b"".join(stored[begin:end]))
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


@pytest.mark.parametrize("tail", [None, 0])
async def test_a_follower_who_comes_before_the_first_line_sees_it(tmp_path: Path, tail: int | None) -> None:
    looks = 0

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:  # the log was opened, and there was nothing
            (tmp_path / "1.log").write_bytes(stamped(1) + b"stdout F first\n")
        return looks > 2

    file = LogFile(Beneath(tmp_path), "1.log", is_over)
    assert await read(file, follow=True, tail_lines=tail) == b"first\n"


async def test_a_follower_sees_every_line_while_the_log_rotates(tmp_path: Path) -> None:
    over = False
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 4000, 5)
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
        for _ in range(chance.randint(1, 250)):  # of which a file takes some 80
            log.add(b"%d\n" % number)
            number += 1
        written = b"".join(b"%d\n" % n for n in range(number))
        while seen != written:
            assert written.startswith(seen)
            await asyncio.sleep(0.005)
    log.close()
    over = True
    await task
    assert seen == written
    assert sorted(os.listdir(tmp_path)) == ["1.log", *(f"1.log.{n}" for n in range(1, 5))]


def stored(text: str) -> bytes:
    return stamped(1) + b"stdout F %s\n" % text.encode()


class Rotated:
    """A log whose writer is another program, a step at a time."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "1.log"
        self.write("first")

    def write(self, text: str, number: int = 0) -> None:
        with open(generation(str(self.path), number), "ab") as file:
            file.write(stored(text))

    def move(self) -> None:
        for number in (1, 0):
            if os.path.exists(path := generation(str(self.path), number)):
                os.replace(path, generation(str(self.path), number + 1))


async def test_what_is_written_between_a_look_and_the_rotation_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, pread, over = Rotated(tmp_path), os.pread, False

    def surprised(fd: int, size: int, offset: int) -> bytes:
        nonlocal over
        data = pread(fd, size, offset)
        if size > 0 and not data and not over:  # a follower who has seen all
            over = True
            log.write("last of its file")
            log.move()
            log.write("first of the next")
        return data

    monkeypatch.setattr(os, "pread", surprised)
    file = LogFile(Beneath(tmp_path), "1.log", lambda: over)
    assert await read(file, follow=True) == b"first\nlast of its file\nfirst of the next\n"


@pytest.mark.parametrize("lags", [False, True])
async def test_what_lags_behind_the_rotation_is_seen_in_its_place(tmp_path: Path, lags: bool) -> None:
    log = Rotated(tmp_path)
    looks = 0

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            log.move()
            log.write("third")
        if looks == 3 and lags:  # the next file was there when the follower looked
            log.write("second", 1)
        return looks > 4

    text = await read(LogFile(Beneath(tmp_path), "1.log", is_over, lags=lags), follow=True)
    assert text == (b"first\nsecond\nthird\n" if lags else b"first\nthird\n")


async def test_what_lags_behind_the_end_is_seen(tmp_path: Path) -> None:
    log = Rotated(tmp_path)

    async def ending() -> bytes:
        over = False

        def is_over() -> bool:
            if over:
                asyncio.get_running_loop().call_soon(log.write, "last")
            return over

        file = LogFile(Beneath(tmp_path), "1.log", is_over, lags=True)
        chunks = aiter(file.read(LogOptions(follow=True)))
        text = await anext(chunks)
        over = True
        return text + b"".join([chunk async for chunk in chunks])

    assert (await ending()).startswith(b"first\nlast\n")


@pytest.mark.parametrize("follow", [False, True])
async def test_files_that_move_while_they_are_looked_for_are_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follow: bool
) -> None:
    log, moved = Rotated(tmp_path), False
    open_file = Beneath.open_file

    def surprised(self: Beneath, path: str) -> int:
        nonlocal moved
        if path == "1.log.1" and not moved:
            moved = True
            for text in ("second", "third"):
                log.move()
                log.write(text)
        return open_file(self, path)

    monkeypatch.setattr(Beneath, "open_file", surprised)
    file = LogFile(Beneath(tmp_path), "1.log", lambda: True)
    assert await read(file, follow=follow) == b"first\nsecond\nthird\n"


async def test_a_follower_goes_on_in_a_file_that_was_cut(tmp_path: Path) -> None:
    log = Rotated(tmp_path)
    log.write("more")
    looks = 0

    def is_over() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            os.truncate(log.path, 0)
            log.write("anew")
        return looks > 2

    assert await read(LogFile(Beneath(tmp_path), "1.log", is_over), follow=True) == b"first\nmore\nanew\n"


def lines_of(path: Path) -> list[list[bytes]]:
    return [line.split(b" ", 3)[1:] for line in path.read_bytes().splitlines()]


def test_lines_are_stored_as_container_runtimes_do(tmp_path: Path) -> None:
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 1 << 20)
    log.add(b"one\ntw")
    log.add(b"bad\n", STDERR)
    log.add(b"o\n\nthr")
    log.add(b"x" * (LINE_MAX + 1) + b"\n", STDERR)
    log.add(b"y" * (2 * LINE_MAX + 1), STDERR)
    log.close()
    first, second = b"x" * LINE_MAX, b"y" * LINE_MAX
    out = [[b"F", b"one"], [b"F", b"two"], [b"F", b""], [b"P", b"thr"]]
    err = [[b"F", b"bad"], [b"P", first], [b"F", b"x"], [b"P", second], [b"P", second], [b"P", b"y"]]
    assert [line[1:] for line in lines_of(tmp_path / "1.log") if line[0] == STDOUT] == out
    assert [line[1:] for line in lines_of(tmp_path / "1.log") if line[0] == STDERR] == err


async def test_a_line_in_pieces_is_read_as_one_with_one_stamp(tmp_path: Path) -> None:
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 1 << 20)
    log.add(b"x" * (2 * LINE_MAX + 5) + b"\nshort\n")
    log.close()
    file = LogFile(Beneath(tmp_path), "1.log", lambda: True)
    assert await read(file) == b"x" * (2 * LINE_MAX + 5) + b"\nshort\n"
    long, short = (await read(file, timestamps=True)).splitlines()
    assert long.partition(b" ")[2] == b"x" * (2 * LINE_MAX + 5)
    assert short.endswith(b"Z short")


async def test_a_log_holds_so_many_files_and_no_more(tmp_path: Path) -> None:
    log = Log(os.open(tmp_path, os.O_RDONLY), "1.log", 1000, 3)
    for number in range(200):
        log.add(b"%d\n" % number)
    log.close()
    assert sorted(os.listdir(tmp_path)) == ["1.log", "1.log.1", "1.log.2"]
    text = await read(LogFile(Beneath(tmp_path), "1.log", lambda: True))
    numbers = [int(line) for line in text.splitlines()]
    assert numbers == [*range(numbers[0], 200)] and len(numbers) > 50
    assert await read(LogFile(Beneath(tmp_path), "1.log", lambda: True), tail_lines=40) == text[-160:]


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
