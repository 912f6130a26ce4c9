"""The fast cycle against a slow and obvious one, over random clusters, profiles and histories.

`--hypothesis-profile long --timeout 0` tries ten times as many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery.selectors import from_map
from rayplane.control_plane.scheduler import Failure, Placement
from rayplane.control_plane.scheduler.nodes import NodeInfo
from tests.scheduler.build import World, info, node, on, pod
from tests.scheduler.dice import SEEDS, Dice
from tests.scheduler.random_clusters import SERVICE, nodes, pair, pods, ways
from tests.scheduler.reference import Place, Reference, best
from tests.tiers import examples


def check_sums(world: World) -> None:
    """The arrays are the sums of the pods."""
    for name, row in world.snapshot.nodes():
        for resource, column in world.snapshot.columns.items():
            total = sum(p.shape.requests.get(resource, 0) for p in world.snapshot.pods_on(name).values())
            assert world.snapshot.requested[row, column] == total


@settings(max_examples=examples(600))
@given(seed=SEEDS, size=st.integers(1, 6), count=st.integers(1, 5))
def test_decisions_are_those_of_the_reference(seed: int, size: int, count: int) -> None:
    dice = Dice(seed)
    world, twin = pair(dice, nodes(dice, size), ways(dice))
    for one in pods(dice, count):
        twin.services = [SERVICE] if one["metadata"]["namespace"] == "default" else []
        expected = {at.name: twin.refused_by(one, at) for at in twin.places}
        explained = world.cycle.explain(info(one))
        told = {n.node: n.refusal.plugin if n.refusal else "" for n in explained.nodes}
        assert told == expected
        scores = twin.scores(one, [at for at in twin.places if not expected[at.name]])
        assert behind({n.node: int(n.total) for n in explained.nodes if n.refusal is None}) == behind(scores)
        decision = world.decide(one)
        if isinstance(decision, Placement):
            assert decision.node == best(scores)
            follow(twin, one, decision.node, world.cluster.devices.allocation)
        else:
            assert not scores
            check_preemption(twin, one, decision)
        check_sums(world)
        busy = [at for at in twin.places if at.pods]
        if busy and dice.maybe():
            gone = dice.choice(busy).pods.pop(0)
            world.snapshot.remove_pod(f"{gone['metadata']['namespace']}/{gone['metadata']['name']}")


def behind(scores: dict[str, int]) -> dict[str, int]:
    """How far each is behind the best: who scores all alike may not be asked."""
    return {name: max(scores.values()) - score for name, score in scores.items()}


def follow(twin: Reference, one: dict[str, Any], node: str, allocation: Callable[[str], dict[str, Any] | None]) -> None:
    """The pod is on the node, and what it was promised is taken."""
    place = next(at for at in twin.places if at.name == node)
    twin.promised |= {name: (node, made) for name, made in twin.bindings(one, place) or ()}
    if "DynamicResources" not in twin.ways.off:
        twin.devices.take(one, node, allocation)
    place.pods.append(one)


def check_preemption(twin: Reference, one: dict[str, Any], failure: Failure) -> None:
    """Victims are those that trying out finds, on a node where that helps; none only where it helps nowhere."""
    helps = {at.name: v for at in twin.places if (v := twin.victims(one, at))}
    if failure.preemption is None:
        assert not helps or all(unresolvable(twin, one, at) for at in twin.places if at.name in helps)
    else:
        found = sorted(victim.name for victim in failure.preemption.victims)
        assert found == sorted(helps[failure.preemption.node])


def unresolvable(twin: Reference, one: dict[str, Any], at: Place) -> bool:
    """Refusals that Kubernetes does not expect a deletion to change."""
    return twin.refused_by(one, at) in ("PodTopologySpread", "InterPodAffinity", "NodeResourcesFit")


@settings(max_examples=examples(60))
@given(
    seed=SEEDS,
    events=st.lists(st.tuples(st.sampled_from(["pod", "gone", "node", "lost"]), st.integers(0, 30)), max_size=40),
)
def test_the_snapshot_equals_one_built_anew(seed: int, events: list[tuple[str, int]]) -> None:
    """Any history of changes gives the arrays that the final objects alone give."""
    dice = Dice(seed)
    cluster = nodes(dice, dice.randint(1, 6))
    world = World(*cluster)
    selector = from_map({"app": "u"})
    world.snapshot.matching((selector, None))
    names = [n["metadata"]["name"] for n in cluster]
    running: dict[str, dict] = {}
    here = {n["metadata"]["name"]: n for n in cluster}
    for kind, number in events:
        name = names[number % len(names)]
        if kind == "pod":
            one = on(name, pod(f"p{number}", cpu=f"{number}m", labels={"app": "uv"[number % 2]}))
            running[f"p{number}"] = one
            world.snapshot.set_pod(info(one))
        elif kind == "gone":
            running.pop(f"p{number}", None)
            world.snapshot.remove_pod(f"default/p{number}")
        elif kind == "lost":
            here.pop(name, None)
            world.snapshot.remove_node(name)
        else:
            here[name] = node(name, cpu=str(number + 1))
            world.snapshot.set_node(NodeInfo.of(here[name]))
    fresh = World(*here.values())
    fresh.run(*running.values())
    for name, row in fresh.snapshot.nodes():
        old = world.snapshot.index[name]
        for resource, column in fresh.snapshot.columns.items():
            mine = world.snapshot.columns[resource]
            assert world.snapshot.requested[old, mine] == fresh.snapshot.requested[row, column]
            assert world.snapshot.allocatable[old, mine] == fresh.snapshot.allocatable[row, column]
        assert world.snapshot.matching((selector, None))[old] == fresh.snapshot.matching((selector, None))[row]
    assert world.snapshot.index.keys() == fresh.snapshot.index.keys()
