"""The balancer's decisions: where new connections go, and that checks hardly ever end one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.loadbalancer.backends import (
    Checked,
    Closed,
    Cut,
    Effect,
    Event,
    Finding,
    Health,
    Listed,
    Opened,
    Pool,
    Retry,
    Ticked,
)

R, U, S, X = Finding.READY, Finding.UNREADY, Finding.SILENT, Finding.REFUSED


def pool(*events: Event, at: float = 0.0) -> tuple[Pool, list[Effect]]:
    """A pool of a, b and c after these events; the effects of the last."""
    made = Pool(silent_to_doubt=2, silent_to_cut=4, leave_s=60.0)
    made.step(Listed(("a", "b", "c")), 0.0)
    effects: list[Effect] = []
    for event in events:
        effects = made.step(event, at)
    return made, effects


def checks(a: Finding, b: Finding, c: Finding) -> list[Event]:
    return [Checked("a", a), Checked("b", b), Checked("c", c)]


@pytest.mark.parametrize(
    ("events", "tried", "last"),
    [
        ([], ["a", "b", "c"], ["a", "b", "c"]),
        (checks(R, R, R), ["a", "b", "c"], ["a", "b", "c"]),
        ([*checks(R, R, R), Opened("a"), Opened("b")], ["c", "a", "b"], ["c", "a", "b"]),
        ([*checks(R, R, R), Opened("a"), Closed("a")], ["a", "b", "c"], ["a", "b", "c"]),
        (checks(R, U, X), ["a"], ["a", "b", "c"]),
        # Once in time is not enough to doubt a server that was ready; twice is.
        ([*checks(R, R, X), Checked("a", S)], ["a", "b"], ["a", "b", "c"]),
        ([*checks(R, R, X), Checked("a", S), Checked("a", S)], ["b"], ["b", "a", "c"]),
        ([*checks(R, R, X), Checked("a", S), Checked("a", R), Checked("a", S)], ["a", "b"], ["a", "b", "c"]),
        # When nobody answers, everybody may only be slow.
        (checks(S, S, S), ["a", "b", "c"], ["a", "b", "c"]),
        (checks(S, U, X), ["a"], ["a", "b", "c"]),
        (checks(U, U, X), [], ["a", "b", "c"]),
        ([*checks(R, R, R), Listed(("b",))], ["b"], ["b"]),
        ([*checks(R, R, R), Listed(())], ["a", "b", "c"], ["a", "b", "c"]),
        ([*checks(R, R, R), Opened("a"), Listed(("b",)), Listed(("a", "b"))], ["b", "a"], ["b", "a"]),
    ],
)
def test_where_a_new_connection_is_tried(events: list[Event], tried: list[str], last: list[str]) -> None:
    made, _ = pool(*events)
    assert made.candidates() == tried
    assert made.candidates(Health.UNREACHABLE) == last


@pytest.mark.parametrize(
    ("events", "tried"),
    [
        (checks(R, U, U), ["a"]),
        (checks(U, U, X), ["a", "b"]),
        (checks(S, U, X), ["a", "b"]),
        (checks(X, X, X), []),
    ],
)
def test_after_a_little_while_servers_that_say_they_are_not_ready_may_say_why(
    events: list[Event], tried: list[str]
) -> None:
    made, _ = pool(*events)
    assert made.candidates(Health.UNREADY) == tried


def test_a_server_that_never_answers_loses_its_connections_while_others_are_ready() -> None:
    mute = [Checked("a", S)] * 3
    assert pool(*checks(R, R, X), Opened("a"), *mute)[1] == []
    assert pool(*checks(R, R, X), Opened("a"), *mute, Checked("a", S))[1] == [Cut("a")]
    assert pool(*checks(R, R, X), Opened("a"), *mute, Checked("a", R))[1] == [Retry()]
    assert pool(*checks(R, U, X), Opened("a"), *mute, Checked("a", S))[1] == []


def test_only_a_server_listed_no_more_loses_connections_and_only_after_a_while() -> None:
    events = [*checks(R, R, R), Opened("a"), Opened("b"), Listed(("b", "c"))]
    made, _ = pool(*events)
    assert made.step(Ticked(), 59.0) == []
    assert made.step(Ticked(), 60.0) == [Cut("a")]
    made.step(Closed("a"), 60.0)
    assert set(made.backends) == {"b", "c"}
    assert made.step(Ticked(), 61.0) == []


def test_waiting_clients_try_again_when_a_server_gets_better_or_comes() -> None:
    assert pool(*checks(X, X, X), Checked("a", S))[1] == [Retry()]
    assert pool(*checks(X, X, X), Checked("a", U))[1] == []
    assert pool(*checks(U, U, U), Checked("b", R))[1] == [Retry()]
    assert pool(*checks(R, R, R), Checked("b", R))[1] == []
    assert pool(*checks(U, U, U), Listed(("a", "d")))[1] == [Retry()]


ADDRESSES = ["a", "b", "c", "d"]
EVENTS = st.one_of(
    st.builds(Listed, st.lists(st.sampled_from(ADDRESSES), unique=True).map(tuple)),
    st.builds(Checked, st.sampled_from(ADDRESSES), st.sampled_from(Finding)),
    st.builds(Opened, st.sampled_from(ADDRESSES)),
    st.builds(Closed, st.sampled_from(ADDRESSES)),
    st.just(Ticked()),
)


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 50.0))))
def test_hardly_a_check_ends_a_connection(steps: list[tuple[Event, float]]) -> None:
    made = Pool(silent_to_doubt=2, silent_to_cut=4, leave_s=60.0)
    # Nobody has listed any of them since the beginning.
    listed: tuple[str, ...] = ()
    now, left_at = 0.0, dict.fromkeys(ADDRESSES, 0.0)
    for event, pause in steps:
        now += pause
        if isinstance(event, Listed) and event.addresses:
            left_at = {a: left_at.get(a, now) for a in ADDRESSES if a not in event.addresses}
            listed = event.addresses
        for effect in made.step(event, now):
            if isinstance(effect, Cut) and isinstance(event, Ticked):
                assert effect.address not in listed
                assert now - left_at[effect.address] >= 60.0
            elif isinstance(effect, Cut):
                gone = event == Checked(effect.address, Finding.UNHEARD)
                assert gone or event == Checked(effect.address, Finding.SILENT)
                assert gone or made.backends[effect.address].silent >= 4
                assert any(b.ready for b in made.backends.values())
        # Whoever is listed can be reached, whatever the checks say.
        assert sorted(made.candidates(Health.UNREACHABLE)) == sorted(listed)
        assert set(made.candidates()) <= set(listed)
        for backend in made.backends.values():
            assert backend.connections >= 0
            assert backend.left_at is None or backend.connections
