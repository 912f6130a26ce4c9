"""Correlation of events: which are told one by one, and how many of one object (client-go's `record`).

Events that differ in nothing but their text, as of the pods that a ReplicaSet makes, are told as one once there are
many; and of one object only so many are written in a while. Pure: the caller says what time it is, in seconds.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TypeVar

V = TypeVar("V")

#: So many texts of one kind within this time are told together.
SIMILAR_MAX = 10
SIMILAR_S = 600.0
#: So many of one object may come at once, and then one each so many seconds.
BURST = 25
REFILL_S = 300.0
KNOWN_MAX = 4096
"""Kinds of events, and objects, that are remembered: those that were heard of last."""


class Correlator:
    """A judge of the events of one source."""

    def __init__(self) -> None:
        self._texts: OrderedDict[Hashable, tuple[dict[str, None], float]] = OrderedDict()
        self._rooms: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def is_one_of_many(self, kind: Hashable, text: str, now: float) -> bool:
        """Whether an event of this kind (all of it but its text) is told together with others."""
        texts, last = self._texts.pop(kind, ({}, now))
        if now - last > SIMILAR_S:
            texts = {}
        texts[text] = None
        many = len(texts) >= SIMILAR_MAX
        if many:
            texts.popitem()
        _keep(self._texts, kind, (texts, now))
        return many

    def has_room(self, about: Hashable, now: float) -> bool:
        """Whether one more may be written about this object; it is counted then."""
        tokens, at = self._rooms.pop(about, (float(BURST), now))
        tokens = min(float(BURST), tokens + (now - at) / REFILL_S)
        has_room = tokens >= 1
        _keep(self._rooms, about, (tokens - has_room, now))
        return has_room


def _keep(known: OrderedDict[Hashable, V], key: Hashable, value: V) -> None:
    known[key] = value
    if len(known) > KNOWN_MAX:
        known.popitem(last=False)
