"""Pods of a pod group: decided together, never by halves, and without a deletion in vain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler import Failure, Placement, gang_room, gangs
from rayplane.control_plane.scheduler.config import DEFAULT_PROFILES
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.gangs import GroupCycle, GroupDecision
from rayplane.control_plane.scheduler.gates import with_objects
from rayplane.control_plane.scheduler.groups import NOT_ENOUGH
from rayplane.control_plane.scheduler.hints import Hints
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.queue import Gate, Place, SchedulingQueue
from tests.scheduler.build import World, claim, info, node, on, pod, storage_class
from tests.scheduler.random_clusters import profile
from tests.scheduler.reference import Reference, Ways
from tests.scheduler.test_dynamic_resources import DRIVER, exactly, gpu, offered, wanted
from tests.tiers import examples


def group(name: str = "g", least: int = 0, *, priority: int = 0, together: bool = False) -> dict[str, Any]:
    """A PodGroup; without `least` it is no gang."""
    policy: dict[str, Any] = {"gang": {"minCount": least}} if least else {"basic": {}}
    spec = {"schedulingPolicy": policy, "priority": priority, "disruptionMode": {"all" if together else "single": {}}}
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"}, "spec": spec}


def member(name: str, of: str = "g", **spec: Any) -> dict[str, Any]:
    return pod(name, schedulingGroup={"podGroupName": of}, **{"cpu": "1", **spec})


class Grouped(World):
    """A world with pod groups."""

    def __init__(self, *nodes: dict[str, Any], **config: Any) -> None:
        super().__init__(*nodes, **config)
        self.groups = GroupCycle(self.cycle)

    def add(self, *groups: dict[str, Any]) -> None:
        for one in groups:
            self.cluster.groups.set(one)

    def run(self, *pods: dict[str, Any]) -> dict[str, str]:
        for one in map(info, pods):
            if one.group:
                self.cluster.groups.join(one)
            self.snapshot.set_pod(one)
        return {}

    def together(self, *pods: dict[str, Any]) -> GroupDecision:
        found = [info(one) for one in pods]
        for one in found:
            self.cluster.groups.join(one)
        return self.groups.schedule(found)

    def places(self, *pods: dict[str, Any]) -> list[str]:
        """The nodes of pods of a group; of those that got none, what is said of them."""
        return [d.node if isinstance(d, Placement) else d.message for d in self.together(*pods).decisions]


def test_a_gang_gets_all_its_nodes_or_none() -> None:
    world = Grouped(node("a", cpu="2"), node("b", cpu="1"))
    world.add(group(least=4))
    four = [member(f"p{i}") for i in range(4)]
    said = "minCount (4) cannot be satisfied: 3 scheduled, 0 remaining"
    preemption = "preemption: No preemption victims found for incoming preemptor"
    assert world.places(*four) == [
        *[f"{said}, {preemption}"] * 3,
        "0/2 nodes are available: 2 Insufficient cpu.",
    ]
    assert not world.snapshot.pods, "nothing is held"
    world.snapshot.set_node(NodeInfo.of(node("b", cpu="2")))
    assert sorted(world.places(*four)) == ["a", "a", "b", "b"]


def test_it_is_not_tried_further_than_it_can_succeed() -> None:
    world = Grouped(node("a", cpu="1"))
    world.add(group(least=3))
    found = world.together(*(member(f"p{i}") for i in range(3)))
    assert [f.message for f in found.decisions if isinstance(f, Failure)][2].startswith(
        "minCount (3) cannot be satisfied: 1 scheduled, 1 remaining"
    )
    assert found.verdict is not None and found.verdict.message.startswith("minCount (3) cannot be satisfied: 1 sch")
    few = world.together(member("q0"), member("q1"))
    assert all("(3) cannot be satisfied: 0 scheduled, 2 remaining" in f.message for f in few.decisions)  # type: ignore[union-attr]


def test_more_than_the_least_are_placed_as_far_as_there_is_room() -> None:
    world = Grouped(node("a", cpu="3"))
    world.add(group(least=2))
    decisions = world.together(*(member(f"p{i}") for i in range(5))).decisions
    assert [isinstance(d, Placement) for d in decisions] == [True, True, True, False, False]
    assert all(d.soon for d in decisions if isinstance(d, Failure))
    found = world.together(member("p3"), member("p4"))
    assert [d.soon for d in found.decisions if isinstance(d, Failure)] == [False, False], "not for ever at once"


def test_those_that_have_nodes_count() -> None:
    world = Grouped(node("a", cpu="1"))
    world.add(group(least=3))
    world.run(on("x", member("p0")), on("y", member("p1")))
    assert world.places(member("p2")) == ["a"]


def test_a_basic_group_goes_as_far_as_it_goes() -> None:
    world = Grouped(node("a", cpu="1"))
    world.add(group())
    assert [isinstance(d, Placement) for d in world.together(member("p"), member("q")).decisions] == [True, False]


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"scheduler": "spread-scheduler"}, '.spec.schedulerName set, got: "spread-scheduler" ("q") and "default-sch'),
        ({"priority": 5}, """priority as the root pod group's priority, got 5 ("q") and 0 ("default/g")"""),
        ({"preemptionPolicy": "Never"}, 'preemption policy, got Never ("q") and PreemptLowerPriority ("p")'),
    ],
)
def test_pods_of_one_group_are_alike(odd: dict[str, Any], said: str) -> None:
    world = Grouped(node("a"))
    world.add(group(least=2))
    found = world.together(member("p"), member("q", **odd))
    assert found.verdict is not None and found.verdict.is_fault and said in found.verdict.message
    assert all(isinstance(d, Failure) and d.is_fault for d in found.decisions)


