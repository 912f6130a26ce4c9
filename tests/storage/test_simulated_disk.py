"""The simulated disk keeps what was promised and loses what was not, as the real one may."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.storage.env import Disk, DiskError, LocalDisk, LockHeld, SimulatedDisk
from tests.tiers import examples

SEEDS = st.integers(0, 2**32)


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return LocalDisk(tmp_path) if request.param == "local" else SimulatedDisk()


async def test_both_disks_do_the_same(disk: Disk) -> None:
    file = disk.append_file("dir/log", preallocate=100)
    file.append(b"abc")
    file.append(b"def")
    await file.sync()
    assert file.size() == 6
    file.close()
    assert disk.read("dir/log") == b"abcdef".ljust(100, b"\0")
    file = disk.append_file("dir/log", at=4)
    file.append(b"X")
    file.close()
    assert disk.read("dir/log").rstrip(b"\0") == b"abcdX"
    await disk.write_atomic("dir/other", b"1")
    await disk.write_atomic("dir/other", b"2")
    assert (disk.read("dir/other"), disk.list("dir"), disk.list()) == (b"2", ["log", "other"], ["dir"])
    disk.rename("dir/other", "moved")
    assert not disk.exists("dir/other") and disk.read("moved") == b"2"
    disk.rename("dir", "elsewhere")
    await disk.sync_dir()
    assert disk.list("elsewhere") == ["log"] and not disk.exists("dir")
    disk.remove("elsewhere")
    disk.remove("elsewhere")
    assert disk.list() == ["moved"] and disk.list("nowhere") == []
    with pytest.raises(FileNotFoundError):
        disk.read("elsewhere/log")
    with disk.lock("lock"), pytest.raises(LockHeld), disk.lock("lock"):
        pass
    with disk.lock("lock"):
        pass


@settings(max_examples=examples(60), deadline=None)
@given(seed=SEEDS, synced=st.integers(0, 3000), unsynced=st.integers(0, 3000))
async def test_synced_bytes_stay(seed: int, synced: int, unsynced: int) -> None:
    disk = SimulatedDisk()
    content = random.Random(seed).randbytes(synced + unsynced)
    file = disk.append_file("f")
    await disk.sync_dir()
    file.append(content[:synced])
    await file.sync()
    file.append(content[synced:])
    disk.crash(random.Random(seed))
    assert disk.read("f")[:synced] == content[:synced]
    with pytest.raises(DiskError):
        file.append(b"x")
    after = disk.read("f")
    disk.crash(random.Random(seed + 1))
    assert disk.read("f") == after


@settings(max_examples=examples(60), deadline=None)
@given(seed=SEEDS)
async def test_atomic_writes_are_atomic_and_unsynced_names_may_go(seed: int) -> None:
    disk = SimulatedDisk()
    rng = random.Random(seed)
    await disk.write_atomic("kept", b"old")
    disk.rename("kept", "renamed")
    disk.append_file("created").close()
    disk.crash(rng)
    names = disk.list()
    assert names in (["kept"], ["renamed"], ["created", "renamed"])
    assert disk.read("kept" if "kept" in names else "renamed") == b"old"


async def test_unsynced_things_do_get_lost() -> None:
    lost = set()
    for seed in range(50):
        disk = SimulatedDisk()
        file = disk.append_file("f")
        await disk.sync_dir()
        file.append(bytes([1]) * 2000)
        disk.append_file("g")
        disk.crash(random.Random(seed))
        lost.add((len(disk.read("f").strip(b"\0")) == 2000, disk.exists("g")))
    assert lost == {(a, b) for a in (True, False) for b in (True, False)}
