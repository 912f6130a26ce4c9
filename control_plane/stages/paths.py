"""Paths: the subset of jq that selectors of stages use.

`.a.b`, `.a["b"]`, `.a[0]`, `.a[]` and `.a.[]`, `?`, literals, `select(CONDITION)`, `length`, `keys`, `not`, `//`, `|`,
comparisons, `and`, `or` and parentheses. What is not there has no values; nothing fails but what takes too long. Pure.
Source: the jq manual; the documentation of KWOK, "Stages configuration".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

from rayplane.control_plane.stages.errors import Failed, Unreadable

CHARS_MAX: Final = 4096
VALUES_MAX: Final = 10_000
DEPTH_MAX: Final = 32
_TOKEN: Final = re.compile(
    r"""\s*(?:
    (?P<text>"(?:\\.|[^"\\\n])*")
    |(?P<number>-?\d+(?:\.\d+)?)
    |(?P<field>\.[A-Za-z_]\w*)
    |(?P<sign>==|!=|<=|>=|//|[<>|().\[\]?,])
    |(?P<name>[A-Za-z_]\w*)
    )""",
    re.VERBOSE,
)
_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


class _Left:
    """A count of the values that may still be looked at."""

    def __init__(self) -> None:
        self.count = VALUES_MAX

    def take(self) -> None:
        self.count -= 1
        if self.count < 0:
            raise Failed(f"it looks at more than {VALUES_MAX} values")


Step = Callable[[Any, _Left], Iterator[Any]]


class Query:
    """A query that gives the values it finds in an object. Raises Unreadable when it is none."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._step = _Reader(text).whole()

    def values(self, data: Any) -> list[Any]:
        """What is found, in its order. Raises Failed."""
        return list(self._step(data, _Left()))


class _Reader:
    """A reader of one query, by recursive descent: the loosest operator first."""

    def __init__(self, text: str) -> None:
        if len(text) > CHARS_MAX:
            raise Unreadable(f"it has more than {CHARS_MAX} characters")
        self._text = text
        self._tokens = self._lexed(text)
        self._at = 0
        self._depth = 0

    @staticmethod
    def _lexed(text: str) -> list[tuple[str, str, int]]:
        found, at, end = [], 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise Unreadable(f"character {at + 1}: {text[at : at + 10].strip()!r} has no meaning here")
            kind = match.lastgroup or ""
            found.append((kind, match.group(kind), match.start(kind)))
            at = match.end()
        return found

    def whole(self) -> Step:
        step = self._pipe()
        if self._at < len(self._tokens):
            raise self._error()
        return step

    def _pipe(self) -> Step:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise Unreadable(f"parentheses stand in each other more than {DEPTH_MAX} levels deep")
        step = self._operators(0)
        while self._take("|"):
            step = _then(step, self._operators(0))
        self._depth -= 1
        return step

    def _operators(self, level: int) -> Step:
        """`//`, then `or`, `and` and comparisons, each of which binds closer than the one before."""
        if level == 3:
            return self._comparison()
        sign, join = (("//", _alternative), ("or", _either(True)), ("and", _either(False)))[level]
        step = self._operators(level + 1)
        while self._take(sign):
            step = join(step, self._operators(level + 1))
        return step

    def _comparison(self) -> Step:
        step = self._term()
        for sign, test in _COMPARISONS.items():
            if self._take(sign):
                return _compared(step, self._term(), test)
        return step

    def _term(self) -> Step:
        kind, text, _ = self._next()
        if kind == "text":
            return self._suffixes(_constant(self._string(text)))
        if kind == "number":
            return _constant(float(text) if "." in text else int(text[:18]))
        if kind == "field":
            return self._suffixes(_field(text[1:]))
        if text == ".":
            return self._suffixes(_identity)
        if text == "(":
            step = self._pipe()
            self._expect(")")
            return self._suffixes(step)
        if kind == "name":
            return self._named(text)
        self._at -= 1
        raise self._error()

    def _named(self, name: str) -> Step:
        if name in ("true", "false", "null"):
            return _constant(json.loads(name))
        if name == "select":
            self._expect("(")
            condition = self._pipe()
            self._expect(")")
            return _select(condition)
        if name in _NAMED:
            return _NAMED[name]
        raise Unreadable(f"{name} is not known here; there are select, {', '.join(sorted(_NAMED))}")

    def _suffixes(self, step: Step) -> Step:
        while True:
            if self._take("["):
                step = _then(step, self._bracket())
            elif self._take("?"):
                continue
            elif self._peek()[0] == "field":
                step = _then(step, _field(self._next()[1][1:]))
            elif self._peek()[1] == "." and self._peek(1)[1] == "[":
                self._next()
            else:
                return step

    def _bracket(self) -> Step:
        if self._take("]"):
            return _each
        kind, text, _ = self._next()
        if kind == "text":
            step = _field(self._string(text))
        elif kind == "number" and "." not in text:
            step = _item(int(text[:9]))
        else:
            self._at -= 1
            raise self._error()
        self._expect("]")
        return step

    # --- small things -----------------------------------------------------------------------------

    def _string(self, text: str) -> str:
        try:
            return str(json.loads(text))
        except ValueError:
            raise Unreadable(f"{text} is no text") from None

    def _peek(self, ahead: int = 0) -> tuple[str, str, int]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("", "", len(self._text))

    def _next(self) -> tuple[str, str, int]:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, sign: str) -> bool:
        kind, text, _ = self._peek()
        if text != sign or kind == "text":
            return False
        self._at += 1
        return True

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise self._error(f"{sign} is missing")

    def _error(self, what: str = "") -> Unreadable:
        _, text, at = self._peek()
        return Unreadable(
            f"character {at + 1}: {what or (f'{text!r} has no meaning here' if text else 'it ends too early')}"
        )