def test_what_is_wrong_with_one_stops_all() -> None:
    world = Grouped(node("a"))
    world.add(group(least=2))
    broken = [info(member("p")), info(member("q"))]
    broken[1].shape = None  # type: ignore[assignment]
    found = world.groups.schedule(broken)
    assert found.verdict is not None and "failed to schedule other pod from a pod group" in found.verdict.message
    assert all(isinstance(d, Failure) and d.is_fault for d in found.decisions) and not world.snapshot.pods


def test_devices_and_volumes_are_given_back_too() -> None:
    world = Grouped(node("a"), node("b", cpu="0"))
    selectors = [{"cel": {"expression": f'device.driver == "{DRIVER}"'}}]
    world.cluster.devices.set_class({"metadata": {"name": "gpu"}, "spec": {"selectors": selectors}})
    world.cluster.devices.set_slice(offered("a", gpu("g0")))
    world.volumes.classes["standard"] = storage_class("standard")
    for name in ("c0", "c1"):
        world.cluster.devices.set_claim(wanted(name, exactly()))
        world.volumes.set_claim(claim(f"data-{name}"))

    def pods(*names: str) -> list[dict[str, Any]]:
        return [member(n, resourceClaims=[{"name": "d", "resourceClaimName": n}], claims=(f"data-{n}",)) for n in names]

    world.add(group(least=2))
    found = world.together(*pods("c0", "c1"))
    assert all(isinstance(d, Failure) for d in found.decisions) and not world.snapshot.pods
    assert world.cluster.devices.allocation("default/c0") is None
    world.add(group(least=1))
    [placed] = world.together(*pods("c1")).decisions
    assert isinstance(placed, Placement)
    assert (placed.claims, placed.devices) == (("default/data-c1",), ("default/c1",))


# --- preemption -------------------------------------------------------------------------------------


def vips(count: int, **spec: Any) -> list[dict[str, Any]]:
    return [member(f"v{i}", priority=10, **spec) for i in range(count)]


