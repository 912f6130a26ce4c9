"""Whom a guardian outlives: its cluster may come and go, as long as it is the one that was handed over."""

import asyncio
import os
import select
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import guardian as guardians
from rayplane.control_plane.cluster.config import AddressPlan, ClusterConfig
from rayplane.control_plane.cluster.errors import Busy
from rayplane.control_plane.cluster.guardian import UP, _end, _outlives, guard
from rayplane.control_plane.cluster.launch import exclusive
from rayplane.control_plane.cluster.ours import TEST_ENV
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.cluster.topology import Topology


@pytest.fixture
def place(tmp_path: Path) -> StateDir:
    made = StateDir(tmp_path / "state")
    made.create()
    return made


def test_a_cluster_may_end_before_its_owner(place: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.path / TEST_ENV).touch()
    looks = [[], [], [7]]
    monkeypatch.setattr(select, "select", lambda *_: (looks.pop(0), [], []))
    assert _outlives(place.path / TEST_ENV, [7]) and looks == []


@pytest.fixture
def down(place: StateDir, monkeypatch: pytest.MonkeyPatch) -> StateDir:
    """One that is down, whose guardian looks at it at every turn."""
    monkeypatch.setattr(guardians, "_LOOK_S", 0.0)
    place.write(ClusterState(ClusterConfig(), AddressPlan(0), Topology(()), False, {"pid": 0}))
    (place.path / TEST_ENV).touch()
    return place


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_has_the_state_is_waited_for(down: StateDir) -> None:
    with exclusive(down, "default"):
        ending = asyncio.create_task(_end(down.path, purge=True, is_ours=lambda: True))
        await _turns()
        assert not ending.done() and down.is_ours()
    await ending
    assert not down.path.exists()


async def test_what_another_command_took_down_meanwhile_is_left_to_whoever_comes_there(down: StateDir) -> None:
    mark = down.path / TEST_ENV
    with exclusive(down, "default"):
        ending = asyncio.create_task(_end(down.path, purge=True, is_ours=mark.exists))
        await _turns()
        mark.unlink()
    await ending
    assert down.is_ours()


async def test_who_keeps_the_state_for_good_is_not_waited_for_for_ever(
    down: StateDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guardians, "_BUSY_S", 0.0)
    with exclusive(down, "default"), pytest.raises(Busy, match="wait for it"):
        await _end(down.path, purge=True, is_ours=lambda: True)


@pytest.mark.processes
def test_a_cluster_that_is_somebody_elses_is_left_alone(place: StateDir) -> None:
    guardian = guard(place.path, purge=True, parent=os.getpid())
    guardian.communicate(UP)
    assert guardian.returncode == 0 and place.is_ours()


@pytest.mark.processes
def test_what_is_handed_over_goes_with_its_owner_or_at_once_when_that_has_gone(place: StateDir) -> None:
    (place.path / TEST_ENV).touch()
    guardian = guard(place.path, purge=True, parent=2**22 + 1)
    guardian.communicate(UP)
    assert guardian.returncode == 0 and not place.path.exists()
