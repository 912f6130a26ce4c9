"""The verdict of a trial: what held, what each fault did, what clients had of the cluster. Pure.

Times are seconds since the first step began.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from xml.sax.saxutils import quoteattr

from rayplane.control_plane.faults.steps import Expectation, Recovered, Served

AWAY_S = 1.0
"""A client that has had no answer for longer calls the cluster away."""
BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0)
GAPS_MAX = 1000
NEVER_THERE, NOBODY_HIT = "never there", "no fault has hit anybody"
SAMPLES_MAX = 5000


@dataclass(slots=True)
class Track:
    """The record of one client that asks again and again: spans without an answer, and how long answers took."""

    what: str
    asked: int = 0
    failed: int = 0
    began_s: float = 0.0
    last_s: float = 0.0
    """When the last answer came, or the first call began."""
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """Spans longer than AWAY_S without an answer, the first ones."""
    away_s: float = 0.0
    longest_s: float = 0.0
    slowest_s: float = 0.0
    took: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    _fault: "Struck | None" = None

    def strike(self, fault: "Struck") -> None:
        """A fault begins: what is away from now on is put down to it, until the next one."""
        self._fault = fault

    def begin(self, at_s: float) -> None:
        self.began_s = self.last_s = at_s

    def answered(self, called_s: float, at_s: float) -> None:
        """A call was answered as it should be."""
        self.asked += 1
        span = at_s - called_s
        self.slowest_s = max(self.slowest_s, span)
        self.took[next((i for i, bound in enumerate(BOUNDS_S) if span <= bound), len(BOUNDS_S))] += 1
        self._gap(at_s)

    def refused(self) -> None:
        """A call failed."""
        self.asked += 1
        self.failed += 1

    def end(self, at_s: float) -> None:
        """Nobody asks any more: what was away until then was away."""
        if self.asked:
            self._gap(at_s)

    @property
    def never(self) -> bool:
        """Whether no answer ever came."""
        return self.asked == self.failed

    def _gap(self, at_s: float) -> None:
        span = at_s - self.last_s
        self.longest_s = max(self.longest_s, span)
        if self._fault is not None:
            gaps = self._fault.gaps_s
            gaps[self.what] = max(gaps.get(self.what, 0.0), span)
        if span > AWAY_S:
            self.away_s += span
            if len(self.gaps) < GAPS_MAX:
                self.gaps.append((self.last_s, at_s))
        self.last_s = at_s

    @property
    def percent(self) -> float:
        """How much of the time it was there."""
        total = self.last_s - self.began_s
        return 100.0 * (1 - self.away_s / total) if total > 0 else 0.0

    def within(self, part: float) -> float:
        """The span that so large a part of the answers took at most, in seconds."""
        left = part * sum(self.took)
        for bound, count in zip(BOUNDS_S, self.took, strict=False):
            left -= count
            if left <= 0:
                return min(bound, self.slowest_s)
        return self.slowest_s


@dataclass(slots=True)
class Struck:
    """One fault that happened. `ended_s` None: it lasts until the end."""

    text: str
    hit: tuple[str, ...]
    began_s: float
    ended_s: float | None = None
    detected_s: float | None = None
    """After how long the cluster said that something is wrong; None when it never did."""
    recovered_s: float | None = None
    """How long after its end all was well again."""
    gaps_s: dict[str, float] = field(default_factory=dict)
    """The longest span without an answer that began or ended before the next fault, by what was asked for."""
    elsewhere_s: float | None = None
    """After how long as many pods of the workload ran elsewhere as ran on the nodes that were hit, and beside them."""


@dataclass(slots=True)
class Health:
    """Changes of what was wrong with the cluster, and when; empty: nothing was."""

    samples: list[tuple[float, str]] = field(default_factory=list)

    def add(self, at_s: float, wrong: str) -> None:
        if len(self.samples) < SAMPLES_MAX and (not self.samples or self.samples[-1][1] != wrong):
            self.samples.append((at_s, wrong))

    def spans(self, end_s: float) -> list[tuple[float, float]]:
        """When something was wrong."""
        if not self.samples:
            return []
        until = [*(at_s for at_s, _ in self.samples[1:]), end_s]
        return [(at_s, to_s) for (at_s, wrong), to_s in zip(self.samples, until, strict=True) if wrong]

    def judge(self, struck: Iterable[Struck], end_s: float) -> None:
        """Fill in when each fault was detected, and when all was well again after it.

        What goes wrong is put down to the fault that began last before it.
        """
        spans = self.spans(end_s)
        faults = list(struck)
        for one in faults:
            over_s = end_s if one.ended_s is None else one.ended_s
            until_s = min([over_s + FELT_S, *(other.began_s for other in faults if other.began_s > one.began_s)])
            felt = next(((a, b) for a, b in spans if b > one.began_s and a <= until_s), None)
            if felt is None:
                one.recovered_s = 0.0
                continue
            one.detected_s = max(0.0, felt[0] - one.began_s)
            ill = next(((a, b) for a, b in spans if a <= over_s <= b or ((a, b) == felt and a > over_s)), None)
            well_s = over_s if ill is None else ill[1]
            one.recovered_s = None if ill is not None and well_s >= end_s else well_s - over_s


FELT_S = 10.0
"""What goes wrong later after a fault is over is none of its."""


@dataclass(slots=True, kw_only=True)
class Verdict:
    """All that is told in the end."""

    scenario: str
    seed: int
    cluster: str
    seconds: float = 0.0
    invariants: dict[str, list[str]] = field(default_factory=dict)
    """Violations by the name of what must hold."""
    unseen: list[str] = field(default_factory=list)
    """Of these, what nobody could look at."""
    faults: list[Struck] = field(default_factory=list)
    in_vain: list[str] = field(default_factory=list)
    """Faults that hit nobody, or whose time did not come, each with why."""
    tracks: list[Track] = field(default_factory=list)
    unhealthy: list[tuple[float, float]] = field(default_factory=list)
    expected: list[tuple[str, str]] = field(default_factory=list)
    """What was expected, and what was wrong with it."""
    errors: list[str] = field(default_factory=list)
    """Steps that could not be taken, and what could not be healed or judged."""
    events: list[tuple[float, str]] = field(default_factory=list)

    @property
    def failed(self) -> list[str]:
        """What went wrong with the trial itself. One whose faults were all in vain has shown nothing."""
        return [*self.errors, *([NOBODY_HIT] if self.in_vain and not self.faults else [])]

    @property
    def ok(self) -> bool:
        return not (self.failed or any(self.invariants.values()) or any(wrong for _, wrong in self.expected))

    def to_json(self) -> dict[str, Any]:
        tracks = [
            {
                "what": t.what,
                "asked": t.asked,
                "failed": t.failed,
                "percent": round(t.percent, 3),
                "longestGapSeconds": round(t.longest_s, 3),
                "p50Seconds": t.within(0.5),
                "p95Seconds": t.within(0.95),
                "slowestSeconds": round(t.slowest_s, 3),
                "gaps": t.gaps,
            }
            for t in self.tracks
        ]
        return {
            "verdict": "ok" if self.ok else "failed",
            "scenario": self.scenario,
            "seed": self.seed,
            "cluster": self.cluster,
            "seconds": round(self.seconds, 3),
            "invariants": self.invariants,
            "unseen": self.unseen,
            "faults": [asdict(one) for one in self.faults],
            "inVain": self.in_vain,
            "availability": tracks,
            "unhealthy": self.unhealthy,
            "expected": [{"what": what, "wrong": wrong} for what, wrong in self.expected],
            "errors": self.failed,
            "events": self.events,
        }


def failed_expectation(expected: Expectation, tracks: Sequence[Track], struck: Sequence[Struck]) -> str:
    """What is wrong with what was expected of clients and faults; empty when nothing is, and for conditions."""
    if isinstance(expected, Served):
        track = next((t for t in tracks if t.what == expected.what), None)
        if track is None:
            return "nobody has measured that"
        if not track.asked:
            return NEVER_THERE
        if track.percent < expected.percent:
            return f"they were there for {track.percent:.2f} %"
        if expected.gap_s is not None and track.longest_s > expected.gap_s:
            return f"they were away for {track.longest_s:.1f} s"
    if isinstance(expected, Recovered):
        if not struck:
            return NOBODY_HIT
        for one in struck:
            if one.recovered_s is None:
                return f"not after {one.text}"
            if one.recovered_s > expected.within_s:
                return f"it took {one.recovered_s:.1f} s after {one.text}"
    return ""


def table(verdict: Verdict) -> list[str]:
    """For people: a line for each invariant, fault and client, and the verdict."""
    lines = ["INVARIANT".ljust(44) + "HELD"]
    for name, found in verdict.invariants.items():
        lines.append(f"{name:<44}{'no: ' + found[0] if found else held(verdict, name)}")
        lines += [" " * 48 + text for text in found[1:]]
    named = [f"{one.text} -> {', '.join(one.hit)}" if one.hit else one.text for one in verdict.faults]
    width = max([44, *(len(name) + 1 for name in named)])
    lines += ["", f"{'FAULT':<{width}}{'AT':>8}{'DETECTED':>10}{'RECOVERED':>11}{'READS':>8}{'WRITES':>8}{'PODS':>8}"]
    for name, one in zip(named, verdict.faults, strict=True):
        detected, recovered, *spans = felt(one)
        shown = "".join(f"{span:>8}" for span in spans)
        lines.append(f"{name:<{width}}{one.began_s:>7.1f}s{detected:>10}{recovered:>11}{shown}")
    lines += [f"in vain: {text}" for text in verdict.in_vain]
    lines += ["", f"{'AVAILABLE':<12}{'PART':>9}{'LONGEST GAP':>13}{'P50':>9}{'P95':>9}{'FAILED':>16}"]
    lines += map(_available, verdict.tracks)
    if verdict.expected:
        lines += ["", "EXPECTED"]
        lines += [
            f"{'no ' if wrong else 'yes'} {what}{': ' + wrong if wrong else ''}" for what, wrong in verdict.expected
        ]
    lines += ["", *(f"error: {text}" for text in verdict.failed)]
    kept = sum(not found and name not in verdict.unseen for name, found in verdict.invariants.items())
    said = "ok" if verdict.ok else "FAILED"
    lines.append(
        f"{said}: {kept} of {len(verdict.invariants)} invariants held, seed {verdict.seed}, {verdict.seconds:.1f} s"
    )
    return lines


def held(verdict: Verdict, name: str) -> str:
    """What is said of an invariant that nothing was found against."""
    return "not seen here" if name in verdict.unseen else "yes"


def felt(one: Struck) -> tuple[str, str, str, str, str]:
    """After how long a fault was detected, and all was well again; the longest gaps of reads and of writes since; when
    pods of nodes that it hit ran elsewhere.

    Of one that nobody noticed nothing is known.
    """
    spans = one.gaps_s.get("reads"), one.gaps_s.get("writes"), one.elsewhere_s
    reads, writes, elsewhere = ("-" if span is None else f"{span:.2f}s" for span in spans)
    if one.detected_s is None:
        return "never", "-", reads, writes, elsewhere
    recovered = "never" if one.recovered_s is None else f"{one.recovered_s:.1f}s"
    return f"{one.detected_s:.1f}s", recovered, reads, writes, elsewhere


def _available(track: Track) -> str:
    failed = f"{f'{track.failed} of {track.asked}':>16}"
    if track.never:
        return f"{track.what:<12}{NEVER_THERE:<41}{failed}"
    spans = f"{track.longest_s:>12.2f}s{track.within(0.5):>8.3f}s{track.within(0.95):>8.3f}s"
    return f"{track.what:<12}{track.percent:>8.2f}%{spans}{failed}"


def junit(verdict: Verdict) -> str:
    """The verdict as JUnit XML: a case for each invariant and each expectation, one for the steps."""
    seen = {name: found for name, found in verdict.invariants.items() if name not in verdict.unseen}
    cases = [("invariant", name, "; ".join(found)) for name, found in seen.items()]
    cases += [("expected", what, wrong) for what, wrong in verdict.expected]
    cases.append(("steps", verdict.scenario, "; ".join(verdict.failed)))
    failures = sum(bool(wrong) for *_, wrong in cases)
    suite = (
        f'<testsuite name={_attribute(verdict.scenario)} tests="{len(cases)}" failures="{failures}" '
        f'time="{verdict.seconds:.3f}">'
    )
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', suite]
    for kind, name, wrong in cases:
        case = f"  <testcase classname={_attribute(f'rayplane.chaos.{kind}')} name={_attribute(name)}"
        lines.append(f"{case}><failure message={_attribute(wrong)}/></testcase>" if wrong else f"{case}/>")
    return "\n".join([*lines, "</testsuite>"]) + "\n"


def _attribute(text: str) -> str:
    """Text as an attribute; what XML cannot hold is left out."""
    return quoteattr("".join(c for c in text if c >= " " or c in "\t\n"))
