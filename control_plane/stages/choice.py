"""The choice of the next stage for an object: which match, which of them by weight, and after what delay. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.stages.expressions import Source
from rayplane.control_plane.stages.stage import Stage

Draw = Callable[[], float]
"""A random number from 0 up to, not including, 1."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A stage that is to be played on an object, so many seconds from now."""

    stage: Stage
    delay_s: float


def next_transition(stages: Iterable[Stage], o: Object, now: datetime, draw: Draw) -> Transition | None:
    """What happens to an object next; None where no stage matches it.

    Of several the weights decide: those of weight 0 are left out, unless all are. A `weightFrom` that has no value is
    the weight.
    """
    matching = [stage for stage in stages if stage.matches(o)]
    if not matching:
        return None
    stage = matching[0] if len(matching) == 1 else _by_weight(matching, o, draw())
    return Transition(stage, delay_s(stage, o, now, draw))


def _by_weight(stages: list[Stage], o: Object, chance: float) -> Stage:
    weights = [weight(stage, o) for stage in stages]
    if not any(weights):
        return stages[int(chance * len(stages))]
    point = chance * sum(weights)
    for stage, own in zip(stages, weights, strict=True):
        point -= own
        if own and point < 0:
            return stage
    return next(stage for stage, own in zip(reversed(stages), reversed(weights), strict=True) if own)


def weight(stage: Stage, o: Object) -> int:
    found = stage.weight_from.number(o) if stage.weight_from is not None else None
    return stage.weight if found is None else found


def delay_s(stage: Stage, o: Object, now: datetime, draw: Draw) -> float:
    """Between the duration and the jitter, evenly; the jitter alone where it is the shorter of both."""
    shortest = _seconds(stage.delay_from, stage.delay_ms, o, now) or 0.0
    longest = _seconds(stage.jitter_from, stage.jitter_ms, o, now)
    if longest is None:
        return shortest
    return longest if longest <= shortest else shortest + draw() * (longest - shortest)


def _seconds(source: Source | None, written_ms: int | None, o: Object, now: datetime) -> float | None:
    found = source.seconds(o, now) if source is not None else None
    if found is None and written_ms is not None:
        return written_ms / 1000
    return found
