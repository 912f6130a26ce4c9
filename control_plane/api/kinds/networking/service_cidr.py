"""Service CIDRs: blocks that addresses of services are taken from."""

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
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.field_selectors import METADATA_FIELDS
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), ",".join((obj.get("spec") or {}).get("cidrs") or ()), age(obj, now)]


RULES = {
    "ServiceCIDR": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("CIDRs"), AGE), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
