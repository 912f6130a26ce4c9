"""Wall clock and the bundle of injected things."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from rayplane.storage.env.disk import Disk

# Characters of a moment before its offset, which is that of UTC.
_SECONDS, _MICROSECONDS = len("2006-01-02T15:04:05"), len("2006-01-02T15:04:05.000000")
# The bits of a UUID that say its version and variant, and what they say (RFC 9562, sections 4.1 and 5.4).
_MARKED, _MARKS = 0xF000 << 64 | 0xC000 << 48, 0x4000 << 64 | 0x8000 << 48


class Clock(Protocol):
    """Wall-clock stamps, for people and for object metadata; never for measuring spans."""

    def now(self) -> datetime:
        """The present moment, aware, in UTC."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class AheadClock:
    """A clock that is so many seconds ahead of another, which is the machine's where none is given."""

    def __init__(self, ahead_s: Callable[[], float], clock: Clock | None = None) -> None:
        self._ahead_s = ahead_s
        self._clock = clock or SystemClock()

    def now(self) -> datetime:
        return self._clock.now() + timedelta(seconds=self._ahead_s())


@dataclass(frozen=True, slots=True)
class Env:
    """The outside world as far as a component may know it, besides its network."""

    clock: Clock
    rng: random.Random
    disk: Disk

    def uuid(self) -> str:
        """A version 4 UUID (RFC 9562) drawn from `rng`."""
        digits = f"{self.rng.getrandbits(128) & ~_MARKED | _MARKS:032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def timestamp(self) -> str:
        """Now as RFC 3339 with whole seconds, the form of `metadata.creationTimestamp`."""
        # A twentieth of what strftime takes, and years below 1000 keep their zeros.
        return self.clock.now().isoformat(timespec="seconds")[:_SECONDS] + "Z"

    def timestamp_micro(self) -> str:
        """Now as RFC 3339 with microseconds, the form of a Lease's `renewTime` (MicroTime)."""
        return self.clock.now().isoformat(timespec="microseconds")[:_MICROSECONDS] + "Z"
