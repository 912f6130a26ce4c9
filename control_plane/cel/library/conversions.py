"""Conversions between types, sizes, and the parts of times and spans.

Source: CEL language definition, "List of standard definitions"; errors as cel-go words them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import Overload, Traverse, overload
from rayplane.control_plane.cel.library.operators import duration_value, int_value, uint_value
from rayplane.control_plane.cel.types import Type
from rayplane.control_plane.cel.values import (
    NS,
    Duration,
    Uint,
    format_timestamp,
    parse_timestamp,
    type_of,
)
from rayplane.control_plane.durations import DurationError, parse_duration

_DIGITS: Final = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_FLOAT: Final = re.compile(r"[+-]?(inf|infinity|nan|[0-9]*\.?[0-9]*([eE][+-]?[0-9]+)?)", re.ASCII | re.IGNORECASE)
_BOOLS: Final = {
    **dict.fromkeys(("1", "t", "true", "True", "TRUE"), True),
    **dict.fromkeys(("0", "f", "false", "False", "FALSE"), False),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER_CHARS_MAX: Final = 400


def _int_of_text(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise EvaluationError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    return int_value(int(text))


def _uint_of_text(text: str) -> Uint:
    if not _DIGITS.fullmatch(text) or text[0] in "+-":
        raise EvaluationError(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return uint_value(int(text))


def _whole(value: float, make: Callable[[int], int]) -> int:
    if not math.isfinite(value):
        raise EvaluationError("integer overflow")
    return make(int(value))


def _float_of_text(text: str) -> float:
    if len(text) > _NUMBER_CHARS_MAX or not _FLOAT.fullmatch(text) or not any(c.isalnum() for c in text):
        raise EvaluationError(f'strconv.ParseFloat: parsing "{text[:64]}": invalid syntax')
    try:
        return float(text)
    except ValueError:
        raise EvaluationError(f'strconv.ParseFloat: parsing "{text}": invalid syntax') from None


def _bool_of_text(text: str) -> bool:
    if text not in _BOOLS:
        raise EvaluationError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return _BOOLS[text]


def float_text(value: float) -> str:
    """A number as Go's %v and cel's string() print it."""
    if math.isnan(value) or math.isinf(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    shown = format(Decimal(repr(value)), "f")
    power = math.floor(math.log10(abs(value))) if value else 0
    if -4 <= power < 21:
        return shown.rstrip("0").removesuffix(".") if "." in shown else shown
    sign, digits, _ = Decimal(repr(value)).normalize().as_tuple()
    rest = "".join(map(str, digits[1:]))
    mantissa = f"{'-' if sign else ''}{digits[0]}{'.' if rest else ''}{rest}"
    return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise EvaluationError("invalid UTF-8 in bytes, cannot convert to string") from None


def _duration_of_text(text: str) -> Duration:
    try:
        return duration_value(round(parse_duration(text) * NS))
    except DurationError as error:
        raise EvaluationError(str(error)) from None


def _timestamp_of_text(text: str) -> datetime:
    try:
        return parse_timestamp(text)
    except (ValueError, OverflowError) as error:
        raise EvaluationError(str(error)) from None


def _timestamp_of_seconds(seconds: int) -> datetime:
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        raise EvaluationError("timestamp overflow") from None


def _type(value: Any) -> Type:
    own = type_of(value)
    return Type(own.kind, (), own.name)


# --- parts of times -------------------------------------------------------------------------------

_OFFSET: Final = re.compile(r"([+-]?)(\d\d):(\d\d)", re.ASCII)
_PARTS: Final[dict[str, Callable[[datetime], int]]] = {
    "getFullYear": lambda t: t.year,
    "getMonth": lambda t: t.month - 1,
    "getDayOfYear": lambda t: t.timetuple().tm_yday - 1,
    "getDayOfMonth": lambda t: t.day - 1,
    "getDate": lambda t: t.day,
    "getDayOfWeek": lambda t: (t.weekday() + 1) % 7,
    "getHours": lambda t: t.hour,
    "getMinutes": lambda t: t.minute,
    "getSeconds": lambda t: t.second,
    "getMilliseconds": lambda t: t.microsecond // 1000,
}
_SPANS: Final = {"getHours": 3600 * NS, "getMinutes": 60 * NS, "getSeconds": NS, "getMilliseconds": NS // 1000}


def _in_zone(moment: datetime, zone: str) -> datetime:
    offset = _OFFSET.fullmatch(zone)
    try:
        if offset is None:
            return moment.astimezone(ZoneInfo(zone))
        sign = -1 if offset[1] == "-" else 1
        return moment.astimezone(timezone(sign * timedelta(hours=int(offset[2]), minutes=int(offset[3]))))
    except (ValueError, OSError, OverflowError, ZoneInfoNotFoundError):
        raise EvaluationError(f"unknown time zone {zone}") from None


def _parts() -> Iterator[Overload]:
    for name, part in _PARTS.items():
        yield overload(name, "timestamp.() int", part)
        yield overload(name, "timestamp.(string) int", lambda t, zone, part=part: part(_in_zone(t, zone)))
    for name, unit in _SPANS.items():
        yield overload(name, "duration.() int", lambda d, unit=unit: int(abs(d.ns) // unit) * (-1 if d.ns < 0 else 1))


def _sizes() -> Iterator[Overload]:
    for kind in ("string", "bytes", "list<T>", "map<K, V>"):
        yield overload("size", f"({kind}) int", len)
        yield overload("size", f"{kind}.() int", len)


OVERLOADS: Final = (
    *_sizes(),
    *_parts(),
    overload("int", "(int) int", lambda v: v),
    overload("int", "(uint) int", lambda v: int_value(int(v))),
    overload("int", "(double) int", lambda v: _whole(v, int_value)),
    overload("int", "(string) int", _int_of_text),
    overload("int", "(timestamp) int", lambda t: (t - _EPOCH) // timedelta(seconds=1)),
    overload("int", "(duration) int", lambda d: d.ns),
    overload("uint", "(uint) uint", lambda v: v),
    overload("uint", "(int) uint", uint_value),
    overload("uint", "(double) uint", lambda v: _whole(v, uint_value)),
    overload("uint", "(string) uint", _uint_of_text),
    overload("double", "(double) double", lambda v: v),
    overload("double", "(int) double", float),
    overload("double", "(uint) double", float),
    overload("double", "(string) double", _float_of_text),
    overload("bool", "(bool) bool", lambda v: v),
    overload("bool", "(string) bool", _bool_of_text),
    overload("string", "(string) string", lambda v: v),
    overload("string", "(bool) string", lambda v: "true" if v else "false"),
    overload("string", "(int) string", str),
    overload("string", "(uint) string", lambda v: str(int(v))),
    overload("string", "(double) string", float_text),
    overload("string", "(bytes) string", _text_of_bytes, Traverse()),
    overload("string", "(timestamp) string", format_timestamp),
    overload("string", "(duration) string", str),
    overload("bytes", "(bytes) bytes", lambda v: v),
    overload("bytes", "(string) bytes", lambda v: v.encode("utf-8", "surrogatepass"), Traverse()),
    overload("duration", "(duration) duration", lambda v: v),
    overload("duration", "(string) duration", _duration_of_text),
    overload("duration", "(int) duration", duration_value),
    overload("timestamp", "(timestamp) timestamp", lambda v: v),
    overload("timestamp", "(string) timestamp", _timestamp_of_text),
    overload("timestamp", "(int) timestamp", _timestamp_of_seconds),
    overload("dyn", "(T) dyn", lambda v: v),
    overload("type", "(T) type", _type),
)
