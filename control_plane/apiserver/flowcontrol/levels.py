"""Priority levels: how many seats each has, and how they lend them to each other. Pure.

Each level has a nominal part of the server's seats, by its shares. Now and then what levels wanted lately decides how
many each has for a while: one that wants few lends up to its `lendablePercent`, one that wants many borrows up to its
`borrowingLimitPercent`. Together they never have more than there are.

Source: Kubernetes KEP-1040, "Dispatching" and "Borrowing"; apiserver's `apf_controller.go` and `conc_alloc.go`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rayplane.control_plane.api.meta import Object, name, uid
from rayplane.control_plane.apiserver.flowcontrol.queues import QueueSet

ADJUST_S = 10.0
"""How often seats are lent anew."""
# Demand that was has lost half its weight after five minutes.
_KEPT = 0.977
# One request takes so much of its level's seats at most, and so many.
_WIDEST_PART, _WIDEST = 0.15, 10
_LEAST = 0.001


@dataclass(frozen=True, slots=True)
class Spec:
    """A priority level configuration, read."""

    name: str
    uid: str
    exempt: bool
    shares: int
    lendable: float
    borrowing: float
    """Parts of the nominal seats that may be lent and borrowed; infinite: as many as there are."""
    queues: int = 0
    hand: int = 0
    length_max: int = 0

    @staticmethod
    def of(o: Object) -> Spec:
        """What an object says that has its defaults. Attribute-, Key-, Type- or ValueError for what is none."""
        spec = o["spec"]
        exempt = spec["type"] == "Exempt"
        part = (spec.get("exempt") or {}) if exempt else spec["limited"]
        borrowing = part.get("borrowingLimitPercent")
        queuing = {} if exempt else part["limitResponse"].get("queuing") or {}
        return Spec(
            name=name(o),
            uid=uid(o),
            exempt=exempt,
            shares=int(part.get("nominalConcurrencyShares") or 0),
            lendable=(part.get("lendablePercent") or 0) / 100,
            borrowing=math.inf if borrowing is None else borrowing / 100,
            queues=int(queuing.get("queues", 0)),
            hand=int(queuing.get("handSize", 0)),
            length_max=int(queuing.get("queueLengthLimit", 0)),
        )


class Level:
    """One priority level at work."""

    def __init__(self, spec: Spec, now: float) -> None:
        self.spec = spec
        self.queues = QueueSet(limit=0, now=now)
        self.nominal = self.lower = self.upper = 0
        self.quiescing = False
        """Its configuration is gone, but not its last request."""
        self.mean = self.deviation = self.smoothed = self.target = 0.0
        self.most = 0

    @property
    def widest(self) -> int:
        """Seats that one request may take."""
        return max(1, min(_WIDEST, math.ceil(self.nominal * _WIDEST_PART)))

    def observe(self, now: float) -> None:
        self.mean, self.deviation, self.most = self.queues.take_demand(now)
        envelope = self.mean + self.deviation
        self.smoothed = max(envelope, _KEPT * self.smoothed + (1 - _KEPT) * envelope)


def share_out(levels: Sequence[Level], seats: int) -> None:
    """Nominal parts of a server's seats, and between what they may change."""
    total = sum(level.spec.shares for level in levels)
    for level in levels:
        spec = level.spec
        nominal = level.nominal = math.ceil(seats * spec.shares / total) if total else 0
        level.lower = nominal - _round(nominal * spec.lendable)
        level.upper = nominal + (seats if math.isinf(spec.borrowing) else _round(nominal * spec.borrowing))


def lend(levels: Sequence[Level]) -> tuple[list[int], float]:
    """The seats of each level for the time to come, by what was observed; and the part of its wish that each gets."""
    bounds = []
    for level in levels:
        # What it had in use it does not lose, as far as it is its own.
        least = max(level.lower, min(level.nominal, level.most))
        level.target = max(float(least), level.smoothed)
        bounds.append((least, level.upper))
    parts, fair = allocate(sum(level.nominal for level in levels), [level.target for level in levels], bounds)
    return [_round(part) for part in parts], fair


def _round(value: float) -> int:
    """As Go rounds: halves up."""
    return math.floor(value + 0.5)


def allocate(total: int, wishes: Sequence[float], bounds: Sequence[tuple[int, int]]) -> tuple[list[float], float]:
    """A division of `total` by the wishes: each gets the same part of its wish, or the bound that is in the way.

    With what part they get, their sum rises, ever by the wishes of those that are between their bounds.
    """
    least = [max(wish, _LEAST) for wish in wishes]
    turns = [(low / wish, wish) for wish, (low, _) in zip(least, bounds, strict=True)]
    turns += [(high / wish, -wish) for wish, (_, high) in zip(least, bounds, strict=True)]
    fair, reached, rising = 0.0, float(sum(low for low, _ in bounds)), 0.0
    for turn, more in sorted(turns):
        ahead = reached + rising * (turn - fair)
        if ahead >= total:
            fair += (total - reached) / rising if reached < total else 0.0
            break
        fair, reached, rising = turn, ahead, rising + more
    return [min(max(fair * wish, low), high) for wish, (low, high) in zip(least, bounds, strict=True)], fair
