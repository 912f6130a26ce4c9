"""Trials: what is broken is written down first and healed whatever happens, and the verdict tells what held."""

import asyncio
import json
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.api.errors import ApiError, NotFound, ServiceUnavailable
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.control_plane.cluster.hands import ApiHands
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.cluster.trial import report
from rayplane.control_plane.cluster.trial.journal import Broken, Journal, alone, turn
from rayplane.control_plane.cluster.trial.probes import AppUser
from rayplane.control_plane.cluster.trial.trial import TrialInjector, to_its_end
from rayplane.control_plane.cluster.trial.verdict import Health, Struck, Track, Verdict, failed_expectation, table
from rayplane.control_plane.faults.steps import Recovered, Served
from rayplane.control_plane.faults.vocabulary import (
    Continue,
    Fault,
    Heal,
    Kill,
    LoseMachine,
    Partition,
    SlowNetwork,
    Stop,
    Target,
)
from rayplane.control_plane.invariants import History
from rayplane.control_plane.tasks import cancel_and_wait

STOPPED = Stop(Target("member", "member-1"), 3.0)


class Live:
    """A live cluster whose actors stand still or not."""

    def __init__(self) -> None:
        self.still: set[str] = set()
        self.done: list[Fault] = []
        self.noted: list[Fault] = []
        """What another supervisor would end."""
        self.dies = False
        """It does what it is told, and does not answer."""
        self.deaf = False

    def refusal(self, fault: Fault) -> str:
        return ""

    async def begin(self, fault: Fault) -> tuple[str, ...]:
        raise AssertionError("who heals begins nothing")

    async def chosen(self, fault: Fault) -> tuple[str, ...]:
        return (fault.target.name,) if isinstance(fault, Kill | Stop | Continue) else ()

    async def breaks(self, fault: Fault, hit: tuple[str, ...]) -> None:
        self.noted.append(fault)

    async def healed(self, fault: Fault, hit: tuple[str, ...]) -> None:
        self.noted.remove(fault)

    async def inflict(self, fault: Fault, names: tuple[str, ...]) -> list[tuple[str, int]]:
        self.done.append(fault)
        if isinstance(fault, Stop):
            self.still |= {*names}
        if self.dies:
            raise ClusterError("no answer")
        if isinstance(fault, Continue):
            self.still -= {*names}
        return [(name, 7) for name in names]

    async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
        if self.deaf:
            raise ClusterError("no answer")
        self.still -= {*hit}


def injector(live: Live, home: Path, at_s: float = 5.0) -> TrialInjector:
    any_live: Any = live
    volumes: Any = SimpleNamespace(watch=lambda held: None)
    return TrialInjector(any_live, Journal(StateDir(home)), lambda: at_s, volumes)


async def test_whoever_comes_after_a_killed_trial_heals_what_it_broke(tmp_path: Path) -> None:
    live = Live()
    await injector(live, tmp_path).begin(STOPPED)
    assert live.still == {"member-1"}
    # Nothing of that trial lives on but its file.
    journal = Journal(StateDir(tmp_path))
    assert journal.read() == [Broken(STOPPED, ("member-1",))]
    assert await journal.heal(live) == [] and live.still == set()
    assert journal.read() == []


async def test_what_is_over_is_broken_no_more(tmp_path: Path) -> None:
    live, journal = Live(), Journal(StateDir(tmp_path))
    trial = injector(live, tmp_path)
    await trial.end(STOPPED, await trial.begin(STOPPED))
    await trial.begin(Stop(Target(name="member-2")))
    await trial.begin(Partition((("member-0",),)))
    await trial.begin(Kill(Target(name="member-0")))
    left = [Stop(Target(name="member-2")), Partition((("member-0",),))]
    assert [one.fault for one in journal.read()] == left == live.noted
    await trial.begin(Continue(Target(name="member-2")))
    await trial.begin(Heal())
    assert journal.read() == [] == live.noted and all(one.ended_s == 5.0 for one in trial.struck)
    await trial.begin(STOPPED)
    assert await trial.heal() == [] and journal.read() == [] == live.noted


