"""`rayplane simulate` as a command: what stands on which stream, what is refused, and what it asks the sweep for."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane import simulation
from rayplane.control_plane.api import meta
from rayplane.control_plane.cli.app import run
from rayplane.control_plane.recordings import read
from rayplane.control_plane.simulation import Order, Plan, SimulationResult, Ways

pytestmark = pytest.mark.timeout(600)

TINY = """
duration: 1s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
"""
FAILS = TINY + "steps: [{await: {deployment: web, replicas: 1, within: 0s}}]"
PLAN = "scenario: fails.yaml\nseed: 4\nfaults: []\n"

DONE = SimulationResult(
    scenario="tiny",
    source="tiny.yaml",
    seed=1,
    cluster_s=1.0,
    real_s=1.0,
    events=1,
    messages=1,
    acknowledged=1,
    trace_hash="0",
    failures=(),
    plan=Plan(scenario="tiny.yaml", seed=1),
)

Streams = pytest.CaptureFixture[str]


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with scenarios and a plan."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "fails.yaml").write_text(FAILS)
    (tmp_path / "plan.yaml").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recorded_run_is_the_same_run(there: Path, capsys: Streams) -> None:
    (there / "stopped.yaml").write_text(TINY + "steps: [{sleep: 200ms}, {stop: {target: apiserver-0, for: 500ms}}]")
    hashes = []
    for record in ([], ["--record", "one"]):
        assert run(["simulate", "stopped.yaml", "--json", *record]) == 0
        hashes.append(json.loads(capsys.readouterr().out)["traceHash"])
    assert len({*hashes}) == 1
    found = read(there / "one")
    assert (found.name, found.ok) == ("stopped.yaml", True)
    [fault] = found.marks
    assert (fault.text, fault.from_s, fault.until_s) == ("stop: {target: apiserver-0, for: 0.5s}", 0.2, 0.7)
    assert meta.name(found.objects("nodes", found.moment(found.end_s))[0]) == "node-0"
    standing = found.state(found.moment(found.end_s))
    assert [one["leader"] for one in standing["members"]] == [True]


def test_what_is_no_recording_is_refused_in_one_line(there: Path, capsys: Streams) -> None:
    for file in ("tiny.yaml", "nothing"):
        assert run(["dashboard", "--open", file]) == 2
        said = capsys.readouterr()
        assert not said.out and said.err.count("\n") == 1 and file in said.err
    assert run(["simulate", "tiny.yaml", "--record", "no/such/folder"]) == 2
    assert "cannot write no/such/folder" in capsys.readouterr().err


def test_what_is_shrunk_is_json_too_and_is_run_again_by_its_own_plan(there: Path, capsys: Streams) -> None:
    assert run(["simulate", "fails.yaml", "--plan", "plan.yaml", "--shrink", "--json"]) == 1
    said = capsys.readouterr()
    found, smallest = [json.loads(line) for line in said.out.splitlines()]
    assert found["command"] == "rayplane simulate fails.yaml --seed 4 --plan plan.yaml"
    assert smallest["command"] == "rayplane simulate fails.yaml --seed 4 --plan plan-4.yaml"
    assert "0 of 0 faults are enough: plan-4.yaml" in said.err
    assert (there / "plan-4.yaml").exists()


def test_a_failure_that_its_faults_do_not_bring_back_is_not_called_smaller(
    there: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "shrunk", lambda order, failed, tell: None)
    assert run(["simulate", "fails.yaml", "--shrink"]) == 1
    said = capsys.readouterr()
    assert "do not bring the failure back" in said.err
    assert "are enough" not in said.err + said.out
    assert said.out.count("again: ") == 1 and "--plan" not in said.out
    assert not (there / "plan-1.yaml").exists()


@pytest.mark.usefixtures("there")
def test_a_plan_of_another_scenario_is_warned_of(capsys: Streams) -> None:
    assert run(["simulate", "./fails.yaml", "--plan", "plan.yaml"]) == 1
    assert "plan.yaml is of" not in capsys.readouterr().err
    assert run(["simulate", "tiny.yaml", "--plan", "plan.yaml"]) == 0
    assert "plan.yaml is of fails.yaml" in capsys.readouterr().err


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--trace", "member-7"], "no 'member-7'; there are apiserver-0, client, controllers-0, kubectl, lb, member-0"),
        (["--trace", "member-0", "--ray"], "look at one seed, here"),
        (["--seeds", "3", "--until", "1s"], "look at one seed, here"),
        (["--jobs", "0"], "--jobs 0: use 1 or more"),
        (["--seeds", "0"], "--seeds 0: use 1 or more"),
        (["--address", "local"], "add --ray"),
        (["--save-plan", "nowhere/plan.yaml"], "cannot write nowhere/plan.yaml"),
        (["--ray", "--jobs", "2"], "--jobs is of this machine"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], told: str, capsys: Streams) -> None:
    assert run(["simulate", "tiny.yaml", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("there")
def test_what_a_run_ended_at_is_told_and_what_did_not_come(capsys: Streams) -> None:
    assert run(["simulate", "tiny.yaml", "--until", "started member-0"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("started member-0")
    assert run(["simulate", "tiny.yaml", "--until", "kill member-9"]) == 0
    assert "--until: kill member-9 did not come" in capsys.readouterr().err


@pytest.mark.usefixtures("there")
def test_who_comes_later_can_be_traced(capsys: Streams) -> None:
    Path("grows.yaml").write_text(TINY + "steps: [{add: apiserver}]")
    assert run(["simulate", "grows.yaml", "--trace", "apiserver-1"]) == 0
    assert "start apiserver-1" in capsys.readouterr().err


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (["--ray"], Ways(jobs=1, ray="auto")),
        (["--ray", "--address", "local", "--seeds", "9"], Ways(jobs=7, ray="local")),
        (["--seeds", "2"], Ways(jobs=2)),
        (["--seeds", "9"], Ways(jobs=7)),
        (["--seeds", "9", "--jobs", "3"], Ways(jobs=3)),
    ],
)
def test_seeds_go_to_all_cores_or_to_ray(words: list[str], asked: Ways, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Ways] = []

    def sweep(order: Order, seeds: range, way: Ways, **_: Any) -> Iterator[SimulationResult]:
        ways.append(way)
        yield DONE

    # By its name, the module: the package's `sweep` is the function.
    module = importlib.import_module("rayplane.control_plane.simulation.sweep")
    monkeypatch.setattr(module, "sweep", sweep)
    monkeypatch.setattr(module, "cores", lambda: 7)
    assert run(["simulate", "tiny.yaml", *words]) == 0
    assert ways == [asked]
