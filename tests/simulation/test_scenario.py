"""Scenario files: what is wrong with one is said in one line that names the place."""

from pathlib import Path

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.faults.vocabulary import NEVER_S, Kill, Partition, Target
from rayplane.control_plane.simulation import builtin_scenarios, load_scenario, parse_scenario, simulate
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
    assert builtin_scenarios() == ["changes", "failures", "healing", "quick", "swarm"]
    for name in builtin_scenarios():
        assert load_scenario(name).steps
