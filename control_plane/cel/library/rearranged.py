"""Lists made of lists: parts, other orders, without doubles, with less nesting.

Source: cel-go's `ext/lists.go`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import (
    TRAVERSAL,
    UNBOUNDED,
    Function,
    Overload,
    Range,
    Sizes,
    exactly,
    overload,
)
from rayplane.control_plane.cel.values import COMPARED_BY_PYTHON, Spend, equal, size_of

_ORDERED: Final = ("int", "uint", "double", "bool", "string", "bytes", "duration", "timestamp")
_NEW: Final = 11
"""The cost of a call that makes a list, besides its items."""


def _slice(values: list[Any], start: int, end: int) -> list[Any]:
    asked = f"cannot slice({start}, {end})"
    if start < 0 or end < 0:
        raise EvaluationError(f"{asked}, negative indexes not supported")
    if start > end:
        raise EvaluationError(f"{asked}, start index must be less than or equal to end index")
    if end > len(values):
        raise EvaluationError(f"{asked}, list is length {len(values)}")
    return list(values[start:end])


def _range(count: int, spend: Spend) -> list[int]:
    spend(max(0, count))
    return list(range(count))


def _flat(values: Sequence[Any], depth: int, spend: Spend) -> list[Any]:
    if depth < 0:
        raise EvaluationError("level must be non-negative")
    found: list[Any] = []
    for value in values:
        spend(1)
        if depth and isinstance(value, list | tuple):
            found += _flat(value, depth - 1, spend)
        else:
            found.append(value)
    return found


def _distinct(values: list[Any], spend: Spend) -> list[Any]:
    if len(kinds := set(map(type, values))) == 1 and kinds <= COMPARED_BY_PYTHON:
        spend(len(values))
        return list(dict.fromkeys(values))
    found: list[Any] = []
    for value in values:
        if not any(equal(value, other, spend) for other in found):
            found.append(value)
    return found


def _by_keys(values: list[Any], keys: list[Any]) -> list[Any]:
    if len(values) != len(keys):
        both = f"{len(values)} and {len(keys)} elements respectively"
        text = "expected a list of the same size as the associated keys list, but got"
        raise EvaluationError(f"@sortByAssociatedKeys() {text} {both}")
    if len({type(key) for key in keys}) > 1:
        raise EvaluationError("list elements must have the same type")
    return [values[index] for index in sorted(range(len(keys)), key=keys.__getitem__)]


# --- what they cost -------------------------------------------------------------------------------


def _estimate(size: Range, factor: float) -> tuple[Range, Range]:
    return size.scaled(factor) + exactly(_NEW), size


def _of_result(args: Sequence[Any], result: Any) -> int:
    return size_of(result) + _NEW


def _depth(args: Sequence[Any], result: Any) -> int:
    return (args[1] if len(args) > 1 else 1) * size_of(args[0]) + _NEW


def _slice_size(sizes: Sizes) -> tuple[Range, Range]:
    start, end = sizes.number(1), sizes.number(2)
    most = end if end is not None else sizes.of(0).high
    return _estimate(exactly(max(0, most - (start or 0))), 1)


def _range_size(sizes: Sizes) -> tuple[Range, Range]:
    count = sizes.number(0)
    return _estimate(exactly(UNBOUNDED if count is None else max(0, count)), 1)


def _flat_size(sizes: Sizes) -> tuple[Range, Range]:
    depth = sizes.number(1) if sizes.given > 1 else 1
    return _estimate(sizes.of(0), UNBOUNDED if depth is None else max(0, depth))


def _each_with_each(index: int, factor: float) -> Function:
    """The price of comparing all items of an argument with each other."""

    def actual(args: Sequence[Any], result: Any) -> int:
        items = args[index]
        texts = TRAVERSAL if items and isinstance(items[0], str | bytes) else 0
        return math.ceil(size_of(items) ** 2 * (2 + texts)) + _NEW

    def estimated(sizes: Sizes) -> tuple[Range, Range]:
        return _estimate(sizes.of(index) * sizes.of(index), factor)

    return Function(actual, estimated)


def _sorted() -> Iterator[Overload]:
    for kind in _ORDERED:
        factor = 2 + TRAVERSAL if kind in ("string", "bytes") else 2
        yield overload("sort", f"list<{kind}>.() list<{kind}>", lambda v: _by_keys(v, v), _each_with_each(0, factor))
        keyed = f"list<T>.(list<{kind}>) list<T>"
        yield overload("@sortByAssociatedKeys", keyed, _by_keys, _each_with_each(1, factor))


OVERLOADS: Final = (
    *_sorted(),
    overload("slice", "list<T>.(int, int) list<T>", _slice, Function(_of_result, _slice_size)),
    overload("lists.range", "(int) list<int>", _range, Function(_of_result, _range_size), works=True),
    overload(
        "reverse",
        "list<T>.() list<T>",
        lambda values: list(reversed(values)),
        Function(_of_result, lambda sizes: _estimate(sizes.of(0), 1)),
    ),
    overload(
        "flatten",
        "list<list<T>>.() list<T>",
        lambda values, spend: _flat(values, 1, spend),
        Function(_depth, _flat_size),
        works=True,
    ),
    overload("flatten", "list<dyn>.(int) list<dyn>", _flat, Function(_depth, _flat_size), works=True),
    overload("distinct", "list<T>.() list<T>", _distinct, _each_with_each(0, 2), works=True),
)
