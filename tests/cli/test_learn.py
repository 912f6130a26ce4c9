"""The tour: it runs whole, on a cluster of its own that is gone afterwards."""

from pathlib import Path

import pytest

from rayplane.control_plane.cli import app


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_breaks_and_heals_its_cluster_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    code = app.run(["learn", "--yes"])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert "8 of 8" in out and "cluster 'learn' is down; its data is deleted" in out
    assert not (tmp_path / ".rayplane" / "learn").exists()


def test_a_cluster_of_an_earlier_tour_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".rayplane" / "learn").mkdir(parents=True)
    (tmp_path / ".rayplane" / "learn" / "cluster.json").write_text("{}")
    assert app.run(["learn", "--yes"]) == 1
    assert "rayplane down --purge" in capsys.readouterr().err
