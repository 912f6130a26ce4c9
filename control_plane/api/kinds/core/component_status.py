"""Component statuses: what the server finds out when it is asked."""

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
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, get_condition, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    healthy = get_condition(obj.get("conditions"), "Healthy") or {}
    words = {"True": "Healthy", "False": "Unhealthy"}
    return [
        name(obj),
        words.get(healthy.get("status") or "", "Unknown"),
        healthy.get("message") or "",
        healthy.get("error") or "",
    ]


RULES = {
    "ComponentStatus": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Status"), Column("Message"), Column("Error")), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
