"""Chaos scenarios: what a file may say, and that its steps are taken."""

import asyncio
import random
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import scenario
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.scenario import Runner, parse
from rayplane.control_plane.faults import steps
from rayplane.control_plane.faults.injector import refusal
from rayplane.control_plane.faults.steps import Await, Choose, Condition, Repeat, Sleep
from rayplane.control_plane.faults.vocabulary import Continue, Fault, Kill, Stop, Target
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait

ALL = b"""
name: everything
seed: 7
steps:
  - kill: leader
  - kill: member random
  - signal: STOP apiserver apiserver-1
    for: 0.5
  - stop: {target: node node-1, for: 3s}
  - signal: CONT leader
  - wait: 1.5
  - wait: healthy
    timeout: 9
  - repeat: 2
    steps:
      - choose: [{kill: node}, {kill: scheduler}]
"""


def test_a_file_is_read_into_steps() -> None:
    found = parse(ALL, "f")
    assert found.seed == 7
    assert found.steps == (
        Kill(Target("leader")),
        Kill(Target("member", count=1)),
        Stop(Target("apiserver", "apiserver-1"), 0.5),
        Stop(Target("node", "node-1"), 3.0),
        Continue(Target("leader")),
        Sleep(1.5),
        Await(Condition("cluster"), 9.0),
        Repeat(2, (Choose((Kill(Target("node")), Kill(Target("scheduler")))),)),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f: the file: give a mapping"),
        ("steps: [", "f: not YAML: while parsing"),
        ("steps: !!timestamp x", "f: not YAML"),
        ("steps: " + "[" * 3000, "f: not YAML"),
        ("step: []", "f: the file: no field 'step'; there are"),
        ("{}", "f: steps: give a list"),
        ("steps: []", "f: steps: give at least one step"),
        ("{steps: [{wait: 1}], seed: x}", "f: seed: give a whole number"),
        ("steps: [kill]", "f: steps[0]: give a mapping"),
        (
            "steps: [{kill: leader, wait: 1}]",
            "steps[0]: give one action of await, apply, scale, roll, delete, sleep, wait",
        ),
        ("steps: [{wait: 1}, {kill: everything}]", "steps[1].kill: 'everything'"),
        ("steps: [{kill: member a b}]", "write TARGET, TARGET NAME"),
        ("steps: [{kill: leader, after: 3}]", "steps[0]: no field 'after'; there are kill"),
        ("steps: [{signal: TERM leader}]", "'TERM': write KILL, STOP or CONT"),
        ("steps: [{signal: STOP}]", "steps[0].signal"),
        ("steps: [{signal: KILL leader, for: 3}]", "only STOP ends by itself"),
        ("steps: [{wait: -1}]", "steps[0].wait: '-1' is no time span"),
        ("steps: [{wait: true}]", "steps[0].wait"),
        ("steps: [{wait: 1, timeout: 3}]", "goes with `wait: healthy`"),
        ("steps: [{repeat: 0, steps: [{wait: 1}]}]", "steps[0].repeat: give a whole number from 1"),
        ("steps: [{repeat: 2}]", "steps[0].steps: give a list"),
        ("steps: [{choose: [{wait: x}]}]", "steps[0].choose[0].wait"),
        ("steps:\n- wait: 1\n- repeat: 2\n  steps:\n  - stop: {target: leader, for: soon}", "(line 5)"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(text.encode(), "f")
    assert said in str(raised.value) and str(raised.value).startswith("f: ")


def test_endless_nesting_is_refused() -> None:
    text = "steps: " + "[{repeat: 1, steps: " * 20 + "[{wait: 1}]" + "}]" * 20
    with pytest.raises(UsageError, match="nested deeper"):
        parse(text.encode(), "f")


class FakeActions:
    """A cluster of three members that has no leader the first time it is asked."""

    def __init__(self) -> None:
        self.struck: list[Fault] = []
        self.ended: list[tuple[Fault, tuple[str, ...]]] = []
        self.rng = random.Random(3)
        self.ill = ["member-0", "member-0", ""]
        self.leaderless = 1

    def refusal(self, fault: Fault) -> str:
        return refusal(fault, (Kill, Stop))

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        assert isinstance(fault, Kill | Stop), "all others are refused"
        target = fault.target
        if target.role == "leader" and self.leaderless:
            self.leaderless -= 1
            raise ClusterError("no member leads now")
        if target.name == "nobody":
            raise UsageError("no actor is called 'nobody'")
        self.struck.append(fault)
        return target.choose(["member-2", "member-0", "member-1"], self.rng) if target.count else ("member-1",)

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        self.ended.append((fault, hit))

    async def unhealthy(self) -> str:
        return self.ill.pop(0) if len(self.ill) > 1 else self.ill[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "POLL_S", 0.001)


async def _run(actions: FakeActions, text: str, seed: int = 1) -> list[str]:
    said: list[str] = []
    await Runner(actions, actions.unhealthy, random.Random(seed), said.append).run(parse(text.encode(), "f").steps)
    return said


async def test_steps_are_taken_in_order_and_told() -> None:
    actions = FakeActions()
    said = await _run(actions, "steps: [{kill: leader}, {signal: STOP leader, for: 0.001}, {wait: 0}, {wait: healthy}]")
    stop = Stop(Target("leader"), 0.001)
    assert actions.struck == [Kill(Target("leader")), stop] and actions.ended == [(stop, ("member-1",))]
    assert said[:2] == ["kill: leader -> member-1", "stop: {target: leader, for: 0.001s} -> member-1"]
    assert said[2:4] == [f"over: {said[1]}", "wait 0 s"]
    assert said[4].startswith("healthy after")


async def test_the_same_seed_makes_the_same_choices() -> None:
    text = "steps: [{repeat: 20, steps: [{choose: [{kill: member}, {kill: node}]}]}]"
    runs = []
    for seed in (1, 1, 2):
        actions = FakeActions()
        await _run(actions, text, seed)
        runs.append(actions.struck)
    assert runs[0] == runs[1] != runs[2]
    assert len(set(runs[0])) == 2


async def test_a_stopped_actor_goes_on_even_when_the_run_is_interrupted() -> None:
    actions = FakeActions()
    run = asyncio.create_task(_run(actions, "steps: [{signal: STOP member member-0, for: 1000}]"))
    async with asyncio.timeout(10):
        while not actions.struck:
            await asyncio.sleep(0)
    await cancel_and_wait(run)
    assert actions.struck == [fault for fault, _ in actions.ended] == [Stop(Target("member", "member-0"), 1000.0)]


def test_on_a_busy_machine_a_victim_is_looked_for_until_its_fair_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "slowdown", lambda: 4.0)
    monkeypatch.setattr(scenario, "POLL_S", 15.0)
    actions = FakeActions()
    actions.leaderless = 4
    VirtualLoop().run(_run(actions, "steps: [{kill: leader}]"))
    assert actions.struck == [Kill(Target("leader"))]
    actions.leaderless = 8
    with pytest.raises(ClusterError, match="no member leads"):
        VirtualLoop().run(_run(actions, "steps: [{kill: leader}]"))


async def test_what_can_never_work_ends_the_run() -> None:
    with pytest.raises(UsageError, match="nobody"):
        await _run(FakeActions(), "steps: [{kill: member nobody}]")
    refusing = FakeActions()
    with pytest.raises(UsageError, match=r"heal: \{\}: this place cannot do that"):
        await _run(refusing, "steps: [{kill: node}, {repeat: 2, steps: [{choose: [{heal: {}}]}]}]")
    assert refusing.struck == []
    actions = FakeActions()
    actions.ill = ["node-0 is away"]
    with pytest.raises(ClusterError, match=r"not healthy after 0\.01 s: node-0 is away"):
        await _run(actions, "steps: [{wait: healthy, timeout: 0.01}]")


def documented() -> str:
    """The examples in the documentation as one file."""
    first, second = ((steps.__doc__ or "").split("\n\n")[1], (scenario.__doc__ or "").split("\n\n")[2])
    manifest = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}"
    text = first.replace("{apiVersion: apps/v1, kind: Deployment, ...}", manifest)
    text = text.replace("apply: [...]", f"apply: [{manifest}]").replace("choose: [...]", "choose: [{wait: 1}]")
    return text.replace("steps: [...]", "steps: [{wait: 1}]") + "\n" + second


DOCUMENTED = documented()


def test_the_examples_in_the_documentation_are_right() -> None:
    found = parse(DOCUMENTED.encode(), str(Path("f")))
    assert len(found.steps) == 11 and len(found.faults) == 3 and len(found.expect) == 3 and len(found.workload) == 1
    assert (found.seed, found.duration_s, found.name) == (7, 120.0, "rolled while leaders die")