def victims(found: GroupDecision) -> list[str]:
    preemptions = [d.preemption for d in found.decisions if isinstance(d, Failure) and d.preemption]
    return sorted(pod.name for one in preemptions for pod in one.victims)


def test_pods_are_deleted_only_if_that_does_for_the_whole_group() -> None:
    world = Grouped(node("a", cpu="2"), node("b", cpu="1"))
    world.run(on("a", pod("low", cpu="1")), on("b", pod("other", cpu="1", priority=20)))
    world.add(group(least=3, priority=10))
    found = world.together(*vips(3))
    assert victims(found) == []
    assert found.verdict is not None
    assert found.verdict.message.endswith("preemption: Preemption is not helpful for scheduling")
    world.add(group(least=2, priority=10))
    found = world.together(*vips(2))
    assert victims(found) == ["low"] and found.verdict is not None and found.verdict.preempts
    nominated = [d.preemption.node for d in found.decisions if isinstance(d, Failure) and d.preemption]
    assert nominated == ["a", "a"]
    assert world.snapshot.pods.keys() == {"default/low", "default/other"}, "nothing is changed yet"


def test_it_waits_for_those_that_go_and_deletes_no_more() -> None:
    world = Grouped(node("a", cpu="1"), node("b", cpu="1"))
    world.run(on("a", pod("one", cpu="1")), on("b", pod("two", cpu="1")))
    world.add(group(least=2, priority=10))
    for decision in world.together(*vips(2)).decisions:
        assert isinstance(decision, Failure) and decision.preemption
        world.cycle.nominate(decision.pod, decision.preemption.node)
        for victim in decision.preemption.victims:
            world.snapshot.set_terminating(victim, True)
    world.snapshot.remove_pod("default/one")
    again = world.together(*vips(2))
    assert victims(again) == [] and all(d.keeps_nomination for d in again.decisions if isinstance(d, Failure))
    assert world.cycle.nominated_node("default/v0") and world.cycle.nominated_node("default/v1")
    assert "Insufficient cpu" in world.fail(pod("late", cpu="1", priority=5)), "the room is kept"
    world.snapshot.remove_pod("default/two")
    assert sorted(world.places(*vips(2))) == ["a", "b"]


def test_who_may_not_preempt_does_not() -> None:
    world = Grouped(node("a", cpu="1"))
    world.run(on("a", pod("low", cpu="1")))
    world.add(group(least=1, priority=10))
    found = world.together(*vips(1, preemptionPolicy="Never"))
    assert victims(found) == [] and found.verdict is not None
    assert found.verdict.message.endswith("preemption: not eligible due to preemptionPolicy=Never.")


def test_a_group_that_is_one_goes_as_one() -> None:
    """Also for a lone pod."""
    world = Grouped(node("a", cpu="1"), node("b", cpu="1"))
    world.add(group("low", 2, together=True))
    world.run(on("a", member("l0", "low")), on("b", member("l1", "low")))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption
    assert sorted(v.name for v in decision.preemption.victims) == ["l0", "l1"]
    assert world.cluster.groups.disrupted(decision.preemption.victims)[0].key == "default/low"
    world.add(group("low", 2, together=True, priority=10))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption is None, "the group's priority counts"


def test_pods_of_no_group_go_first() -> None:
    world = Grouped(node("a", cpu="2"))
    world.add(group("low"))
    world.run(on("a", member("grouped", "low")), on("a", pod("lone", cpu="1")))
    decision = world.decide(pod("vip", cpu="1", priority=10))
    assert isinstance(decision, Failure) and decision.preemption
    assert [v.name for v in decision.preemption.victims] == ["lone"], "though its name comes later"


