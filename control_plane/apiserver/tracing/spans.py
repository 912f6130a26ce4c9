"""Spans: the steps of one request, one inside the other. Pure: what time it is, is passed in.

Nearly no request is traced: then a step costs a look at a context variable.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any, ParamSpec, TypeVar

SPANS_MAX = 256
"""Steps of one request; more are only counted."""
_FACTS_MAX = 16
_CHARS_MAX = 400

P = ParamSpec("P")
T = TypeVar("T")
Facts = Mapping[str, object]


class Trace:
    """All steps of one request, in the order in which they began."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.began = now()
        self.spans: list[Span] = []
        self.left_out = 0

    def steps(self) -> list[dict[str, Any]]:
        """Each as JSON: its `name`, how deep it is in others, seconds from the beginning (`at`), `seconds`, facts."""
        return [
            {
                "name": span.name,
                "depth": span.depth,
                "at": round(span.began - self.began, 6),
                "seconds": round((self.now() if span.ended is None else span.ended) - span.began, 6),
                **({"facts": span.facts} if span.facts else {}),
            }
            for span in self.spans
        ]


class Span:
    """One step, while it is entered the one at hand. What ends it by an error is one of its facts."""

    __slots__ = ("_token", "began", "depth", "ended", "facts", "name", "trace")

    def __init__(self, trace: Trace, name: str, depth: int) -> None:
        self.trace = trace
        self.name = name
        self.depth = depth
        self.began = trace.now()
        self.ended: float | None = None
        self.facts: dict[str, str] = {}
        self._token: Token[Span | None] | None = None

    def note(self, facts: Facts) -> None:
        """Add facts; bounded, for clients and webhooks have a say in them."""
        for key, value in facts.items():
            if len(self.facts) < _FACTS_MAX and value not in ("", None, ()):
                text = value if isinstance(value, str) else str(value)
                self.facts[key] = text if len(text) <= _CHARS_MAX else f"{text[:_CHARS_MAX]}…"

    def __enter__(self) -> Span:
        self._token = _AT_HAND.set(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._token is not None:
            # A stream that is given up may be ended by another task.
            with suppress(ValueError):
                _AT_HAND.reset(self._token)
        self.ended = self.trace.now()
        if error is not None:
            self.note({"error": f"{type(error).__name__}: {error}"})


class _Nothing:
    """The span of what is not traced: it is false."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def note(self, facts: Facts) -> None:
        """Nobody is interested."""

    def __enter__(self) -> _Nothing:
        return self

    def __exit__(self, *_: object) -> None:
        pass


_NOTHING = _Nothing()
_AT_HAND: ContextVar[Span | None] = ContextVar("span", default=None)


def traced() -> bool:
    """Whether somebody wants to know of the request at hand."""
    return _AT_HAND.get() is not None


def span(name: str) -> Span | _Nothing:
    """A step of the request at hand, to be entered."""
    above = _AT_HAND.get()
    if above is None:
        return _NOTHING
    trace = above.trace
    if len(trace.spans) >= SPANS_MAX:
        trace.left_out += 1
        return _NOTHING
    found = Span(trace, name, above.depth + 1)
    trace.spans.append(found)
    return found


def note(**facts: object) -> None:
    """Facts about the step at hand."""
    above = _AT_HAND.get()
    if above is not None:
        above.note(facts)


def spanned(
    name: str, *, about: Callable[..., Facts] | None = None, answered: Callable[[Any], Facts] | None = None
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """A coroutine function that is a step. `about` makes facts of its arguments, `answered` of what it returns."""

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        async def step(*args: P.args, **kwargs: P.kwargs) -> T:
            with span(name) as one:
                if about is not None and one:
                    one.note(about(*args, **kwargs))
                found = await function(*args, **kwargs)
                if answered is not None and one:
                    one.note(answered(found))
                return found

        @functools.wraps(function)
        def begin(*args: P.args, **kwargs: P.kwargs) -> Any:
            return function(*args, **kwargs) if _AT_HAND.get() is None else step(*args, **kwargs)

        return begin

    return decorate


@contextmanager
def following(trace: Trace, name: str) -> Iterator[Span]:
    """The request as the first step of its trace."""
    root = Span(trace, name, 0)
    trace.spans.append(root)
    with root:
        yield root


def changes(before: object, now: object, path: str = "", *, most: int = _FACTS_MAX) -> list[str]:
    """The paths at which two documents differ, no more than so many; not what stands there."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[str] = []
        for key in [*before, *(key for key in now if key not in before)]:
            if len(found) < most and before.get(key) != now.get(key):
                found += changes(before.get(key), now.get(key), f"{path}.{key}" if path else str(key), most=most)
        return found[:most]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        parts = (changes(a, b, f"{path}[{at}]", most=most) for at, (a, b) in pairs if a != b)
        return [one for part in parts for one in part][:most]
    return [path] if before != now else []
