"""Pods with thousands of terms about other pods: their cost has bounds, and others are scheduled beside them.

What is counted are looks of selectors at pods, never time.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.selectors import LabelSelector
from rayplane.control_plane.scheduler import Placement, counters, term_kinds
from rayplane.control_plane.scheduler import pods as scheduler_pods
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.hints import HINTS
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.pods import PodParser
from rayplane.control_plane.scheduler.snapshot import Snapshot
from rayplane.control_plane.scheduler.topology import COLUMNS_MAX
from rayplane.control_plane.scheduler.work import DECISION_MAX
from tests.scheduler.build import World, info, node, on, pod
from tests.scheduler.dice import SEEDS, Dice
from tests.scheduler.random_clusters import nodes, pair, pods
from tests.scheduler.reference import Ways
from tests.tiers import examples

HOST = "kubernetes.io/hostname"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many selectors looked at labels."""
    found = [0]
    real = LabelSelector.matches

    def matches(self: LabelSelector, labels: Any) -> bool:
        found[0] += 1
        return real(self, labels)

    monkeypatch.setattr(LabelSelector, "matches", matches)
    return found


def unlike(number: int, key: str = HOST) -> dict[str, Any]:
    """A term that has to be compared with each pod: it fixes no label."""
    rule = {"key": "app", "operator": "NotIn", "values": [f"v{number}", "web"]}
    return {"topologyKey": key, "labelSelector": {"matchExpressions": [rule]}, "namespaceSelector": {}}


def hostile(count: int, kind: str = "podAntiAffinity", when: str = REQUIRED, name: str = "hostile") -> dict[str, Any]:
    terms: list[Any] = [unlike(number) for number in range(count)]
    if when == PREFERRED:
        terms = [{"weight": 1 + number % 100, "podAffinityTerm": term} for number, term in enumerate(terms)]
    return pod(name, affinity={kind: {when: terms}})


def busy(count: int) -> World:
    """Nodes with pods of many kinds, all of which bear a label that no term minds."""
    world = World(*(node(f"n{number}") for number in range(20)))
    for number in range(count):
        labels = {"app": "web", "number": str(number)}
        world.run(on(f"n{number % 20}", pod(f"w{number}", labels=labels)))
    return world


@pytest.mark.parametrize("kind", ["podAffinity", "podAntiAffinity"])
@pytest.mark.parametrize("when", [REQUIRED, PREFERRED])
def test_a_pod_with_thousands_of_terms_takes_a_bounded_slice_of_each_turn(
    looks: list[int], kind: str, when: str
) -> None:
    world, count = busy(300), 2000
    one = info(hostile(count, kind, when))
    tries = 0
    while True:
        looks[0] = 0
        [decision] = world.cycle.schedule([one])
        assert looks[0] <= DECISION_MAX + 2 * count
        looks[0] = 0
        assert world.place(pod(f"ordinary-{tries}", labels={"app": "web"}))
        # It costs others nothing; once it runs, each kind of pod is compared with its terms once.
        assert looks[0] <= 50 + count * isinstance(decision, Placement)
        tries += 1
        if isinstance(decision, Placement) or not decision.is_fault:
            break
        assert "with which the next try goes on" in decision.message
    assert (kind, when) == ("podAffinity", REQUIRED) or tries > 1
    assert isinstance(decision, Placement)
    looks[0] = 0
    assert world.place(pod("last", labels={"app": "web"}))
    assert looks[0] <= 50


def test_what_was_compared_once_is_not_compared_again(looks: list[int]) -> None:
    world = busy(50)
    first, second = info(hostile(1000)), info(hostile(1000, name="like-it"))
    assert isinstance(world.cycle.schedule([first])[0], Placement)
    looks[0] = 0
    assert isinstance(world.cycle.schedule([second])[0], Placement)
    assert looks[0] <= 3 * 1000, "only the first of them is new"