async def test_a_lost_machine_is_to_be_made_up_for_while_it_is_away(tmp_path: Path) -> None:
    live, journal, now = Live(), Journal(StateDir(tmp_path)), [5.0]
    any_live: Any = live
    volumes: Any = SimpleNamespace(watch=lambda held: None)
    trial = TrialInjector(any_live, journal, lambda: now[0], volumes)
    lost = LoseMachine(Target("node", count=1))
    await trial.begin(lost)
    assert [one.fault for one in journal.read()] == [lost], "whoever comes next brings it back"
    now[0] = 60.0
    assert await trial.heal() == [] and journal.read() == []
    health = Health()
    for at_s, wrong in ((0.0, ""), (7.0, "member-2"), (20.0, "")):
        health.add(at_s, wrong)
    health.judge(trial.struck, 60.0)
    assert (trial.struck[0].detected_s, trial.struck[0].recovered_s) == (2.0, 15.0)


async def test_what_is_written_down_first_is_none_of_a_faults_time(tmp_path: Path) -> None:
    class Slow(Live):
        now_s = 5.0

        async def breaks(self, fault: Fault, hit: tuple[str, ...]) -> None:
            self.now_s += 3.0

        async def healed(self, fault: Fault, hit: tuple[str, ...]) -> None:
            self.now_s += 3.0

    live = Slow()
    any_live: Any = live
    volumes: Any = SimpleNamespace(watch=lambda held: None)
    trial = TrialInjector(any_live, Journal(StateDir(tmp_path)), lambda: live.now_s, volumes)
    await trial.end(STOPPED, await trial.begin(STOPPED))
    assert [(one.began_s, one.ended_s) for one in trial.struck] == [(8.0, 8.0)]


async def test_a_fault_without_an_answer_is_ended_or_stays_written_down(tmp_path: Path) -> None:
    live, journal = Live(), Journal(StateDir(tmp_path))
    live.dies = live.deaf = True
    trial = injector(live, tmp_path)
    for _ in range(2):
        with pytest.raises(ClusterError):
            await trial.begin(STOPPED)
    assert live.still == {"member-1"} and journal.read() == [Broken(STOPPED, ("member-1",))]
    live.deaf = False
    with pytest.raises(ClusterError):
        await trial.begin(STOPPED)
    assert live.still == set() and journal.read() == [] and trial.struck == []


async def test_what_an_earlier_trial_left_stays_written_down(tmp_path: Path) -> None:
    await injector(Live(), tmp_path).begin(STOPPED)
    later, other = injector(Live(), tmp_path), Stop(Target(name="member-2"))
    await later.end(other, await later.begin(other))
    assert Journal(StateDir(tmp_path)).read() == [Broken(STOPPED, ("member-1",))]


async def test_a_network_that_is_whole_again_lets_nobody_go_on(tmp_path: Path) -> None:
    trial = injector(Live(), tmp_path)
    await trial.begin(STOPPED)
    await trial.begin(SlowNetwork(0.1))
    await trial.begin(Heal())
    await trial.begin(SlowNetwork(0.0))
    assert Journal(StateDir(tmp_path)).read() == [Broken(STOPPED, ("member-1",))]


def test_one_trial_at_a_time(tmp_path: Path) -> None:
    with alone(StateDir(tmp_path)), pytest.raises(ClusterError, match="wait for it"), alone(StateDir(tmp_path)):
        pass
    with alone(StateDir(tmp_path)):
        pass


async def test_a_trial_waits_so_long_for_who_heals_and_no_longer(tmp_path: Path) -> None:
    live, directory = Live(), StateDir(tmp_path)
    with alone(directory), pytest.raises(ClusterError, match="wait for it"):
        async with turn(directory, 0.0, whole=True):
            pass
    await injector(live, tmp_path).begin(STOPPED)
    with pytest.raises(ClusterError, match="chaos heal"):
        async with turn(directory, 0.0, whole=True):
            pass
    begun = asyncio.Event()

    async def trial() -> None:
        async with turn(directory, 60.0, whole=True):
            begun.set()
            with pytest.raises(ClusterError), alone(directory):
                pass

    with alone(directory):
        waiting = asyncio.create_task(trial())
        await Journal(directory).heal(live)
        assert not begun.is_set()
    await waiting
    assert begun.is_set()


