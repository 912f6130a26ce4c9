"""Pauses between tries that grow with each failure in a row: exponential back-off.

Pure: chance is injected, waiting is the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

_DOUBLINGS_MAX = 64  # more make no difference, and a float has an end


@dataclass(frozen=True, slots=True)
class Backoff:
    """Growing pauses: `first_s` after the first failure, each further pause `factor` times the one before, at most
    `max_s`.
    """

    first_s: float
    max_s: float
    factor: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.first_s <= self.max_s:
            raise ValueError(f"a back-off from {self.first_s} to {self.max_s} s must begin above 0 and not fall")
        if not 1 <= self.factor <= 1000:
            raise ValueError(f"a back-off's factor {self.factor} must be from 1 to 1000")

    def pause_s(self, failures: int) -> float:
        """The pause after so many failures in a row; none after none."""
        if failures <= 0:
            return 0.0
        return min(self.first_s * self.factor ** min(failures - 1, _DOUBLINGS_MAX), self.max_s)

    def after_s(self, pause_s: float) -> float:
        """The pause that follows a pause; the first one after none."""
        return min(pause_s * self.factor, self.max_s) if pause_s > 0 else self.first_s


class Pauses:
    """The pauses of one who tries again and again. `jitter`: the share of each that chance may take away."""

    def __init__(self, backoff: Backoff, *, rng: random.Random | None = None, jitter: float = 0.0) -> None:
        self._backoff = backoff
        self._rng = rng
        self._jitter = jitter
        self._last_s = 0.0

    def next_s(self) -> float:
        """The pause to make now, after one more failure."""
        self._last_s = self._backoff.after_s(self._last_s)
        return self._last_s * (self._rng.uniform(1 - self._jitter, 1.0) if self._rng is not None else 1.0)

    def reset(self) -> None:
        """It went well: the next failure counts as the first."""
        self._last_s = 0.0
