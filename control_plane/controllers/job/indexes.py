"""Sets of completion indexes as their text has them: `0-2,5`. They may hold 2**31 indexes, so none is held singly."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

_PART = re.compile(r"(?<![^,])([0-9]{1,10})(?:-([0-9]{1,10}))?(?![^,])")
_Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Indexes:
    """A set of indexes: first and last of each stretch, in order; there is a gap between any two."""

    spans: tuple[_Span, ...] = ()

    @staticmethod
    def of(numbers: Iterable[int]) -> Indexes:
        return Indexes(tuple(_merged(sorted((n, n) for n in numbers))))

    @staticmethod
    def read(text: str | None, below: int) -> Indexes:
        """The indexes a text names; what is no stretch, and indexes that cannot be, are passed over."""
        found = []
        for first, last in _PART.findall(text or ""):
            span = int(first), min(int(last or first), below - 1)
            if span[0] <= span[1]:
                found.append(span)
        return Indexes(tuple(_merged(sorted(found))))

    @property
    def total(self) -> int:
        return sum(last - first + 1 for first, last in self.spans)

    def __contains__(self, index: int) -> bool:
        at = bisect_left(self.spans, index, key=lambda span: span[1])
        return at < len(self.spans) and self.spans[at][0] <= index

    def __or__(self, other: Indexes) -> Indexes:
        if not other.spans or not self.spans:
            return self if self.spans else other
        return Indexes(tuple(_merged(sorted(chain(self.spans, other.spans)))))

    def shared(self, other: Indexes) -> int:
        """How many indexes two sets have in common."""
        found = i = j = 0
        while i < len(self.spans) and j < len(other.spans):
            (a, b), (c, d) = self.spans[i], other.spans[j]
            found += max(0, min(b, d) - max(a, c) + 1)
            i, j = (i + 1, j) if b < d else (i, j + 1)
        return found

    def missing(self, below: int) -> Iterator[int]:
        """The indexes below a bound that are not in the set, from the first on."""
        at = 0
        for first, last in self.spans:
            yield from range(at, min(first, below))
            at = last + 1
        yield from range(at, below)

    def __str__(self) -> str:
        return ",".join(_text(first, last) for first, last in self.spans)


def _merged(spans: Iterable[_Span]) -> Iterator[_Span]:
    """Stretches in order, those that touch or overlap as one."""
    held: _Span | None = None
    for first, last in spans:
        if held is None:
            held = first, last
        elif first <= held[1] + 1:
            held = held[0], max(held[1], last)
        else:
            yield held
            held = first, last
    if held is not None:
        yield held


def _text(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first},{last}" if last == first + 1 else f"{first}-{last}"
