"""API services: groups and versions that another server answers for."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_PREPARATION,
    NO_SCALE,
    NO_UPDATE_RULES,
    NO_VALIDATION,
    Rules,
    Status,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name


def _default(obj: Object) -> None:
    target = (obj.get("spec") or {}).get("service")
    if target is not None and not target.get("port"):
        target["port"] = 443


def _row(obj: Object, now: datetime) -> list[Cell]:
    target = (obj.get("spec") or {}).get("service")
    where = f"{target.get('namespace')}/{target.get('name')}" if target else "Local"
    available = get_condition(obj, "Available") or {}
    state: str = available.get("status") or "Unknown"
    if state != "True" and available.get("reason"):
        state = f"{state} ({available['reason']})"
    return [name(obj), where, state, age(obj, now)]


RULES = {
    "APIService": Rules(
        name=names.subdomain_errors,
        defaults=_default,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=Status({}),
        generation=False,
        printer=Printer((NAME, Column("Service"), Column("Available"), AGE), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
