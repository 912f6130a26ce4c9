"""CSI storage capacities."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, validate_selector
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import NAME, UNSET, Cell, Column, Printer
from rayplane.control_plane.api.meta import Object, name


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_selector(obj.get("nodeTopology"), "nodeTopology", errs)
    own = obj.get("storageClassName") or ""
    checked(names.subdomain_errors(own), own, "storageClassName", errs)
    for field, least in (("capacity", 0), ("maximumVolumeSize", None)):
        if obj.get(field) is not None:
            validate_quantity(obj[field], field, errs, least=least)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    for field in ("nodeTopology", "storageClassName"):
        immutable(new.get(field), old.get(field), field, errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), obj.get("storageClassName") or "", obj.get("capacity") or UNSET]


RULES = {
    "CSIStorageCapacity": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("StorageClassName"), Column("Capacity")), _row),
    ),
}
