"""Results remembered by the text they come from, where clients write the text.

A bound on the number of entries is no bound on their size: a long text is worked out anew each time.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

LONGEST = 512

_F = TypeVar("_F", bound=Callable[..., Any])


def remembered(maxsize: int) -> Callable[[_F], _F]:
    """An lru_cache for functions whose first argument is a text; those of more than LONGEST characters pass it by."""

    def decorate(function: _F) -> _F:
        cached = lru_cache(maxsize)(function)

        @wraps(function)
        def call(text: str, *args: Any, **named: Any) -> Any:
            return (cached if len(text) <= LONGEST else function)(text, *args, **named)

        return call  # type: ignore[return-value]

    return decorate
