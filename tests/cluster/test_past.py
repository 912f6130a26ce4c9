"""How the control plane stood: what is told of an instant, and what is forgotten."""

from datetime import UTC, datetime, timedelta
from typing import Any

from rayplane.control_plane.cluster.past import EVERY_S, LATELY, LOOKS_MAX, Past

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def look(*, revision: int = 0, leader: str = "member-0") -> dict[str, Any]:
    """What a glance tells; `revision` 0: no member answers."""
    members = [
        {"name": name, "term": 2, "leader": name == leader, "revision": revision}
        if revision
        else {"name": name, "error": "no answer in time"}
        for name in ("member-0", "member-1")
    ]
    return {"members": members, "actors": [], "leases": [{"name": "kube-scheduler", "holder": "a", "error": ""}]}


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def test_an_instant_is_told_by_the_last_look_before_it() -> None:
    past = Past()
    past.keep(look(revision=10), at(0))
    past.keep(look(revision=20, leader="member-1"), at(3))
    assert past.then(9) == {}
    assert [one["leader"] for one in past.then(19)["members"]] == [True, False]
    found = past.then(25)
    assert [one["leader"] for one in found["members"]] == [False, True]
    assert found["seen"] == "2026-01-01T00:00:03.000000Z"
    assert [one["members"][0]["leader"] for one in found["lately"]] == [True, False]


def test_a_look_at_which_no_member_answered_is_of_the_revision_before_it() -> None:
    past = Past()
    past.keep(look(revision=10), at(0))
    past.keep(look(), at(1))
    assert "error" in past.then(10)["members"][0]


def test_who_led_long_before_is_not_told_and_the_oldest_looks_go() -> None:
    past = Past()
    for count in range(LOOKS_MAX + 5):
        past.keep(look(revision=count + 1), at(count * EVERY_S))
    assert past.then(5) == {} and past.then(6) != {}
    assert len(past.then(LOOKS_MAX)["lately"]) == LATELY.total_seconds() / EVERY_S
