"""Leases."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import forbidden, invalid
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if seconds is not None and seconds <= 0:
        errs.append(invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        text = "must be greater than or equal to 0"
        errs.append(invalid("spec.leaseTransitions", transitions, text))
    strategy = spec.get("strategy")
    if strategy is not None:
        _strategy(strategy, "spec.strategy.strategy", errs)
    if spec.get("preferredHolder") and not strategy:
        errs.append(forbidden("spec.preferredHolder", "may only be specified if `strategy` is defined"))
    return errs


def _strategy(strategy: str, path: str, errs: Errors) -> None:
    """How a leader is chosen: Kubernetes' own way, or somebody's who says whose."""
    if "/" in strategy:
        checked(names.qualified_name_errors(strategy), strategy, path, errs)
    else:
        one_of(strategy, ("OldestEmulationVersion",), path, errs)


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("spec") or {}).get("holderIdentity") or "", age(obj, now)]


RULES = {
    "Lease": replace(
        AS_WRITTEN,
        made_by_update=True,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        needs_version=True,
        printer=Printer((NAME, Column("Holder"), AGE), _row),
    ),
}
