"""Values of expressions: what Python has no type for, equality, and types at run time.

null, bool, int, double, string, bytes, list and map are Python's None, bool, int, float, str, bytes, list and dict.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rayplane.control_plane.cel import types
from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.types import Type

INT_MAX: Final = (1 << 63) - 1
INT_MIN: Final = -(1 << 63)
UINT_MAX: Final = (1 << 64) - 1
NS: Final = 1_000_000_000
_RFC3339: Final = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:\.(\d+))?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
Spend = Callable[[int], None]
"""Counts work that is done besides what an expression costs. Raises BudgetExceeded."""


class Uint(int):
    """An unsigned integer of 64 bits."""


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A span of time in nanoseconds."""

    ns: int

    def __str__(self) -> str:
        seconds, rest = divmod(abs(self.ns), NS)
        fraction = f".{rest:09d}".rstrip("0") if rest else ""
        return f"{'-' if self.ns < 0 else ''}{seconds}{fraction}s"


@dataclass(frozen=True, slots=True)
class OptionalValue:
    """A value that may be missing: `values` has one or none."""

    values: tuple[Any, ...] = ()


NONE: Final = OptionalValue()


class SetList(list[Any]):
    """A list whose items are in no order and each there once."""


class MapList(list[Any]):
    """A list whose items are in no order and told apart by `keys`."""

    __slots__ = ("keys",)

    def __init__(self, items: list[Any], keys: tuple[str, ...]) -> None:
        super().__init__(items)
        self.keys = keys

    def key(self, item: Any) -> tuple[Any, ...]:
        return tuple(item.get(k) for k in self.keys) if isinstance(item, dict) else (item,)


class Struct(dict[str, Any]):
    """An object that an expression made; `name` is that of its type."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class Opaque:
    """A value of a library's own type; its class says which type that is."""

    __slots__ = ()
    TYPE: Type = types.DYN


def parse_timestamp(text: str) -> datetime:
    """A time of RFC 3339. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f'parsing time "{text}" as "2006-01-02T15:04:05Z07:00": cannot parse')
    day, clock, fraction, zone = match.groups()
    zone = "+00:00" if zone in "Zz" else zone
    return datetime.fromisoformat(f"{day}T{clock}.{(fraction or '0')[:6]:0<6}{zone}").astimezone(UTC)


def format_timestamp(moment: datetime) -> str:
    """A time as RFC 3339 has it, in UTC, with no zeros at the end."""
    fraction = f".{moment.microsecond:06d}".rstrip("0") if moment.microsecond else ""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z".rjust(20, "0")


def shift(moment: datetime, span: Duration) -> datetime:
    """A time and a span later. Raises EvaluationError."""
    try:
        return moment + timedelta(microseconds=span.ns // 1000)
    except OverflowError:
        raise EvaluationError("timestamp overflow") from None


def type_of(value: Any) -> Type:
    """The type a value has at run time; its parameters are not looked at."""
    simple = _BY_CLASS.get(type(value))
    if simple is not None:
        return simple
    if isinstance(value, Opaque):
        return value.TYPE
    if isinstance(value, list | tuple):
        return _LIST
    return _MAP if isinstance(value, dict) else types.DYN


_LIST: Final = types.list_of(types.DYN)
_MAP: Final = types.map_of(types.DYN, types.DYN)
_BY_CLASS: Final[dict[type, Type]] = {
    type(None): types.NULL,
    bool: types.BOOL,
    int: types.INT,
    Uint: types.UINT,
    float: types.DOUBLE,
    str: types.STRING,
    bytes: types.BYTES,
    datetime: types.TIMESTAMP,
    Duration: types.DURATION,
    Type: types.TYPE,
    list: _LIST,
    dict: _MAP,
    OptionalValue: types.optional_of(types.DYN),
}


def fits(value: Any, wanted: Type) -> bool:
    """Whether a value can be an argument where `wanted` is declared."""
    if wanted.kind in ("dyn", "parameter"):
        return True
    own = type_of(value)
    if wanted.kind == "opaque":
        return own.kind == "opaque" and own.name == wanted.name
    if wanted.kind == "object":
        return own.kind == "map"
    return own.kind == wanted.kind


def size_of(value: Any) -> int:
    """The size that costs are counted by: characters, bytes, items, entries; 1 of everything else."""
    if isinstance(value, str | bytes | list | tuple | dict):
        return len(value)
    if isinstance(value, OptionalValue):
        return size_of(value.values[0]) if value.values else 1
    return getattr(value, "SIZE", 1)


def truth(value: Any) -> bool:
    """A bool. Raises EvaluationError for anything else."""
    if type(value) is not bool:
        raise EvaluationError("no such overload")
    return value


def equal(a: Any, b: Any, spend: Spend) -> bool:
    """Whether two values are the same; numbers of different types are by what they count."""
    spend(1)
    if isinstance(a, bool) or isinstance(b, bool):
        return type(a) is type(b) and bool(a == b)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and _lists_equal(a, b, spend)
    if isinstance(a, dict):
        if not isinstance(b, dict) or len(a) != len(b):
            return False
        return all(k in b and equal(v, b[k], spend) for k, v in a.items())
    if isinstance(a, OptionalValue) and isinstance(b, OptionalValue):
        return _lists_equal(a.values, b.values, spend)
    return bool(a == b)


def _lists_equal(a: Any, b: Any, spend: Spend) -> bool:
    if len(a) != len(b):
        return False
    unordered = a if isinstance(a, SetList | MapList) else b
    if isinstance(unordered, MapList):
        spend(len(a))
        found = {_hashable(unordered.key(one)): one for one in b}
        return all((mark := _hashable(unordered.key(one))) in found and equal(one, found[mark], spend) for one in a)
    if isinstance(unordered, SetList):
        return all(any(equal(one, other, spend) for other in b) for one in a)
    kinds = set(map(type, a)) | set(map(type, b))
    if len(kinds) == 1 and kinds <= COMPARED_BY_PYTHON:
        spend(len(a) // 16)
        return bool(a == b)
    return all(equal(x, y, spend) for x, y in zip(a, b, strict=True))


COMPARED_BY_PYTHON: Final = frozenset({str, int, bytes, bool})
"""Types of which Python's own comparison of lists is right, and fast."""


def _hashable(key: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(repr(part) if isinstance(part, list | dict) else (type(part) is bool, part) for part in key)


def concatenated(a: list[Any], b: list[Any], spend: Spend) -> list[Any]:
    """Two lists in one; of sets and keyed lists the second's items join, or take the place of, the first's."""
    spend(len(a) + len(b))
    if isinstance(a, SetList):
        return SetList([*a, *(one for one in b if not any(equal(one, other, spend) for other in a))])
    if isinstance(a, MapList):
        merged = {_hashable(a.key(one)): one for one in a}
        merged.update({_hashable(a.key(one)): one for one in b})
        return MapList(list(merged.values()), a.keys)
    return [*a, *b]
