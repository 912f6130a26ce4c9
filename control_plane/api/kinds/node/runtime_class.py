"""Runtime classes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import duplicate
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, validate_labels
from rayplane.control_plane.api.kinds.pod_template.resources import validate_requirements
from rayplane.control_plane.api.kinds.pod_template.tolerations import validate_tolerations
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), obj.get("handler") or "", age(obj, now)]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    handler = obj.get("handler") or ""
    checked(names.label_errors(handler), handler, "handler", errs)
    overhead = obj.get("overhead")
    if overhead is not None:
        validate_requirements({"limits": overhead.get("podFixed")}, "overhead", errs)
    scheduling = obj.get("scheduling") or {}
    validate_labels(scheduling.get("nodeSelector"), "scheduling.nodeSelector", errs)
    tolerations, seen = scheduling.get("tolerations") or (), set[tuple[Any, ...]]()
    validate_tolerations(tolerations, "scheduling.tolerations", errs)
    for index, one in enumerate(tolerations):
        key = tuple(one.get(field) or "" for field in ("key", "operator", "value", "effect"))
        if key in seen:
            errs.append(duplicate(f"scheduling.tolerations[{index}]", one))
        seen.add(key)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("handler"), old.get("handler"), "handler", errs)
    return errs


RULES = {
    "RuntimeClass": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("Handler"), AGE), _row),
    ),
}