async def test_healing_is_done_however_often_it_is_cancelled() -> None:
    go, done = asyncio.Event(), []

    async def healing() -> None:
        await go.wait()
        done.append(1)

    task = asyncio.create_task(to_its_end(healing()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [1]


async def test_a_delete_whose_answer_was_lost_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayplane.control_plane.cluster.hands.AGAIN_S", 0.0)

    class Api:
        """A server that loses the first answer."""

        def __init__(self, *answers: ApiError) -> None:
            self.answers = [*answers]

        async def delete(self, *_: str) -> None:
            raise self.answers.pop(0)

    lost: Any = Api(ServiceUnavailable("lost"), NotFound("gone"))
    await ApiHands(lost, History()).delete("pods", "a", "default")
    never: Any = Api(NotFound("never there"))
    with pytest.raises(ClusterError, match="never there"):
        await ApiHands(never, History()).delete("pods", "a", "default")


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1]", '[{"fault": {"no": 1}, "hit": []}]', '[{"fault": {"stop": 1}, "hit": 1}]']
)
def test_a_damaged_journal_is_told(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text(text)
    if text == "{}":
        assert Journal(StateDir(tmp_path)).read() == []
        return
    with pytest.raises(ClusterError, match="is damaged"):
        Journal(StateDir(tmp_path)).read()


def track(*answers: tuple[float, float], failed: int = 0, end_s: float = 10.0) -> Track:
    found = Track("reads")
    found.begin(0.0)
    for called_s, at_s in answers:
        found.answered(called_s, at_s)
    for _ in range(failed):
        found.refused()
    found.end(end_s)
    return found


def test_a_gap_counts_from_answer_to_answer() -> None:
    found = track((0.1, 0.2), (0.3, 4.2), *((n / 2, n / 2) for n in range(9, 21)), failed=3)
    assert found.gaps == [(0.2, 4.2)] and found.longest_s == 4.0
    assert found.percent == pytest.approx(60.0) and (found.asked, found.failed) == (17, 3)
    assert found.within(0.5) == 0.005 and found.within(1.0) == pytest.approx(3.9)
    assert track((0.1, 0.2), end_s=5.0).gaps == [(0.2, 5.0)], "the end counts"


def test_a_gap_is_put_down_to_the_fault_before_its_end() -> None:
    first, second = Struck("kill: leader", ("a",), 1.0), Struck("kill: apiserver", ("b",), 5.0)
    clients = [Track("writes"), Track("writes")]
    for client in clients:
        client.begin(0.0)
        client.answered(0.5, 0.9)
    for fault, answers in ((first, (1.4, 3.9)), (second, (5.0, 5.1))):
        for client, at_s in zip(clients, answers, strict=True):
            client.strike(fault)
            client.answered(at_s, at_s)
            client.answered(4.9, 4.9 if fault is first else 5.2)
    assert first.gaps_s == {"writes": pytest.approx(3.5)}, "of the client that waited longest, in both"
    assert second.gaps_s == {"writes": pytest.approx(0.2)}


def serving(name: str, node: str) -> dict[str, Any]:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    metadata = {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": ready}


async def test_pods_are_elsewhere_when_as_many_as_before_serve_beside_those_of_the_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rayplane.control_plane.cluster.trial.probes.EVERY_S", 0.0)
    history, now_s = History(), 10.0
    nodes = [{"metadata": {"name": n}, "status": serving("", "")["status"]} for n in ("n1", "n2")]
    pods = [serving("a", "n1"), serving("b", "n2")]
    history.begin(0.0, 1, [*(("nodes", node) for node in nodes), *(("pods", pod) for pod in pods)])
    deployment = {"metadata": {"namespace": "default"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}}
    user = AppUser(history, [("deployments.apps", deployment)], lambda: now_s)
    unhit, struck = Struck("stop", ("host-3",), 10.0), Struck("stop", ("host-1",), 10.0)
    running = asyncio.create_task(user.run())
    try:
        user.strike(unhit, {"n3"})
        user.strike(struck, {"n1"})
        for _ in range(5):
            await asyncio.sleep(0)
        assert struck.elsewhere_s is None, "what serves on the node itself does not count"
        now_s = 22.5
        history.take(now_s, "pods", serving("c", "n2"), 2)
        async with asyncio.timeout(30):
            while struck.elsewhere_s is None:
                await asyncio.sleep(0)
        assert struck.elsewhere_s == 12.5 and unhit.elsewhere_s is None
    finally:
        await cancel_and_wait(running)


def test_a_fault_is_detected_when_the_cluster_says_so_and_over_when_all_is_well() -> None:
    health = Health()
    for at_s, wrong in [(0.0, ""), (1.0, "member-0"), (1.5, "member-0"), (4.0, ""), (30.0, "node-0")]:
        health.add(at_s, wrong)
    unnoticed, seen, lasting = (
        Struck("kill", ("a",), 10.0, 10.0),
        Struck("kill", ("b",), 0.5, 0.5),
        Struck("stop", (), 29.0),
    )
    health.judge([unnoticed, seen, lasting], 40.0)
    assert (unnoticed.detected_s, unnoticed.recovered_s) == (None, 0.0)
    assert (seen.detected_s, seen.recovered_s) == (0.5, 3.5)
    assert (lasting.detected_s, lasting.recovered_s) == (1.0, None)


def test_what_goes_wrong_is_put_down_to_the_fault_that_began_last() -> None:
    health = Health()
    for at_s, wrong in [(0.0, ""), (8.5, "member-0"), (9.0, "")]:
        health.add(at_s, wrong)
    unnoticed, seen = Struck("kill", ("a",), 4.0, 4.0), Struck("kill", ("b",), 8.0, 8.0)
    health.judge([unnoticed, seen], 20.0)
    assert (unnoticed.detected_s, unnoticed.recovered_s) == (None, 0.0)
    assert (seen.detected_s, seen.recovered_s) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (Served(what="reads", percent=59.0), ""),
        (Served(what="reads", percent=70.0), "there for 60.00 %"),
        (Served(what="reads", gap_s=3.0), "away for 4.0 s"),
        (Served(what="app"), "nobody has measured"),
        (Recovered(5.0), ""),
        (Recovered(3.0), "it took 4.0 s after kill"),
    ],
)
def test_what_is_expected_of_clients_and_faults(expected: Any, said: str) -> None:
    reads = track((0.1, 0.2), (0.3, 4.2), *((n / 2, n / 2) for n in range(9, 21)))
    struck = [Struck("kill", ("a",), 1.0, 1.0, 0.5, 4.0)]
    wrong = failed_expectation(expected, [reads], struck)
    assert said in wrong and bool(said) == bool(wrong)
    struck[0].recovered_s = None
    assert isinstance(expected, Served) or "not after kill" in failed_expectation(expected, [], struck)


