"""`rayplane image build`: what a killed build has left goes with the next one, and what is built stays."""

from pathlib import Path

import pytest

from rayplane.control_plane.cli.image_build import _bytes, held, remove_left
from rayplane.control_plane.cluster.errors import UsageError


def test_only_what_nobody_builds_in_is_removed(tmp_path: Path) -> None:
    for name in ("build-killed", "build-begun", "build-busy", "data"):
        (tmp_path / name / "images").mkdir(parents=True)
    (tmp_path / "build-killed/images").chmod(0)
    with held(tmp_path / "build-killed"):
        pass
    with held(tmp_path / "build-busy"):
        remove_left(tmp_path)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["build-begun", "build-busy", "data"]
    remove_left(tmp_path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["build-begun", "data"]


def test_what_a_command_may_have_is_said_as_kubernetes_says_it() -> None:
    assert _bytes("64Mi") == 64 << 20 and _bytes("1500") == 1500 and _bytes("") > 1 << 20
    for wrong in ("much", "-1", "0", "64 Mi"):
        with pytest.raises(UsageError, match="write bytes as Kubernetes does"):
            _bytes(wrong)
