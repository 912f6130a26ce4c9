"""Storage classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, one_of
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_BINDING = ("Immediate", "WaitForFirstConsumer")
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def _default(obj: Object) -> None:
    if not obj.get("reclaimPolicy"):
        obj["reclaimPolicy"] = "Delete"
    if not obj.get("volumeBindingMode"):
        obj["volumeBindingMode"] = "Immediate"


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    provisioner = obj.get("provisioner")
    if not provisioner:
        errs.append(required("provisioner"))
    else:
        checked(names.qualified_name_errors(provisioner.lower()), provisioner, "provisioner", errs)
    for key in obj.get("parameters") or ():
        if not key:
            errs.append(invalid("parameters", key, "field must not be empty."))
    one_of(obj.get("reclaimPolicy"), ("Delete", "Retain"), "reclaimPolicy", errs)
    one_of(obj.get("volumeBindingMode"), _BINDING, "volumeBindingMode", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        errs.append(forbidden("parameters", "updates to parameters are forbidden."))
    if new.get("provisioner") != old.get("provisioner"):
        errs.append(forbidden("provisioner", "updates to provisioner are forbidden."))
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        errs.append(forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden."))
    immutable(new.get("volumeBindingMode"), old.get("volumeBindingMode"), "volumeBindingMode", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    notes = meta.annotations(obj)
    default = any(notes.get(key) == "true" for key in _DEFAULT_CLASS)
    return [
        name(obj) + (" (default)" if default else ""),
        obj.get("provisioner") or "",
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate",
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Provisioner"), Column("ReclaimPolicy"), Column("VolumeBindingMode"),
    Column("AllowVolumeExpansion"), AGE,
)  # fmt: skip


RULES = {
    "StorageClass": replace(
        AS_WRITTEN,
        defaults=_default,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
