"""Plug-ins in Python: what each extension point does to pods, and that a plug-in that fails harms its pod alone."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ServiceUnavailable
from rayplane.control_plane.scheduler import Cycle, Failure, SchedulerConfig, extensions, installed
from rayplane.control_plane.scheduler.configuration import read_configuration
from rayplane.control_plane.scheduler.framework import Node, PodPlugin, State, Unresolvable
from rayplane.control_plane.scheduler.queue import Place
from tests.fakes import FakeClient
from tests.scheduler.build import World, claim, info, node, pod, storage_class
from tests.scheduler.harness import is_binding, node_of, quiet, until
from tests.scheduler.plugged import FILE, Made


class OnlyLabelled(PodPlugin):
    """Nodes that bear the label of the profile's arguments; the one with the smallest number is the best."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.label = args["label"]

    def filter(self, state: State, pod: Any, node: Node) -> str | None:
        if self.label in node.object["metadata"]["labels"]:
            return None
        return Unresolvable(f"node(s) had no label {self.label}")

    def pre_score(self, state: State, pod: Any, nodes: tuple[Node, ...]) -> None:
        state["asked"] = {one.name for one in nodes}

    def score(self, state: State, pod: Any, node: Node) -> int:
        assert node.name in state["asked"]
        return int(node.object["metadata"]["labels"][self.label])

    def normalize(self, state: State, pod: Any, scores: Mapping[str, int]) -> Mapping[str, int]:
        return {name: 100 - score for name, score in scores.items()}


async def test_filter_and_score(api: FakeClient, start: Made) -> None:
    scheduler = await start(OnlyLabelled)
    api.put("nodes", node("n1", labels={"gold": "9"}))
    api.put("nodes", node("n2", labels={"gold": "5"}))
    api.put("nodes", node("n3"))
    api.put("pods", pod("p"))
    await until(lambda: node_of(api, "p") == "n2")
    api.put("pods", pod("q", scheduler="plain", nodeSelector={"kubernetes.io/hostname": "n3"}))
    await until(lambda: node_of(api, "q") == "n3")
    api.put("pods", pod("r", nodeSelector={"kubernetes.io/hostname": "n3"}))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 1)
    text = "1 node(s) had no label gold, 2 node(s) didn't match Pod's node affinity/selector."
    await until(lambda: any(text in said for said in api.events("FailedScheduling")))
    api.put("nodes", node("n3", labels={"gold": "1"}))
    await until(lambda: node_of(api, "r") == "n3")


