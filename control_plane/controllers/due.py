"""The times of a schedule that have come and were not served. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.cron import Schedule

MISSED_MAX = 100  # of times that were not served; beyond it is said that something is wrong
#: Within the years that there are, in whatever time zone.
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)


class Due(NamedTuple):
    """The latest scheduled time that has passed and was not served, the next one, and how many have passed.

    `missed` is at most one more than `MISSED_MAX`.
    """

    latest: datetime | None
    following: datetime | None
    missed: int

    def wait_s(self, now: datetime) -> float | None:
        """Seconds until the next one, with a little to spare."""
        return (self.following - now).total_seconds() + 0.1 if self.following else None


def due(schedule: Schedule, now: datetime, *, last: str | None, deadline_s: int | None) -> Due:
    """`last`: when it was served last, or made (RFC 3339). `deadline_s`: what has passed longer ago is not served."""
    earliest = min(max(meta.parse_time(last), _FIRST), _LAST).astimezone(now.tzinfo) if last else now
    if deadline_s is not None:
        # A deadline may be longer than there are years.
        earliest = max(earliest, now - timedelta(seconds=min(deadline_s, (now - earliest).total_seconds())))
    latest = schedule.latest(earliest, now)
    missed = schedule.count(earliest, now, MISSED_MAX + 1) if latest is not None else 0
    return Due(latest, schedule.next_after(latest or earliest), missed)
