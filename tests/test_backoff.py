"""Pauses between tries: they grow to their end, begin anew after a success, and chance only shortens them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.backoff import Backoff, Pauses


def test_pauses_double_to_their_end_and_begin_anew() -> None:
    pauses = Pauses(Backoff(10.0, 300.0))
    assert [pauses.next_s() for _ in range(7)] == [10, 20, 40, 80, 160, 300, 300]
    pauses.reset()
    assert pauses.next_s() == 10


@given(st.floats(0.001, 10), st.floats(1, 100), st.floats(1, 4), st.integers(1, 200))
def test_both_ways_of_counting_agree(first_s: float, times: float, factor: float, failures: int) -> None:
    backoff, last_s = Backoff(first_s, first_s * times, factor), 0.0
    for n in range(1, failures + 1):
        last_s = backoff.after_s(last_s)
        if n <= 64:
            assert backoff.pause_s(n) == pytest.approx(last_s)
        assert backoff.pause_s(n) <= backoff.max_s and last_s <= backoff.max_s


def test_however_many_failures() -> None:
    assert Backoff(0.005, 30.0).pause_s(10**9) == 30.0
    assert Backoff(0.005, 30.0).pause_s(0) == 0.0


def test_chance_takes_away_its_share_at_most() -> None:
    pauses = Pauses(Backoff(1.0, 1.0), rng=random.Random(1), jitter=0.5)
    found = [pauses.next_s() for _ in range(1000)]
    assert 0.5 <= min(found) < 0.6 and 0.9 < max(found) <= 1.0


@pytest.mark.parametrize(("first_s", "max_s", "factor"), [(0, 1, 2), (2, 1, 2), (1, 2, 0.5)])
def test_what_would_not_grow_is_refused(first_s: float, max_s: float, factor: float) -> None:
    with pytest.raises(ValueError, match="back-off"):
        Backoff(first_s, max_s, factor)
