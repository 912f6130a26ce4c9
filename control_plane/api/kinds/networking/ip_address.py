"""IP addresses: who holds an address of a service."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.addresses import canonical_ip_errors
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    ref = (obj.get("spec") or {}).get("parentRef") or {}
    resource = ".".join(part for part in (ref.get("resource"), ref.get("group")) if part).lower()
    parts = (resource, *([ref["namespace"]] if ref.get("namespace") else []), ref.get("name") or "")
    return [name(obj), "/".join(parts) if ref else NONE, age(obj, now)]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    ref = (obj.get("spec") or {}).get("parentRef")
    if ref is None:
        return [required("spec.parentRef")]
    if ref.get("group"):
        checked(names.subdomain_errors(ref["group"]), ref["group"], "spec.parentRef.group", errs)
    for field in ("resource", "name", "namespace"):
        value = ref.get(field) or ""
        if value:
            checked(names.path_segment_errors(value), value, f"spec.parentRef.{field}", errs)
        elif field != "namespace":
            errs.append(required(f"spec.parentRef.{field}"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    immutable(spec.get("parentRef"), before.get("parentRef"), "spec.parentRef", errs)
    return errs


RULES = {
    "IPAddress": replace(
        AS_WRITTEN,
        name=canonical_ip_errors,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("ParentRef"), AGE), _row),
    ),
}
