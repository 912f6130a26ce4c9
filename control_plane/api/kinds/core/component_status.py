"""Component statuses: what the server finds out when it is asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS, NO_UPDATE_RULES, NO_VALIDATION
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
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
    "ComponentStatus": replace(
        AS_WRITTEN,
        deprecated="v1 ComponentStatus is deprecated in v1.19+",
        defaults=NO_DEFAULTS,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Status"), Column("Message"), Column("Error")), _row),
    ),
}
