"""Expressions of stages over an object: paths as jq has them, and the Common Expression Language over `self`. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from rayplane.control_plane import cel
from rayplane.control_plane.api.errors import FieldError, invalid, not_supported, required
from rayplane.control_plane.api.meta import Object, parse_time
from rayplane.control_plane.durations import DurationError, parse_duration
from rayplane.control_plane.stages.errors import StageError, Unreadable
from rayplane.control_plane.stages.paths import Query

Errors = list[FieldError]
BUDGET: Final = 100_000
"""What one evaluation may cost, in the units of the Common Expression Language."""
DELAY_MAX_S: Final = 366 * 86_400.0
_SELF: Final = cel.Declarations({"self": cel.DYN})
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
Test = Callable[[Object], bool]


@dataclass(frozen=True, slots=True)
class Source:
    """An expression that has values of an object; none where it fails."""

    values: Callable[[Object], list[Any]]

    def number(self, o: Object) -> int | None:
        """The first value as a whole number, not negative; None where there is none."""
        for value in self.values(o)[:1]:
            text = str(value)
            if not isinstance(value, bool) and text.isdecimal() and len(text) < 16:
                return int(text)
        return None

    def seconds(self, o: Object, now: datetime) -> float | None:
        """The first value as a span, or as the time until that moment; None where it is neither."""
        for value in self.values(o)[:1]:
            if isinstance(value, cel.Duration):
                return _bounded(value.ns / 1e9)
            if isinstance(value, datetime):
                return _bounded((value - now).total_seconds())
            if isinstance(value, str) and value:
                try:
                    return _bounded((parse_time(value) - now).total_seconds())
                except ValueError:
                    pass
                try:
                    return _bounded(parse_duration(value))
                except DurationError:
                    return None
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), DELAY_MAX_S)


def read_source(given: Mapping[str, Any], at: str, errors: Errors) -> Source | None:
    """A `durationFrom` or `weightFrom`."""
    for part, text in _written(given):
        if part == "cel":
            program = _program(text, f"{at}.cel.expression", errors)
            return None if program is None else Source(_values_of(program))
        query = _query(text, f"{at}.{'jq.expression' if part == 'jq' else part}", errors)
        return None if query is None else Source(_quietly(query.values))
    errors.append(required(f"{at}.expressionFrom"))
    return None


def _written(given: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(part, (given.get(part) or {}).get("expression")) for part in ("cel", "jq")]
    found.append(("expressionFrom", given.get("expressionFrom")))
    return [(part, text) for part, text in found if text]


def read_test(given: Mapping[str, Any], at: str, errors: Errors) -> Test:
    """One of a selector's `matchExpressions`; what is wrong with it is told, and matches nothing."""
    text = (given.get("cel") or {}).get("expression")
    if text:
        program = _program(text, f"{at}.cel.expression", errors, results=(cel.BOOL,))
        values = _values_of(program) if program is not None else lambda o: []
        return lambda o: values(o) == [True]
    place = f"{at}.jq" if given.get("jq") else at
    parts = given.get("jq") or given
    query = _query(parts.get("key") or "", f"{place}.key", errors)
    operator, wanted = parts.get("operator") or "", parts.get("values") or []
    if operator not in _OPERATORS:
        errors.append(not_supported(f"{place}.operator", operator, _OPERATORS))
    elif bool(wanted) is not operator.endswith("In"):
        what = "must be given" if not wanted else "must be empty"
        errors.append(invalid(f"{place}.values", wanted, f"{what} when `operator` is '{operator}'"))
    if query is None:
        return lambda o: False
    return _required(operator, frozenset(map(str, wanted)), _quietly(query.values))


def _required(operator: str, wanted: frozenset[str], values: Callable[[Object], list[Any]]) -> Test:
    if operator in ("Exists", "DoesNotExist"):
        there = operator == "Exists"
        return lambda o: any(one is not None for one in values(o)) is there
    inside = operator == "In"
    return lambda o: any(_shown(one) in wanted for one in values(o)) is inside


def _shown(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else None


def _query(text: str, at: str, errors: Errors) -> Query | None:
    if not text:
        errors.append(required(at))
        return None
    try:
        return Query(text)
    except Unreadable as e:
        errors.append(invalid(at, text, str(e)))
        return None


def _program(text: str, at: str, errors: Errors, *, results: tuple[cel.Type, ...] = ()) -> cel.Program | None:
    try:
        return cel.compile(text, _SELF, results=results)
    except cel.CompileError as e:
        errors.append(invalid(at, text, str(e)))
        return None


def _values_of(program: cel.Program) -> Callable[[Object], list[Any]]:
    def values(o: Object) -> list[Any]:
        outcome = cel.evaluate(program, {"self": o}, BUDGET)
        return [] if outcome.error is not None else [outcome.value]

    return values


def _quietly(values: Callable[[Object], list[Any]]) -> Callable[[Object], list[Any]]:
    def found(o: Object) -> list[Any]:
        try:
            return values(o)
        except StageError:
            return []

    return found
