"""Files and folders that only their owner may read."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rayplane.storage.env import LocalDisk
from rayplane.storage.env.private import make_private_dir, narrow, wider, write_private
from rayplane.storage.keyvalue import LmdbBackend
from rayplane.storage.mvcc import BUCKETS


@pytest.fixture(autouse=True)
def an_open_umask() -> Iterator[None]:
    """What is private must not be so by the umask alone."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_that_was_wider_is_narrow_when_it_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"old")
    file.chmod(0o644)
    write_private(file, b"new")
    assert (file.read_bytes(), mode(file)) == (b"new", 0o600)
    assert [f.name for f in tmp_path.iterdir()] == ["key"]


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"kept")
    (tmp_path / "key").symlink_to(elsewhere)
    write_private(tmp_path / "key", b"new")
    assert elsewhere.read_bytes() == b"kept"
    assert (tmp_path / "key").read_bytes() == b"new"


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "file").write_bytes(b"kept")
    with pytest.raises(OSError):
        write_private(tmp_path / "key", b"new")
    assert [f.name for f in tmp_path.iterdir()] == ["key"]


def test_folders_are_made_private_with_those_above(tmp_path: Path) -> None:
    make_private_dir(tmp_path / "a" / "b")
    make_private_dir(tmp_path / "a" / "b")
    assert mode(tmp_path / "a") == mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError):
        make_private_dir(tmp_path / "file")


def test_narrowing_takes_from_others_only_and_leaves_what_links_point_to(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.write_bytes(b"")
    outside.chmod(0o666)
    inside.mkdir(mode=0o777)
    (inside / "script").write_bytes(b"")
    (inside / "script").chmod(0o755)
    (inside / "link").symlink_to(outside)
    assert {p.name for p, _ in wider(inside)} == {"inside", "script"}
    narrow(inside)
    assert wider(inside) == []
    assert (mode(inside), mode(inside / "script"), mode(outside)) == (0o700, 0o700, 0o666)


async def test_what_a_component_keeps_on_its_disk_is_private(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path / "data")
    disk.append_file("log/1").close()
    await disk.write_atomic("state/now", b"x")
    disk.make_dir("volumes/a")
    with disk.lock("lock"):
        LmdbBackend(tmp_path / "data" / "store", BUCKETS).close()
    assert wider(tmp_path / "data") == []
