"""The fate of each packet of a disturbed way: when it goes on, whether it is lost, which bit of it flips. Pure.

Source: tc-netem(8), whose words and order are kept: a packet is lost or not, is corrupted or not, and waits or goes
ahead of those that wait. A correlation is the part of packets that fare as the one before them: unlike there, it does
not change how many are hit.
"""

from collections.abc import Callable
from dataclasses import dataclass

from rayplane.control_plane.api.pods.marks import Netem

Draw = Callable[[], float]
"""Numbers from 0 to 1, each by itself."""


@dataclass(frozen=True, slots=True)
class Judged:
    """A packet's fate: when it goes on, None for never, and whether a bit of it flips."""

    at: float | None
    corrupt: bool = False


class Link:
    """The packets of one disturbance, one after the other."""

    def __init__(self, netem: Netem, draw: Draw) -> None:
        self.netem = netem
        self._delays = _Correlated(draw, netem.latency_correlation)
        self._reorders = _Correlated(draw, netem.reorder_correlation)
        self._losses = _Correlated(draw, netem.loss_correlation)
        self._corruptions = _Correlated(draw, netem.corrupt_correlation)
        self._waited = 0
        """Packets that waited since the last one that did not."""

    def judge(self, now: float) -> Judged:
        if self._losses.hit(self.netem.loss):
            return Judged(None)
        return Judged(now + self._delay(), self._corruptions.hit(self.netem.corrupt))

    def _delay(self) -> float:
        wanted = self.netem
        if wanted.reorder and self._waited >= max(wanted.gap, 1) - 1 and self._reorders.hit(wanted.reorder):
            self._waited = 0
            return 0.0
        self._waited += 1
        spread = (2 * self._delays.next() - 1) * wanted.jitter_ms if wanted.jitter_ms else 0.0
        return max(0.0, wanted.latency_ms + spread) / 1000


class _Correlated:
    """Numbers from 0 to 1, of which so many of a hundred are the one before."""

    def __init__(self, draw: Draw, correlation: float) -> None:
        self._draw = draw
        self._kept = correlation / 100
        self._last = draw()

    def next(self) -> float:
        if not self._kept or self._draw() >= self._kept:
            self._last = self._draw()
        return self._last

    def hit(self, percent: float) -> bool:
        return percent >= 100 or (percent > 0 and self.next() * 100 < percent)


def flipped(data: bytes, draw: Draw) -> bytes:
    """A packet of IPv4 with one bit of what it carries another; its checksum tells who takes it."""
    header = (data[0] & 0xF) * 4
    if len(data) <= header:
        return data
    bit = int(draw() * 8 * (len(data) - header)) % (8 * (len(data) - header))
    changed = bytearray(data)
    changed[header + bit // 8] ^= 1 << bit % 8
    return bytes(changed)
