"""Volume attributes classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, required
from rayplane.control_plane.api.kinds.metadata import Errors
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.kinds.storage.storage_class import validate_parameters, validate_provisioner
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_DEFAULT_CLASS = "volumeattributesclass.alpha.kubernetes.io/is-default-class"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    parameters = obj.get("parameters") or {}
    validate_provisioner(obj.get("driverName") or "", "driverName", errs)
    validate_parameters(parameters, errs)
    if not parameters:
        errs.append(required("parameters", "must contain at least one key/value pair"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if new.get("driverName") != old.get("driverName"):
        errs.append(forbidden("driverName", "updates to driverName are forbidden."))
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        errs.append(forbidden("parameters", "updates to parameters are forbidden."))
    return [*errs, *_validate(new)]


def _row(obj: Object, now: datetime) -> list[Cell]:
    default = meta.annotations(obj).get(_DEFAULT_CLASS) == "true"
    return [name(obj) + (" (default)" if default else ""), obj.get("driverName") or "", age(obj, now)]


RULES = {
    "VolumeAttributesClass": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("DriverName"), AGE), _row),
    ),
}
