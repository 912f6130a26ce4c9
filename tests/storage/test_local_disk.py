"""The real disk, where its files are more than bytes: reserved space, holes, cut ends."""

import os
from pathlib import Path

import pytest

from rayplane.storage.env import LocalDisk

SIZE = 1 << 20


@pytest.mark.parametrize("stray", [(), (100,), (100, 8192, SIZE - 10), (SIZE - 10,)])
def test_nothing_follows_where_a_reserved_file_is_opened(tmp_path: Path, stray: tuple[int, ...]) -> None:
    disk = LocalDisk(tmp_path)
    file = disk.append_file("f", preallocate=SIZE, at=0)
    file.append(b"kept")
    file.close()
    with open(tmp_path / "f", "r+b") as f:
        for offset in stray:
            os.pwrite(f.fileno(), b"torn", offset)
    file = disk.append_file("f", preallocate=SIZE, at=4)
    file.append(b"more")
    file.close()
    content = disk.read("f")
    assert content[:8] == b"keptmore" and len(content) == SIZE
    assert not content[8:].strip(b"\0")