@settings(max_examples=examples(200))
@given(seed=SEEDS, size=st.integers(1, 6), count=st.integers(1, 8))
def test_many_terms_mean_what_few_mean(seed: int, size: int, count: int) -> None:
    dice = Dice(seed)
    cluster = nodes(dice, size)
    few, many = (pair(Dice(seed), cluster, Ways())[0] for _ in range(2))
    for one in pods(dice, count):
        expected = few.cycle.explain(info(one))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(term_kinds, "MANY", 0)
            patch.setattr(counters, "MANY", 0)
            assert many.cycle.explain(info(one)) == expected
            many.decide(one)
        few.decide(one)


def test_labels_of_namespaces_and_nodes_that_change_are_seen() -> None:
    world = World(node("a"), node("b"))
    world.snapshot.set_namespace("other", {"team": "x"})
    world.run(on("a", pod("w", namespace="other", labels={"app": "db"})))
    team = {"matchLabels": {"team": "x"}}
    of_zone = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}, "namespaceSelector": team}
    harmless = [unlike(number, f"nowhere-{number}") for number in range(100)]
    one = pod("p", affinity={"podAntiAffinity": {REQUIRED: [of_zone, *harmless]}})
    first = world.decide(one)
    assert isinstance(first, Placement)
    world.cycle.forget(first.pod)
    for name in ("a", "b"):
        world.snapshot.set_node(scheduler_nodes(name, zone="z"))
    assert "2 node(s) didn't match pod anti-affinity rules" in world.fail(one)
    world.snapshot.set_namespace("other", {"team": "y"})
    assert isinstance(world.decide(one), Placement)


def scheduler_nodes(name: str, **labels: str) -> NodeInfo:
    return NodeInfo.of(node(name, labels=labels))


def test_topologies_that_no_node_has_take_no_columns_and_no_looks(looks: list[int]) -> None:
    world = busy(200)
    world.snapshot.has_label(HOST)
    rules = [
        {
            "topologyKey": f"k{number}",
            "maxSkew": 1,
            "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"a": str(number)}},
        }
        for number in range(2 * COLUMNS_MAX)
        for when in ("DoNotSchedule", "ScheduleAnyway")
    ]
    looks[0] = 0
    text = world.fail(pod("p", topologySpreadConstraints=rules))
    assert "20 node(s) didn't match pod topology spread constraints (missing required label)" in text
    soft = [rule for rule in rules if rule["whenUnsatisfiable"] == "ScheduleAnyway"]
    assert world.place(pod("q", topologySpreadConstraints=soft))
    assert looks[0] <= 100
    assert set(world.snapshot._labels._columns) <= {HOST, "topology.kubernetes.io/zone"}


def test_events_are_not_compared_with_thousands_of_terms(looks: list[int]) -> None:
    waiting, other = info(hostile(5000)), info(on("n", pod("w", labels={"app": "x"})))
    event = Event(Resource.ASSIGNED_POD, Action.DELETE, other, None)
    gone = Event(Resource.ASSIGNED_POD, Action.DELETE, info(on("n", hostile(5000))), None)
    looks[0] = 0
    for hint in HINTS["InterPodAffinity"]:
        if hint.concerns(event):
            assert hint.helps(waiting, event, Snapshot())
            assert hint.helps(other, gone, Snapshot())
    assert looks[0] == 0


def test_pods_of_one_template_hold_their_terms_once_and_those_of_other_namespaces_are_not_looked_at(
    looks: list[int],
) -> None:
    world = busy(20)
    terms = [{**unlike(number), "namespaceSelector": None} for number in range(1000)]
    for number in range(10):
        one = pod(f"h{number}", namespace="theirs", affinity={"podAntiAffinity": {REQUIRED: terms}})
        world.run(on(f"n{number}", one))
    assert len(world.snapshot.anti) == 1
    looks[0] = 0
    assert world.place(pod("p", labels={"app": "web"}))
    assert looks[0] <= 10
    for number in range(10):
        world.snapshot.remove_pod(f"theirs/h{number}")
    assert not world.snapshot.anti._many and not world.snapshot.anti


def test_what_is_remembered_of_rules_is_bounded_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_pods, "SHAPES_BYTES_MAX", 100_000)
    parser = PodParser()
    for number in range(50):
        parser.parse(hostile(100 + number))
    assert parser._rules._bytes <= 100_000
    assert sum(map(len, parser._rules._known)) == parser._rules._bytes
