"""Flow schemas."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_DEFAULTS,
    NO_PREPARATION,
    NO_SCALE,
    NO_STATUS,
    NO_UPDATE_RULES,
    NO_VALIDATION,
    Rules,
)
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    dangling = get_condition(obj, "Dangling") or {}
    return [
        name(obj),
        (spec.get("priorityLevelConfiguration") or {}).get("name") or NONE,
        spec.get("matchingPrecedence") or 0,
        (spec.get("distinguisherMethod") or {}).get("type") or NONE,
        age(obj, now),
        dangling.get("status") or "?",
    ]


_COLUMNS = (
    NAME, Column("PriorityLevel"), Column("MatchingPrecedence"),
    Column("DistinguisherMethod"), AGE, Column("MissingPL"),
)  # fmt: skip


RULES = {
    "FlowSchema": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=True,
        printer=Printer(_COLUMNS, _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
