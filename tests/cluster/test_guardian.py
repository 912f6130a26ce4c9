"""Whom a guardian outlives: its cluster may come and go, as long as it is the one that was handed over."""

import os
import select
from pathlib import Path

import pytest

from rayplane.control_plane.cluster.guardian import UP, _outlives, guard
from rayplane.control_plane.cluster.ours import TEST_ENV
from rayplane.control_plane.cluster.state import StateDir


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
