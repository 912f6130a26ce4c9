"""Controller revisions: states of a template, kept to go back to."""

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
from rayplane.control_plane.api.meta import Object, controller_of, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    owner = controller_of(obj)
    controller = NONE
    if owner is not None:
        group = (owner.get("apiVersion") or "").rpartition("/")[0]
        kind = (owner.get("kind") or "").lower() + (f".{group}" if group else "")
        controller = f"{kind}/{owner.get('name')}"
    return [name(obj), controller, obj.get("revision") or 0, age(obj, now)]


RULES = {
    "ControllerRevision": Rules(
        name=names.subdomain_errors,
        defaults=NO_DEFAULTS,
        prepare_create=NO_PREPARATION,
        prepare_update=NO_PREPARATION,
        prepare_status_update=NO_PREPARATION,
        validate=NO_VALIDATION,
        validate_update=NO_UPDATE_RULES,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Controller"), Column("Revision"), AGE), _row),
        fields=METADATA_FIELDS,
        scale=NO_SCALE,
    ),
}
