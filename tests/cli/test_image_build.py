"""`rayplane image build`: what a killed build has left goes with the next one, and what is built stays."""

from pathlib import Path

from rayplane.control_plane.cli.image_build import held, remove_left


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
