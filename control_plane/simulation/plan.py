"""The fault plan of a run: what struck whom and when, as a file that does the same again. Pure.

scenario: quick
seed: 7
steps: 6                                         # no more than the scenario's first six; else all
faults:
  - {step: 2, after: 0s, kill: member-1}          # when the scenario came to steps[2]
  - {step: 4, after: 1250ms, stop: {target: apiserver-0, for: 3s}}
  - {step: 4, after: 2s, replace: member-0}       # a change that a storm drew

A run by a plan takes the scenario's steps as they are, but for faults and storms: of those it does what the plan says.
With the whole plan of a run and its seed it is that very run. Moments count from when the scenario came to the step, so
that a plan with fewer faults still fits.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from rayplane.control_plane.cluster.errors import UsageError
from rayplane.control_plane.faults import reading
from rayplane.control_plane.faults.form import as_step, write_fault
from rayplane.control_plane.faults.reading import FormError
from rayplane.control_plane.faults.vocabulary import OBJECTS, Fault, Target
from rayplane.control_plane.simulation.scenario import Change, read_struck

STRIKES_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault, or one change, of a plan: at the scenario's `step`, so many seconds after the run came to it."""

    step: int
    after_s: float
    what: Fault | Change

    def __str__(self) -> str:
        return f"step {self.step}, after {self.after_s:g} s: {said(self.what)}"

    @property
    def for_s(self) -> float:
        """How long it lasts; 0 for what does not end by itself."""
        return getattr(self.what, "for_s", 0.0)

    def lasting(self, seconds: float) -> "Strike":
        """The same for another span; only of what lasts."""
        what: Any = self.what
        return replace(self, what=replace(what, for_s=seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All strikes of a run, in order.

    `scenario` and `seed`: of the run that they were taken from. `steps`: so many of the scenario are taken, each
    repetition counted, and no time passes after them; None is all.
    """

    scenario: str
    seed: int
    steps: int | None = None
    strikes: tuple[Strike, ...] = ()

    def of(self, step: int) -> tuple[Strike, ...]:
        """Those of one step."""
        return tuple(strike for strike in self.strikes if strike.step == step)

    def keeping(self, strikes: Iterable[Strike]) -> "Plan":
        return replace(self, strikes=tuple(strikes))


def said(what: Fault | Change) -> str:
    """One line, as it stands in the steps of a file."""
    return f"{what.action}: {what.target}" if isinstance(what, Change) else as_step(what)


def concrete(fault: Fault, hit: Iterable[str]) -> tuple[Fault, ...]:
    """The same fault to each that it hit, by name."""
    if "target" not in {field.name for field in fields(fault)}:
        return (fault,)
    chosen: Any = fault
    role = chosen.target.role if chosen.target.role in OBJECTS else ""
    return tuple(replace(chosen, target=Target(role, name)) for name in hit)


def write_plan(plan: Plan) -> str:
    """The file that `read_plan` reads as this plan."""
    limit = {} if plan.steps is None else {"steps": plan.steps}
    head = yaml.safe_dump({"scenario": plan.scenario, "seed": plan.seed, **limit}, sort_keys=False)
    lines = [yaml.safe_dump(_written(s), default_flow_style=True, sort_keys=False, width=1 << 20) for s in plan.strikes]
    return head + "faults:" + ("".join(f"\n  - {line.strip()}" for line in lines) or " []") + "\n"


def _written(strike: Strike) -> dict[str, Any]:
    what = strike.what
    body = {what.action: what.target} if isinstance(what, Change) else write_fault(what)
    return {"step": strike.step, "after": strike.after_s, **body}


def read_plan(text: str, *, source: str) -> Plan:
    """A plan from its file. Raises UsageError that names the place."""
    try:
        return reading.read(text, lambda data: _plan(reading.mapping(data, "the plan")))
    except FormError as e:
        raise UsageError(f"{source}: {e}") from e


def _plan(data: dict[str, Any]) -> Plan:
    reading.only(data, {"scenario", "seed", "steps", "faults"}, "the plan")
    listed = reading.items(data.get("faults", []), "faults")
    if len(listed) > STRIKES_MAX:
        raise FormError("faults", f"there are {len(listed)}, more than {STRIKES_MAX}")
    return Plan(
        scenario=str(data.get("scenario", "")),
        seed=reading.whole(data.get("seed", 1), "seed"),
        steps=reading.whole(data["steps"], "steps") if "steps" in data else None,
        strikes=tuple(_strike(reading.mapping(one, f"faults[{n}]"), f"faults[{n}]") for n, one in enumerate(listed)),
    )


def _strike(data: dict[str, Any], at: str) -> Strike:
    body = {key: value for key, value in data.items() if key not in ("step", "after")}
    return Strike(
        reading.whole(data.get("step"), f"{at}.step"),
        reading.span(data.get("after", 0), f"{at}.after"),
        read_struck(body, at, who="a plan has"),
    )