def test_the_search_for_victims_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Grouped(*(node(f"n{i}", cpu="1") for i in range(4)))
    world.run(*(on(f"n{i}", pod(f"low{i}", cpu="1")) for i in range(4)))
    world.add(group(least=4, priority=10))
    monkeypatch.setattr(gang_room, "EMPTIED_MAX", 0)
    monkeypatch.setattr(gang_room, "SEARCHES_MAX", 3)
    found = world.together(*vips(4))
    assert victims(found) == [] and found.verdict is not None
    assert found.verdict.message.endswith("too many pods of the group would need others to be deleted for them")
    assert len(world.snapshot.pods) == 4
    monkeypatch.setattr(gang_room, "SEARCHES_MAX", 4)
    assert len(victims(world.together(*vips(4)))) == 4
    monkeypatch.setattr(gang_room, "SEARCHES_MAX", 3)
    monkeypatch.setattr(gang_room, "EMPTIED_MAX", 4)
    assert len(victims(world.together(*vips(4)))) == 4, "few enough to be looked at as a whole"


def test_where_deletions_help_one_pod_says_nothing_of_another_with_more_rules() -> None:
    zone = "zone"
    near = {"topologyKey": zone, "labelSelector": {"matchLabels": {"app": "db"}}}
    rule = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}}
    world = Grouped(*(node(name, cpu=cpu, labels={zone: name}) for name, cpu in (("a", "1"), ("b", "2"))))
    world.run(on("a", pod("low0", cpu="1")), on("b", pod("low1", cpu="1")))
    world.run(on("a", pod("db", labels={"app": "db"}, priority=20)))
    world.add(group(least=3, priority=10))
    found = world.together(member("v0", priority=10, affinity=rule), *(member(f"v{i}", priority=10) for i in (1, 2)))
    assert sorted(victims(found)) == ["low0", "low1"]


@pytest.mark.parametrize("reasons", [1, 100])
def test_pods_that_keep_apart_are_placed_whether_or_not_each_is_told_why(
    reasons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gangs, "_REASONS_MAX", reasons)
    apart = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}
    rule = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [apart]}}
    world = Grouped(node("a"), node("b"))
    world.add(group(least=2))
    found = world.together(*(member(f"p{i}", labels={"app": "x"}, affinity=rule) for i in range(6)))
    assert [isinstance(d, Placement) for d in found.decisions] == [True, True] + [False] * 4
    assert all(d.message and d.plugins for d in found.decisions if isinstance(d, Failure))


def test_room_that_was_kept_in_vain_is_looked_for_anew() -> None:
    world = Grouped(node("a", cpu="1"), node("b", cpu="1"))
    world.run(on("b", pod("low", cpu="1")), on("a", pod("vip", cpu="1", priority=20)))
    world.add(group(least=1, priority=10))
    [one] = vips(1)
    world.cycle.nominate(info(one), "a")
    found = world.together(one)
    assert victims(found) == ["low"] and isinstance(found.decisions[0], Failure)
    assert found.decisions[0].preemption is not None and found.decisions[0].preemption.node == "b"
    assert world.cycle.nominated_node("default/v0") == "a", "who takes the decision moves it"


def test_what_is_wrong_with_a_victim_ends_nothing() -> None:
    world = Grouped(node("a", cpu="1"))
    world.run(on("a", pod("low", cpu="1")))
    world.snapshot.pods["default/low"].obj = None  # type: ignore[assignment]
    world.add(group(least=1, priority=10))
    found = world.together(*vips(1))
    assert found.verdict is not None and "preemption: the scheduler failed on this pod" in found.verdict.message
    assert world.snapshot.pods.keys() == {"default/low"}


# --- the queue ----------------------------------------------------------------------------------------


def queue_of(world: Grouped) -> SchedulingQueue:
    def of_gates(pod: Any) -> Gate | None:
        return Gate("SchedulingGates") if pod.obj["spec"].get("schedulingGates") else None

    gate = with_objects(of_gates, world.cluster.groups, world.cluster.devices, DEFAULT_PROFILES)
    return SchedulingQueue(Hints(world.snapshot), backoff=Backoff(1.0, 8.0), retry_after_s=300.0, gate=gate)


