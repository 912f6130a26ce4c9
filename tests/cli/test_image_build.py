"""`rayplane image build`: what a killed build has left goes with the next one, and what is built stays."""

from pathlib import Path

import pytest

from rayplane.control_plane.cli.image_build import _bytes, place_of_build
from rayplane.control_plane.cluster.errors import UsageError


def test_a_build_removes_what_killed_ones_have_left_and_leaves_nothing_itself(tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    (builds / "killed" / "images").mkdir(parents=True)
    (builds / "killed" / "images").chmod(0)
    (builds / "begun").mkdir()
    with place_of_build(builds) as one, place_of_build(builds) as other:
        assert {p for p in builds.iterdir() if p.is_dir()} == {one, other}
        (one / "images").mkdir()
        (one / "images").chmod(0)
    assert [p for p in builds.iterdir() if p.is_dir()] == []


def test_what_a_command_may_have_is_said_as_kubernetes_says_it() -> None:
    assert _bytes("64Mi") == 64 << 20 and _bytes("1500") == 1500 and _bytes("") > 1 << 20
    for wrong in ("much", "-1", "0", "64 Mi"):
        with pytest.raises(UsageError, match="write bytes as Kubernetes does"):
            _bytes(wrong)
