"""Waiting for conditions, with a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
#: Between two looks.
PAUSE_S = 0.05
#: How long is waited where nobody says.
TIMEOUT_S = 60.0


class NotInTime(AssertionError):
    """A condition that did not come true in the time it was given."""


def until(what: str, look: Callable[[], T], *, timeout: float = TIMEOUT_S) -> T:
    """What `look` returns once it is true or full; NotInTime, which tells what it saw last, after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not (seen := look()):
        if time.monotonic() >= end:
            last = "" if seen is None else f"; seen last: {seen!r}"
            raise NotInTime(f"{what}: not within {timeout:g} s{last}")
        time.sleep(PAUSE_S)
    return seen
