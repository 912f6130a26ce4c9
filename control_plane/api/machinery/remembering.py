"""Results remembered by the text they come from, where clients write the text.

A bound on the number of entries is no bound on their size: a long text is worked out anew each time.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

LONGEST = 512

P = ParamSpec("P")
R = TypeVar("R")
Reads = Callable[Concatenate[str, P], R]
"""A function whose first argument is a text."""


def remembered(maxsize: int) -> Callable[[Reads[P, R]], Reads[P, R]]:
    """An lru_cache that texts of more than LONGEST characters pass by."""

    def decorate(function: Reads[P, R]) -> Reads[P, R]:
        cached = cast("Reads[P, R]", lru_cache(maxsize)(function))

        @wraps(function)
        def call(text: str, *args: P.args, **named: P.kwargs) -> R:
            return cached(text, *args, **named) if len(text) <= LONGEST else function(text, *args, **named)

        return call

    return decorate
