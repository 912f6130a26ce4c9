"""Image garbage collection: which images go when the disk gets full. Pure.

What was pulled goes by itself, since it can be pulled again; what people loaded or built goes when they say so, or when
a later image has its names: whoever loads or builds under one name again and again would fill the disk.
Source: kubelet's image garbage collection.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Parts of a disk in percent: from `high` on images go until it is at `low`, those unused for `min_age_s`.

    With 100 none go.
    """

    high: int = 85
    low: int = 80
    min_age_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that may go. `used_at`: seconds since 1970 when its last use ended, or it came."""

    digest: str
    size: int
    used_at: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """Images that are to go, the longest unused first; `short`: bytes that are to become free."""

    digests: tuple[str, ...] = ()
    short: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each."""


def wanted(candidates: Iterable[Candidate], *, total: int, free: int, thresholds: Thresholds, now: float) -> Wanted:
    """What is to go of a disk of `total` bytes."""
    if total <= 0 or thresholds.high >= 100 or (total - free) * 100 < thresholds.high * total:
        return Wanted()
    short = total * (100 - thresholds.low) // 100 - free
    chosen: dict[str, int] = {}
    for one in sorted(candidates, key=lambda one: (one.used_at, one.digest)):
        if sum(chosen.values()) >= short:
            break
        if now - one.used_at >= thresholds.min_age_s:
            chosen[one.digest] = one.size
    return Wanted(tuple(chosen), max(0, short), chosen)
