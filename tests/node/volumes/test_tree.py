"""Directories as manifests: every change is seen, and what is written back is the same."""

import contextlib
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.runtime.isolation.users import RANGE_COUNT, RANGE_FIRST
from rayplane.node.volumes.drivers.replicated.manifest import (
    DIRECTORY,
    FILE,
    SYMLINK,
    Entry,
    block_bytes,
    difference,
    hash_block,
)
from rayplane.node.volumes.drivers.replicated.tree import TreeScanner, TreeWriter, measure
from rayplane.node.volumes.errors import CorruptVolume


def scanner(root: Path) -> TreeScanner:
    return TreeScanner(str(root), time.time_ns)


def test_every_rewrite_is_seen_however_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A clock that ticks too slowly to tell one write from the next.
    monkeypatch.setattr("rayplane.node.volumes.drivers.replicated.tree._signature", lambda status: (status.st_size,))
    scan = scanner(tmp_path)
    for n in range(100):
        (tmp_path / "file").write_bytes(b"%04d" % n)
        assert scan.scan().manifest[b"file"].blocks == (hash_block(b"%04d" % n),)


def test_unchanged_files_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    os.utime(tmp_path / "file", ns=(1, 1))
    scan = TreeScanner(str(tmp_path), lambda: time.time_ns() + 10**10)  # long after the last change
    before = scan.scan()
    monkeypatch.setattr(scan, "_read", lambda *_: pytest.fail("read again"))
    assert scan.scan().manifest == before.manifest


def test_random_trees_come_back_the_same(tmp_path: Path) -> None:
    rng = random.Random(7)
    root = tmp_path / "source"
    root.mkdir()
    scan = scanner(root)
    known: dict[bytes, Entry] = {}
    stored: dict[bytes, bytes] = {}
    for number in range(40):
        change(rng, root)
        found = scan.scan()
        assert found.stable
        changes = difference(known, found.manifest)
        for block, (path, offset) in changes.new_blocks.items():
            data = scan.block(block, path, offset, changes.files[path].block_bytes)
            assert data is not None and hash_block(data) == block
            stored[block] = data
        known = found.manifest
        if number % 8 == 0:
            target = tmp_path / f"copy-{number}"
            target.mkdir()
            writer = TreeWriter(str(target), known)
            for block in writer.begin():
                writer.write(block, stored[block])
            writer.finish()
            assert scanner(target).scan().manifest == known


def change(rng: random.Random, root: Path) -> None:
    """Some file or directory comes, changes, moves or goes."""
    everything = sorted(root.rglob("*"))
    files = [p for p in everything if p.is_file() and not p.is_symlink()]
    directories = [root, *(p for p in everything if p.is_dir() and not p.is_symlink())]
    target = rng.choice(directories) / f"n{rng.randrange(1000)}"
    what = rng.choice(["new", "new", "directory", "link", "patch", "move", "remove", "mode"])
    if what == "directory":
        target.mkdir(exist_ok=True)
    elif what == "link" and not target.exists() and not target.is_symlink():
        target.symlink_to(rng.choice(["nowhere", "../n1", "."]))
    elif what == "new" and not target.exists() and not target.is_symlink():
        target.write_bytes(rng.randbytes(rng.choice([0, 10, 65536, 200_000])))
    elif files:
        chosen = rng.choice(files)
        if what == "patch":
            with open(chosen, "r+b") as file:
                file.seek(rng.randrange(300_000))
                file.write(rng.randbytes(10))
        elif what == "move" and not target.is_dir():
            chosen.rename(target)
        elif what == "remove":
            chosen.unlink()
        elif what == "mode":
            chosen.chmod(rng.choice([0o600, 0o644, 0o755, 0o400]))
            chosen.chmod(chosen.stat().st_mode | 0o200)


def test_a_block_that_changed_since_the_scan_is_not_sent(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"before")
    scan = scanner(tmp_path)
    scan.scan()
    (entry,) = scan.scan().manifest.values()  # nothing new, so nothing is kept in memory
    (tmp_path / "file").write_bytes(b"after!")
    assert scan.block(entry.blocks[0], b"file", 0, entry.block_bytes) is None
    (tmp_path / "file").unlink()
    assert scan.block(entry.blocks[0], b"file", 0, entry.block_bytes) is None


def test_a_rename_sends_no_bytes() -> None:
    entry = Entry(FILE, 0o644, 3, block_bytes(3), (hash_block(b"abc"),))
    changes = difference({b"old": entry}, {b"new": entry})
    assert (changes.removed, list(changes.files), changes.new_blocks) == ([b"old"], [b"new"], {})