def come(world: Grouped, queue: SchedulingQueue, *pods: dict[str, Any], now: float = 0.0) -> None:
    for one in map(info, pods):
        world.cluster.groups.join(one)
        queue.add(one, now)


def taken(queue: SchedulingQueue, now: float = 0.0) -> list[str]:
    pods = queue.pop(1, now)
    return [one.name for one in queue.with_others(pods[0])] if pods else []


def test_a_gang_waits_for_its_group_and_its_pods() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    come(world, queue, member("p0"))
    gate = queue.find("default/p0")
    assert gate is not None and gate.gate == Gate(
        "GangScheduling", 'waiting for pod\'s pod group "g" to appear in scheduling queue'
    )
    world.add(group(least=3))
    assert not queue.group_changed("default/g", 0.0, "PodGroupAdd")
    come(world, queue, member("p1"))
    assert taken(queue) == [] and queue.places()[Place.GATED] == 2
    assert world.cluster.groups.awaited("default/g") == NOT_ENOUGH
    come(world, queue, member("p2"))
    assert taken(queue) == ["p0", "p1", "p2"]


def test_a_smaller_count_lets_it_in() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    world.add(group(least=3))
    come(world, queue, member("p0"), member("p1"))
    world.add(group(least=2))
    assert queue.group_changed("default/g", 0.0, "PodGroupUpdate")
    assert taken(queue) == ["p0", "p1"]


def test_pods_with_gates_of_their_own_are_left_out() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    world.add(group(least=2))
    come(world, queue, member("p0", schedulingGates=[{"name": "x"}]), member("p1"))
    assert taken(queue) == ["p1"]


def refuse(queue: SchedulingQueue, *names: str, now: float = 0.0) -> None:
    for name in names:
        queue.failed(f"default/{name}", now, {"GangScheduling", "NodeResourcesFit"})


def test_what_helps_one_wakes_all() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    world.add(group(least=2))
    come(world, queue, member("p0"), member("p1", cpu="3"))
    refuse(queue, *taken(queue))
    assert taken(queue) == []
    more = Event(Resource.NODE, Action.ADD, None, NodeInfo.of(node("small", cpu="1")))
    assert queue.happened(more, 5.0)
    assert taken(queue, 5.0) == ["p0", "p1"]


def test_a_further_pod_of_a_group_that_failed_backs_off_with_it() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    world.add(group(least=1))
    come(world, queue, member("p0"))
    refuse(queue, *taken(queue))
    come(world, queue, member("p1"), now=0.5)
    assert taken(queue, 0.5) == [], "also where there is nothing else to do"
    assert taken(queue, 1.0) == ["p0", "p1"]


def test_what_is_left_of_a_group_is_tried_at_once() -> None:
    world = Grouped(node("a"))
    queue = queue_of(world)
    world.add(group(least=1))
    come(world, queue, member("p0"), member("p1"))
    assert taken(queue) == ["p0", "p1"]
    queue.placed("default/p0")
    queue.remove("default/p0")
    queue.failed("default/p1", 0.0, {"NodeResourcesFit"}, soon=True)
    assert taken(queue) == ["p1"]
    queue.remove("default/p1")
    assert not queue.waiting("default/g")


# --- laws ---------------------------------------------------------------------------------------------

Sizes = st.lists(st.integers(1, 4), min_size=1, max_size=5)
Gangs = st.lists(st.tuples(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=5)), max_size=5)


