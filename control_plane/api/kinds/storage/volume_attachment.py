"""Volume attachments."""

from __future__ import annotations

from datetime import datetime

from rayplane.control_plane.api.kinds.rules import (
    NO_DEFAULTS,
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
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name(obj),
        spec.get("attacher") or "",
        (spec.get("source") or {}).get("persistentVolumeName") or "",
        spec.get("nodeName") or "",
        bool(status.get("attached")),
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Attacher", format="name"), Column("PV"), Column("Node"),
    Column("Attached", "boolean"), AGE,
)  # fmt: skip


RULES = {
    "VolumeAttachment": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=Status({"attached": False}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
