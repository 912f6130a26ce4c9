"""Key ranges that a user may read or write. Pure.

A range is written as in requests: an empty end is the single key, `b"\\0"` is every key from `key` on. Several grants
count as their union: [a, b) and [b, c) together permit [a, c), as in etcd.
"""

from bisect import bisect_right
from collections.abc import Iterable

from rayplane.storage.key_ranges import FROM_KEY


def is_valid_grant(key: bytes, end: bytes) -> bool:
    """Whether a permission may be on this range: not empty, and not turned around."""
    return bool(key) and (not end or end == FROM_KEY or key < end)


class Ranges:
    """A union of ranges, kept as disjoint intervals that do not touch. An end of None is beyond every key."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes | None] = []
        for start, end in sorted(((key, _stop(key, end)) for key, end in ranges), key=lambda pair: pair[0]):
            if self._starts and (self._ends[-1] is None or start <= self._ends[-1]):
                self._ends[-1] = _later(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def covers(self, key: bytes, end: bytes = b"") -> bool:
        """Whether all of the range is in the union. A range that is turned around counts as its first key."""
        at = bisect_right(self._starts, key) - 1
        if at < 0:
            return False
        limit = self._ends[at]
        if limit is None:
            return True
        if key >= limit:
            return False
        stop = _stop(key, end)
        return stop is not None and stop <= limit


def _stop(key: bytes, end: bytes) -> bytes | None:
    """The first key behind the range."""
    if not end:
        return key + b"\0"
    return None if end == FROM_KEY else end


def _later(a: bytes | None, b: bytes | None) -> bytes | None:
    return None if a is None or b is None else max(a, b)
