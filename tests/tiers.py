"""Which of many cases that are alike the fast run takes, and how many examples of a property."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

USUAL, FAST, LONG = "any machine", "fast", "long"
_FULL = 100


def first_are_fast(count: int, cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`; all but the first `count` carry the mark `slow`."""
    return [case if number < count else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)]


def register_profiles() -> None:
    """Hypothesis' profiles. How long an example takes is the machine's business: on a busy one that is no fault of what
    is tested."""
    for name, count in ((USUAL, _FULL), (FAST, _FULL // 5), (LONG, _FULL * 10)):
        settings.register_profile(name, max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def examples(count: int) -> int:
    """So many examples; in the fast run a fifth of them, with `--hypothesis-profile long` ten times as many."""
    return max(1, count * settings().max_examples // _FULL)
