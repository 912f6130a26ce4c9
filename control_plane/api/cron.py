"""Cron schedules: the five-field syntax, its short forms, and the times it names.

A schedule is five fields (minute, hour, day of month, month, day of week), each `*`, values, ranges
`a-b`, steps `/n` and lists, or one of `@hourly @daily @midnight @weekly @monthly @yearly @annually`
or `@every <duration>`. As in cron, when both day fields are restricted either one may match.
Source: Kubernetes concepts "CronJob", crontab(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from rayplane.control_plane.api.machinery.budget import LIMITS
from rayplane.control_plane.api.machinery.remembering import remembered

_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_NAMES: tuple[dict[str, int], ...] = (
    {},
    {},
    {},
    {name: index + 1 for index, name in enumerate(_MONTHS)},
    {name: index for index, name in enumerate(_DAYS)},
)
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DURATION = re.compile(r"(\d+)(h|m|s)")
_SECONDS = {"h": 3600, "m": 60, "s": 1}
_HORIZON_DAYS = 366 * 5
_EVERY_MAX_S = 2**63 // 10**9  # a duration of Go, about 292 years


class CronError(ValueError):
    """The text is no cron schedule; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values each field allows; `every` is set instead for `@every` schedules."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool
    any_weekday: bool
    every: timedelta | None = None

    def _day_matches(self, moment: datetime) -> bool:
        by_day = moment.day in self.days
        by_weekday = (moment.isoweekday() % 7) in self.weekdays
        if self.any_day or self.any_weekday:
            return by_day and by_weekday
        return by_day or by_weekday

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time strictly after `moment`, in its zone; None when none in five years."""
        if self.every is not None:
            return moment.replace(microsecond=0) + self.every
        at = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
        limit = at + timedelta(days=_HORIZON_DAYS)
        while at < limit:
            if at.month not in self.months or not self._day_matches(at):
                at = at.replace(hour=0, minute=0) + timedelta(days=1)
            elif at.hour not in self.hours:
                at = at.replace(minute=0) + timedelta(hours=1)
            elif at.minute not in self.minutes:
                at += timedelta(minutes=1)
            else:
                return at
        return None


@remembered(1024)
def parse_schedule(text: str) -> Schedule:
    """The schedule a text describes; CronError when it is none."""
    if len(text) > LIMITS.text_chars:
        raise CronError(f"a schedule has at most {LIMITS.text_chars} characters, not {len(text)}")
    stripped = text.strip()
    if stripped.startswith("@every "):
        return _every(stripped[len("@every ") :].strip())
    if stripped.startswith("@"):
        if stripped not in _SHORT:
            raise CronError(f"unrecognized descriptor: {stripped}")
        stripped = _SHORT[stripped]
    fields = stripped.split()
    if len(fields) != 5:
        shown = " ".join(fields)
        raise CronError(f"expected exactly 5 fields, found {len(fields)}: [{shown}]")
    parsed = [_field(field, index) for index, field in enumerate(fields)]
    minutes, hours, days, months, weekdays = parsed
    return Schedule(
        minutes,
        hours,
        days,
        months,
        weekdays,
        any_day=fields[2][0] in "*?",
        any_weekday=fields[4][0] in "*?",
    )


def _every(text: str) -> Schedule:
    parts = _DURATION.findall(text)
    if not parts or "".join(a + b for a, b in parts) != text:
        raise CronError(f"failed to parse duration @every {text}")
    seconds = sum(int(amount) * _SECONDS[unit] for amount, unit in parts)
    if seconds > _EVERY_MAX_S:
        raise CronError(f"failed to parse duration @every {text}")
    none: frozenset[int] = frozenset()
    every = timedelta(seconds=max(1, seconds))
    return Schedule(none, none, none, none, none, any_day=True, any_weekday=True, every=every)


def _field(text: str, index: int) -> frozenset[int]:
    allowed: set[int] = set()
    for part in text.split(","):
        allowed |= _range(part, index)
    return frozenset(allowed)


def _range(part: str, index: int) -> set[int]:
    low, high = _BOUNDS[index]
    body, slash, step_text = part.partition("/")
    step = _number(step_text, index) if slash else 1
    if step == 0:
        raise CronError(f"step of range should be a positive number: {part}")
    if body in ("*", "?"):
        start, end = low, high
    else:
        first, dash, last = body.partition("-")
        start = _number(first, index)
        end = _number(last, index) if dash else (high if slash else start)
    if index == 4:
        # Sunday is 0 and 7.
        if end == 7 and start == 7:
            start = end = 0
        elif end == 7:
            return {0} | set(range(start, 7, step))
    if start < low:
        raise CronError(f"beginning of range ({start}) below minimum ({low}): {part}")
    if end > high:
        raise CronError(f"end of range ({end}) above maximum ({high}): {part}")
    if start > end:
        raise CronError(f"beginning of range ({start}) beyond end of range ({end}): {part}")
    return set(range(start, end + 1, step))


def _number(text: str, index: int) -> int:
    named = _NAMES[index].get(text.lower())
    if named is not None:
        return named
    if not (text.isascii() and text.isdigit()):
        raise CronError(f"failed to parse int from {text}")
    return int(text)
