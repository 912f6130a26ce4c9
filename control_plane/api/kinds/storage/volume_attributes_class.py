"""Volume attributes classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_DEFAULT_CLASS = "volumeattributesclass.alpha.kubernetes.io/is-default-class"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    driver = obj.get("driverName") or ""
    if not driver:
        errs.append(required("driverName"))
    else:
        checked(names.qualified_name_errors(driver.lower()), driver, "driverName", errs)
    if not obj.get("parameters"):
        errs.append(required("parameters", "must contain at least one key/value pair"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if new.get("driverName") != old.get("driverName"):
        errs.append(forbidden("driverName", "updates to driverName are forbidden."))
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        errs.append(forbidden("parameters", "updates to parameters are forbidden."))
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    default = meta.annotations(obj).get(_DEFAULT_CLASS) == "true"
    return [name(obj) + (" (default)" if default else ""), obj.get("driverName") or "", age(obj, now)]


RULES = {
    "VolumeAttributesClass": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("DriverName"), AGE), _row),
    ),
}