def test_what_never_answered_is_never_there() -> None:
    away, unborn = track(failed=3, end_s=9.0), Track("app")
    unborn.end(9.0)
    assert away.never and away.longest_s == 9.0 and unborn.never and unborn.longest_s == 0.0
    shown = table(Verdict(scenario="s", seed=1, cluster="c", tracks=[away, unborn]))
    assert [line.split() for line in shown if "never there" in line] == [
        ["reads", "never", "there", "3", "of", "3"],
        ["app", "never", "there", "0", "of", "0"],
    ]
    assert failed_expectation(Served(what="app"), [unborn], []) == "never there"


def test_what_struck_nobody_shows_nothing() -> None:
    assert failed_expectation(Recovered(5.0), [], []) == "no fault has hit anybody"
    vain = Verdict(scenario="s", seed=1, cluster="c", in_vain=["kill: leader: nobody leads"])
    assert not vain.ok and vain.to_json()["errors"] == ["no fault has hit anybody"]
    vain.faults = [Struck("kill", ("a",), 1.0, 1.0, None, 0.0)]
    [line] = [line for line in table(vain) if line.startswith("kill -> a")]
    assert vain.ok and line.split()[-5:] == ["never", "-", "-", "-", "-"]
    assert Health().spans(5.0) == []


def verdict(**more: Any) -> Verdict:
    return Verdict(
        scenario="<b>&",
        seed=7,
        cluster="c",
        seconds=9.0,
        invariants={"held": [], "broken": ["2.0 s: it <did> not"]},
        faults=[Struck("kill: leader", ("member-0",), 1.0, 1.0, 0.5, 2.0), Struck("stop: node-0", (), 2.0)],
        tracks=[track((0.1, 0.2))],
        expected=[("reads", ""), ("writes", "they & were not")],
        events=[(1.0, "a\x00b")],
        **more,
    )


