"""Operators: equality, order, arithmetic, indices, membership, and what macros are made of.

Source: CEL language definition, "List of standard definitions"; errors as cel-go words them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import Equality, Joined, Overload, Product, Shorter, Traverse, overload
from rayplane.control_plane.cel.values import (
    INT_MAX,
    INT_MIN,
    UINT_MAX,
    Duration,
    OptionalValue,
    Spend,
    Uint,
    concatenated,
    equal,
    shift,
)

_NUMBERS: Final = ("int", "uint", "double")
_ORDERED: Final = ("bool", *_NUMBERS, "string", "bytes", "timestamp", "duration")
_BY_LENGTH: Final = ("string", "bytes")


def int_value(value: int) -> int:
    """Raises EvaluationError for what has no place in 64 bits."""
    if not INT_MIN <= value <= INT_MAX:
        raise EvaluationError("integer overflow")
    return value


def uint_value(value: int) -> Uint:
    """Raises EvaluationError for what has no place in 64 bits."""
    if not 0 <= value <= UINT_MAX:
        raise EvaluationError("unsigned integer overflow")
    return Uint(value)


def duration_value(ns: int) -> Duration:
    """Raises EvaluationError for what has no place in 64 bits."""
    if not INT_MIN <= ns <= INT_MAX:
        raise EvaluationError("duration overflow")
    return Duration(ns)


def _comparisons() -> Iterator[Overload]:
    tests: dict[str, Callable[[Any, Any], bool]] = {
        "_<_": lambda a, b: bool(a < b),
        "_<=_": lambda a, b: bool(a <= b),
        "_>_": lambda a, b: bool(a > b),
        "_>=_": lambda a, b: bool(a >= b),
    }
    pairs = [(one, one) for one in _ORDERED] + [(a, b) for a in _NUMBERS for b in _NUMBERS if a != b]
    for function, test in tests.items():
        for a, b in pairs:
            yield overload(function, f"({a}, {b}) bool", test, *([Shorter()] if a in _BY_LENGTH else []))


def _differs(a: Any, b: Any, spend: Spend) -> bool:
    return not equal(a, b, spend)


def _divided(a: int, b: int) -> int:
    if b == 0:
        raise EvaluationError("division by zero")
    return int_value(abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1))


def _divided_uint(a: int, b: int) -> int:
    if b == 0:
        raise EvaluationError("division by zero")
    return a // b


def _remainder(a: int, b: int) -> int:
    if b == 0:
        raise EvaluationError("modulus by zero")
    return abs(a) % abs(b) * (1 if a >= 0 else -1)


def _quotient(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _span(a: datetime, b: datetime) -> Duration:
    return duration_value((a - b) // timedelta(microseconds=1) * 1000)


def _at(values: Sequence[Any], index: float) -> Any:
    if index != int(index):
        raise EvaluationError(f"unsupported index value: {index}")
    if not 0 <= index < len(values):
        raise EvaluationError(f"index out of bounds: {int(index)}")
    return values[int(index)]


def _entry(values: dict[Any, Any], key: Any) -> Any:
    try:
        return values[key]
    except (KeyError, TypeError):
        raise EvaluationError(f"no such key: {key}") from None


def _of_optional(value: OptionalValue, key: Any) -> Any:
    """An optional's element, as an optional."""
    if not value.values:
        return value
    inner = value.values[0]
    found = _at(inner, key) if isinstance(inner, list | tuple) else _entry(inner, key)
    return OptionalValue((found,))


def _in_list(item: Any, values: list[Any], spend: Spend) -> bool:
    return any(equal(item, one, spend) for one in values)


def _inserted(made: dict[Any, Any], key: Any, value: Any) -> dict[Any, Any]:
    if key in made:
        raise EvaluationError(f"insert failed: key {key} already exists")
    made[key] = value
    return made


def _merged(made: dict[Any, Any], more: dict[Any, Any], spend: Spend) -> dict[Any, Any]:
    spend(len(more))
    for key, value in more.items():
        _inserted(made, key, value)
    return made


