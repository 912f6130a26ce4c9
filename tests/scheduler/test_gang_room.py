"""Whom a pod group has deleted: enough, nobody who could stay, and never more than its pods would have one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.scheduler import Failure, Placement
from rayplane.control_plane.scheduler.gangs import GroupDecision
from rayplane.control_plane.scheduler.pods import PodInfo
from rayplane.control_plane.scheduler.preemption import Candidate
from tests.scheduler.build import World, info, node, on, pod
from tests.scheduler.test_gangs import Grouped, group, member
from tests.tiers import examples

Sizes = list[int]
Low = list[tuple[int, int, int, bool]]
"""Pods of lower priority: node, cpu, priority, and whether it is of the group whose pods go together."""


def world_of(sizes: Sizes, low: Low, gang: Sizes) -> Grouped:
    world = Grouped(*(node(f"n{i}", cpu=str(cpu)) for i, cpu in enumerate(sizes)))
    world.add(group("g", len(gang), priority=10), group("one", 1, together=True))
    for number, (where, cpu, priority, together) in enumerate(low):
        name = f"low{number}"
        more: dict[str, Any] = {"cpu": str(cpu), "priority": priority}
        one = member(name, "one", **more) if together else pod(name, **more)
        world.run(on(f"n{where % len(sizes)}", one))
    return world


def members(gang: Sizes) -> list[dict[str, Any]]:
    return [member(f"v{i}", cpu=str(cpu), priority=10) for i, cpu in enumerate(gang)]


def preemptions(found: GroupDecision) -> tuple[dict[str, str], dict[str, PodInfo]]:
    """Where each pod is to go, and all victims."""
    made = [(d.pod.key, d.preemption) for d in found.decisions if isinstance(d, Failure) and d.preemption]
    return {key: one.node for key, one in made}, {v.key: v for _, one in made for v in one.victims}


def cost(victims: dict[str, PodInfo]) -> tuple[int, ...]:
    return Candidate(tuple(victims.values()), 0).cost() if victims else ()


def one_by_one(world: World, gang: Sizes) -> dict[str, PodInfo] | None:
    """The victims of the same pods without a group, each as it comes; None where that does not do for all."""
    victims: dict[str, PodInfo] = {}
    for i, cpu in enumerate(gang):
        one = pod(f"v{i}", cpu=str(cpu), priority=10)
        decision = world.decide(one)
        if isinstance(decision, Failure):
            if decision.preemption is None:
                return None
            for victim in decision.preemption.victims:
                victims[victim.key] = victim
                world.snapshot.remove_pod(victim.key)
            if world.cycle.place(info(one), [decision.preemption.node]) is None:
                return None
    return victims


def goes(world: Grouped, gang: Sizes, nodes: dict[str, str], gone: set[str]) -> bool:
    """Whether all pods find the nodes that they are to go to once these are gone."""
    for key in gone:
        world.snapshot.remove_pod(key)
    return all(world.cycle.place(info(one), [nodes[f"default/{one['metadata']['name']}"]]) for one in members(gang))


@settings(max_examples=examples(120), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    low=st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(0, 3), st.booleans()), min_size=1, max_size=8
    ),
    gang=st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_victims_are_enough_and_none_could_stay_and_one_by_one_there_would_be_more(
    sizes: Sizes, low: Low, gang: Sizes
) -> None:
    world = world_of(sizes, low, gang)
    before = dict(world.snapshot.pods)
    found = world.together(*members(gang))
    assert found.verdict is not None
    alone = one_by_one(world_of(sizes, low, gang), gang)
    if found.verdict.is_scheduled:
        return
    assert world.snapshot.pods == before, "nothing is changed yet"
    nodes, victims = preemptions(found)
    assert bool(victims) >= (alone is not None), "what does for each by itself does for all"
    if not victims:
        return
    assert alone is None or cost(victims) <= cost(alone)
    assert goes(world_of(sizes, low, gang), gang, nodes, {*victims})
    together = {key for key, one in victims.items() if one.group}
    for key in victims:
        unit = together if key in together else {key}
        assert not goes(world_of(sizes, low, gang), gang, nodes, {*victims} - unit), f"{key} could stay"


def test_whoever_makes_room_for_an_earlier_pod_stays_where_later_victims_leave_enough() -> None:
    world = Grouped(node("a", cpu="4"))
    world.run(on("a", pod("small", cpu="1")), on("a", pod("large", cpu="3", priority=1)))
    world.add(group(least=2, priority=10))
    found = world.together(*members([1, 2]))
    _, victims = preemptions(found)
    assert [*victims] == ["default/large"], "pod by pod the small one would go, and then the large one too"


def test_a_group_that_fits_in_another_order_has_nobody_deleted() -> None:
    world = Grouped(node("a", cpu="10"), node("b", cpu="4"))
    world.run(on("a", pod("low", cpu="7")), on("b", pod("other", cpu="1500m")))
    world.add(group(least=2, priority=10))
    found = world.together(*members([2, 3]))
    assert [d.node for d in found.decisions if isinstance(d, Placement)] == ["b", "a"], "the first alone would take a"
    assert found.verdict is not None and found.verdict.is_scheduled
    assert world.snapshot.pods.keys() == {"default/low", "default/other", "default/v0", "default/v1"}
