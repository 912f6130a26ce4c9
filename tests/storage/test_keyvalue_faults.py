"""A durable key-value file after a crash, with a flipped bit, cut short: whole or refused, never wrong."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rayplane.storage.keyvalue import CorruptStore, LmdbBackend
from rayplane.storage.keyvalue.lmdb_file import DATA

BUCKETS = ("big", "small")
Content = dict[tuple[str, bytes], bytes]


def content_of(backend: LmdbBackend) -> Content:
    return {(bucket, key): value for bucket in BUCKETS for key, value in backend.scan(bucket)}


async def filled(path: Path) -> Content:
    backend = LmdbBackend(path, BUCKETS, durable=True)
    for n in range(40):
        backend.put("small", b"%03d" % n, b"value %d" % n)
    backend.put("big", b"one", random.Random(1).randbytes(20_000))
    await backend.flush()
    content = content_of(backend)
    backend.close()
    return content


def found_in(path: Path) -> Content | None:
    """The content of a copy that may be damaged; None when it is refused."""
    try:
        backend = LmdbBackend(path, BUCKETS, durable=True)
    except CorruptStore:
        return None
    try:
        return content_of(backend)
    except CorruptStore:
        return None
    finally:
        backend.abandon()


@pytest.mark.parametrize("seed", range(4))
async def test_a_flipped_bit_is_refused_or_does_no_harm(tmp_path: Path, seed: int) -> None:
    content = await filled(tmp_path)
    file = tmp_path / DATA
    good = file.read_bytes()
    rng = random.Random(seed)
    refused = 0
    for _ in range(60):
        damaged = bytearray(good)
        bit = rng.randrange(8 * len(good))
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        found = found_in(tmp_path)
        assert found in (None, content)
        refused += found is None
    assert refused


async def test_a_file_cut_short_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    content = await filled(tmp_path)
    file = tmp_path / DATA
    good = file.read_bytes()
    for size in range(0, len(good), 3 * 512):
        file.write_bytes(good[:size])
        assert found_in(tmp_path) in (None, content)


async def test_a_torn_page_is_refused_or_does_no_harm(tmp_path: Path) -> None:
    """The machine was lost while a page was on its way: one half of it is new."""
    content = await filled(tmp_path)
    file = tmp_path / DATA
    good = file.read_bytes()
    for page in range(len(good) // 4096):
        torn = bytearray(good)
        torn[page * 4096 + 2048 : (page + 1) * 4096] = bytes(2048)
        file.write_bytes(torn)
        assert found_in(tmp_path) in (None, content)


_WRITER = """
import asyncio, sys
from rayplane.storage.keyvalue import LmdbBackend

async def main():
    backend = LmdbBackend(sys.argv[1], ("big", "small"), durable=True)
    for n in range(1_000_000):
        backend.put("small", b"a", b"%d" % n)
        backend.put("big", b"b", b"%d" % n * 1000)
        await backend.flush()
        print(n, flush=True)

asyncio.run(main())
"""


@pytest.mark.processes
async def test_a_killed_writer_leaves_its_last_flush_or_the_one_under_way(tmp_path: Path) -> None:
    for flushes in (1, 7, 20):
        path = tmp_path / str(flushes)
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _WRITER, path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": ".src"}
        )
        assert writer.stdout is not None
        for _ in range(flushes):
            await writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        said = (await writer.stdout.read()).split()
        await writer.wait()
        told = max([flushes - 1, *(int(n) for n in said if n.isdigit())])
        content = found_in(path)
        assert content is not None
        number = int(content["small", b"a"])
        assert number in (told, told + 1)
        assert content["big", b"b"] == b"%d" % number * 1000
