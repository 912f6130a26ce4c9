"""Functions: their overloads by type, and what a call costs, estimated and measured by one rule.

Source: cel-go's `checker/cost.go` and `interpreter/runtimecost.go`, Kubernetes' `library/cost.go` for the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rayplane.control_plane.cel.types import Type, parse_signature
from rayplane.control_plane.cel.values import size_of

UNBOUNDED: Final = (1 << 64) - 1
TRAVERSAL: Final = 0.1
"""The cost of looking at one character."""
PATTERN: Final = 0.25
"""The cost of one character of a regular expression, each of which is tried on each of the text."""


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the most a size or a cost can be; the most saturates at UNBOUNDED."""

    low: int = 0
    high: int = UNBOUNDED

    def __add__(self, other: Range) -> Range:
        return Range(min(self.low + other.low, UNBOUNDED), min(self.high + other.high, UNBOUNDED))

    def __mul__(self, other: Range) -> Range:
        return Range(min(self.low * other.low, UNBOUNDED), min(self.high * other.high, UNBOUNDED))

    def __or__(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))

    def scaled(self, factor: float) -> Range:
        return Range(_scaled(self.low, factor), _scaled(self.high, factor))


UNKNOWN: Final = Range()


def exactly(amount: int) -> Range:
    return Range(amount, amount)


def _scaled(amount: int, factor: float) -> int:
    return UNBOUNDED if amount >= UNBOUNDED else min(math.ceil(amount * factor), UNBOUNDED)


class Sizes(Protocol):
    """The types and estimated sizes of a call's arguments."""

    def type(self, index: int) -> Type: ...
    def of(self, index: int) -> Range: ...
    def element(self, index: int) -> Range | None:
        """The size of a list's items; None of what is no list."""

    def number(self, index: int) -> int | None:
        """The integer that an argument is written as; None of what is not written."""

    @property
    def given(self) -> int:
        """How many arguments there are."""


class Cost(Protocol):
    """The price of a call."""

    def actual(self, args: Sequence[Any], result: Any) -> int: ...
    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        """The cost, and the size of the result where that can be told."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """One price whatever the arguments are."""

    amount: int = 1

    def actual(self, args: Sequence[Any], result: Any) -> int:
        return self.amount

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        return exactly(self.amount), None


ONE: Final = Fixed()


@dataclass(frozen=True, slots=True)
class Traverse:
    """One look at each character of an argument; `estimated` is another one that estimates go by."""

    factor: float = TRAVERSAL
    arg: int = 0
    estimated: int = 0
    keeps_size: bool = False
    """The result is at most as large as the argument."""

    def actual(self, args: Sequence[Any], result: Any) -> int:
        return math.ceil(size_of(args[self.arg]) * self.factor)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        size = sizes.of(self.estimated)
        return size.scaled(self.factor), size if self.keeps_size else None


@dataclass(frozen=True, slots=True)
class Product:
    """Each part of one argument tried on each of another."""

    first: float
    second: float
    at_least: int = 0
    """Added to the first's size: an empty text is looked at, too."""
    makes_list: bool = False

    def actual(self, args: Sequence[Any], result: Any) -> int:
        first = math.ceil((size_of(args[0]) + self.at_least) * self.first)
        return first * math.ceil(size_of(args[1]) * self.second)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        size = sizes.of(0)
        cost = (size + exactly(self.at_least)).scaled(self.first) * sizes.of(1).scaled(self.second)
        return cost, Range(0, size.high) if self.makes_list else None


@dataclass(frozen=True, slots=True)
class Shorter:
    """A comparison, which ends with the shorter of both."""

    def actual(self, args: Sequence[Any], result: Any) -> int:
        return math.ceil(min(size_of(args[0]), size_of(args[1])) * TRAVERSAL)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        most = min(sizes.of(0).high, sizes.of(1).high)
        return Range(1 if most else 0, most).scaled(TRAVERSAL), None


class Equality(Shorter):
    """An equality, told in one step of Kubernetes' own types."""

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        own, other = sizes.type(0), sizes.type(1)
        if own.kind == "opaque" and not own.params and own == other:
            return exactly(1), None
        return super().estimate(sizes)


@dataclass(frozen=True, slots=True)
class Joined:
    """A concatenation; of lists at one price, of texts by their length."""

    lists: bool = False

    def actual(self, args: Sequence[Any], result: Any) -> int:
        return 1 if self.lists else math.ceil((size_of(args[0]) + size_of(args[1])) * TRAVERSAL)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        size = sizes.of(0) + sizes.of(1)
        return (exactly(1) if self.lists else size.scaled(TRAVERSAL)), size


@dataclass(frozen=True, slots=True)
class Items:
    """A comparison of all items of a list, or a look at each character of a text."""

    def actual(self, args: Sequence[Any], result: Any) -> int:
        value = args[0]
        if isinstance(value, str | bytes):
            return math.ceil(len(value) * TRAVERSAL)
        return sum(1 + math.ceil(len(v) * TRAVERSAL) if isinstance(v, str | bytes) else 1 for v in value)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        item = sizes.element(0)
        if item is None:
            return sizes.of(0).scaled(TRAVERSAL), None
        return sizes.of(0) * (exactly(1) + item.scaled(TRAVERSAL)), None


@dataclass(frozen=True, slots=True)
class Function:
    """Any other rule: two functions."""

    measured: Callable[[Sequence[Any], Any], int]
    estimated: Callable[[Sizes], tuple[Range, Range | None]]

    def actual(self, args: Sequence[Any], result: Any) -> int:
        return self.measured(args, result)

    def estimate(self, sizes: Sizes) -> tuple[Range, Range | None]:
        return self.estimated(sizes)


@dataclass(frozen=True, slots=True)
class Overload:
    """One implementation of a function for arguments of certain types."""

    function: str
    args: tuple[Type, ...]
    result: Type
    method: bool
    call: Callable[..., Any]
    cost: Cost = ONE
    works: bool = False
    """Besides its arguments the implementation takes a `Spend`, since it does more than it costs."""


def overload(
    function: str, signature: str, call: Callable[..., Any], cost: Cost = ONE, *, works: bool = False
) -> Overload:
    """An overload by its signature: `overload("size", "(string) int", len)`."""
    args, result, method = parse_signature(signature)
    return Overload(function, args, result, method, call, cost, works)