def test_every_form_of_a_verdict_tells_what_was_wrong(tmp_path: Path) -> None:
    files = {report.JSON: tmp_path / "v.json", report.JUNIT: tmp_path / "v.xml", report.HTML: tmp_path / "v.html"}
    report.write(verdict(errors=["step 3"]), files)
    told = json.loads(files[report.JSON].read_text())
    assert told["verdict"] == "failed" and told["invariants"]["broken"] and told["faults"][1]["ended_s"] is None
    suite = ET.fromstring(files[report.JUNIT].read_text())
    assert (suite.get("tests"), suite.get("failures")) == ("5", "3")
    page = files[report.HTML].read_text()
    assert "it &lt;did&gt; not" in page and "<b>&</b>" not in page
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert {"svg", "rect", "table"} <= set(tags) and not {"script", "link", "img"} & set(tags), "it needs nothing else"
    shown = "\n".join(table(verdict(errors=["step 3"])))
    assert "not seen here" in "\n".join(table(verdict(unseen=["held"])))
    assert "no: 2.0 s: it <did> not" in shown and "FAILED: 1 of 2 invariants held, seed 7" in shown


def test_a_verdict_is_ok_when_nothing_was_wrong() -> None:
    good = Verdict(scenario="s", seed=1, cluster="c", invariants={"held": []}, expected=[("reads", "")])
    assert good.ok and good.to_json()["verdict"] == "ok"
    for wrong in ({"errors": ["e"]}, {"expected": [("reads", "no")]}, {"invariants": {"held": ["t"]}}):
        assert not Verdict(scenario="s", seed=1, cluster="c", **wrong).ok


def test_checks_of_users_are_loaded_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "checks.py"
    file.write_text("def always(history):\n    return ['wrong']\n\nINVARIANTS = [always]\n")
    assert [name for name, _ in report.checks_in(file)] == ["always"]
    for text in ("INVARIANTS = 1", "1 / 0", "def"):
        file.write_text(text)
        with pytest.raises(UsageError, match=r"checks\.py"):
            report.checks_in(file)
    with pytest.raises(UsageError, match="cannot be loaded"):
        report.checks_in(tmp_path / "none.py")


def test_a_verdict_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="cannot write"):
        report.write(verdict(), {report.JSON: tmp_path / "no" / "v.json"})


async def test_what_cannot_be_healed_is_told_and_stays_written_down(tmp_path: Path) -> None:
    class Deaf(Live):
        """A cluster that does not answer."""

        tries = 0

        async def end(self, fault: Fault, hit: tuple[str, ...]) -> None:
            self.tries += 1
            raise ClusterError("it does not answer")

    await injector(Live(), tmp_path).begin(STOPPED)
    deaf = Deaf()
    for _ in range(2):
        [why] = await Journal(StateDir(tmp_path)).heal(deaf)
        assert why.endswith("-> member-1: it does not answer")
    assert deaf.tries == 2, "it is the injector that has patience"
