"""The tour: it runs whole, on a cluster of its own that is gone afterwards."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import typer

from rayplane.control_plane.cli import app
from rayplane.control_plane.cli.learn import command
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.guardian import DOWN


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


class Guardian:
    """A guardian that ends nothing, and what it was told."""

    def __init__(self, returncode: int = 0) -> None:
        self.returncode = returncode
        self.words: list[bytes] = []

    def communicate(self, word: bytes) -> None:
        self.words.append(word)


@pytest.fixture(autouse=True)
def guardian(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Guardian:
    found = Guardian()
    if request.node.get_closest_marker("e2e") is None:
        monkeypatch.setattr(command, "guard", lambda *_, **__: found)
    return found


def steps(commands: list[list[str]], *failing: str, options: tuple[str, ...] = ("--yes",), code: int = 1) -> int:
    """The tour's code, with what it runs noted and not done; `up` makes its directory, and `down` deletes it."""

    def run(arguments: list[str]) -> int:
        commands.append(arguments)
        if arguments[0] in failing:
            return code
        if arguments[0] == "up":
            Path(arguments[-1]).mkdir()
        if arguments[0] == "down":
            Path(arguments[-1]).rmdir()
        return 0

    learner = typer.Typer()
    learner.callback()(lambda: None)
    command.register(learner, run)
    try:
        return int(learner(args=["learn", *options], standalone_mode=False) or 0)
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


def test_a_cluster_that_could_not_be_ended_keeps_its_state(monkeypatch: pytest.MonkeyPatch, guardian: Guardian) -> None:
    monkeypatch.setattr(command, "_await", lambda *_: None)
    guardian.returncode = 1
    commands: list[list[str]] = []
    assert steps(commands, "down") == 1
    state = Path(commands[-1][-1])
    assert state.is_dir()
    shutil.rmtree(state.parent)


def answered(monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[str]:
    """Somebody at a terminal who says these, and then ends the input; the questions."""
    asked: list[str] = []
    left = iter(answers)

    def answer(question: str, **_: object) -> str:
        asked.append(question)
        if (word := next(left, None)) is None:
            raise EOFError
        return word

    monkeypatch.setattr(command, "_await", lambda *_: None)
    monkeypatch.setattr(command.console, "input", answer)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    return asked


def test_an_answer_that_means_nothing_runs_nothing_and_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    # What all else needs cannot be left out.
    asked = answered(monkeypatch, "no", "what?", "s", "q")
    assert steps(commands, options=()) == 0
    assert commands == [] and len(asked) == 4 and "leaves it out" not in asked[0]


def test_what_was_left_out_is_not_run_and_the_end_of_input_ends_the_tour(
    monkeypatch: pytest.MonkeyPatch, guardian: Guardian
) -> None:
    commands: list[list[str]] = []
    asked = answered(monkeypatch, "", "y", "s", "")
    assert steps(commands, options=()) == 0
    assert [one[0] for one in commands] == ["up", "apply", "delete", "down"] and "leaves it out" in asked[2]
    assert guardian.words == [DOWN]


def test_an_interrupted_step_interrupts_the_tour_and_its_cluster_is_ended(
    monkeypatch: pytest.MonkeyPatch, guardian: Guardian
) -> None:
    monkeypatch.setattr(command, "_await", lambda *_: None)
    commands: list[list[str]] = []
    assert steps(commands, "apply", code=130) == 130
    assert [one[0] for one in commands] == ["up", "apply", "down"] and guardian.words == [DOWN]


def test_without_a_terminal_it_says_how_to_go_on_unasked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert app.run(["learn"]) == 2
    assert "use `rayplane learn --yes`" in capsys.readouterr().err
