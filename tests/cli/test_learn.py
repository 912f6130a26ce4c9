"""The tour: it runs whole, on a cluster of its own that is gone afterwards."""

import shutil
import tempfile
from pathlib import Path

import pytest
import typer

from rayplane.control_plane.cli import app
from rayplane.control_plane.cli.learn import command
from rayplane.control_plane.cluster.errors import ClusterError


@pytest.mark.turn(1, of=2)
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_tour_breaks_and_heals_its_cluster_to_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    code = app.run(["learn", "--yes"])
    out, err = capsys.readouterr()
    assert code == 0, out + err
    assert "8 of 8" in out and "cluster 'learn' is down; its data is deleted" in out
    assert not (tmp_path / ".rayplane" / "learn").exists()
    assert list((tmp_path / "tmp").iterdir()) == []


def steps(commands: list[list[str]], *failing: str) -> int:
    """The tour's code, with what it runs noted and not done; `up` alone makes its directory."""

    def run(arguments: list[str]) -> int:
        commands.append(arguments)
        if arguments[0] == "up" and arguments[0] not in failing:
            Path(arguments[-1]).mkdir()
        return int(arguments[0] in failing)

    learner = typer.Typer()
    learner.callback()(lambda: None)
    command.register(learner, run)
    try:
        return int(learner(args=["learn", "--yes"], standalone_mode=False) or 0)
    except ClusterError:
        return 1


def test_the_clusters_of_others_are_not_touched_by_a_tour_that_cannot_bring_up_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAYPLANE_STATE_DIR", str(tmp_path / "prod"))
    commands: list[list[str]] = []
    assert steps(commands, "up") == 1
    assert [one[0] for one in commands] == ["up"], "what was not brought up is not purged"
    assert commands[0][-4:-1] == ["--name", "learn", "--state-dir"] and commands[0][-1] != str(tmp_path / "prod")


def test_two_tours_are_in_each_others_way_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_await", lambda *_: None)
    tours: list[list[list[str]]] = [[], []]
    assert [steps(one) for one in tours] == [0, 0]
    first, second = ({tuple(one[-4:]) for one in commands} for commands in tours)
    assert len(first) == len(second) == 1 and first != second
    assert [commands[-1][:2] for commands in tours] == [["down", "--purge"]] * 2


def test_a_cluster_that_could_not_be_ended_keeps_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_await", lambda *_: None)
    commands: list[list[str]] = []
    assert steps(commands, "down") == 1
    state = Path(commands[-1][-1])
    assert state.is_dir()
    shutil.rmtree(state.parent)
