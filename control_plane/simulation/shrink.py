"""Smaller plans with the same failure: fewer faults, shorter ones, a shorter run. Pure; who calls it runs the plans.

Faults are left out by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input"):
halves first, then ever smaller parts, until no single one can be left out, or the runs are used up.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rayplane.control_plane.simulation.plan import Plan, Strike

RUNS_MAX = 200
SPAN_MIN_S = 0.1
_TIME = re.compile(r"^[\d.]+ s: ")
_NUMBERS = re.compile(r"\d+(\.\d+)?")


def signature(failure: str) -> str:
    """What makes a failure the same as another: all but when it was, and the numbers in it."""
    return _NUMBERS.sub("#", _TIME.sub("", failure))[:200]


def same_failure(wanted: str, failures: Sequence[str]) -> bool:
    """Whether one of the failures of a run is the wanted one."""
    return signature(wanted) in map(signature, failures)


@dataclass(slots=True)
class Shrinker:
    """One search. `fails` runs a plan and says whether it has the same failure; `tell` hears of each smaller plan."""

    fails: Callable[[Plan], bool]
    tell: Callable[[str], None] = lambda _: None
    runs_max: int = RUNS_MAX
    runs: int = field(default=0, init=False)

    def shrink(self, plan: Plan, last_step: int) -> Plan:
        """The smallest plan that was found; `last_step`: where the run was when it failed first."""
        plan = self._shorter_run(plan, last_step)
        plan = self._fewer(plan)
        return self._shorter_faults(plan)

    def _try(self, plan: Plan) -> bool:
        if self.runs >= self.runs_max:
            return False
        self.runs += 1
        smaller = self.fails(plan)
        if smaller:
            self.tell(f"run {self.runs}: {len(plan.strikes)} faults are enough")
        return smaller

    def _shorter_run(self, plan: Plan, last_step: int) -> Plan:
        shorter = replace(plan, steps=last_step + 1)
        return shorter if self._try(shorter) else plan

    def _fewer(self, plan: Plan) -> Plan:
        if plan.strikes and self._try(none := plan.keeping(())):
            return none
        parts = 2
        while len(plan.strikes) > 1:
            smaller = self._without_a_part(plan, parts)
            if smaller is not None:
                plan, parts = smaller, max(2, parts - 1)
            elif parts >= len(plan.strikes) or self.runs >= self.runs_max:
                break
            else:
                parts = min(len(plan.strikes), parts * 2)
        return plan

    def _without_a_part(self, plan: Plan, parts: int) -> Plan | None:
        strikes, count = plan.strikes, len(plan.strikes)
        for part in range(parts):
            start, stop = part * count // parts, (part + 1) * count // parts
            fewer = plan.keeping((*strikes[:start], *strikes[stop:]))
            if start < stop < count + 1 and fewer.strikes and self._try(fewer):
                return fewer
        return None

    def _shorter_faults(self, plan: Plan) -> Plan:
        for number, strike in enumerate(plan.strikes):
            while strike.for_s / 2 >= SPAN_MIN_S:
                shorter = strike.lasting(round(strike.for_s / 2, 3))
                tried = plan.keeping(_with(plan.strikes, number, shorter))
                if not self._try(tried):
                    break
                plan, strike = tried, shorter
        return plan


def _with(strikes: Sequence[Strike], number: int, strike: Strike) -> tuple[Strike, ...]:
    return (*strikes[:number], strike, *strikes[number + 1 :])
