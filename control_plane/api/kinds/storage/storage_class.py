"""Storage classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import duplicate, forbidden, invalid, required, too_long
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, one_of, unique
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_BINDING = ("Immediate", "WaitForFirstConsumer")
_PARAMETERS_MAX, _PARAMETERS_BYTES_MAX = 512, 256 * 1024
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def _default(obj: Object) -> None:
    if not obj.get("reclaimPolicy"):
        obj["reclaimPolicy"] = "Delete"
    if not obj.get("volumeBindingMode"):
        obj["volumeBindingMode"] = "Immediate"


def validate_provisioner(name: str, path: str, errs: Errors) -> None:
    if not name:
        errs.append(required(path))
    else:
        checked(names.qualified_name_errors(name.lower()), name.lower(), path, errs)


def validate_parameters(parameters: Mapping[str, str], errs: Errors) -> None:
    if len(parameters) > _PARAMETERS_MAX:
        errs.append(too_long("parameters", _PARAMETERS_MAX))
        return
    for key in parameters:
        if not key:
            errs.append(invalid("parameters", key, "field can not be empty."))
    if (
        sum(len(key.encode()) + len((value or "").encode()) for key, value in parameters.items())
        > _PARAMETERS_BYTES_MAX
    ):
        errs.append(too_long("parameters", _PARAMETERS_BYTES_MAX))


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_provisioner(obj.get("provisioner") or "", "provisioner", errs)
    validate_parameters(obj.get("parameters") or {}, errs)
    one_of(obj.get("reclaimPolicy"), ("Delete", "Retain"), "reclaimPolicy", errs)
    one_of(obj.get("volumeBindingMode"), _BINDING, "volumeBindingMode", errs)
    _topologies(obj.get("allowedTopologies") or (), errs)
    return errs


def _topologies(terms: Sequence[Mapping[str, Any]], errs: Errors) -> None:
    seen: list[dict[str, set[str]]] = []
    for index, term in enumerate(terms):
        at, found = f"allowedTopologies[{index}].matchLabelExpressions", dict[str, set[str]]()
        for number, expression in enumerate(term.get("matchLabelExpressions") or ()):
            where, key, values = f"{at}[{number}]", expression.get("key") or "", expression.get("values") or ()
            if not values:
                errs.append(required(f"{where}.values"))
            unique(values, f"{where}.values", errs)
            checked(names.qualified_name_errors(key), key, f"{where}.key", errs)
            if key in found:
                errs.append(duplicate(f"{where}.key", key))
            found[key] = set(values)
        if found in seen or not found:
            errs.append(duplicate(at, ""))
        seen.append(found)


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
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
