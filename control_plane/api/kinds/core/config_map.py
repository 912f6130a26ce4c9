"""Config maps: text and bytes by key."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import forbidden, invalid, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

DATA_MAX_BYTES = 1024 * 1024
_FIXED = "field is immutable when `immutable` is set"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    size = 0
    binary = obj.get("binaryData") or {}
    for key, value in (obj.get("data") or {}).items():
        checked(names.config_key_errors(key), key, f"data[{key}]", errs)
        if key in binary:
            text = "duplicate of key present in binaryData"
            errs.append(invalid(f"data[{key}]", key, text))
        size += len((value or "").encode())
    for key, value in binary.items():
        checked(names.config_key_errors(key), key, f"binaryData[{key}]", errs)
        size += len(value or "") * 3 // 4
    if size > DATA_MAX_BYTES:
        errs.append(too_long("[]", DATA_MAX_BYTES))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    return [*fixed_data(new, old, ("data", "binaryData")), *_validate(new)]


def fixed_data(new: Object, old: Object, fields: tuple[str, ...]) -> Errors:
    errs: Errors = []
    if not old.get("immutable"):
        return errs
    if not new.get("immutable"):
        errs.append(forbidden("immutable", _FIXED))
    for field in fields:
        if (new.get(field) or {}) != (old.get(field) or {}):
            errs.append(forbidden(field, _FIXED))
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    count = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [name(obj), count, age(obj, now)]


RULES = {
    "ConfigMap": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Data"), AGE), _row),
    ),
}
