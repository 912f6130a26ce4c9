"""A small file holds what was written last, or what was written before, or is refused."""

import asyncio
import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.storage.env import Disk, DiskError, LocalDisk, SimulatedDisk
from rayplane.storage.keyvalue import CorruptFile, JsonFile
from tests.tiers import examples

CONTENT = {"local/a": 5, "replicated/b": 70_000}
CONTENTS = st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=5)


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return LocalDisk(tmp_path) if request.param == "local" else SimulatedDisk()


async def test_it_holds_what_was_written_last(disk: Disk) -> None:
    file = JsonFile(disk, "dir/file")
    assert file.read() is None
    await file.write(CONTENT)
    await file.write(CONTENT | {"c": 1})
    assert JsonFile(disk, "dir/file").read() == CONTENT | {"c": 1}


async def test_files_of_earlier_versions_are_read(disk: Disk) -> None:
    await disk.write_atomic("file", b'{"local/a": 5, "replicated/b": 70000}')
    assert JsonFile(disk, "file").read() == CONTENT


async def test_a_flipped_bit_is_refused_wherever_it_is() -> None:
    disk = SimulatedDisk()
    file = JsonFile(disk, "file")
    await file.write(CONTENT)
    good = disk.read("file")
    for bit in range(8 * len(good)):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        await disk.write_atomic("file", bytes(damaged))
        with pytest.raises(CorruptFile, match="file is damaged"):
            file.read()


async def test_a_torn_file_is_refused_wherever_it_ends() -> None:
    disk = SimulatedDisk()
    file = JsonFile(disk, "file")
    await file.write(CONTENT)
    good = disk.read("file")
    for size in range(len(good)):
        for rest in (b"", bytes(len(good) - size)):
            await disk.write_atomic("file", good[:size] + rest)
            with pytest.raises(CorruptFile):
                file.read()


@settings(max_examples=examples(60), deadline=None)
@given(old=CONTENTS, new=CONTENTS, seed=st.integers(0, 2**32), steps=st.integers(0, 5))
async def test_a_crash_leaves_the_old_or_the_new(
    old: dict[str, int], new: dict[str, int], seed: int, steps: int
) -> None:
    disk = SimulatedDisk()
    file = JsonFile(disk, "file")
    await file.write(old)
    write = asyncio.ensure_future(file.write(new))
    for _ in range(steps):
        await asyncio.sleep(0)
    done = write.done()
    disk.crash(random.Random(seed))
    found = file.read()
    assert found == new if done else found in (old, new)
    with contextlib.suppress(DiskError):
        await write


@pytest.mark.parametrize("content", [b"[]", b"5", b"", b"\xff", b"{" * 100_000, b'{"a": }'])
async def test_what_is_no_object_is_refused(content: bytes) -> None:
    disk = SimulatedDisk()
    await disk.write_atomic("file", content)
    with pytest.raises(CorruptFile):
        JsonFile(disk, "file").read()
