"""Storage version migrations: objects of a resource that are to be written again, as they would be stored today."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Final

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.conditions import validate_conditions
from rayplane.control_plane.api.kinds.metadata import IMMUTABLE, NOT_NEGATIVE, Errors
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.machinery.columns import NAME, Cell, Column, Printer
from rayplane.control_plane.api.meta import Object, name

RUNNING, SUCCEEDED, FAILED = "Running", "Succeeded", "Failed"
# Of two conditions that exclude each other: the second must not hold where the first does.
_EXCLUDED: Final = (
    (SUCCEEDED, FAILED, "Both success and failed conditions cannot be true at the same time"),
    (SUCCEEDED, RUNNING, "Running condition cannot be true when success condition is true"),
    (FAILED, RUNNING, "Running condition cannot be true when failed condition is true"),
)
_KEPT: Final = (
    (SUCCEEDED, "Success condition cannot be set to false once it is true"),
    (FAILED, "Failed condition cannot be set to false once it is true"),
)


def _validate(obj: Object) -> Errors:
    resource = (obj.get("spec") or {}).get("resource") or {}
    return [] if resource.get("resource") else [required("spec.resource.resource", "resource is required")]


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    resource, before = ((o.get("spec") or {}).get("resource") or {} for o in (new, old))
    for field in ("group", "resource"):
        if (resource.get(field) or "") != (before.get(field) or ""):
            errs.append(invalid(field, resource.get(field) or "", IMMUTABLE))
    return errs


def _true_conditions(obj: Object) -> set[str]:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return {one.get("type") or "" for one in conditions if one.get("status") == "True"}


_INT64_MAX = 2**63 - 1


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    status = new.get("status") or {}
    conditions, path = status.get("conditions") or [], "status.conditions"
    version = status.get("resourceVersion") or ""
    before = (old.get("status") or {}).get("resourceVersion") or ""
    digits = version.removeprefix("-")
    number, problem = 0, ""
    if version and not (digits.isascii() and digits.isdigit()):
        problem = "invalid syntax"
    elif version:
        number = int(digits.lstrip("0")[: len(str(_INT64_MAX)) + 1] or 0)  # Longer ones are out of range all the same.
        problem = "value out of range" if number > _INT64_MAX else ""
    if problem:
        text = f'failed to parse resource version "{version}": strconv.ParseInt: parsing "{version}": {problem}'
        errs.append(invalid("status.resourceVersion", version, text))
    elif version.startswith("-"):
        errs.append(invalid("status.resourceVersion", -number, NOT_NEGATIVE))
    validate_conditions(conditions, path, errs)
    if before and before != version:
        errs.append(invalid("status.resourceVersion", version, "cannot be updated"))
    now, then = _true_conditions(new), _true_conditions(old)
    errs += [invalid(path, conditions, text) for one, other, text in _EXCLUDED if {one, other} <= now]
    errs += [invalid(path, conditions, text) for one, text in _KEPT if one in then - now]
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    resource = (obj.get("spec") or {}).get("resource") or {}
    return [name(obj), ".".join(part for part in (resource.get("resource"), resource.get("group")) if part)]


_COLUMNS = (NAME, Column("Resource", description="Resource with its group."))
RULES = {
    "StorageVersionMigration": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        status=Status({}, metadata=frozenset()),
        generation=False,
        needs_version=True,
        printer=Printer(_COLUMNS, _row),
    ),
}
