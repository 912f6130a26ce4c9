"""A member's start on the oddest directories: it serves what was there, or refuses in one line that says what to do."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.etcd.server.errors import DataLost, RefusedToStart
from rayplane.storage.env import LocalDisk, LockHeld, failpoints
from rayplane.storage.env.failpoints import POINTS
from tests.etcd.harness import etcd_cluster
from tests.etcd.test_disk_faults import TYPED, on_disk, one_life, serves_or_refuses
from tests.tiers import examples

Oddity = Callable[[Path], None]


def stray(name: str, content: bytes = b"") -> Oddity:
    """A file that nobody of us wrote, or that an interrupted write left."""

    def make(directory: Path) -> None:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        if not (directory / name).is_dir():
            (directory / name).write_bytes(content)

    return make


def folder(name: str) -> Oddity:
    def make(directory: Path) -> None:
        path = directory / name
        if path.is_file():
            path.unlink()
        path.mkdir(parents=True, exist_ok=True)

    return make


def without(name: str) -> Oddity:
    """A file or folder is missing; `name` may be a pattern, of which the first is meant."""

    def remove(directory: Path) -> None:
        for path in sorted(directory.glob(name))[:1]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def emptied(name: str) -> Oddity:
    def cut(directory: Path) -> None:
        for path in sorted(directory.glob(name))[-1:]:
            if path.is_file():
                path.write_bytes(b"")

    return cut


def newer_snapshot(directory: Path) -> None:
    """A snapshot that the log does not speak of, as a crash between the two leaves it."""
    target = directory / "snap" / "00000000000000ff-00000000000fffff.snap"
    for path in sorted((directory / "snap").glob("0*.snap"))[:1]:
        if path.is_file() and not target.exists():
            shutil.copy(path, target)


ODDITIES: dict[str, Oddity] = {
    "stray snapshot": stray("snap/notes.snap", b"?"),
    "stray segment": stray("wal/notes.wal", b"?"),
    "stray file of a file system": stray("wal/.nfs0001"),
    "leftover snapshot": stray("snap/00-00.snap.tmp", b"half"),
    "leftover marker": stray("mvcc/boot.tmp", b"half"),
    "leftover of a file": stray("data-lost.tmp", b"half"),
    "leftover of a new log": stray("wal.new/x.wal", b"half"),
    "leftover of a new store": stray("mvcc/new/data.mdb", b"half"),
    "folder for a segment": folder("wal/00000000000000ff-0000000000000001.wal"),
    "folder for a snapshot": folder("snap/00000000000000ff-00000000000fffff.snap"),
    "folder for the store": folder("mvcc/data.mdb"),
    "no snapshots": without("snap"),
    "no store": without("mvcc"),
    "no log": without("wal"),
    "no first segment": without("wal/*.wal"),
    "no snapshot": without("snap/*.snap"),
    "no lock": without("member.lock"),
    "empty last segment": emptied("wal/*.wal"),
    "empty last snapshot": emptied("snap/*.snap"),
    "empty store": emptied("mvcc/data.mdb"),
    "newer snapshot": newer_snapshot,
}


#: Together they leave an empty directory, which is that of a new member: see the tests of one that is empty.
NOTHING_LEFT = {"no log", "no store", "no snapshots"}


class Life:
    """A directory that was used and killed, and what it holds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = asyncio.run(one_life(root, clean=False))


@pytest.fixture(scope="module")
def life() -> Iterator[Life]:
    with tempfile.TemporaryDirectory(prefix="odd-life-") as root:
        yield Life(Path(root))


