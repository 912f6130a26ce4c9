"""Controller revisions: states of a template, kept to go back to."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import required
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, not_negative
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, controller_of, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    owner = controller_of(obj)
    controller = NONE
    if owner is not None:
        group = (owner.get("apiVersion") or "").rpartition("/")[0]
        kind = (owner.get("kind") or "").lower() + (f".{group}" if group else "")
        controller = f"{kind}/{owner.get('name')}"
    return [name(obj), controller, obj.get("revision") or 0, age(obj, now)]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    if obj.get("data") is None:
        errs.append(required("data", "data is mandatory"))
    not_negative(obj.get("revision"), "revision", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("data"), old.get("data"), "data", errs)
    return errs


RULES = {
    "ControllerRevision": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Controller"), Column("Revision"), AGE), _row),
    ),
}
