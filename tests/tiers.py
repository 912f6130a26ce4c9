"""Which of many cases that are alike a run takes, and how many examples of a property.

`--hypothesis-profile long` takes all of them.
"""

import datetime
import os
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

USUAL, FAST, LONG = "any machine", "fast", "long"
_FULL = 100
#: The day on which the run began, counted from the year 1: workers that begin after midnight collect the same tests.
TODAY = int(os.environ.setdefault("RAYPLANE_TODAY", str(datetime.datetime.now(datetime.UTC).date().toordinal())))


def first_are_fast(count: int, cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`; all but the first `count` carry the mark `slow`."""
    return [case if number < count else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)]


def usually_first(count: int, cases: Iterable[Any]) -> list[Any]:
    """The first `count` of the cases, which are seeds of one kind: one that fails is likely to have others that do."""
    return [*cases][: None if _is_long() else count]


def todays_part(parts: int, cases: Iterable[Any]) -> list[Any]:
    """Every one of the cases within so many days, as each is of its own kind."""
    return [*cases] if _is_long() else [*cases][TODAY % parts :: parts]


def not_its_day(turn: pytest.Mark) -> str:
    """Why a run of all tests leaves out what has this turn, `turn(day, of=days)`; empty on its day.

    Turns are of what takes minutes, so that each day tries another of those that have much in common.
    """
    (day,), days = turn.args, turn.kwargs["of"]
    wait = (day - TODAY) % days
    if _is_long() or not wait:
        return ""
    return f"its turn comes in {wait} days: name its file, or say --hypothesis-profile long"


def _is_long() -> bool:
    return settings().max_examples > _FULL


def register_profiles() -> None:
    """Hypothesis' profiles. How long an example takes is the machine's business: on a busy one that is no fault of what
    is tested."""
    for name, count in ((USUAL, _FULL // 2), (FAST, _FULL // 5), (LONG, _FULL * 10)):
        settings.register_profile(name, max_examples=count, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def examples(count: int) -> int:
    """Half as many examples; in the fast run a fifth, with `--hypothesis-profile long` ten times as many."""
    return max(1, count * settings().max_examples // _FULL)
