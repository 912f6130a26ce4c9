"""Lists, sets and optional values.

Source: Kubernetes' `library/lists.go`, cel-go `ext/sets.go` and its optional types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import Function, Items, Overload, Range, Sizes, Traverse, exactly, overload
from rayplane.control_plane.cel.library.operators import duration_value, int_value, uint_value
from rayplane.control_plane.cel.values import NONE, Duration, OptionalValue, Spend, Uint, equal, size_of

_ITEMS: Final = Items()
_ORDERED: Final = ("int", "uint", "double", "bool", "string", "bytes", "duration", "timestamp")


def _is_sorted(values: list[Any]) -> bool:
    return all(not b < a for a, b in pairwise(values))


def _smallest(values: list[Any]) -> Any:
    if not values:
        raise EvaluationError("min called on empty list")
    return min(values)


def _largest(values: list[Any]) -> Any:
    if not values:
        raise EvaluationError("max called on empty list")
    return max(values)


def _sum(values: list[Any]) -> Any:
    if values and isinstance(values[0], Duration):
        return duration_value(sum(one.ns for one in values))
    if values and isinstance(values[0], float):
        return float(sum(values))
    return uint_value(sum(values)) if values and isinstance(values[0], Uint) else int_value(sum(values))


def _ordered() -> Iterator[Overload]:
    for kind in _ORDERED:
        yield overload("isSorted", f"list<{kind}>.() bool", _is_sorted, _ITEMS)
        yield overload("min", f"list<{kind}>.() {kind}", _smallest, _ITEMS)
        yield overload("max", f"list<{kind}>.() {kind}", _largest, _ITEMS)
    yield overload("sum", "list<int>.() int", _sum, _ITEMS)
    yield overload("sum", "list<uint>.() uint", lambda values: Uint(_sum(values)), _ITEMS)
    yield overload("sum", "list<double>.() double", lambda values: float(_sum(values)), _ITEMS)
    yield overload("sum", "list<duration>.() duration", lambda values: _sum(values) if values else Duration(0), _ITEMS)


def _index(values: list[Any], wanted: Any, spend: Spend) -> int:
    return next((at for at, one in enumerate(values) if equal(one, wanted, spend)), -1)


def _last_index(values: list[Any], wanted: Any, spend: Spend) -> int:
    return next((at for at in range(len(values) - 1, -1, -1) if equal(values[at], wanted, spend)), -1)


# --- sets -----------------------------------------------------------------------------------------


def _contains(values: list[Any], parts: list[Any], spend: Spend) -> bool:
    return all(any(equal(one, part, spend) for one in values) for part in parts)


def _equivalent(a: list[Any], b: list[Any], spend: Spend) -> bool:
    return _contains(a, b, spend) and _contains(b, a, spend)


def _intersects(a: list[Any], b: list[Any], spend: Spend) -> bool:
    return any(equal(one, other, spend) for one in a for other in b)


def _pairs(times: int) -> Function:
    def actual(args: Sequence[Any], result: Any) -> int:
        return 1 + times * size_of(args[0]) * size_of(args[1])

    def estimated(sizes: Sizes) -> tuple[Range, Range | None]:
        return sizes.of(0) * sizes.of(1) * exactly(times) + exactly(1), None

    return Function(actual, estimated)


# --- optional values ------------------------------------------------------------------------------


def _value(one: OptionalValue) -> Any:
    if not one.values:
        raise EvaluationError("optional.none() dereference")
    return one.values[0]


def _of_non_zero(value: Any) -> OptionalValue:
    return OptionalValue((value,)) if value not in (None, False, 0, 0.0, "", b"", [], {}, Duration(0)) else NONE


def _unwrapped(values: list[OptionalValue]) -> list[Any]:
    return [value for one in values for value in one.values]


def _never(*args: Any) -> Any:
    raise AssertionError("evaluated in place")


OVERLOADS: Final = (
    *_ordered(),
    overload("indexOf", "list<T>.(T) int", _index, _ITEMS, works=True),
    overload("lastIndexOf", "list<T>.(T) int", _last_index, _ITEMS, works=True),
    overload("sets.contains", "(list<T>, list<T>) bool", _contains, _pairs(1), works=True),
    overload("sets.equivalent", "(list<T>, list<T>) bool", _equivalent, _pairs(2), works=True),
    overload("sets.intersects", "(list<T>, list<T>) bool", _intersects, _pairs(1), works=True),
    overload("optional.of", "(T) optional<T>", lambda value: OptionalValue((value,))),
    overload("optional.ofNonZeroValue", "(T) optional<T>", _of_non_zero),
    overload("optional.none", "() optional<T>", lambda: NONE),
    overload("first", "list<T>.() optional<T>", lambda values: OptionalValue(tuple(values[:1]))),
    overload("last", "list<T>.() optional<T>", lambda values: OptionalValue(tuple(values[-1:]))),
    overload("optional.unwrap", "(list<optional<T>>) list<T>", _unwrapped, Traverse(1.0)),
    overload("unwrapOpt", "list<optional<T>>.() list<T>", _unwrapped, Traverse(1.0)),
    overload("hasValue", "optional<T>.() bool", lambda one: bool(one.values)),
    overload("value", "optional<T>.() T", _value),
    overload("or", "optional<T>.(optional<T>) optional<T>", _never),
    overload("orValue", "optional<T>.(T) T", _never),
)
