"""Order of trying, back-off, and what wakes pods that found no node."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.scheduler.queue import Place, SchedulingQueue
from tests.scheduler.build import info, pod


def queue() -> SchedulingQueue:
    return SchedulingQueue(backoff=Backoff(1.0, 10.0), retry_after_s=60.0)


def names(found: list) -> list[str]:  # type: ignore[type-arg]
    return [p.name for p in found]


def test_higher_priority_first_then_first_come() -> None:
    q = queue()
    for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5)):
        q.add(info(pod(name, priority=priority)))
    assert names(q.pop(3, 0.0)) == ["b", "d", "a"]
    assert names(q.pop(3, 0.0)) == ["c"]


def test_a_pod_that_fails_waits_for_an_event_and_for_its_back_off() -> None:
    q = queue()
    q.add(info(pod("a")))
    now = 0.0
    for backoff in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        assert names(q.pop(1, now)) == ["a"]
        q.failed("default/a", now)
        assert q.pop(1, now + 50) == [], "nothing happened that could help"
        q.something_changed(now)
        assert q.next_wake(now) == backoff
        assert q.pop(1, now + backoff - 0.01) == []
        now += backoff


def test_an_event_during_the_attempt_is_not_lost() -> None:
    q = queue()
    q.add(info(pod("a")))
    q.pop(1, 0.0)
    q.something_changed(0.0)
    q.failed("default/a", 0.0)
    assert names(q.pop(1, 1.0)) == ["a"]


def test_forgotten_pods_try_again_after_a_while() -> None:
    q = queue()
    q.add(info(pod("a")))
    q.pop(1, 0.0)
    q.failed("default/a", 0.0)
    assert q.next_wake(10.0) == 50.0
    assert names(q.pop(1, 60.0)) == ["a"]


def test_a_status_change_does_not_retry_but_a_change_of_the_spec_does() -> None:
    q = queue()
    q.add(info(pod("a")))
    q.pop(1, 0.0)
    q.failed("default/a", 0.0)
    q.add(info(pod("a")))
    assert q.places()[Place.UNSCHEDULABLE] == 1
    q.add(info(pod("a", cpu="1m")))
    assert names(q.pop(1, 0.0)) == ["a"]


def test_a_removed_pod_does_not_come_back() -> None:
    q = queue()
    q.add(info(pod("a")))
    q.remove("default/a")
    assert q.pop(1, 0.0) == [] and q.next_wake(0.0) is None
    q.add(info(pod("a")))
    q.pop(1, 0.0)
    q.remove("default/a")
    q.failed("default/a", 0.0)
    q.something_changed(0.0)
    assert len(q) == 0 and q.pop(1, 100.0) == []


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "pop", "fail", "retry", "remove", "event", "wait"]), st.integers(0, 5)),
        max_size=60,
    )
)
def test_every_pod_is_in_one_place_and_never_lost(steps: list[tuple[str, int]]) -> None:
    q, now = queue(), 0.0
    present: set[str] = set()
    flying: set[str] = set()
    for kind, number in steps:
        key = f"default/p{number}"
        if kind == "add":
            q.add(info(pod(f"p{number}", priority=number % 2)))
            present.add(key)
        elif kind == "pop":
            popped = {p.key for p in q.pop(number, now)}
            assert not popped & flying and popped <= present
            flying |= popped
        elif kind in ("fail", "retry"):
            q.failed(key, now, retry=kind == "retry")
            flying.discard(key)
        elif kind == "remove":
            q.remove(key)
            present.discard(key)
            flying.discard(key)
        elif kind == "event":
            q.something_changed(now)
        else:
            now += number
        places = q.places()
        assert sum(places.values()) == len(present) and places[Place.IN_FLIGHT] == len(flying)
    for key in sorted(flying):
        q.failed(key, now)
    now += 120.0
    assert {p.key for p in q.pop(100, now)} == present, "in the end each is tried again"