def _never(*args: Any) -> Any:
    raise AssertionError("evaluated in place")


OVERLOADS: Final = (
    overload("_==_", "(T, T) bool", equal, Equality(), works=True),
    overload("_!=_", "(T, T) bool", _differs, Shorter(), works=True),
    *_comparisons(),
    overload("_+_", "(int, int) int", lambda a, b: int_value(a + b)),
    overload("_+_", "(uint, uint) uint", lambda a, b: uint_value(a + b)),
    overload("_+_", "(double, double) double", lambda a, b: a + b),
    overload("_+_", "(string, string) string", lambda a, b: a + b, Joined()),
    overload("_+_", "(bytes, bytes) bytes", lambda a, b: a + b, Joined()),
    overload("_+_", "(list<T>, list<T>) list<T>", concatenated, Joined(lists=True), works=True),
    overload("_+_", "(duration, duration) duration", lambda a, b: duration_value(a.ns + b.ns)),
    overload("_+_", "(timestamp, duration) timestamp", shift),
    overload("_+_", "(duration, timestamp) timestamp", lambda a, b: shift(b, a)),
    overload("_-_", "(int, int) int", lambda a, b: int_value(a - b)),
    overload("_-_", "(uint, uint) uint", lambda a, b: uint_value(a - b)),
    overload("_-_", "(double, double) double", lambda a, b: a - b),
    overload("_-_", "(duration, duration) duration", lambda a, b: duration_value(a.ns - b.ns)),
    overload("_-_", "(timestamp, timestamp) duration", _span),
    overload("_-_", "(timestamp, duration) timestamp", lambda a, b: shift(a, Duration(-b.ns))),
    overload("_*_", "(int, int) int", lambda a, b: int_value(a * b)),
    overload("_*_", "(uint, uint) uint", lambda a, b: uint_value(a * b)),
    overload("_*_", "(double, double) double", lambda a, b: a * b),
    overload("_/_", "(int, int) int", _divided),
    overload("_/_", "(uint, uint) uint", lambda a, b: uint_value(_divided_uint(a, b))),
    overload("_/_", "(double, double) double", _quotient),
    overload("_%_", "(int, int) int", _remainder),
    overload("_%_", "(uint, uint) uint", lambda a, b: uint_value(_remainder(a, b))),
    overload("-_", "(int) int", lambda a: int_value(-a)),
    overload("-_", "(double) double", lambda a: -a),
    overload("-_", "(duration) duration", lambda a: duration_value(-a.ns)),
    overload("!_", "(bool) bool", lambda a: not a),
    overload("_[_]", "(list<T>, int) T", _at),
    overload("_[_]", "(map<K, V>, K) V", _entry),
    overload("_[_]", "(optional<list<T>>, int) optional<T>", _of_optional),
    overload("_[_]", "(optional<map<K, V>>, K) optional<V>", _of_optional),
    overload("@in", "(T, list<T>) bool", _in_list, Traverse(1, arg=1, estimated=1), works=True),
    overload("@in", "(K, map<K, V>) bool", lambda key, values: key in values),
    overload("_&&_", "(bool, bool) bool", _never),
    overload("_||_", "(bool, bool) bool", _never),
    overload("_?_:_", "(bool, T, T) T", _never),
    overload("@not_strictly_false", "(bool) bool", _never),
    overload("cel.@mapInsert", "(map<K, V>, K, V) map<K, V>", _inserted),
    overload("cel.@mapInsert", "(map<K, V>, map<K, V>) map<K, V>", _merged, works=True),
    overload("contains", "string.(string) bool", lambda a, b: b in a, Product(0.1, 0.1)),
    overload("startsWith", "string.(string) bool", lambda a, b: a.startswith(b), Traverse(estimated=1)),
    overload("endsWith", "string.(string) bool", lambda a, b: a.endswith(b), Traverse(estimated=1)),
)