@pytest.mark.parametrize("path", [b"../out", b"/etc/x", b"a/../../x"])
def test_nothing_is_written_outside(tmp_path: Path, path: bytes) -> None:
    with pytest.raises(CorruptVolume):
        TreeWriter(str(tmp_path), {path: Entry(DIRECTORY, 0o755)}).begin()


def test_altered_blocks_are_not_written(tmp_path: Path) -> None:
    writer = TreeWriter(str(tmp_path), {b"f": Entry(FILE, 0o644, 3, 65536, (hash_block(b"abc"),))})
    (wanted,) = writer.begin()
    with pytest.raises(CorruptVolume):
        writer.write(wanted, b"abd")


def test_nothing_is_written_through_a_link_of_a_manifest(tmp_path: Path) -> None:
    outside, target = tmp_path / "outside", tmp_path / "target"
    outside.mkdir()
    target.mkdir()
    block = hash_block(b"abc")
    file = Entry(FILE, 0o644, 3, 65536, (block,))
    link = Entry(SYMLINK, 0o777, target=os.fsencode(outside))
    for path in (b"a/f", b"a/b/f"):
        (target / "a").unlink(missing_ok=True)
        with pytest.raises(CorruptVolume, match="leads through a link"):
            TreeWriter(str(target), {b"a": link, path: file}).begin()
    writer = TreeWriter(str(target), {b"f": file})
    writer.begin()
    (target / "f").unlink()
    (target / "f").symlink_to(outside / "f")
    with pytest.raises(OSError):
        writer.write(block, b"abc")
    with contextlib.suppress(OSError):
        writer.finish()
    assert os.listdir(outside) == []


def test_a_scan_looks_at_nothing_outside_and_waits_for_no_pipe(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "dir").mkdir(parents=True)
    (outside / "dir/secret").write_bytes(b"secret")
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_bytes(b"own")
    found = scanner(root)
    first = found.scan().manifest
    block = first[b"dir/file"].blocks[0]
    assert found.block(block, b"dir/file", 0, 65536) == b"own"
    # As a pod may do between two system calls of a scan.
    again = scanner(root)
    entry = again._entry

    def swap(path: bytes, *more: Any) -> Any:
        result = entry(path, *more)
        if path == b"dir" and not (root / "dir").is_symlink():
            (root / "dir").rename(root / "aside")
            (root / "dir").symlink_to(outside / "dir")
        return result

    again._entry = swap  # type: ignore[method-assign, assignment]
    scan = again.scan()
    assert hash_block(b"secret") not in {b for e in scan.manifest.values() for b in e.blocks}
    assert again.block(hash_block(b"secret"), b"dir/secret", 0, 65536) is None
    os.mkfifo(root / "pipe")
    assert again.block(hash_block(b"x"), b"pipe", 0, 65536) is None
    assert b"pipe" not in again.scan().manifest
    assert measure(str(root)) == (len(os.fsencode(outside / "dir")) + 3, 3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_pods_have_their_files_wherever_they_are_written_and_nobody_elses(tmp_path: Path) -> None:
    source, target, own = tmp_path / "source", tmp_path / "target", RANGE_FIRST + 70
    for place in (source, target):
        place.mkdir()
    (source / "data").mkdir(mode=0o700)
    (source / "data" / "run").write_bytes(b"")
    (source / "data" / "link").symlink_to("run")
    (source / "machine").write_bytes(b"")
    for name in ("data", "data/run", "data/link"):
        os.chown(source / name, own, own + 1, follow_symlinks=False)
    os.chmod(source / "data" / "run", 0o4750)
    os.chown(source / "machine", 7, 8)
    manifest = scanner(source).scan().manifest
    sent = {path: Entry.of(entry.message(path)) for path, entry in manifest.items()}
    assert sent == manifest
    writer = TreeWriter(str(target), sent | {b"planted": Entry(DIRECTORY, 0o755, uid=7, gid=RANGE_FIRST + RANGE_COUNT)})
    assert writer.begin() == []
    writer.finish()
    found = {path.name: path.lstat() for path in target.rglob("*")}
    owners = {name: (status.st_uid, status.st_gid) for name, status in found.items()}
    pods = dict.fromkeys(("data", "run", "link"), (own, own + 1))
    assert owners == pods | {"machine": (0, 0), "planted": (0, 0)}
    assert found["run"].st_mode & 0o7777 == 0o4750
