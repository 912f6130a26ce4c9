"""Whether `rayplane status` told the truth: what was broken, against what it said. Pure. Times are one clock's seconds.

A fault that held from before a question until after the answer, and long enough before it to be felt, must be named in
the answer. One that came or went meanwhile may be.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: Attempts of a client that fail in a row before status must have noticed, and after it has said otherwise.
FAILURES_BEFORE = 3
FAILURES_AFTER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Something was broken all the time from `since` to `until`."""

    what: str
    names: tuple[str, ...]
    """At least one of them must stand in a fault that status tells; none: just anything."""
    since: float
    until: float
    felt_after_s: float
    """By then whoever measures must feel it: a lease of so long, a write that is due."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An answer of status."""

    asked: float
    answered: float
    healthy: bool
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A client's own write through one API server."""

    began: float
    ended: float
    done: bool


def lies(held: Sequence[Held], reports: Sequence[Report]) -> list[str]:
    """What status should have said, and what it said instead."""
    found = []
    for report in reports:
        if report.healthy != (not report.faults):
            found.append(f"status at {report.asked:.1f} s is healthy={report.healthy} with faults {report.faults}")
        for fault in held:
            if report.asked < fault.since + fault.felt_after_s or report.answered > fault.until:
                continue
            named = any(name in line for name in fault.names for line in report.faults)
            if report.healthy or (fault.names and not named):
                said = "healthy" if report.healthy else "; ".join(report.faults)
                found.append(
                    f"status from {report.asked:.1f} to {report.answered:.1f} s does not tell that {fault.what} "
                    f"(from {fault.since:.1f} to {fault.until:.1f} s), but: {said}"
                )
    return found


def failing(server: str, attempts: Sequence[Attempt]) -> Iterator[Held]:
    """The spans in which no write through a server worked, as its clients know it."""
    streak: list[Attempt] = []
    for attempt in [*attempts, None]:
        if attempt is not None and not attempt.done:
            streak.append(attempt)
            continue
        if len(streak) > FAILURES_BEFORE + FAILURES_AFTER:
            since = streak[0].began
            yield Held(
                what=f"writes through {server} fail",
                names=(server,),
                since=since,
                until=streak[-FAILURES_AFTER].began,
                felt_after_s=streak[FAILURES_BEFORE - 1].ended - since,
            )
        streak = []
