"""Which of many cases that are alike the fast run takes."""

from collections.abc import Iterable
from typing import Any

import pytest


def first_are_fast(count: int, cases: Iterable[Any]) -> list[Any]:
    """The cases for `parametrize`; all but the first `count` carry the mark `slow`."""
    return [case if number < count else pytest.param(case, marks=pytest.mark.slow) for number, case in enumerate(cases)]