FAILING = ["pre_filter", "filter", "score", "reserve", "permit", "pre_bind", "bind"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("boom"), "boom"),
        (SystemExit("boom"), "SystemExit: boom"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
@pytest.mark.parametrize("method", FAILING)
async def test_a_plugin_that_fails_is_an_error_of_its_pod(
    api: FakeClient, start: Made, method: str, error: BaseException, told: str
) -> None:
    def fail(self: Any, *args: Any) -> Any:
        pods = [one for one in args if isinstance(one, dict) and "spec" in one]
        if meta.name(pods[0]) == "bad":
            raise error
        return 0 if method == "score" else None

    scheduler = await start(type("Mine", (PodPlugin,), {method: fail}))
    api.put("nodes", node("n1"))
    api.put("pods", pod("bad"))
    api.put("pods", pod("good"))
    await until(lambda: node_of(api, "good"))
    await until(lambda: api.events("FailedScheduling"))
    assert api.events("FailedScheduling")[0].endswith(f' plugin "Mine": {told}')
    await until(lambda: meta.get_condition(api.objects["pods"]["default/bad"], "PodScheduled"))
    condition = meta.get_condition(api.objects["pods"]["default/bad"], "PodScheduled")
    assert condition is not None and condition["reason"] == "SchedulerError"
    assert not node_of(api, "bad") and scheduler.is_leader


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_what_a_plugin_raises_later_ends_nothing_but_the_try_of_its_pod(
    api: FakeClient, start: Made, error: BaseException
) -> None:
    class Mine(PodPlugin):
        async def permit(self, state: State, pod: Any, node: str) -> str | None:
            await asyncio.sleep(0)
            if meta.name(pod) == "bad":
                raise error
            return None

    scheduler = await start(Mine)
    api.put("nodes", node("n1"))
    api.put("pods", pod("bad"))
    await until(lambda: api.events("FailedScheduling"))
    assert 'running Permit plugin "Mine": ' + type(error).__name__ in api.events("FailedScheduling")[0]
    api.put("pods", pod("good"))
    await until(lambda: node_of(api, "good"))
    assert scheduler.is_leader


class Odd:
    """An answer that cannot be asked what it is."""

    def __bool__(self) -> bool:
        raise SystemExit(1)

    __repr__ = __str__ = __bool__  # type: ignore[assignment]


@pytest.mark.parametrize("method", ["pre_enqueue", *FAILING])
async def test_an_answer_that_cannot_be_asked_what_it_is_ends_nobody(api: FakeClient, start: Made, method: str) -> None:
    def odd(self: Any, *args: Any) -> Any:
        return Odd() if any(isinstance(one, dict) and meta.name(one) == "bad" for one in args) else None

    def odd_score(self: Any, state: State, pod: Any, node: Node) -> Any:
        return Odd() if meta.name(pod) == "bad" else 0

    scheduler = await start(type("Mine", (PodPlugin,), {method: odd_score if method == "score" else odd}))
    for name in ("n1", "n2"):
        api.put("nodes", node(name))
    api.put("pods", pod("bad"))
    api.put("pods", pod("good"))
    await until(lambda: node_of(api, "good"))
    places = (Place.GATED, Place.BACKOFF, Place.UNSCHEDULABLE)
    await until(lambda: any(scheduler.pending().get(place) for place in places))
    assert not node_of(api, "bad") and scheduler.is_leader


async def test_of_no_node_nobody_is_asked_for_a_score(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        def pre_score(self, state: State, pod: Any, nodes: tuple[Node, ...]) -> None:
            min(node.name for node in nodes)

        def normalize(self, state: State, pod: Any, scores: Mapping[str, int]) -> Mapping[str, int]:
            return {name: max(scores.values()) for name in scores}

        def post_filter(self, state: State, pod: Any, refusals: Mapping[str, str]) -> str | None:
            return None

    await start(Mine)
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("p", cpu="2"))
    await until(lambda: api.events("FailedScheduling"))
    assert api.events("FailedScheduling")[0].startswith("0/1 nodes are available: 1 Insufficient cpu.")


async def test_a_score_that_is_none(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        def score(self, state: State, pod: Any, node: Node) -> int:
            return 101

    await start(Mine)
    api.put("nodes", node("n1"))
    api.put("nodes", node("n2"))
    api.put("pods", pod("p"))
    await until(lambda: api.events("FailedScheduling"))
    assert "invalid score 101, it should be in the range of [0, 100]" in api.events("FailedScheduling")[0]


async def test_a_plugin_that_cannot_be_made_fails_the_pods_of_its_profile(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        def __init__(self, args: Mapping[str, Any]) -> None:
            raise ValueError("no such label")

        def filter(self, state: State, pod: Any, node: Node) -> str | None:
            return None

    await start(Mine)
    api.put("nodes", node("n1"))
    api.put("pods", pod("p"))
    api.put("pods", pod("q", scheduler="plain"))
    await until(lambda: node_of(api, "q"))
    await until(lambda: api.events("FailedScheduling"))
    assert 'plugin "Mine" cannot be made: no such label' in api.events("FailedScheduling")[0]


async def test_pods_are_let_in_and_woken_as_the_plugin_says(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        wakes_on = ("Namespace",)

        def pre_enqueue(self, pod: Any) -> str | None:
            return None if "team" in known else "no team yet"

        def helps(self, pod: Any, kind: str, old: Any, new: Any) -> bool:
            return bool(meta.name(new) == "team")

    known: set[str] = set()
    scheduler = await start(Mine)
    api.put("nodes", node("n1"))
    api.put("pods", pod("p"))
    await until(lambda: scheduler.pending().get(Place.GATED) == 1)
    known.add("team")
    api.put("namespaces", {"metadata": {"name": "other"}})
    await quiet(api)
    assert scheduler.pending()[Place.GATED] == 1
    api.put("namespaces", {"metadata": {"name": "team"}})
    await until(lambda: node_of(api, "p"))


async def test_the_order_of_the_queue(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        def sort_key(self, pod: Any) -> Any:
            return {"c": 1, "a": 2, "b": "not to be compared"}[meta.name(pod)]

    scheduler = await start(Mine)
    for number, name in enumerate("abc"):
        api.put("pods", pod(name, cpu="1", priority=number))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 3)
    api.put("nodes", node("n1", cpu="1"))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE) == 2)
    await until(lambda: any(node_of(api, name) for name in "abc"))
    assert not node_of(api, "a")


async def test_reserve_permit_and_the_rest_of_a_pods_way(api: FakeClient, start: Made) -> None:
    told: list[str] = []
    gate = asyncio.Event()

    class Mine(PodPlugin):
        def reserve(self, state: State, pod: Any, node: str) -> str | None:
            state["taken"] = node
            return "nothing left" if meta.name(pod) == "poor" else None

        def unreserve(self, state: State, pod: Any, node: str) -> None:
            told.append(f"gave {meta.name(pod)} back")

        async def permit(self, state: State, pod: Any, node: str) -> str | None:
            assert state["taken"] == node
            await gate.wait()
            return "not this one" if meta.name(pod) == "unloved" else None

        async def pre_bind(self, state: State, pod: Any, node: str) -> None:
            told.append(f"prepared {meta.name(pod)}")

        async def post_bind(self, state: State, pod: Any, node: str) -> None:
            told.append(f"bound {meta.name(pod)}")

    scheduler = await start(Mine)
    api.put("nodes", node("n1"))
    for name in ("poor", "unloved", "fine"):
        api.put("pods", pod(name))
    api.put("pods", pod("plain", scheduler="plain"))
    await until(lambda: node_of(api, "plain"))
    await until(lambda: "gave poor back" in told)
    assert not node_of(api, "fine"), "it has no permission yet, and nobody else waits for it"
    gate.set()
    await until(lambda: node_of(api, "fine") and "gave unloved back" in told)
    await until(lambda: told[-1] == "bound fine" or "bound fine" in told)
    assert "prepared fine" in told and "prepared unloved" not in told and "gave fine back" not in told
    said = {f"0/1 nodes are available: 1 {why}." for why in ("nothing left", "not this one")}
    await until(lambda: said <= set(api.events("FailedScheduling")))
    await until(lambda: scheduler.pending().get(Place.UNSCHEDULABLE, 0) >= 1)


async def test_what_was_reserved_is_given_back_when_the_pod_goes_while_it_waits_for_volumes(
    api: FakeClient, start: Made
) -> None:
    held: list[str] = []

    class Mine(PodPlugin):
        def reserve(self, state: State, pod: Any, node: str) -> None:
            held.append(meta.name(pod))

        def unreserve(self, state: State, pod: Any, node: str) -> None:
            held.remove(meta.name(pod))

    await start(Mine)
    api.put("storageclasses.storage.k8s.io", storage_class("standard"))
    api.put("nodes", node("n1"))
    for name in ("kept", "gone"):
        api.put("persistentvolumeclaims", claim(name))
        api.put("pods", pod(name, claims=(name,)))
    claims = api.objects["persistentvolumeclaims"]
    selected = "volume.kubernetes.io/selected-node"
    await until(lambda: all(selected in meta.annotations(one) for one in claims.values()))
    await quiet(api)
    assert sorted(held) == ["gone", "kept"]
    api.remove("pods", "default/gone")
    await until(lambda: held == ["kept"])


@pytest.mark.parametrize("turns", [0, 50])
async def test_what_was_reserved_is_kept_by_a_pod_that_a_call_without_an_answer_bound(
    api: FakeClient, start: Made, turns: int
) -> None:
    """Before or after the informer shows the pod on its node; it is told to be bound either way."""
    told: list[str] = []
    lost = iter([True])

    class Mine(PodPlugin):
        def reserve(self, state: State, pod: Any, node: str) -> None:
            told.append("reserved")

        def unreserve(self, state: State, pod: Any, node: str) -> None:
            told.append("given back")

        async def post_bind(self, state: State, pod: Any, node: str) -> None:
            told.append("bound")

    async def lose(operations: Any) -> None:
        if is_binding(operations) and next(lost, False):
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ServiceUnavailable("no answer")

    api.after_batch = lose
    await start(Mine)
    api.put("nodes", node("n1"))
    api.put("pods", pod("p"))
    await until(lambda: len(told) > 1)
    assert told == ["reserved", "bound"]
    await until(lambda: api.events("Scheduled"))


async def test_a_plugin_may_bind(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        async def bind(self, state: State, pod: Any, node: str) -> bool:
            if meta.name(pod) == "other":
                return False
            api.put("pods", {**pod, "spec": {**pod["spec"], "nodeName": node}})
            return True

    await start(Mine)
    api.put("nodes", node("n1"))
    api.put("pods", pod("own"))
    api.put("pods", pod("other"))
    await until(lambda: node_of(api, "own") and node_of(api, "other"))
    bound = [done for done in api.operations if done[:2] == ("create", "pods/binding")]
    assert len(bound) == 1, "the other was left to the scheduler"


async def test_a_way_that_a_plugin_finds(api: FakeClient, start: Made) -> None:
    class Mine(PodPlugin):
        def post_filter(self, state: State, pod: Any, refusals: Mapping[str, str]) -> str | None:
            assert refusals == {"n1": "Insufficient cpu"}
            return "n1"

    await start(Mine)
    api.put("nodes", node("n1", cpu="1"))
    api.put("pods", pod("p", cpu="2"))
    await until(lambda: api.pod("p").get("status", {}).get("nominatedNodeName") == "n1")


async def test_what_packages_offer(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}:OnlyLabelled"
    offered = [
        EntryPoint("OnlyLabelled", name, "rayplane.scheduler_plugins"),
        EntryPoint("Gone", f"{__name__}:Gone", "rayplane.scheduler_plugins"),
        EntryPoint("Quits", "quits:Now", "rayplane.scheduler_plugins"),
        EntryPoint("NoPlugin", f"{__name__}:FILE", "rayplane.scheduler_plugins"),
    ]
    monkeypatch.setitem(sys.modules, "quits", Quits("quits"))
    monkeypatch.setattr(installed, "entry_points", lambda group: [e for e in offered if e.group == group])
    assert set(installed.installed()) == {"OnlyLabelled", "Gone", "NoPlugin", "Quits"}
    assert installed.points_of_installed() == {"OnlyLabelled": {"filter", "preScore", "score"}}

    file = read_configuration(FILE.replace("Mine", "Quits") % ("", ""), {"Quits": frozenset(("filter",))})
    one = extensions.Extensions(file.profiles, installed.installed())
    here = World(node("n1"))
    here.cycle = Cycle(SchedulerConfig(identity="s", profiles=one.profiles), here.cluster, one.registry)
    [decision] = here.cycle.schedule([info(pod("p"))])
    assert isinstance(decision, Failure) and decision.is_fault
    assert 'plugin "Quits" cannot be imported: SystemExit: as it is imported' in decision.message
    assert here.place(pod("q", scheduler="plain")) == "n1"


class Quits(ModuleType):
    """A module that ends the program when something of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        if name == "Now":
            raise SystemExit("as it is imported")
        raise AttributeError(name)


def test_a_profile_names_a_plugin_that_is_not_there() -> None:
    file = read_configuration(FILE % ("", ""), {"Mine": frozenset(("filter",))})
    with pytest.raises(ValueError, match="there is no scheduler plug-in Mine"):
        extensions.Extensions(file.profiles, {})
