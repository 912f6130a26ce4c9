"""Chaos scenarios: what a file may say, and that its steps are taken."""

import asyncio
import random
from pathlib import Path

import pytest

from rayplane.control_plane.cluster import scenario
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.scenario import AwaitHealthy, Choose, Pause, Repeat, Runner, Strike, parse
from rayplane.control_plane.tasks import cancel_and_wait

ALL = b"""
name: everything
seed: 7
steps:
  - kill: leader
  - kill: member random
  - signal: STOP apiserver apiserver-1
    for: 0.5
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
        Strike("KILL", "leader"),
        Strike("KILL", "member", "random"),
        Strike("STOP", "apiserver", "apiserver-1", 0.5),
        Pause(1.5),
        AwaitHealthy(9.0),
        Repeat(2, (Choose((Strike("KILL", "node"), Strike("KILL", "scheduler"))),)),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "f: must be a mapping with `steps`"),
        ("steps: [", "f: while parsing"),
        ("step: []", "f: there is no 'step'; use"),
        ("{}", "f: steps must be a list of steps"),
        ("steps: []", "f: steps must be a list"),
        ("{steps: [{wait: 1}], seed: x}", "f: seed must be a whole number"),
        ("steps: [kill]", r"f: steps[0] must have one of kill, signal, wait, repeat, choose"),
        ("steps: [{kill: leader, wait: 1}]", "steps[0] must have one of"),
        ("steps: [{wait: 1}, {kill: everything}]", "steps[1].kill: 'everything'"),
        ("steps: [{kill: member a b}]", "write TARGET or TARGET NAME"),
        ("steps: [{kill: leader, after: 3}]", "steps[0]: there is no 'after'; use kill"),
        ("steps: [{signal: TERM leader}]", "'TERM' is none of KILL, STOP, CONT"),
        ("steps: [{signal: STOP}]", "steps[0].signal"),
        ("steps: [{signal: KILL leader, for: 3}]", "only STOP ends by itself"),
        ("steps: [{wait: -1}]", "steps[0].wait: -1 must be seconds or `healthy`"),
        ("steps: [{wait: true}]", "steps[0].wait"),
        ("steps: [{wait: 1, timeout: 3}]", "goes with `wait: healthy`"),
        ("steps: [{repeat: 0, steps: [{wait: 1}]}]", "steps[0].repeat must be a number from 1"),
        ("steps: [{repeat: 2}]", "steps[0].steps must be a list"),
        ("steps: [{choose: [{wait: x}]}]", "steps[0].choose[0].wait"),
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
        self.struck: list[tuple[str, str, str]] = []
        self.ill = ["member-0", "member-0", ""]
        self.leaderless = 1

    async def strike(self, target: str, name: str, signal: str) -> str:
        if target == "leader" and self.leaderless:
            self.leaderless -= 1
            raise ClusterError("no member leads now")
        if name == "nobody":
            raise UsageError("no actor is called 'nobody'")
        self.struck.append((signal, target, name))
        return name or "member-1"

    async def names(self, target: str) -> list[str]:
        return ["member-2", "member-0", "member-1"]

    async def unhealthy(self) -> str:
        return self.ill.pop(0) if len(self.ill) > 1 else self.ill[0]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "POLL_S", 0.001)


async def _run(actions: FakeActions, text: str, seed: int = 1) -> list[str]:
    said: list[str] = []
    await Runner(actions, random.Random(seed), said.append).run(parse(text.encode(), "f").steps)
    return said


async def test_steps_are_taken_in_order_and_told() -> None:
    actions = FakeActions()
    said = await _run(actions, "steps: [{kill: leader}, {signal: STOP leader, for: 0.001}, {wait: 0}, {wait: healthy}]")
    assert actions.struck == [("KILL", "leader", ""), ("STOP", "leader", ""), ("CONT", "member", "member-1")]
    assert said[:4] == ["KILL leader: member-1", "STOP leader: member-1", "CONT leader: member-1", "wait 0 s"]
    assert said[4].startswith("healthy after")


async def test_the_same_seed_makes_the_same_choices() -> None:
    text = "steps: [{repeat: 20, steps: [{choose: [{kill: member random}, {kill: node}]}]}]"
    runs = []
    for seed in (1, 1, 2):
        actions = FakeActions()
        await _run(actions, text, seed)
        runs.append(actions.struck)
    assert runs[0] == runs[1] != runs[2]
    assert len({name for _, _, name in runs[0]}) == 4


async def test_a_stopped_actor_goes_on_even_when_the_run_is_interrupted() -> None:
    actions = FakeActions()
    run = asyncio.create_task(_run(actions, "steps: [{signal: STOP member member-0, for: 1000}]"))
    async with asyncio.timeout(10):
        while not actions.struck:
            await asyncio.sleep(0)
    await cancel_and_wait(run)
    assert actions.struck == [("STOP", "member", "member-0"), ("CONT", "member", "member-0")]


async def test_what_can_never_work_ends_the_run() -> None:
    with pytest.raises(UsageError, match="nobody"):
        await _run(FakeActions(), "steps: [{kill: member nobody}]")
    actions = FakeActions()
    actions.ill = ["node-0 is away"]
    with pytest.raises(ClusterError, match=r"not healthy after 0\.01 s: node-0 is away"):
        await _run(actions, "steps: [{wait: healthy, timeout: 0.01}]")


def test_the_example_in_the_documentation_is_right() -> None:
    documented = (scenario.__doc__ or "").split("\n\n")[1]
    text = documented.replace("steps: [...]", "steps: [{wait: 1}]").replace("choose: [...]", "choose: [{wait: 1}]")
    assert len(parse(text.encode(), str(Path("f"))).steps) == 7
