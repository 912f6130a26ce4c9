"""Cron schedules of Kubernetes: the syntax of `spec.schedule`, the time zones, and the times that a schedule names.

The syntax is that of robfig/cron v3 `ParseStandard`, which Kubernetes uses, with its messages: five fields (minute,
hour, day of month, month, day of week 0-6), each `*`, `?`, values, names, ranges `a-b`, steps `/n` and lists, or one of
`@hourly @daily @midnight @weekly @monthly @yearly @annually` or `@every <duration>`. When both day fields are
restricted either may match. A time that the clocks skip is skipped; one that they show twice is met twice.

No library reads this dialect: cronsim and croniter take day 7, `L`, `#` and seconds, refuse `?`, move skipped times to
later ones as Debian does, and search fifty years.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo

from rayplane.control_plane.api.machinery.budget import LIMITS
from rayplane.control_plane.api.machinery.remembering import remembered
from rayplane.control_plane.durations import DurationError, parse_duration

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_EVERY = "@every "
_HORIZON_YEARS = 5
_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_ZONE_PART = re.compile(r"[A-Za-z._0-9+-]{1,14}")
_INT64_DIGITS = 19


class CronError(ValueError):
    """The text is no cron schedule, or no time zone; the message says which part is wrong."""


@dataclass(frozen=True, slots=True)
class _Bounds:
    low: int
    high: int
    names: tuple[str, ...] = ()


_FIELDS = (_Bounds(0, 59), _Bounds(0, 23), _Bounds(1, 31), _Bounds(1, 12, _MONTHS), _Bounds(0, 6, _DAYS))


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values each field allows, in order; `every` is set instead for `@every` schedules."""

    minutes: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    days: frozenset[int] = frozenset()
    months: frozenset[int] = frozenset()
    weekdays: frozenset[int] = frozenset()
    either_day: bool = False  # both day fields are restricted: one of them is enough
    every: timedelta | None = None

    def next_after(self, moment: datetime) -> datetime | None:
        """The first time strictly after `moment`, in its zone; None when there is none in the next five years."""
        if self.every is not None:
            try:
                return (_whole(moment) + self.every).astimezone(moment.tzinfo)
            except OverflowError:
                return None  # after the last year that there is
        for day in self._days(moment.date()):
            found = self._first_of(day, moment)
            if found is not None:
                return found
        return None

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """The last time after `after` and not after `until`, in the zone of `until`; None when there is none."""
        zone, low, high = until.tzinfo, after.astimezone(UTC), until.astimezone(UTC)
        if self.every is not None:
            passed = (high - _whole(low)) // self.every
            return (_whole(low) + passed * self.every).astimezone(zone) if passed > 0 else None
        if not self._comes(after, until):
            return None
        # Halving finds it in some forty steps, however many times have passed.
        while high - low > _MINUTE:
            middle = low + (high - low) / 2
            low, high = (middle, high) if self._comes(middle, until) else (low, middle)
        return self.next_after(low.astimezone(zone))

    def count(self, after: datetime, until: datetime, limit: int) -> int:
        """How many times lie after `after` and not after `until`; counting stops at `limit`."""
        end = until.astimezone(UTC)
        if self.every is not None:
            return max(0, min(limit, (end - _whole(after)) // self.every))
        found, at = 0, self.next_after(after.astimezone(until.tzinfo))
        while found < limit and at is not None and at.astimezone(UTC) <= end:
            found, at = found + 1, self.next_after(at)
        return found

    def _comes(self, after: datetime, until: datetime) -> bool:
        following = self.next_after(after.astimezone(until.tzinfo))
        # In UTC: moments of one zone are compared by what its clocks show, which may go back.
        return following is not None and following.astimezone(UTC) <= until.astimezone(UTC)

    def _days(self, first: date) -> Iterator[date]:
        """The days named, from `first` on."""
        day, last_year = first, min(first.year + _HORIZON_YEARS, date.max.year - 1)
        while day.year <= last_year:
            if day.month not in self.months:
                day = (day.replace(day=1) + 31 * _DAY).replace(day=1)
                continue
            if self._matches(day):
                yield day
            day += _DAY

    def _matches(self, day: date) -> bool:
        by_day, by_weekday = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_day or by_weekday) if self.either_day else (by_day and by_weekday)

    def _first_of(self, day: date, after: datetime) -> datetime | None:
        """The first of the day's times that is after a moment."""
        zone = after.tzinfo
        assert zone is not None
        if not _is_plain(day, zone):
            minutes = _minutes_of(day, max(after.astimezone(UTC), _begin(day, zone)), zone)
            return next((at for at in minutes if at.hour in self.hours and at.minute in self.minutes), None)
        first = after.time() if day == after.date() else None
        for hour in self.hours:
            if first is not None and hour < first.hour:
                continue
            for minute in self.minutes:
                if first is None or (hour, minute) > (first.hour, first.minute):
                    return datetime.combine(day, time(hour, minute), zone)
        return None


def _whole(moment: datetime) -> datetime:
    """Without the fraction of its second, in UTC."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _is_plain(day: date, zone: tzinfo) -> bool:
    """Whether the clocks of a zone stay as they are from this midnight to the next."""
    ends = (datetime.combine(d, time(fold=fold), zone) for d in (day, day + _DAY) for fold in (0, 1))
    return len({end.utcoffset() for end in ends}) == 1


def _begin(day: date, zone: tzinfo) -> datetime:
    """When a day begins, in UTC, or a little before where its midnight is skipped."""
    return min(datetime.combine(day, time(fold=fold), zone).astimezone(UTC) for fold in (0, 1)) - _MINUTE


def _minutes_of(day: date, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """The minutes of a day as they pass, whatever its clocks do, that are after a moment in UTC."""
    at = (after.replace(second=0, microsecond=0) + _MINUTE).astimezone(zone)
    while at.date() <= day:
        if at.date() == day:
            yield at
        at = (at.astimezone(UTC) + _MINUTE).astimezone(zone)


@remembered(1024)
def parse_schedule(text: str) -> Schedule:
    """The schedule a text describes; CronError when it is none."""
    if len(text) > LIMITS.text_chars:
        raise CronError(f"a schedule has at most {LIMITS.text_chars} characters, not {len(text)}")
    if not text:
        raise CronError("empty spec string")
    if "TZ" in text:
        raise CronError("cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
    if text.startswith(_EVERY):
        return _every(text)
    if text.startswith("@") and text not in _SHORT:
        raise CronError(f"unrecognized descriptor: {text}")
    fields = _SHORT.get(text, text).split()
    if len(fields) != len(_FIELDS):
        raise CronError(f"expected exactly 5 fields, found {len(fields)}: [{' '.join(fields)}]")
    parsed = [_field(field, bounds) for field, bounds in zip(fields, _FIELDS, strict=True)]
    (minutes, _), (hours, _), (days, any_day), (months, _), (weekdays, any_weekday) = parsed
    return Schedule(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(weekdays),
        either_day=not (any_day or any_weekday),
    )


@remembered(1024)
def _zone(name: str) -> tzinfo:
    unknown = CronError(f"unknown time zone {name}")
    for part in name.split("/"):
        if part in (".", "..") or part.startswith("-") or not _ZONE_PART.fullmatch(part):
            raise unknown
    if name.lower() == "local":
        raise CronError("timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # none of this name, no zone's data, a directory
        raise unknown from None


def time_zone(name: str | None) -> tzinfo:
    """The zone of a CronJob's `timeZone`; UTC when it names none. Raises CronError."""
    if name is None:
        return UTC
    if not name:
        raise CronError("timeZone must be nil or non-empty string")
    return _zone(name)


def _every(text: str) -> Schedule:
    try:
        span_s = parse_duration(text[len(_EVERY) :])
    except DurationError as error:
        raise CronError(f"failed to parse duration {text}: {error}") from error
    return Schedule(every=timedelta(seconds=max(1, int(span_s))))


def _field(text: str, bounds: _Bounds) -> tuple[set[int], bool]:
    """The values of a list of ranges, and whether one of them is "any"."""
    allowed: set[int] = set()
    is_any = False
    for part in filter(None, text.split(",")):
        values, any_here = _range(part, bounds)
        allowed.update(values)
        is_any |= any_here
    return allowed, is_any


def _range(part: str, bounds: _Bounds) -> tuple[range, bool]:
    body, *steps = part.split("/")
    first, *lasts = body.split("-")
    is_any = first in ("*", "?")
    if is_any:
        start, end = bounds.low, bounds.high
    else:
        start = _value(first, bounds)
        if len(lasts) > 1:
            raise CronError(f"too many hyphens: {part}")
        end = _value(lasts[0], bounds) if lasts else start
    if len(steps) > 1:
        raise CronError(f"too many slashes: {part}")
    step = _number(steps[0]) if steps else 1
    if steps and not lasts:
        end = bounds.high
    if start < bounds.low:
        raise CronError(f"beginning of range ({start}) below minimum ({bounds.low}): {part}")
    if end > bounds.high:
        raise CronError(f"end of range ({end}) above maximum ({bounds.high}): {part}")
    if start > end:
        raise CronError(f"beginning of range ({start}) beyond end of range ({end}): {part}")
    if step == 0:
        raise CronError(f"step of range should be a positive number: {part}")
    return range(start, end + 1, step), is_any and step == 1


def _value(text: str, bounds: _Bounds) -> int:
    name = text.lower()
    return bounds.low + bounds.names.index(name) if name in bounds.names else _number(text)


def _number(text: str) -> int:
    digits = text[1:] if text[:1] in ("+", "-") else text
    if not (digits.isascii() and digits.isdigit()):
        raise CronError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax')
    if len(digits.lstrip("0")) >= _INT64_DIGITS:
        raise CronError(f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": value out of range')
    if text.startswith("-") and int(digits):
        raise CronError(f"negative number ({int(text)}) not allowed: {text}")
    return int(digits)
