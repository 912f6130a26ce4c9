"""`rayplane replay`: a recorded run, told again by the order of its time."""

import json
from pathlib import Path

import pytest

from rayplane.control_plane.cli.app import run
from rayplane.control_plane.invariants import History
from rayplane.control_plane.recordings import Ending, Head, Tape
from tests.recordings.made import EVIL, STARTED, web


def test_a_run_that_did_not_hold_is_told_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run"
    file.write_bytes(web())
    assert run(["replay", str(file)]) == 1
    out = capsys.readouterr().out
    told = out.splitlines()
    assert told[0] == f"chaos web, seed 7 on cluster shop, began {STARTED:%Y-%m-%d %H:%M:%S}"
    assert told[1].startswith("    3.000 s  stop ")
    assert told[2] == "    3.000 s  fault stop: leader → member-0, until 5.000 s"
    assert told[3].startswith("    4.000 s  violation of one leader: ")
    assert told[4:] == [
        "one leader: broken",
        "nothing lost: had nothing to compare",
        "failed: it took too long",
        "did not hold, after 8.000 s",
    ]
    assert all(letter == "\n" or letter.isprintable() for letter in out), "what others wrote leads no terminal"
    assert run(["replay", str(file), "-o", "json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["end"], document["seed"]) == (False, 8.0, 7)
    assert document["events"] == [{"at": 3.0, "text": f"stop {EVIL}"}]
    assert [mark["kind"] for mark in document["marks"]] == ["fault", "violation"]


def test_a_run_that_held_exits_with_0_and_what_is_none_is_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run"
    tape = Tape(Head(of="simulation", name="quick", seed=3, started=STARTED))
    tape.begun(History())
    file.write_bytes(tape.finished(Ending(end_s=2.5, ok=True, faults=[], invariants={})))
    assert run(["replay", str(file)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "held, after 2.500 s"
    file.write_bytes(b"{}")
    assert run(["replay", str(file)]) == 2
    assert "is no recording" in capsys.readouterr().err
    assert run(["replay", str(tmp_path / "none")]) == 2
