"""A log of what changed, for those who keep something up to date with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Generic, TypeVar

CHANGES_MAX = 8192
T = TypeVar("T")


class ChangeLog(Generic[T]):
    """Things that changed, the newest of them remembered."""

    __slots__ = ("_newest", "count")

    def __init__(self) -> None:
        self.count = 0  # of all times
        self._newest: list[T] = []

    def add(self, one: T) -> None:
        self.count += 1
        self._newest.append(one)
        if len(self._newest) > 2 * CHANGES_MAX:
            del self._newest[:-CHANGES_MAX]

    def since(self, count: int) -> Collection[T] | None:
        """What changed since `count` was so; None when that is too long ago."""
        behind = self.count - count
        if behind > len(self._newest):
            return None
        return set(self._newest[-behind:]) if behind else ()
