"""Leases."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.rules import (
    NO_DEFAULTS,
    NO_PREPARATION,
    NO_SCALE,
    NO_STATUS,
    NO_UPDATE_RULES,
    Rules,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
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
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("spec") or {}).get("holderIdentity") or "", age(obj, now)]


RULES = {
    "Lease": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Holder"), AGE), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
