"""IP addresses: who holds an address of a service."""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, NO_STATUS
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    ref = (obj.get("spec") or {}).get("parentRef") or {}
    resource = ".".join(part for part in (ref.get("resource"), ref.get("group")) if part).lower()
    parts = (resource, *([ref["namespace"]] if ref.get("namespace") else []), ref.get("name") or "")
    return [name(obj), "/".join(parts) if ref else NONE, age(obj, now)]


def _name_errors(own: str) -> tuple[str, ...]:
    """The name is the address itself, in its canonical form."""
    try:
        canonical = str(ipaddress.ip_address(own))
    except ValueError:
        return ("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",)
    return () if canonical == own else (f'must be in canonical form ("{canonical}")',)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    ref = (obj.get("spec") or {}).get("parentRef")
    if ref is None:
        return [required("spec.parentRef")]
    if ref.get("group"):
        checked(names.subdomain_errors(ref["group"]), ref["group"], "spec.parentRef.group", errs)
    for field in ("resource", "name"):
        if not ref.get(field):
            errs.append(required(f"spec.parentRef.{field}"))
    for field in ("resource", "name", "namespace"):
        if ref.get(field):
            checked(names.path_segment_errors(ref[field]), ref[field], f"spec.parentRef.{field}", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    immutable(spec.get("parentRef"), before.get("parentRef"), "spec.parentRef", errs)
    return errs


RULES = {
    "IPAddress": replace(
        AS_WRITTEN,
        name=_name_errors,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=NO_STATUS,
        generation=False,
        printer=Printer((NAME, Column("ParentRef"), AGE), _row),
    ),
}
