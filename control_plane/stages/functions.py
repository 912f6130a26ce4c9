"""Functions of templates on values, lists, maps and numbers: Go's own, and the part of Sprig's that stages use. Pure.

Source: Go package text/template; the documentation of Sprig.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rayplane.control_plane.stages.errors import Failed
from rayplane.control_plane.stages.meter import Meter, integer, is_true, printed
from rayplane.control_plane.stages.text_functions import TEXT_FUNCTIONS, Call

# --- logic ----------------------------------------------------------------------------------------


def _not(meter: Meter, value: Any) -> bool:
    return not is_true(value)


def _eq(meter: Meter, first: Any, *others: Any) -> bool:
    if not others:
        raise Failed("eq needs two values")
    return any(_plain(first) == _plain(one) for one in others)


def _ne(meter: Meter, first: Any, second: Any) -> bool:
    return bool(_plain(first) != _plain(second))


def _plain(value: Any) -> Any:
    if isinstance(value, dict | list):
        raise Failed("lists and maps cannot be compared")
    return (type(value) is bool, value)


def _compare(test: Callable[[Any, Any], bool]) -> Call:
    def compare(meter: Meter, first: Any, second: Any) -> bool:
        _plain(first), _plain(second)
        return test(first, second)

    return compare


def _default(meter: Meter, other: Any, value: Any = None) -> Any:
    return value if is_true(value) else other


def _empty(meter: Meter, value: Any) -> bool:
    return not is_true(value)


def _coalesce(meter: Meter, *values: Any) -> Any:
    return next((value for value in values if is_true(value)), None)


def _ternary(meter: Meter, yes: Any, no: Any, choice: Any) -> Any:
    return yes if is_true(choice) else no


def _fail(meter: Meter, message: Any) -> Any:
    raise Failed(printed(message, meter))


# --- collections ----------------------------------------------------------------------------------


def _index(meter: Meter, value: Any, *keys: Any) -> Any:
    for key in keys:
        if value is None:
            return None
        if isinstance(value, dict):
            value = value.get(key) if isinstance(key, str) else None
        elif isinstance(value, list | str):
            at = integer(key)
            if not 0 <= at < len(value):
                raise Failed(f"index out of range: {at}")
            value = value[at]
        else:
            raise Failed(f"can't index item of type {type(value).__name__}")
    return value


def _len(meter: Meter, value: Any) -> int:
    return len(value or ())


def _slice(meter: Meter, value: Any, first: Any = 0, last: Any = None) -> Any:
    if not isinstance(value, list | str):
        raise Failed("only texts and lists can be sliced")
    meter.make(len(value))
    return value[max(0, integer(first)) : None if last is None else max(0, integer(last))]


def _dict(meter: Meter, *parts: Any) -> dict[str, Any]:
    keys = [printed(key, meter) for key in parts[::2]]
    values = [*parts[1::2], ""] if len(parts) % 2 else parts[1::2]
    return dict(zip(keys, values, strict=True))


def _list(meter: Meter, *items: Any) -> list[Any]:
    return list(items)


def _append(meter: Meter, items: Any, one: Any) -> list[Any]:
    meter.make(8 * len(items or ()))
    return [*(items or ()), one]


def _first(meter: Meter, items: Any) -> Any:
    return items[0] if items else None


def _last(meter: Meter, items: Any) -> Any:
    return items[-1] if items else None


def _has(meter: Meter, one: Any, items: Any) -> bool:
    meter.make(8 * len(items or ()))
    return any(_plain(one) == (type(item) is bool, item) for item in items or ())


def _has_key(meter: Meter, mapping: Any, key: Any) -> bool:
    return isinstance(mapping, dict) and key in mapping


def _get(meter: Meter, mapping: Any, key: Any) -> Any:
    return mapping.get(key, "") if isinstance(mapping, dict) else ""


def _keys(meter: Meter, mapping: Any) -> list[Any]:
    meter.make(8 * len(mapping or ()))
    return sorted(mapping or ())


def _values(meter: Meter, mapping: Any) -> list[Any]:
    meter.make(8 * len(mapping or ()))
    return [mapping[key] for key in sorted(mapping or ())]


def _until(meter: Meter, count: Any) -> list[int]:
    meter.make(max(0, integer(count)) * 8)
    return list(range(integer(count)))


# --- numbers --------------------------------------------------------------------------------------


def _fold(step: Callable[[int, int], int]) -> Call:
    def fold(meter: Meter, *numbers: Any) -> int:
        result = integer(numbers[0])
        for one in numbers[1:]:
            result = integer(step(result, integer(one)))
        return result

    return fold


def _divided(a: int, b: int) -> int:
    """As Go divides: towards zero."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


_NUMBERS: Final[dict[str, Call]] = {
    "add": _fold(lambda a, b: a + b),
    "sub": _fold(lambda a, b: a - b),
    "mul": _fold(lambda a, b: a * b),
    "div": _fold(_divided),
    "mod": _fold(lambda a, b: a - b * _divided(a, b)),
    "max": _fold(max),
    "min": _fold(min),
    "add1": lambda meter, number: integer(integer(number) + 1),
    "int": lambda meter, number: integer(number),
    "int64": lambda meter, number: integer(number),
    "atoi": lambda meter, number: integer(number),
    "float64": lambda meter, number: float(number or 0) if len(str(number)) < 32 else 0.0,
}


FUNCTIONS: Final[dict[str, Call]] = {
    # Both look at what they are given one after the other (`templates`).
    "and": _not,
    "or": _not,
    "not": _not,
    "eq": _eq,
    "ne": _ne,
    "default": _default,
    "empty": _empty,
    "coalesce": _coalesce,
    "ternary": _ternary,
    "fail": _fail,
    "index": _index,
    "len": _len,
    "slice": _slice,
    "dict": _dict,
    "list": _list,
    "tuple": _list,
    "append": _append,
    "first": _first,
    "last": _last,
    "has": _has,
    "hasKey": _has_key,
    "get": _get,
    "keys": _keys,
    "values": _values,
    "until": _until,
    "lt": _compare(lambda a, b: a < b),
    "le": _compare(lambda a, b: a <= b),
    "gt": _compare(lambda a, b: a > b),
    "ge": _compare(lambda a, b: a >= b),
    **_NUMBERS,
    **TEXT_FUNCTIONS,
}
"""By name; each takes a `Meter` first."""
