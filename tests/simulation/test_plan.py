"""Fault plans: as files, and as what makes a run happen again."""

from dataclasses import replace

import pytest

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.faults.vocabulary import NEVER_S, Cut, Kill, Partition, SlowNetwork, Stop, Target
from rayplane.control_plane.simulation import Plan, Setup, Strike, parse_scenario, read_plan, simulate, write_plan
from rayplane.control_plane.simulation.scenario import Change

PLAN = Plan(
    scenario="quick",
    seed=7,
    strikes=(
        Strike(2, 0.0, Kill(Target(name="member-1"))),
        Strike(4, 1.25, Stop(Target(name="apiserver-0"), 3.5)),
        Strike(4, 1.251, Kill(Target(name="node-host-0"), NEVER_S)),
        Strike(4, 1.5, Partition((("member-0", "lb"),), 2.0)),
        Strike(4, 1.75, Cut(("member-0",), ("member-1",))),
        Strike(5, 2.0, Change("replace", "member-0")),
        Strike(5, 3.0, Change("add", "apiserver")),
        Strike(6, 0.0, SlowNetwork(0.05)),
    ),
)


def test_a_plan_is_read_as_it_was_written() -> None:
    assert read_plan(write_plan(PLAN), source="plan") == PLAN
    empty = replace(PLAN, strikes=())
    assert read_plan(write_plan(empty), source="plan") == empty


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("faults: {}", "faults"),
        ("seed: x", "seed"),
        ("colour: red", "colour"),
        ("faults: [{kill: leader}]", r"faults\[0\].step"),
        ("faults: [{step: 1, after: soon, kill: leader}]", r"faults\[0\].after"),
        ("faults: [{step: 1, after: 1s}]", r"faults\[0\]"),
        ("faults: [{step: 1, sleep: 1s}]", "sleep"),
        ("faults:\n  - {step: 1, kill: leader}\n  - {step: 1, kill: nobody}", "line 3"),
        ("faults: [{step: 1, kill: leader, stop: leader}]", "one action"),
    ],
)
def test_what_is_wrong_in_a_plan_is_told_with_its_place(text: str, names: str) -> None:
    with pytest.raises(UsageError, match=f"(?s)my-plan: .*{names}"):
        read_plan(text, source="my-plan")


STORMY = """
duration: 5s
cluster: {timing: fast, nodes: 1, schedulers: 1, controllers: 1}
client: {write_every: 200ms, ask_every: 300ms}
steps:
  - await: {ready: cluster}
  - kill: leader
  - storm:
      for: 6s
      every: 1s
      of: [{kill: member random}, {kill: supervisor}, {partition: {hosts: [[lb]], for: 1s}}, {replace: apiserver}]
  - await: {ready: actors, members: 3}
"""


@pytest.mark.turn(0, of=2)
@pytest.mark.timeout(600)
def test_a_run_by_its_whole_plan_is_that_run_again() -> None:
    scenario = parse_scenario(STORMY, source="stormy")
    first = simulate(scenario, 5)
    assert first.ok, str(first)
    assert len(first.plan.strikes) > 4
    plan = read_plan(write_plan(first.plan), source="plan")
    assert simulate(scenario, 5, setup=Setup(plan=plan)).trace_hash == first.trace_hash
    fewer = simulate(scenario, 5, setup=Setup(plan=plan.keeping(plan.strikes[:1])))
    assert fewer.plan.strikes == plan.strikes[:1]


REPEATS = """
duration: 15s
cluster: {timing: fast, members: 1, apiservers: 1, nodes: 1, schedulers: 1, controllers: 1}
steps:
  - await: {ready: cluster}
  - repeat: 3
    steps: [{sleep: 1s}, {choose: [{kill: apiserver}, {kill: node}]}]
"""


@pytest.mark.timeout(600)
def test_a_shorter_run_ends_within_a_repetition() -> None:
    scenario = parse_scenario(REPEATS, source="repeats")
    whole = simulate(scenario, 1)
    assert (whole.last_step, len(whole.plan.strikes)) == (6, 3)
    shorter = simulate(scenario, 1, setup=Setup(plan=replace(whole.plan, steps=4)))
    assert shorter.last_step == 3
    assert shorter.plan.strikes == whole.plan.strikes[:1]
    assert shorter.cluster_s < whole.cluster_s


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [1, 2])
def test_who_is_not_there_any_more_is_not_hit(step: int) -> None:
    """As a fault of the step, and beside a step."""
    strikes = (Strike(step, 0.0, Kill(Target(name="member-9"))), Strike(step, 0.0, Kill(Target(name="apiserver-0"))))
    plan = Plan(scenario="repeats", seed=1, strikes=strikes)
    result = simulate(parse_scenario(REPEATS, source="repeats"), 1, setup=Setup(plan=plan))
    assert result.ok, str(result)
    assert [str(strike.what) for strike in result.plan.strikes] == [str(strikes[1].what)]