def check(world: Grouped) -> None:
    for row in world.snapshot.index.values():
        assert (world.snapshot.requested[row] <= world.snapshot.allocatable[row])[:1].all(), "over-committed"


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=Sizes, wanted=Gangs, data=st.data())
def test_no_decision_places_fewer_than_the_least(
    sizes: list[int], wanted: list[tuple[int, list[int]]], data: st.DataObject
) -> None:
    """Over any history of gangs that come, pods that end and nodes that come, and as the slow twin decides."""
    world = Grouped(*(node(f"n{i}", cpu=str(size)) for i, size in enumerate(sizes)), profiles=(profile(Ways()),))
    for number, (least, asks) in enumerate(wanted):
        world.add(group(f"g{number}", least))
        pods = [member(f"g{number}-{i}", f"g{number}", cpu=str(cpu)) for i, cpu in enumerate(asks)]
        expected = slowly(world, least, pods)
        before = set(world.snapshot.pods)
        found = world.together(*pods)
        placed = {d.pod.key: d.node for d in found.decisions if isinstance(d, Placement)}
        assert placed == expected
        assert not placed or len(placed) >= least
        assert set(world.snapshot.pods) == before | set(placed)
        check(world)
        if bool(world.snapshot.pods) and data.draw(st.booleans()):
            world.snapshot.remove_pod(sorted(world.snapshot.pods)[0])


def slowly(world: Grouped, least: int, pods: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The nodes of a gang's pods as the reference scheduler, one by one, finds them; none when it finds too few."""
    objects = [node(name, cpu=f"{world.snapshot.allocatable[row, 0]}m") for name, row in world.snapshot.nodes()]
    twin = Reference(objects)
    for at in twin.places:
        at.pods += [dict(there.obj) for there in world.snapshot.pods_on(at.name).values()]
    found: dict[str, str] = {}
    for one in pods:
        if any(not twin.refused_by(one, at) for at in twin.places):
            name = found[f"default/{one['metadata']['name']}"] = twin.choose(one)
            next(at for at in twin.places if at.name == name).pods.append(one)
    return found if len(found) >= least else {}


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=Sizes, left=st.integers(1, 5), right=st.integers(1, 5), first=st.booleans())
def test_of_two_gangs_for_each_of_which_there_is_room_one_always_gets_it(
    sizes: list[int], left: int, right: int, first: bool
) -> None:
    """Nothing is held between decisions, so neither waits for what the other has half of."""
    world = Grouped(*(node(f"n{i}", cpu=str(size)) for i, size in enumerate(sizes)))
    room = sum(sizes)
    counts = {"left": left, "right": right}
    for name, count in counts.items():
        world.add(group(name, count))
    placed = {}
    for name in sorted(counts, reverse=first):
        found = world.together(*(member(f"{name}-{i}", name) for i in range(counts[name])))
        placed[name] = found.verdict is not None and found.verdict.is_scheduled
    if max(counts.values()) <= room:
        assert any(placed.values())
    if sum(counts.values()) <= room:
        assert all(placed.values())


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sizes=Sizes, low=st.lists(st.integers(1, 3), max_size=6), least=st.integers(1, 4), count=st.integers(1, 5))
def test_after_its_victims_are_gone_a_gang_has_its_nodes(
    sizes: list[int], low: list[int], least: int, count: int
) -> None:
    world = Grouped(*(node(f"n{i}", cpu=str(size)) for i, size in enumerate(sizes)))
    for number, cpu in enumerate(low):
        world.cycle.schedule([info(pod(f"low{number}", cpu=str(cpu)))])
    world.add(group(least=least, priority=10))
    pods = vips(count)
    before = dict(world.snapshot.pods)
    found = world.together(*pods)
    gone = [v for d in found.decisions if isinstance(d, Failure) and d.preemption for v in d.preemption.victims]
    if not gone:
        return
    assert world.snapshot.pods == before
    assert all(victim.priority < 10 for victim in gone) and len({v.key for v in gone}) == len(gone)
    for decision in found.decisions:
        if isinstance(decision, Failure) and decision.preemption:
            world.cycle.nominate(decision.pod, decision.preemption.node)
    for victim in gone:
        world.snapshot.remove_pod(victim.key)
    after = world.groups.schedule([replace(d.pod) for d in found.decisions])
    assert after.verdict is not None and after.verdict.is_scheduled
    check(world)
