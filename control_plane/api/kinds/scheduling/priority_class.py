"""Priority classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import forbidden
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_CHANGE_COUNTS, NO_STATUS
from rayplane.control_plane.api.kinds.scheduling.fields import HIGHEST_USER_PRIORITY
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name
from rayplane.control_plane.api.pods.priority import SYSTEM_CRITICAL


def _default(obj: Object) -> None:
    if not obj.get("preemptionPolicy"):
        obj["preemptionPolicy"] = "PreemptLowerPriority"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    own = (obj.get("metadata") or {}).get("name") or ""
    value = obj.get("value") or 0
    if own.startswith("system-"):
        problem = _system_problem(own, value, is_default=bool(obj.get("globalDefault")))
        if problem:
            text = "priority class names with 'system-' prefix are reserved for system use only. error: "
            errs.append(forbidden("metadata.name", text + problem))
    elif value > HIGHEST_USER_PRIORITY:
        text = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        errs.append(forbidden("value", text))
    policy = obj.get("preemptionPolicy")
    one_of(policy, ("PreemptLowerPriority", "Never"), "preemptionPolicy", errs)
    return errs


def _system_problem(own: str, value: int, *, is_default: bool) -> str:
    known = {"system-cluster-critical": SYSTEM_CRITICAL, "system-node-critical": SYSTEM_CRITICAL + 1000}
    if own not in known:
        return f"{own} is not a known system priority class"
    if value != known[own]:
        return f"value of {own} PriorityClass must be {known[own]}"
    return f"globalDefault of {own} PriorityClass must be false" if is_default else ""


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if (new.get("value") or 0) != (old.get("value") or 0):
        errs.append(forbidden("value", "may not be changed in an update."))
    immutable(new.get("preemptionPolicy"), old.get("preemptionPolicy"), "preemptionPolicy", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [
        name(obj),
        obj.get("value") or 0,
        bool(obj.get("globalDefault")),
        age(obj, now),
        obj.get("preemptionPolicy") or "",
    ]


_COLUMNS = (
    NAME, Column("Value", "integer"), Column("Global-Default", "boolean"), AGE,
    Column("PreemptionPolicy"),
)  # fmt: skip


RULES = {
    "PriorityClass": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=True,
        counts=NO_CHANGE_COUNTS,
        printer=Printer(_COLUMNS, _row),
    ),
}
