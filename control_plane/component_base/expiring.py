"""Answers of others, remembered for a while: the newest so many of them."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

KEPT = 4096


class Expiring(Generic[K, V]):
    """Values by key, each until its time, of which the caller brings both clock and end."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._values: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K, now: float) -> V | None:
        found = self._values.get(key)
        if found is None:
            return None
        until, value = found
        if until <= now:
            del self._values[key]
            return None
        return value

    def put(self, key: K, value: V, until: float) -> None:
        self._values[key] = (until, value)
        self._values.move_to_end(key)
        if len(self._values) > self._kept:
            self._values.popitem(last=False)