@pytest.mark.timeout(300)
@settings(max_examples=examples(40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    oddities=st.lists(st.sampled_from(sorted(ODDITIES)), min_size=1, max_size=3, unique=True).filter(
        lambda drawn: not {n.removesuffix("s") for n in drawn} >= {n.removesuffix("s") for n in NOTHING_LEFT}
    )
)
def test_any_odd_directory_is_served_as_it_was_or_refused(life: Life, oddities: list[str]) -> None:
    root, state = life.root, life.state
    with tempfile.TemporaryDirectory(prefix="odd-") as copy:
        shutil.copytree(root, copy, dirs_exist_ok=True)
        for name in oddities:
            ODDITIES[name](Path(copy) / "d0")
        refusal = asyncio.run(serves_or_refuses(Path(copy), state))
        says = ("remove this member", "remove it", "delete", "restore", "move it away", "restart", "check the disk")
        assert "\n" not in refusal and (not refusal or any(word in refusal for word in says)), (oddities, refusal)
        # The same again: neither a refusal nor a start makes it worse.
        again = asyncio.run(serves_or_refuses(Path(copy), state | ({} if refusal else {b"another": b"write"})))
        assert bool(again) == bool(refusal), (oddities, refusal, again)


@pytest.mark.parametrize("state", ["new", "existing"])
async def test_a_member_whose_directory_was_emptied_is_refused_by_the_others(tmp_path: Path, state: str) -> None:
    async with on_disk(tmp_path, 3) as cluster:
        await cluster.put(b"k", b"v")
        await cluster.stop("m1")
        for name in NOTHING_LEFT:
            ODDITIES[name](tmp_path / "d1")
        cluster.nodes["m1"].config = replace(cluster.nodes["m1"].config, cluster_state=state)
        with pytest.raises(DataLost, match="has taken part already but its data directory is empty"):
            await cluster.start("m1")


async def test_a_member_that_is_told_to_join_founds_nothing_from_an_empty_directory(tmp_path: Path) -> None:
    async with on_disk(tmp_path, start=False, cluster_state="existing") as cluster:
        with pytest.raises(RefusedToStart, match="restore a backup"):
            await cluster.start("m0")


@pytest.mark.parametrize("oddity", ["stray snapshot", "stray segment", "leftover of a new log"])
async def test_what_is_not_ours_is_left_or_named(tmp_path: Path, oddity: str) -> None:
    state = await one_life(tmp_path, clean=True)
    ODDITIES[oddity](tmp_path / "d0")
    assert await serves_or_refuses(tmp_path, state) == ""


@pytest.mark.parametrize("fresh", [True, False], ids=["first", "again"])
async def test_a_full_disk_at_any_step_of_the_start_is_typed_and_harms_nothing(tmp_path: Path, fresh: bool) -> None:
    state = {} if fresh else await one_life(tmp_path / "life", clean=True)
    refused = 0
    for point in [p for p in POINTS if p.split(".")[0] in ("identity", "wal", "store")]:
        copy = tmp_path / point
        if not fresh:
            shutil.copytree(tmp_path / "life", copy)
        failpoints.arm(f"{point}=error(ENOSPC)")
        try:
            async with on_disk(copy, start=False) as cluster:
                await cluster.start("m0")
        except TYPED as e:
            refused += 1
            assert "\n" not in str(e)
        finally:
            failpoints.disarm()
        assert await serves_or_refuses(copy, state) == "", point
    assert refused > 2


async def test_a_lock_that_a_dying_process_still_holds_is_waited_for(tmp_path: Path) -> None:
    state = await one_life(tmp_path, clean=True)
    held, refused, lock = LocalDisk(tmp_path / "d0").lock("member.lock"), asyncio.Event(), LocalDisk.lock

    @contextlib.contextmanager
    def watched(disk: LocalDisk, path: str) -> Iterator[None]:
        try:
            with lock(disk, path):
                yield
        except LockHeld:
            refused.set()
            raise

    with held, mock.patch.object(LocalDisk, "lock", watched):
        starting = asyncio.create_task(serves_or_refuses(tmp_path, state))
        async with asyncio.timeout(60):
            await refused.wait()
    assert await starting == ""


async def test_the_directory_of_another_cluster_is_refused() -> None:
    async with etcd_cluster(3) as one, etcd_cluster(3, initial_cluster_token="other") as other:
        await one.kill("m1")
        one.nodes["m1"].env = other.nodes["m1"].env
        await other.kill("m1")
        with pytest.raises(RefusedToStart, match=r"this data directory is of cluster .* give it the right"):
            await one.start("m1")
