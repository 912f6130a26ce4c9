"""Order of trying, back-off, gates, and what wakes pods that found no node."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler import queue as queues
from rayplane.control_plane.scheduler.config import DEFAULT_PROFILES, Profile
from rayplane.control_plane.scheduler.devices import DeviceIndex
from rayplane.control_plane.scheduler.events import Action, Event, Resource
from rayplane.control_plane.scheduler.gates import Gates, with_objects
from rayplane.control_plane.scheduler.groups import GroupIndex
from rayplane.control_plane.scheduler.hints import Hint, Hints
from rayplane.control_plane.scheduler.nodes import NodeInfo
from rayplane.control_plane.scheduler.queue import Gate, Place, SchedulingQueue
from rayplane.control_plane.scheduler.snapshot import Snapshot
from tests.scheduler.build import info, node, on, pod
from tests.scheduler.test_dynamic_resources import exactly, offered, user, wanted

FIT = "NodeResourcesFit"
GATES = Gates(DEFAULT_PROFILES)
NODE_CAME = Event(Resource.NODE, Action.ADD, None, NodeInfo.of(node("n")))
ROOM_CAME = Event(Resource.ASSIGNED_POD, Action.DELETE, info(on("n", pod("gone"))), None)


def queue(**more: Any) -> SchedulingQueue:
    hints = Hints(Snapshot(), more.pop("hints", None))
    return SchedulingQueue(hints, backoff=Backoff(1.0, 10.0), retry_after_s=300.0, **more)


def names(found: list) -> list[str]:
    return [p.name for p in found]


def test_higher_priority_first_then_first_come() -> None:
    q = queue()
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        q.add(info(pod(name, priority=priority)), 0.0)
    assert names(q.pop(3, 0.0)) == ["b", "d", "a"]
    assert names(q.pop(3, 0.0)) == ["c"]


def test_an_order_of_ones_own() -> None:
    q = queue(order=lambda pod: pod.name)
    for name in "cab":
        q.add(info(pod(name, priority=ord(name))), 0.0)
    assert names(q.pop(3, 0.0)) == ["a", "b", "c"]


def test_who_has_tried_goes_behind_those_that_have_not() -> None:
    q = queue()
    q.add(info(pod("tried")), 0.0)
    q.pop(1, 0.0)
    q.add(info(pod("new")), 0.0)
    q.failed("default/tried", 0.0, [FIT])
    q.happened(NODE_CAME, 5.0)
    assert names(q.pop(2, 5.0)) == ["new", "tried"]


def test_a_refused_pod_waits_for_an_event_and_then_its_back_off_while_others_are_there() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    now = 0.0
    for number, backoff in enumerate((1.0, 2.0, 4.0, 8.0, 10.0, 10.0)):
        assert names(q.pop(1, now)) == ["a"]
        q.failed("default/a", now, [FIT])
        assert q.pop(1, now + 50) == [], "nothing happened that could help"
        q.happened(ROOM_CAME, now)
        q.add(info(pod(f"other-{number}")), now)
        q.add(info(pod(f"last-{number}")), now)
        assert names(q.pop(1, now + backoff - 0.01)) == [f"other-{number}"], "others have the active queue for now"
        now += backoff
        q.remove(f"default/last-{number}")
        assert q.places()[Place.BACKOFF] == 1


def test_with_nothing_else_to_do_nobody_is_kept_backing_off() -> None:
    q = queue()
    for name, priority in (("low", 0), ("high", 1)):
        q.add(info(pod(name, priority=priority)), 0.0)
    q.pop(2, 0.0)
    q.failed("default/low", 0.0, [FIT])
    q.failed("default/high", 0.1, [FIT])
    q.happened(ROOM_CAME, 0.2)
    assert q.next_wake(0.2) == 0.0
    assert names(q.pop(2, 0.2)) == ["high", "low"], "in the order of trying, not of the back-off's end"


def test_after_an_error_it_is_the_back_off_that_counts() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    now = 0.0
    for backoff in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert names(q.pop(1, now)) == ["a"]
        q.failed("default/a", now, retry=True)
        assert q.next_wake(now) == backoff
        assert q.pop(1, now + backoff - 0.01) == []
        now += backoff


def test_a_pod_that_lost_its_node_backs_off_in_any_case_and_does_not_wake_itself() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    q.failed("default/a", 0.0, ["Mine"], patient=True)
    assert not q.happened(Event(Resource.ASSIGNED_POD, Action.DELETE, info(on("n", pod("a"))), None), 0.0)
    assert q.happened(ROOM_CAME, 0.0)
    assert q.pop(1, 0.5) == [] and q.next_wake(0.5) == 0.5
    assert names(q.pop(1, 1.0)) == ["a"]


def test_only_events_of_those_that_refused_it_wake_a_pod() -> None:
    q = queue()
    for name in ("fit", "near"):
        q.add(info(pod(name)), 0.0)
    q.pop(2, 0.0)
    q.failed("default/fit", 0.0, [FIT])
    q.failed("default/near", 0.0, ["InterPodAffinity"])
    assert q.happened(ROOM_CAME, 1.0)
    assert names(q.pop(2, 9.0)) == ["fit"]


def test_an_event_during_the_attempt_is_not_lost() -> None:
    q = queue()
    for name in ("a", "b"):
        q.add(info(pod(name)), 0.0)
    q.pop(2, 0.0)
    q.happened(ROOM_CAME, 0.0)
    q.failed("default/a", 0.0, [FIT])
    q.failed("default/b", 0.0, ["InterPodAffinity"])
    assert names(q.pop(2, 1.0)) == ["a"], "and an event that helps it not is none"


def test_events_beyond_what_is_remembered_count_as_help(monkeypatch: Any) -> None:
    monkeypatch.setattr(queues, "EVENTS_MAX", 4)
    q = queue()
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    for _ in range(20):
        q.happened(Event(Resource.CSI_DRIVER, Action.UPDATE, {}, {}), 0.0)
    q.failed("default/a", 0.0, [FIT])
    assert names(q.pop(1, 1.0)) == ["a"]


def test_forgotten_pods_try_again_after_five_minutes() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    q.failed("default/a", 0.0, [FIT])
    assert q.next_wake(10.0) == 290.0
    assert names(q.pop(1, 299.9)) == []
    assert names(q.pop(1, 300.0)) == ["a"]


def test_without_nodes_a_pod_waits_for_one() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    q.failed("default/a", 0.0)
    assert not q.happened(ROOM_CAME, 0.0)
    assert q.happened(NODE_CAME, 0.0)
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_status_change_does_not_retry_but_a_change_of_the_spec_does() -> None:
    q = queue()
    q.add(info(pod("a", cpu="2m")), 0.0)
    q.pop(1, 0.0)
    q.failed("default/a", 0.0, [FIT])
    q.add(info(pod("a", cpu="2m") | {"status": {"phase": "Pending"}}), 0.0)
    assert q.places()[Place.UNSCHEDULABLE] == 1
    q.add(info(pod("a", cpu="2m", labels={"new": "label"})), 0.0)
    assert q.places()[Place.UNSCHEDULABLE] == 1, "labels do not make it smaller"
    q.add(info(pod("a", cpu="1m")), 0.0)
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_change_of_its_own_during_the_attempt_counts() -> None:
    q = queue()
    q.add(info(pod("a", cpu="2m")), 0.0)
    q.pop(1, 0.0)
    q.add(info(pod("a", cpu="1m")), 0.0)
    q.failed("default/a", 0.0, [FIT])
    assert names(q.pop(1, 1.0)) == ["a"]


def test_a_gated_pod_is_let_in_when_its_gates_are_gone() -> None:
    q = queue(gate=GATES)
    q.add(info(pod("a", schedulingGates=[{"name": "x"}, {"name": "y"}])), 0.0)
    assert q.places()[Place.GATED] == 1 and q.pop(1, 0.0) == []
    q.happened(ROOM_CAME, 0.0)
    q.add(info(pod("a", schedulingGates=[{"name": "y"}])), 0.0)
    assert q.pop(1, 0.0) == []
    q.add(info(pod("a")), 0.0)
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_profile_may_disregard_gates() -> None:
    q = queue(gate=Gates((Profile(name="default-scheduler", gates=False),)))
    q.add(info(pod("a", schedulingGates=[{"name": "x"}])), 0.0)
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_gate_of_ones_own_is_asked_again_on_its_events_only() -> None:
    closed = {"a"}
    asked: Counter[str] = Counter()

    def gate(one: Any) -> Gate | None:
        asked[one.name] += 1
        return Gate("Mine", "not yet") if one.name in closed else None

    hints = {"Mine": (Hint(Resource.NAMESPACE, Action.ADD),)}
    q = queue(gate=gate, hints=hints)
    q.add(info(pod("a")), 0.0)
    closed.clear()
    q.happened(ROOM_CAME, 0.0)
    assert q.pop(1, 0.0) == [] and asked["a"] == 1
    q.happened(Event(Resource.NAMESPACE, Action.ADD, None, {}), 0.0)
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_claim_lets_in_the_pod_that_it_is_for_and_no_other_is_asked() -> None:
    devices, asked = DeviceIndex(), Counter[str]()
    objects = with_objects(GATES, GroupIndex(), devices, DEFAULT_PROFILES)

    def gate(one: Any) -> Gate | None:
        asked[one.name] += 1
        return objects(one)

    def happens(resource: Resource, obj: Any) -> None:
        q.happened(Event(resource, Action.ADD, None, obj), 1.0)

    q = queue(gate=gate)
    late = pod("late", resourceClaims=[{"name": "c", "resourceClaimTemplateName": "t"}])
    for one in (user("a", "x"), user("b", "y"), late):
        q.add(info(one), 0.0)
    first = {**asked}
    devices.set_claim(wanted("x", exactly()))
    happens(Resource.RESOURCE_CLAIM, devices.claims["default/x"])
    assert names(q.pop(9, 1.0)) == ["a"]
    happens(Resource.RESOURCE_SLICE, offered("n"))
    q.happened(NODE_CAME, 1.0)
    devices.set_claim(wanted("made", exactly()))
    happens(Resource.RESOURCE_CLAIM, devices.claims["default/made"])
    assert asked - Counter(first) == Counter(a=1)
    told = {"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "made"}]}
    q.add(info(late | {"status": told}), 1.0)
    assert names(q.pop(9, 1.0)) == ["late"]
    waits = q.find("default/b")
    assert waits is not None and waits.gate is not None and waits.gate.plugin == "DynamicResources"


def test_who_is_kept_out_for_a_while_is_told_once_why() -> None:
    says = {"a": "no claim", "b": "no claim", "c": ""}

    def gate(one: Any) -> Gate | None:
        return Gate("Mine", says[one.name]) if one.name in says else None

    q = queue(gate=gate, hints={"Mine": (Hint(Resource.NAMESPACE, Action.ADD),)})
    for number, name in enumerate("abc"):
        q.add(info(pod(name)), float(number))
    assert (q.kept_out(9, 4.9), q.next_wake(1.0)) == ([], 4.0)
    asked = Event(Resource.NAMESPACE, Action.ADD, None, {})
    del says["b"]
    q.happened(asked, 4.9)  # it changes nothing for a
    assert names(q.pop(9, 4.9)) == ["b"]
    assert [(one.name, text) for one, text in q.kept_out(9, 5.0)] == [("a", "no claim")]
    q.happened(asked, 6.0)
    assert q.kept_out(9, 100.0) == []
    says["a"] = "it goes"
    q.happened(asked, 101.0)
    assert (q.kept_out(9, 105.9), [text for _, text in q.kept_out(9, 106.0)]) == ([], ["it goes"])


def test_a_removed_pod_does_not_come_back() -> None:
    q = queue()
    q.add(info(pod("a")), 0.0)
    q.remove("default/a")
    assert q.pop(1, 0.0) == [] and q.next_wake(0.0) is None
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    q.remove("default/a")
    q.failed("default/a", 0.0, [FIT])
    q.happened(ROOM_CAME, 0.0)
    assert len(q) == 0 and q.pop(1, 1000.0) == []


def test_pods_are_counted_by_the_queue_they_came_to_and_why() -> None:
    counts: Counter[tuple[str, str]] = Counter()
    q = queue(incoming=counts)
    q.add(info(pod("a")), 0.0)
    q.pop(1, 0.0)
    q.failed("default/a", 0.0, [FIT])
    q.happened(ROOM_CAME, 0.5)
    q.add(info(pod("b")), 0.5)
    assert counts == {
        ("active", "PodAdd"): 2,
        ("unschedulable", "ScheduleAttemptFailure"): 1,
        ("backoff", "AssignedPodDelete"): 1,
    }


def test_what_moved_on_leaves_no_entries_behind() -> None:
    """A pod that comes and goes, or backs off and is tried early, again and again costs no memory."""
    q = queue()
    q.add(info(pod("stays")), 0.0)
    for _ in range(2000):
        q.add(info(pod("a", priority=-1)), 0.0)
        q.remove("default/a")
        q.pop(1, 0.0)
        q.failed("default/stays", 0.0, [FIT])
        q.happened(ROOM_CAME, 0.0)
    assert sum(len(line._heap) for line in (q._active, q._backoff, q._early)) < 600


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "gate", "pop", "fail", "retry", "placed", "remove", "event", "wait"]),
        st.integers(0, 5),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_pod_is_in_one_place_and_never_lost(steps: list[tuple[str, int]]) -> None:
    q, now = queue(gate=GATES), 0.0
    present: dict[str, bool] = {}  # whether it is gated
    flying: set[str] = set()
    for kind, number in steps:
        key = f"default/p{number}"
        if kind in ("add", "gate"):
            gates = [{"name": "g"}] if kind == "gate" else []
            q.add(info(pod(f"p{number}", priority=number % 2, schedulingGates=gates)), now)
            present[key] = bool(gates)
        elif kind == "pop":
            popped = [p.key for p in q.pop(number, now)]
            assert not set(popped) & flying and set(popped) <= set(present)
            flying |= set(popped)
        elif kind in ("fail", "retry"):
            q.failed(key, now, [FIT] if number % 2 else ["InterPodAffinity"], retry=kind == "retry")
            flying.discard(key)
        elif kind == "placed":
            q.placed(key)
        elif kind == "remove":
            q.remove(key)
            present.pop(key, None)
            flying.discard(key)
        elif kind == "event":
            q.happened(ROOM_CAME if number % 2 else NODE_CAME, now)
        else:
            now += number
        places = q.places()
        assert sum(places.values()) == len(present) and places[Place.IN_FLIGHT] == len(flying)
        assert len(q._events) <= 2 * queues.EVENTS_MAX and (q._deciding or not q._events)
    for key in sorted(flying):
        q.failed(key, now)
    now += 310.0
    held = {key for key, gated in present.items() if gated}
    tried = {p.key for p in q.pop(100, now)}
    assert tried | held == set(present), "in the end each is tried again"


@given(STEPS)
def test_a_waiting_loop_always_comes_to_an_end(steps: list[tuple[str, int]]) -> None:
    """`next_wake` promises: at 0 there is a pod, and after the time it names there is one, or a gate was asked."""
    q, now = queue(gate=GATES), 0.0
    for kind, number in steps:
        gates = [{"name": "g"}] if kind == "gate" else []
        if kind in ("add", "gate"):
            q.add(info(pod(f"p{number}", schedulingGates=gates)), now)
        elif kind == "event":
            q.happened(ROOM_CAME, now)
        wait = q.next_wake(now)
        if wait == 0.0:
            popped = q.pop(1, now)
            assert popped
            q.failed(popped[0].key, now, [FIT], retry=kind == "retry")
        elif wait is not None and kind == "wait":
            now += wait
            q.pop(0, now)
            again = q.next_wake(now)
            assert again == 0.0 or q.places()[Place.GATED], "it would spin"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=12), st.integers(1, 4))
def test_whoever_fits_in_the_end_is_scheduled_in_the_end(pods: list[tuple[int, int]], room: int) -> None:
    """Pods of some priority need some room on one node; each that is placed ends after a while. None starves."""
    q, now = queue(), 0.0
    needs = {}
    for number, (priority, need) in enumerate(pods):
        needs[f"p{number}"] = min(need, room)
        q.add(info(pod(f"p{number}", priority=priority)), now)
    running: list[str] = []
    for _ in range(60 * len(pods)):
        for one in q.pop(2, now):
            if sum(needs[r] for r in running) + needs[one.name] <= room:
                running.append(one.name)
                q.placed(one.key)
                q.remove(one.key)
            else:
                q.failed(one.key, now, [FIT])
        if running and q.next_wake(now) != 0.0:
            running.pop(0)
            q.happened(ROOM_CAME, now)
        now += 0.5
    assert not len(q)
