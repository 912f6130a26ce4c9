"""Spans of time as text: Go's durations, as flags and manifests write them, and the short ages that kubectl prints.

Pure. Spans are seconds, exact to the nanosecond up to some hundred days. Sources: Go package `time` (ParseDuration,
Duration.String); apimachinery's package `duration` (HumanDuration).
"""

import math
import re

_UNIT_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_NUMBER = re.compile(r"([0-9]*)(?:\.([0-9]*))?")
_UNIT = re.compile(r"[^.0-9]*")
_NS_MAX = 2**63 - 1  # an int64 of nanoseconds, about 292 years
_MINUTE_S, _HOUR_S, _DAY_S, _YEAR_S = 60, 3600, 86_400, 365 * 86_400
# Below so many seconds: the unit's size and name, and those of the unit for the rest.
_STEPS = (
    (2 * _MINUTE_S, 1, "s", 0, ""),
    (10 * _MINUTE_S, _MINUTE_S, "m", 1, "s"),
    (3 * _HOUR_S, _MINUTE_S, "m", 0, ""),
    (8 * _HOUR_S, _HOUR_S, "h", _MINUTE_S, "m"),
    (2 * _DAY_S, _HOUR_S, "h", 0, ""),
    (8 * _DAY_S, _DAY_S, "d", _HOUR_S, "h"),
    (2 * _YEAR_S, _DAY_S, "d", 0, ""),
    (8 * _YEAR_S, _YEAR_S, "y", _DAY_S, "d"),
    (math.inf, _YEAR_S, "y", 0, ""),
)


class DurationError(ValueError):
    """The text is no duration; the message is Go's."""


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: `1h30m`, `500ms`, `-1.5s`, `0`. Raises DurationError."""
    sign, rest = (text[0], text[1:]) if text[:1] in ("-", "+") else ("", text)
    if rest == "0":
        return 0.0
    if not rest:
        raise DurationError(f'time: invalid duration "{text}"')
    total_ns, at = 0, 0
    while at < len(rest):
        part_ns, at = _part(rest, at, text)
        total_ns += part_ns
        if total_ns > _NS_MAX:
            raise DurationError(f'time: invalid duration "{text}"')
    return (-total_ns if sign == "-" else total_ns) / 10**9


def parse_span(text: str) -> float:
    """Seconds of a span that people write: a duration, or a plain number of seconds; not negative.

    Raises DurationError.
    """
    try:
        span_s = float(text) if text[-1:].isdigit() else parse_duration(text)
    except ValueError:
        span_s = -1.0
    if not 0 <= span_s < float("inf"):
        raise DurationError(f"{text!r} is no time span: use one such as 500ms, 30s, 5m or 1h")
    return span_s


def _part(rest: str, at: int, text: str) -> tuple[int, int]:
    """Nanoseconds of the number with its unit at `at`, and where the next begins."""
    number = _NUMBER.match(rest, at)
    whole, fraction = (number[1], number[2] or "") if number else ("", "")
    # More digits than an int64 has cannot be in range, and long ones are costly to read.
    if number is None or not (whole or fraction) or len(whole.lstrip("0")) > 19:
        raise DurationError(f'time: invalid duration "{text}"')
    unit = _UNIT.match(rest, number.end())
    assert unit is not None  # it matches nothing, too
    if not unit[0]:
        raise DurationError(f'time: missing unit in duration "{text}"')
    if unit[0] not in _UNIT_NS:
        raise DurationError(f'time: unknown unit "{unit[0]}" in duration "{text}"')
    fraction = fraction[:18]  # finer than a nanosecond in any unit
    unit_ns = _UNIT_NS[unit[0]]
    return int(whole or 0) * unit_ns + int(fraction or 0) * unit_ns // 10 ** len(fraction), unit.end()


def format_duration(span_s: float) -> str:
    """A span as Go prints it: `1h30m0s`, `1m20s`, `2.5s`, `250ms`, `0s`."""
    total_ns = round(abs(span_s) * 10**9)
    sign = "-" if span_s < 0 and total_ns else ""
    if total_ns == 0:
        return "0s"
    if total_ns < 10**9:
        unit = next(u for u in ("ms", "µs", "ns") if total_ns >= _UNIT_NS[u])
        return f"{sign}{_decimal(total_ns, _UNIT_NS[unit])}{unit}"
    minutes, rest_ns = divmod(total_ns, 60 * 10**9)
    hours, minutes_left = divmod(minutes, 60)
    seconds = f"{_decimal(rest_ns, 10**9)}s"
    if hours:
        return f"{sign}{hours}h{minutes_left}m{seconds}"
    return f"{sign}{minutes}m{seconds}" if minutes else f"{sign}{seconds}"


def _decimal(amount: int, scale: int) -> str:
    """`amount / scale` without zeros at the end."""
    whole, rest = divmod(amount, scale)
    digits = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def human_duration(span_s: float) -> str:
    """A span in at most two units, coarser the longer it is: 5s, 3m20s, 2h, 3d4h, 1y20d; below zero `<invalid>`."""
    seconds = int(span_s)
    if seconds < -1:
        return "<invalid>"
    _, size, unit, subsize, subunit = next(step for step in _STEPS if seconds < step[0])
    large, rest = divmod(max(0, seconds), size)
    small = rest // subsize if subsize else 0
    return f"{large}{unit}{small}{subunit}" if small else f"{large}{unit}"