# --- steps ----------------------------------------------------------------------------------------


def _identity(value: Any, left: _Left) -> Iterator[Any]:
    left.take()
    yield value


def _constant(constant: Any) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        left.take()
        yield constant

    return step


def _field(name: str) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        left.take()
        if isinstance(value, dict):
            yield value.get(name)
        elif value is None:
            yield None

    return step


def _item(index: int) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        left.take()
        if isinstance(value, list):
            yield value[index] if -len(value) <= index < len(value) else None
        elif value is None:
            yield None

    return step


def _each(value: Any, left: _Left) -> Iterator[Any]:
    left.take()
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        left.take()
        yield one


def _then(first: Step, second: Step) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        for one in first(value, left):
            yield from second(one, left)

    return step


def _alternative(first: Step, second: Step) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        found = [one for one in first(value, left) if one is not None and one is not False]
        yield from found or second(value, left)

    return step


def _is_true(value: Any) -> bool:
    return value is not None and value is not False


def _either(decisive: bool) -> Callable[[Step, Step], Step]:
    def join(first: Step, second: Step) -> Step:
        def step(value: Any, left: _Left) -> Iterator[Any]:
            for one in first(value, left):
                if _is_true(one) is decisive:
                    yield decisive
                    continue
                for other in second(value, left):
                    left.take()
                    yield _is_true(other)

        return step

    return join


def _compared(first: Step, second: Step, test: Callable[[Any, Any], bool]) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        for one in first(value, left):
            for other in second(value, left):
                left.take()
                try:
                    yield test(one, other)
                except TypeError:
                    yield False

    return step


def _select(condition: Step) -> Step:
    def step(value: Any, left: _Left) -> Iterator[Any]:
        for one in condition(value, left):
            if _is_true(one):
                yield value

    return step


def _not(value: Any, left: _Left) -> Iterator[Any]:
    left.take()
    yield not _is_true(value)


def _length(value: Any, left: _Left) -> Iterator[Any]:
    left.take()
    yield len(value) if isinstance(value, dict | list | str) else 0


def _keys(value: Any, left: _Left) -> Iterator[Any]:
    left.take()
    yield sorted(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


_NAMED: Final[dict[str, Step]] = {"not": _not, "length": _length, "keys": _keys, "empty": lambda value, left: iter(())}
