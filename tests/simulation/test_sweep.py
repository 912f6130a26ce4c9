"""Many seeds at once: all results come, a failure ends the rest, and no process is left."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayplane.control_plane.cli.app import run
from rayplane.control_plane.simulation import Order, SweepFailed, Ways, parse_scenario, sweep

pytestmark = [pytest.mark.timeout(600), pytest.mark.processes]

TINY = """
duration: 1s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
"""
FAILS = TINY + "steps: [{await: {deployment: web, replicas: 1, within: 0s}}]"


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(holds: Callable[[], bool]) -> None:
    while not holds():
        time.sleep(0.05)


@pytest.mark.turn(0, of=2)
def test_all_seeds_are_run_and_each_gives_what_it_gives_alone() -> None:
    order = Order(parse_scenario(TINY, source="tiny"))
    before = children(os.getpid())
    found = {r.seed: r.trace_hash for r in sweep(order, range(1, 4), Ways(jobs=2))}
    assert sorted(found) == [1, 2, 3]
    assert found[2] == order.run(2).trace_hash
    assert children(os.getpid()) == before


@pytest.mark.turn(1, of=2)
def test_a_failure_ends_the_others_unless_they_are_to_go_on() -> None:
    order = Order(parse_scenario(FAILS, source="fails"))
    before = children(os.getpid())
    assert len([*sweep(order, range(1, 1000), Ways(jobs=2))]) == 1
    assert children(os.getpid()) == before
    assert len([*sweep(order, range(1, 4), Ways(jobs=2), keep_going=True)]) == 3


@pytest.mark.turn(0, of=2)
def test_a_worker_that_is_killed_is_told() -> None:
    before = set(children(os.getpid()))
    sweeping = sweep(Order(parse_scenario(TINY, source="tiny")), range(1, 1000), Ways(jobs=2))
    next(sweeping)
    os.kill(min(set(children(os.getpid())) - before), signal.SIGKILL)
    with pytest.raises(SweepFailed, match="ended with -9"), contextlib.closing(sweeping):
        for _ in sweeping:
            pass
    assert set(children(os.getpid())) == before


def test_an_interrupted_command_leaves_no_process() -> None:
    # Whoever began these tests in the background of a script has SIGINT ignored, and so would the command.
    python = ["env", "--default-signal=INT", sys.executable]
    command = [*python, "-m", "rayplane.control_plane.cli.main", "simulate", "failures"]
    with subprocess.Popen([*command, "--seeds", "50", "--jobs", "2"], stderr=subprocess.PIPE, text=True) as running:
        until(lambda: len(children(running.pid)) == 2)
        workers = children(running.pid)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate()
    assert running.returncode == 130
    assert "interrupted" in said and "Traceback" not in said
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_failure_is_told_as_a_story_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "fails.yaml"
    file.write_text(FAILS.replace("steps: [", "steps: [{await: {ready: cluster}}, {kill: leader}, "))
    plan = tmp_path / "plan.yaml"
    assert run(["simulate", str(file), "--seed", "4", "--save-plan", str(plan)]) == 1
    said = capsys.readouterr().out
    assert "step 1, after 0 s: kill: member-0" in said
    assert "member-0 is killed" in said
    assert f"again: rayplane simulate {file} --seed 4" in said
    first = json.loads(_json(capsys, [str(file), "--seed", "4"]))
    again = json.loads(_json(capsys, [str(file), "--plan", str(plan)]))
    assert first["traceHash"] == again["traceHash"]
    assert first["command"] == f"rayplane simulate {file} --seed 4"
    assert again["command"] == f"{first['command']} --plan {plan}"


def _json(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert run(["simulate", *arguments, "--json"]) == 1
    return capsys.readouterr().out
