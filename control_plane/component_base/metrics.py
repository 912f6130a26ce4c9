"""Measurements of a component: plain numbers where they happen, families of samples when they are asked for. Pure.

Whatever is counted is an integer of its owner; nothing is locked, nothing registered, and nothing costs but when it is
scraped. Values of labels come from what is served, never from what a client writes: their number is bounded.
Source: Prometheus, "Exposition formats".
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


class Histogram:
    """Counts of measurements that were at most each bound. `observe` costs a few hundred nanoseconds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` ascend; that of infinity goes without saying."""
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterable[tuple[float, int]]:
        """Each bound with the number of measurements up to it; infinity is the last."""
        return zip((*self.bounds, float("inf")), accumulate(self.counts), strict=True)


class Histograms:
    """Histograms of equal bounds by the values of their labels, made when first asked for."""

    __slots__ = ("bounds", "by_labels")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.by_labels: dict[tuple[str, ...], Histogram] = {}

    def observe(self, value: float, *labels: str) -> None:
        found = self.by_labels.get(labels)
        if found is None:
            found = self.by_labels[labels] = Histogram(self.bounds)
        found.observe(value)


def exponential(least: float, factor: float, count: int) -> tuple[float, ...]:
    """Bounds from `least` on, each `factor` times the one before."""
    return tuple(least * factor**n for n in range(count))


@dataclass(frozen=True, slots=True)
class Family:
    """Samples of one name: by the values of `labels`, in their order."""

    name: str
    """As in Prometheus' text format: a counter's ends in `_total`, but for a few that are older than that rule."""
    about: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], Any]
    """Numbers, or each a Histogram."""


def counter(name: str, about: str, value: float | Mapping[Any, float], *labels: str) -> Family:
    return _family("counter", name, about, value, labels)


def gauge(name: str, about: str, value: float | Mapping[Any, float], *labels: str) -> Family:
    return _family("gauge", name, about, value, labels)


def histogram(name: str, about: str, value: Histogram | Mapping[Any, Histogram], *labels: str) -> Family:
    return _family("histogram", name, about, value, labels)


def _family(
    kind: str,
    name: str,
    about: str,
    value: float | Histogram | Mapping[Any, float] | Mapping[Any, Histogram],
    labels: tuple[str, ...],
) -> Family:
    samples: Mapping[Any, Any] = value if isinstance(value, Mapping) else {(): value}
    return Family(name, about, kind, labels, samples)
