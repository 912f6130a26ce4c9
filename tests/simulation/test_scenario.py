"""Scenario files: what is wrong with one is said in one line that names the place."""

from pathlib import Path

import pytest

from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.faults.vocabulary import NEVER_S, Fault, Kill, Partition, Target
from rayplane.control_plane.simulation import builtin_scenarios, load_scenario, parse_scenario, simulate
from rayplane.control_plane.simulation.changes import Striker
from rayplane.control_plane.simulation.scenario import Await, Condition


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("steps: [", "not YAML"),
        ("[]", "mapping"),
        ("colour: red", "colour"),
        ("duration: long", "duration"),
        ("duration: 0s", "duration"),
        ("cluster: {members: 2}", "--members"),
        ("cluster: {members: many}", "cluster.members"),
        ("cluster: {runtime: process}", "runtime"),
        ("network: {loss: 2}", "network.loss"),
        ("steps: [{explode: now}]", "explode"),
        ("steps: [{sleep: 1s, kill: leader}]", r"steps\[0\]"),
        ("steps: [{sleep: 1s}, {sleep: soon}]", r"steps\[1\].sleep"),
        ("steps: [{apply: {kind: Pod}}]", "apiVersion"),
        ("steps: [{await: {deployment: web, replicas: -1}}]", "replicas"),
        ("steps: [{await: {replicas: 1}}]", "deployment"),
        ("steps: [{partition: {for: 3s}}]", "hosts"),
        ("expect: [{ready: everything}]", "ready"),
        ("expect: [{ready: cluster, members: 3}]", "members"),
        ("steps: [{storm: {of: [{kill: nobody}]}}]", r"steps\[0\].storm.of\[0\].kill"),
        ("steps: [{storm: {of: [{sleep: 1s}]}}]", "a storm draws faults"),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_place(text: str, names: str) -> None:
    with pytest.raises(UsageError, match=names) as e:
        parse_scenario(text, source="file.yaml")
    assert str(e.value).startswith("file.yaml: ")
    assert "\n" not in str(e.value)


def test_a_name_that_the_cluster_has_not_is_refused_before_anything_runs() -> None:
    scenario = parse_scenario("steps: [{kill: member-9}]", source="x")
    with pytest.raises(UsageError, match="member-9"):
        simulate(scenario, 1)


def test_what_the_simulation_cannot_do_is_refused_before_anything_runs() -> None:
    scenario = parse_scenario("steps: [{sleep: 1s}, {failpoint: {target: member-0, point: no.such}}]", source="x")
    with pytest.raises(UsageError, match=r"there is no failpoint 'no\.such'"):
        simulate(scenario, 1)


@pytest.mark.parametrize("where", ["faults: [{kill: pod random, every: 5s}]", "steps: [{stop: pod web-1}]"])
def test_pods_are_not_hit_and_that_is_said_before_anything_runs(where: str) -> None:
    with pytest.raises(UsageError, match="here a pod cannot be hit"):
        simulate(parse_scenario(where, source="x"), 1)


TINY = """
duration: 2s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
steps: [{await: {ready: cluster}}]
"""


@pytest.mark.timeout(600)
def test_a_fault_that_finds_nobody_is_told_in_the_story() -> None:
    quiet = simulate(parse_scenario(TINY, source="x"), 1)
    result = simulate(parse_scenario(TINY + "faults: [{stop: follower, at: 1s}]", source="x"), 1)
    assert result.ok, str(result)
    assert [e.text for e in result.story if e.kind == "in-vain"] == ["stop: follower: there is no follower to hit now"]
    assert result.trace_hash == quiet.trace_hash


@pytest.mark.timeout(600)
def test_what_fails_beside_the_steps_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: Striker, what: Fault) -> None:
        raise ClusterError("it cannot be")

    monkeypatch.setattr(Striker, "attempt", fail)
    result = simulate(parse_scenario(TINY + "faults: [{kill: apiserver, at: 500ms}]", source="x"), 1)
    assert "beside the steps: ClusterError: it cannot be" in str(result.failures)


def test_more_steps_than_can_be_are_refused_before_anything_runs() -> None:
    folded = "[{repeat: 9999, steps: [{repeat: 9999, steps: [{sleep: 0}]}]}]"
    with pytest.raises(UsageError, match="more than 10000 steps"):
        simulate(parse_scenario(f"steps: {folded}", source="x"), 1)


def test_a_missing_file_names_the_built_in_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="failures"):
        load_scenario(tmp_path / "none.yaml")


def test_steps_are_read_with_their_times(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "duration: 1.5m\n"
        "steps:\n"
        "  - kill: leader\n"
        "  - kill: {node: node-1, back: 10m}\n"
        "  - kill: {member: member-0, back: never}\n"
        "  - partition: {hosts: [[member-0], [member-1]], for: 250ms}\n"
        "  - await: {statefulset: db, replicas: 3, within: 5}\n"
    )
    scenario = load_scenario(file)
    assert scenario.duration_s == 90
    assert scenario.steps == (
        Kill(Target("leader")),
        Kill(Target("node", "node-1"), 600.0),
        Kill(Target("member", "member-0"), NEVER_S),
        Partition((("member-0",), ("member-1",)), 0.25),
        Await(Condition("statefulset", "db", 3), 5.0),
    )


def test_the_built_in_scenarios_can_be_read() -> None:
    assert builtin_scenarios() == ["changes", "day", "failures", "healing", "quick", "swarm"]
    for name in builtin_scenarios():
        assert load_scenario(name).steps
