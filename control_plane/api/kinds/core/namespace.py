"""Namespaces."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import invalid
from rayplane.control_plane.api.kinds.metadata import Errors, checked, checked_finalizer
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_UPDATE_RULES, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, is_deleting, name

NAMESPACE_LABEL = "kubernetes.io/metadata.name"


def _default(obj: Object) -> None:
    _label(obj.setdefault("metadata", {}))


def _label(metadata: dict[str, Any]) -> None:
    """Every namespace has its name as a label, whatever a client says there."""
    if metadata.get("name"):
        metadata["labels"] = {**(metadata.get("labels") or {}), NAMESPACE_LABEL: metadata["name"]}


def _prepare_create(obj: Object) -> None:
    # The name may have been generated after the defaults.
    _label(obj["metadata"])
    finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
    if "kubernetes" not in finalizers:
        finalizers.append("kubernetes")


def _prepare_update(new: Object, old: Object) -> None:
    """Only the finalize subresource changes spec.finalizers."""
    new["spec"] = old.get("spec") or {}


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    for finalizer in (obj.get("spec") or {}).get("finalizers") or ():
        _finalizer(finalizer, "spec.finalizers", errs)
    return errs


def _finalizer(finalizer: str, path: str, errs: Errors) -> None:
    checked(names.qualified_name_errors(finalizer), finalizer, path, errs)
    checked_finalizer(finalizer, path, errs)


def _validate_finalize(new: Object, old: Object) -> Errors:
    errs: Errors = []
    for index, finalizer in enumerate((new.get("spec") or {}).get("finalizers") or ()):
        _finalizer(finalizer, f"spec.finalizers[{index}]", errs)
    return errs


def _validate_status(new: Object, old: Object) -> Errors:
    phase, deleting = (new.get("status") or {}).get("phase") or "", is_deleting(new)
    if phase == ("Terminating" if deleting else "Active"):
        return []
    which = (
        "'Terminating' if `deletionTimestamp` is not empty" if deleting else "'Active' if `deletionTimestamp` is empty"
    )
    return [invalid("status.Phase", phase, f"may only be {which}")]


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), (obj.get("status") or {}).get("phase") or "", age(obj, now)]


RULES = {
    "Namespace": replace(
        AS_WRITTEN,
        name=names.label_errors,
        defaults=_default,
        defaults_in_status=True,
        prepare_create=_prepare_create,
        prepare_update=_prepare_update,
        validate=_validate,
        validate_update=NO_UPDATE_RULES,
        revalidates=False,
        validate_status_update=_validate_status,
        validate_parts={"finalize": _validate_finalize},
        status=Status({"phase": "Active"}),
        ends_by_itself=True,
        generation=False,
        printer=Printer((NAME, Column("Status"), AGE), _row),
        fields=("metadata.name", "status.phase"),
    ),
}
