"""The debugger, driven by lines: virtual time goes on as far as it is told to, and looking changes nothing."""

import subprocess
import sys

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.simulation import Fork, Setup, SimulationResult, Strike, parse_scenario, simulate
from rayplane.control_plane.simulation.debugger import Debugger

pytestmark = pytest.mark.timeout(600)

TINY = """
duration: 4s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
steps:
  - await: {ready: cluster}
  - kill: apiserver
  - sleep: 2s
"""
SCENARIO = parse_scenario(TINY, source="tiny")


def debug(*lines: str) -> tuple[list[str], SimulationResult, list[tuple[tuple[Strike, ...], Fork]]]:
    """What is said to each line, one text a command."""
    said: list[str] = []
    forks: list[tuple[tuple[Strike, ...], Fork]] = []

    def fork(by_hand: tuple[Strike, ...], chosen: Fork) -> str:
        forks.append((by_hand, chosen))
        return "ok"

    commands = iter(lines)
    debugger = Debugger(lambda: next(commands, None), said.append, fork)
    return said, simulate(SCENARIO, 3, control=debugger), forks


@pytest.fixture(scope="module")
def whole() -> SimulationResult:
    """The same run when nobody looks."""
    return simulate(SCENARIO, 3)


def test_looking_changes_nothing(whole: SimulationResult) -> None:
    said, result, _ = debug("show", "until step 1", "show member-0", "objects", "objects pods", "events 3", "continue")
    assert result.trace_hash == whole.trace_hash
    assert "member-0" in said[0]
    assert said[1].endswith("the scenario comes to step 1 kill: apiserver")
    assert "member-0 runs, leads in term" in said[2]
    assert "revision" in said[3]
    assert len(said[5].splitlines()) == 3


def test_time_goes_on_as_far_as_it_is_told_to() -> None:
    said, result, _ = debug("until 300ms", "show", "until kill apiserver-0", "show apiserver-0", "next", "quit")
    assert 0.25 <= float(said[0].split()[0]) <= 0.3
    assert said[1].endswith("apiserver-0 is killed")
    assert "apiserver-0 dead" in said[2]
    assert result.ended_at == "quit"


def test_a_fault_by_hand_strikes_now_and_stands_in_the_plan() -> None:
    said, result, forks = debug(
        "until step 2", "do kill: supervisor", "show supervisor", "do explode: now", "fork 2", "plan", "continue"
    )
    assert "kill: supervisor" in said[1]
    assert "supervisor dead" in said[2]
    assert "no action 'explode'" in said[3]
    assert [chosen.number for _, chosen in forks] == [1, 2]
    assert [str(strike.what) for strike in forks[0][0]] == [str(s.what) for s in result.plan.strikes if s.step == 2]
    assert "kill: supervisor" in said[6]


def test_what_is_no_command_is_told() -> None:
    said, _, _ = debug("jump", "until", "show nobody", "next x", "", "quit")
    assert ["no command 'jump'" in said[0], "name a time" in said[1], "no 'nobody'" in said[2]] == [True] * 3
    assert said[3] == "'x' is no number of 1 or more"


def test_an_event_that_does_not_come_is_told() -> None:
    said, _, _ = debug("until kill member-9")
    assert said == ["kill member-9 did not come any more: the run is over"]


def test_a_scenario_that_is_refused_is_told_as_without_a_debugger() -> None:
    debugger = Debugger(lambda: None, print, lambda strikes, fork: "")
    with pytest.raises(UsageError, match="member-9"):
        simulate(parse_scenario("steps: [{kill: member-9}]", source="x"), 1, control=debugger)


@pytest.mark.turn(0, of=2)
def test_a_fork_has_the_same_past_and_another_future(whole: SimulationResult) -> None:
    until = Setup(until="2s")
    same = [simulate(SCENARIO, 3, setup=Setup(until="2s", fork=Fork(2.5, number))) for number in (1, 2)]
    assert {run.trace_hash for run in same} == {simulate(SCENARIO, 3, setup=until).trace_hash}
    futures = {simulate(SCENARIO, 3, setup=Setup(fork=Fork(2.5, number))).trace_hash for number in (1, 1, 2)}
    assert len(futures | {whole.trace_hash}) == 3


@pytest.mark.processes
def test_a_session_of_the_command(tmp_path: object) -> None:
    command = [sys.executable, "-m", "rayplane.control_plane.cli.main", "debug", "3", "--scenario", "quick"]
    lines = "until started apiserver-0\nshow apiserver-0\nquit\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    assert "apiserver-0 runs" in done.stdout
