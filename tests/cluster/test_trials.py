"""Trials in the supervisor: one at a time whatever became of the one before, read with care, ended with it."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, create_autospec

import pytest

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.cluster.state import MADE, StateDir
from rayplane.control_plane.cluster.supervisor import trials as supervised
from rayplane.control_plane.cluster.supervisor.faults import FaultsService
from rayplane.control_plane.cluster.supervisor.notes import FAULTS_KEY, Notes
from rayplane.control_plane.cluster.supervisor.standing import StandingFaults
from rayplane.control_plane.cluster.supervisor.trials import AnotherTrial, Ended, GivenUp, NoSuchTrial, Trials
from rayplane.control_plane.cluster.trial import trial
from rayplane.control_plane.cluster.trial.workload import Caller, Made, Workload, rows_of
from rayplane.control_plane.identities import API_SERVERS
from rayplane.control_plane.rpc import Context, Identity
from rayplane.proto.rayplane.v1 import chaos_pb2 as pb
from rayplane.storage.env import SystemClock
from tests.cluster.test_standing_faults import Keys

SLEEP = "steps: [{sleep: 1s}]"
UNKNOWN = SLEEP + "\nworkload: [{apiVersion: v1, kind: Nothing, metadata: {name: a}}]"
BOMB = """\
a: &a [x, x, x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]
e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d, *d]
steps: *e
"""


class EndlessTrial:
    """A trial that goes on until it is ended, and then cleans up for as long as it is told to."""

    healed = True
    cleaning: asyncio.Event

    def __init__(self, admin: Any, scenario: Any, seed: int, say: Any, **_: Any) -> None:
        if scenario.workload:
            raise UsageError("there is no such kind")
        self._say = say

    async def run(self) -> None:
        type(self).healed = False
        self._say("it begins")
        try:
            await asyncio.Event().wait()
        finally:
            await trial.to_its_end(self.cleaning.wait())
            type(self).healed = True


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trials:
    monkeypatch.setattr(trial, "Trial", EndlessTrial)
    EndlessTrial.cleaning = asyncio.Event()
    EndlessTrial.cleaning.set()
    admin: Any = SimpleNamespace(directory=StateDir(tmp_path), api=None)
    return Trials(admin, create_autospec(StandingFaults, instance=True))


async def begin(trials: Trials, scenario: str = SLEEP, **more: Any) -> Any:
    told = trials.run(pb.TrialRequest(scenario=scenario, **more))
    assert (await anext(told)).event == "it begins"
    return told


async def test_a_trial_that_cannot_be_made_does_not_hinder_the_next(trials: Trials) -> None:
    with pytest.raises(UsageError, match="no such kind"):
        await begin(trials, UNKNOWN)
    told = await begin(trials)
    with pytest.raises(AnotherTrial):
        await begin(trials)
    await told.aclose()
    await (await begin(trials)).aclose()


async def test_whoever_is_cancelled_twice_does_not_hinder_the_next(trials: Trials) -> None:
    EndlessTrial.cleaning.clear()
    begun = asyncio.Event()

    async def call() -> None:
        async for _ in trials.run(pb.TrialRequest(scenario=SLEEP)):
            begun.set()

    calling = asyncio.create_task(call())
    await begun.wait()
    for _ in range(2):
        calling.cancel()
        await asyncio.sleep(0)
    EndlessTrial.cleaning.set()
    await asyncio.wait([calling])
    assert EndlessTrial.healed
    await (await begin(trials)).aclose()


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        (BOMB, "excessive aliasing"),
        (SLEEP + "\nname: " + "[" * 200 + "]" * 200, "exceeded max depth"),
        (SLEEP + "#" * (1 << 20), "at most 262144 characters"),
        ("steps: 0x" + "f" * 10_000, "unsupported value"),
        ("steps: {}", r"steps: give a list, not \{\}"),
    ],
)
async def test_a_scenario_that_would_be_too_much_is_refused(trials: Trials, scenario: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        await begin(trials, scenario)


async def test_a_scenario_that_makes_more_than_can_be_noted_is_refused(trials: Trials) -> None:
    manifest = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"
    made = f"steps: [{{repeat: 2, steps: [{{apply: [{', '.join([manifest] * supervised.MADE_MAX)}]}}]}}]"
    await (await begin(trials, made)).aclose()
    more = f"{made}\nworkload: [{manifest}]"
    with pytest.raises(UsageError, match="has 201 objects to make: inside, a trial makes at most 200"):
        await begin(trials, more)


async def test_a_trial_ends_healed_before_its_supervisor_does(trials: Trials) -> None:
    told = await begin(trials)
    await trials.stop()
    assert EndlessTrial.healed
    with pytest.raises(Ended):
        await anext(told)
    with pytest.raises(Ended):
        await begin(trials)


async def test_a_trial_with_an_id_goes_on_for_who_was_cut_off_and_for_nobody_else(trials: Trials) -> None:
    mine: dict[str, Any] = {"id": "a", "by": "jane"}
    told = await begin(trials, **mine)
    await told.aclose()
    assert not EndlessTrial.healed
    for other in ({"id": "a", "by": "joe"}, {"id": "b", "by": "jane"}):
        with pytest.raises(AnotherTrial):
            await begin(trials, **other)
        with pytest.raises(NoSuchTrial):
            await begin(trials, after=1, **other)
    told = await begin(trials, **mine)
    again = trials.run(pb.TrialRequest(after=1, **mine))
    assert (await anext(again)) == pb.TrialResponse(number=1), "it is heard, though nothing happens"
    trials._going.say("something happens")  # type: ignore[union-attr]
    assert [(await anext(one)).event for one in (told, again)] == ["something happens"] * 2
    _ = [one async for one in trials.run(pb.TrialRequest(end=True, **mine))]
    assert EndlessTrial.healed
    for one in (told, again):
        # Whose supervisor lives: nobody asks another one for it.
        with pytest.raises(GivenUp, match="ended by its caller"):
            await anext(one)


async def test_lines_that_nobody_took_in_time_are_counted(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "LINES_MAX", 2)
    told = await begin(trials, id="a")
    for number in range(2, 6):
        trials._going.say(str(number))  # type: ignore[union-attr]
    assert [(one.event, one.number) for one in (await anext(told), await anext(told))] == [("4", 4), ("5", 5)]
    await told.aclose()
    again = trials.run(pb.TrialRequest(id="a", after=5))
    trials._going.say("6")  # type: ignore[union-attr]
    assert [(one.event, one.number) for one in (await anext(again), await anext(again))] == [("", 5), ("6", 6)]
    await again.aclose()
    await trials.stop()


async def test_a_trial_that_nobody_comes_for_ends(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "ATTACH_S", 0.0)
    EndlessTrial.cleaning.clear()
    await (await begin(trials, id="a")).aclose()
    while not trials._going.task.cancelling():  # type: ignore[union-attr]
        await asyncio.sleep(0.001)
    late = trials.run(pb.TrialRequest(id="a", after=1))
    assert (await anext(late)).number == 1
    EndlessTrial.cleaning.set()
    with pytest.raises(GivenUp, match="nobody heard it"):
        await anext(late)
    assert EndlessTrial.healed
    with pytest.raises(NoSuchTrial):
        await begin(trials, id="b", after=1)


@pytest.mark.parametrize("said", [{"groups": ["a,b"]}, {"groups": ["\u00e4"]}, {"uid": "a\nb"}])
async def test_whom_nobody_can_act_as_has_no_trial(trials: Trials, said: Any) -> None:
    with pytest.raises(UsageError, match="nobody can act as"):
        await begin(trials, by="jane", **said)


async def test_what_nobody_may_delete_is_tried_once_by_a_supervisor(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateDir(tmp_path).create()
    (tmp_path / MADE).write_text(json.dumps(rows_of([Made("configmaps", "default", "a", "mark", "7")])))
    looks: list[str] = []
    made: list[float] = []

    class Api:
        async def list(self, *_: Any, **__: Any) -> Any:
            return SimpleNamespace(items=[])

        async def get(self, _: str, name: str, __: str) -> Any:
            looks.append(name)
            return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "default", "uid": "7"}}

        async def delete(self, *_: Any, **__: Any) -> Any:
            raise Forbidden("jane cannot delete", details={})

    async def delete_orphans(*_: Any) -> frozenset[str]:
        return frozenset()

    monkeypatch.setattr(supervised, "HEAL_AGAIN_S", 0.0)
    monkeypatch.setattr(trial, "delete_orphans", delete_orphans)
    monkeypatch.setattr(trial, "LiveInjector", lambda *_, patience_s: made.append(patience_s))
    trials._admin = SimpleNamespace(directory=StateDir(tmp_path), api=Api(), etcd=None)  # type: ignore[assignment]
    await trials._heal()
    assert looks == ["a"] and (tmp_path / MADE).exists()
    assert {*made} == {0}, "it comes again by itself"


async def test_what_a_trial_makes_a_supervisor_on_another_machine_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd, places = Keys(), [StateDir(tmp_path / name) for name in ("here", "there")]

    def supervisor(directory: StateDir) -> tuple[StandingFaults, Trials]:
        directory.create()
        faults = StandingFaults(Mock(), Notes(None, etcd), SystemClock(), random.Random(1))
        return faults, Trials(SimpleNamespace(directory=directory, api=None), faults)  # type: ignore[arg-type]

    first, _ = supervisor(places[0])
    first.start()
    workload = Workload(places[0], Caller("jane"), first.note_made)
    marked = workload.marked("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
    await workload.noted()
    await first.stop()
    monkeypatch.setattr(supervised, "HEAL_AGAIN_S", 1e6)
    second, trials = supervisor(places[1])
    second.start()
    while not (places[1].path / MADE).exists():
        await asyncio.sleep(0.001)
    [found] = Workload(places[1]).read()
    assert found.is_it(marked) and found.caller == Caller("jane") and trials._healing is not None
    (places[1].path / MADE).unlink()
    await trials._note_left()
    await second.stop()
    await trials.stop()
    assert b"configmaps" not in etcd.values[FAULTS_KEY]


async def test_an_api_server_says_who_asks(trials: Trials) -> None:
    service: Any = FaultsService(None, trials, lambda: None)  # type: ignore[arg-type, return-value]
    context = Context({}, Identity("apiserver-0", (API_SERVERS,)), "", "")

    async def ask(by: str) -> str:
        told: AsyncIterator[pb.TrialResponse] = service.Run(pb.TrialRequest(scenario=SLEEP, by=by), context)
        found = (await anext(told)).event
        await told.aclose()  # type: ignore[attr-defined]
        return found

    assert await ask("jane") == "it begins"
    with pytest.raises(UsageError, match="who asks"):
        await ask("")
