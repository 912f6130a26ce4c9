"""The ledger of a node's volume space: nothing that is reserved is given out twice."""

import asyncio
from pathlib import Path

import pytest

from rayplane.node.volumes import CorruptVolume, Reservations
from rayplane.storage.env import Disk, DiskError, LocalDisk, SimulatedDisk


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param == "local":
        return LocalDisk(tmp_path / "disk")
    waits = iter(range(1000, 0, -1))  # whoever comes first is slowest
    return SimulatedDisk(sync_seconds=lambda: next(waits) / 1e5)


async def test_reservations_made_at_once_are_all_kept(disk: Disk) -> None:
    ledger = Reservations(disk, "n", 1000)
    await asyncio.gather(*(ledger.reserve("local", f"v{n}", 10) for n in range(20)))
    await asyncio.gather(*(ledger.release("local", f"v{n}") for n in range(10)))
    again = Reservations(disk, "n", 1000)
    assert sorted(again.reserved("local")) == sorted(f"v{n}" for n in range(10, 20))


async def test_a_reservation_that_could_not_be_written_is_none(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    ledger = Reservations(disk, "n", 100)
    await ledger.reserve("local", "kept", 10)
    (tmp_path / "volumes").rename(tmp_path / "aside")
    (tmp_path / "volumes").touch()
    for _ in range(2):
        with pytest.raises(DiskError):
            await ledger.reserve("local", "v", 10)
        with pytest.raises(DiskError):
            await ledger.release("local", "kept")
    assert ledger.reserved("local") == {"kept": 10}


async def test_a_ledger_with_a_flipped_bit_is_refused(disk: Disk) -> None:
    await Reservations(disk, "n", 100).reserve("local", "v", 10)
    path = "volumes/reservations.json"
    await disk.write_atomic(path, disk.read(path).replace(b"10", b"00"))
    with pytest.raises(CorruptVolume, match=r"reservations\.json is damaged"):
        Reservations(disk, "n", 100)


@pytest.mark.parametrize("content", [b'{"local/v": -1}', b'{"local/v": "5"}', b'{"local/v": true}'])
async def test_sizes_that_are_none_are_refused(disk: Disk, content: bytes) -> None:
    await disk.write_atomic("volumes/reservations.json", content)
    with pytest.raises(CorruptVolume):
        Reservations(disk, "n", 100)


async def test_a_ledger_of_an_earlier_version_counts(disk: Disk) -> None:
    await disk.write_atomic("volumes/reservations.json", b'{"local/v": 60}')
    assert Reservations(disk, "n", 100).free_bytes == 40
