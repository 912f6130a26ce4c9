"""Pace of the stages of one object: those that follow each other without a delay are counted, and held. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UNDELAYED_MAX: Final = 32
"""So many stages may follow each other at once."""
DELAYED_S: Final = 0.05
"""Less is no delay."""
HOLD_S: Final = 30.0


@dataclass(slots=True)
class Pace:
    """A count of stages that had no delay."""

    undelayed: int = 0

    def paced(self, delay_s: float) -> tuple[float, bool]:
        """When the next stage is to be played, and whether it is held since there was no delay for too long."""
        if delay_s >= DELAYED_S:
            self.undelayed = 0
            return delay_s, False
        self.undelayed += 1
        if self.undelayed <= UNDELAYED_MAX:
            return delay_s, False
        self.undelayed = 0
        return HOLD_S, True
