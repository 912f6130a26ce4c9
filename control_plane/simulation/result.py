"""Results of runs: for people as a story, for programs as JSON. Pure."""

import shlex
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.simulation.plan import Plan
from rayplane.control_plane.simulation.trace import Event

FAILURES_SHOWN = 10
#: Of a failed run's story, and of all its events, the last so many are told.
STORY_SHOWN, EVENTS_SHOWN = 40, 12
PLAN_SHOWN = 60

_SENTENCES = {
    "clock-back": "the clock of {} is as it was",
    "clockjump": "the clock of {} jumps",
    "corrupt": "a bit is inverted on the disk of {}",
    "corruptdisk": "the disk of {} is corrupted",
    "cut": "messages no longer pass: {}",
    "disk-free": "the disk of {} has room again",
    "ended": "the program of {}",
    "failed": "FAILED: {}",
    "find": "the machine {} is there again",
    "fulldisk": "the disk of {} is full",
    "gave-up": "gives up: {}",
    "heal": "all can reach each other again",
    "in-vain": "strikes nobody: {}",
    "join": "nobody is parted from others any more",
    "jumble": "messages of {} arrive twice or late",
    "kill": "{} is killed",
    "lose": "the machine of {} is lost",
    "mend": "messages pass again: {}",
    "no-start": "does not start: {}",
    "partition": "parted from the others: {}",
    "pause": "{} stands still",
    "reset": "all connections of {} break",
    "resume": "{} goes on",
    "slow": "every message takes up to {} s",
    "slowcpu": "{} gets little time to run",
    "slowdisk": "the disk of {} is slow",
    "stalleddisk": "the disk of {} stalls",
    "start": "{} begins",
    "started": "{} runs",
    "step": "the scenario comes to step {}",
    "stop": "{} is asked to stop",
    "stopped": "{} has stopped",
    "swarm": "the seed's kinds of faults: {}",
    "unsure": "the client does not know whether its write was done: {}",
    "VIOLATION": "WRONG: {}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """The result of a run. `trace_hash` is the same for the same scenario, seed and code."""

    scenario: str
    source: str
    seed: int
    cluster_s: float
    real_s: float
    events: int
    messages: int
    acknowledged: int
    trace_hash: str
    failures: tuple[str, ...]
    plan: Plan
    """What struck whom."""
    story: tuple[Event, ...] = ()
    """Who did what, up to the end."""
    last_events: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """Of the command that runs it again, beside scenario and seed."""
    ended_at: str = ""
    """The event that ended the run before its time, where one was waited for."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else was measured, by its name."""

    @property
    def ok(self) -> bool:
        return not self.failures

    @property
    def last_step(self) -> int:
        """The number of the step that the run came to last, or under which it failed first."""
        step = 0
        for event in self.story:
            if event.kind == "step":
                step = int(event.text.split()[0])
            elif event.kind == "VIOLATION":
                break
        return step

    @property
    def command(self) -> str:
        """The command that does it all again."""
        words = ["rayplane", "simulate", self.source, "--seed", str(self.seed), *self.options]
        return shlex.join(words)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAILED"
        head = (
            f"seed {self.seed}: {verdict}; {self.cluster_s:.0f} s of cluster time in {self.real_s:.1f} s, "
            f"{self.messages} messages, {self.events} events, {self.acknowledged} acknowledged writes, "
            f"trace {self.trace_hash}"
        )
        if self.ended_at:
            head += f"; ended: {' '.join(self.ended_at.split())}"
        return head if self.ok else "\n".join([head, *self._report()])

    def _report(self) -> list[str]:
        parts = [f"  {failure}" for failure in self.failures[:FAILURES_SHOWN]]
        if len(self.failures) > FAILURES_SHOWN:
            parts.append(f"  and {len(self.failures) - FAILURES_SHOWN} more")
        strikes = self.plan.strikes
        parts += [f"fault plan ({len(strikes)} faults):", *(f"  {strike}" for strike in strikes[:PLAN_SHOWN])]
        if len(strikes) > PLAN_SHOWN:
            parts.append(f"  and {len(strikes) - PLAN_SHOWN} more; --save-plan FILE writes all")
        parts += ["what happened:", *(f"  {told(event)}" for event in self.story[-STORY_SHOWN:])]
        parts += ["last events:", *(f"  {e}" for e in self.last_events[-EVENTS_SHOWN:])]
        if self.log:
            parts += ["last warnings:", *(f"  {line}" for line in self.log)]
        return [*parts, f"again: {self.command}"]

    def as_json(self) -> dict[str, Any]:
        """All but log and last events, for programs."""
        return {
            "scenario": self.source,
            "seed": self.seed,
            "ok": self.ok,
            "failures": list(self.failures),
            "clusterSeconds": round(self.cluster_s, 6),
            "realSeconds": round(self.real_s, 3),
            "events": self.events,
            "messages": self.messages,
            "acknowledgedWrites": self.acknowledged,
            "traceHash": self.trace_hash,
            "faults": [str(strike) for strike in self.plan.strikes],
            "story": [] if self.ok else [told(event) for event in self.story],
            "command": self.command,
            **({"endedAt": self.ended_at} if self.ended_at else {}),
            **self.facts,
        }


def told(event: Event) -> str:
    """An event as a sentence, with its time."""
    return f"{event.at_s:10.3f} s  {sentence(event)}"


def sentence(event: Event) -> str:
    """An event in words."""
    return _SENTENCES.get(event.kind, f"{event.kind} {{}}").format(event.text[:300])
