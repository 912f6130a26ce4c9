"""Priority level configurations."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

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
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    limited: Mapping[str, Any] = spec.get("limited") or {}
    queuing = (limited.get("limitResponse") or {}).get("queuing") or {}
    shares = limited.get("nominalConcurrencyShares")
    return [
        name(obj),
        spec.get("type") or "",
        NONE if shares is None else shares,
        queuing.get("queues") or NONE,
        queuing.get("handSize") or NONE,
        queuing.get("queueLengthLimit") or NONE,
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Type"), Column("NominalConcurrencyShares"), Column("Queues"),
    Column("HandSize"), Column("QueueLengthLimit"), AGE,
)  # fmt: skip


RULES = {
    "PriorityLevelConfiguration": Rules(
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
