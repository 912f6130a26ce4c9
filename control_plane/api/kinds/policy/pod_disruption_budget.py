"""Pod disruption budgets."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import Errors, one_of, validate_selector
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.kinds.workloads import counts_not_negative, int_or_percent, not_over_hundred
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age, spec_and_status
from rayplane.control_plane.api.meta import Object, name, set_condition

BUDGETS = "poddisruptionbudgets.policy"


def set_disruption_allowed(status: dict[str, Any], now: datetime) -> None:
    """Say in a budget's status, in place, whether any disruption is allowed."""
    allowed = (status.get("disruptionsAllowed") or 0) > 0
    condition: dict[str, Any] = {
        "type": "DisruptionAllowed",
        "status": "True" if allowed else "False",
        "reason": "SufficientPods" if allowed else "InsufficientPods",
        "message": "",
    }
    if status.get("observedGeneration"):
        condition["observedGeneration"] = status["observedGeneration"]
    conditions = list(status.get("conditions") or ())
    set_condition(conditions, condition, now)
    status["conditions"] = conditions


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        text = "minAvailable and maxUnavailable cannot be both set"
        errs.append(invalid("spec", spec, text))
    for field, value in (("minAvailable", least), ("maxUnavailable", most)):
        if value is not None:
            int_or_percent(value, f"spec.{field}", errs)
            not_over_hundred(value, f"spec.{field}", errs)
    validate_selector(spec.get("selector"), "spec.selector", errs)
    policy = spec.get("unhealthyPodEvictionPolicy")
    if policy is not None:
        supported = ("AlwaysAllow", "IfHealthyBudget")
        one_of(policy, supported, "spec.unhealthyPodEvictionPolicy", errs)
    return errs


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    status = new.get("status") or {}
    validate_conditions(status.get("conditions") or (), "status.conditions", errs)
    counts_not_negative(status, ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"), errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = spec_and_status(obj)
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    return [
        name(obj),
        "N/A" if least is None else str(least),
        "N/A" if most is None else str(most),
        status.get("disruptionsAllowed") or 0,
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Min Available"), Column("Max Unavailable"),
    Column("Allowed Disruptions", "integer"), AGE,
)  # fmt: skip


RULES = {
    "PodDisruptionBudget": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        validate_status_update=_validate_status,
        status=Status(
            {
                "currentHealthy": 0,
                "desiredHealthy": 0,
                "disruptionsAllowed": 0,
                "expectedPods": 0,
            }
        ),
        generation=True,
        needs_version=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
