"""Service CIDRs: blocks that addresses of services are taken from."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.machinery.addresses import block_of, canonical_cidr_errors
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), ",".join((obj.get("spec") or {}).get("cidrs") or ()), age(obj, now)]


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    blocks = spec.get("cidrs") or []
    if not blocks:
        return [required("spec.cidrs", "at least one CIDR required")]
    if len(blocks) > 2:
        return [invalid("spec.cidrs", spec, "may only hold up to 2 values")]
    if len(blocks) == 2:
        versions = {block.version for block in map(block_of, blocks) if block is not None}
        if len(versions) != 2:
            text = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
            return [invalid("spec.cidrs", spec, text)]
    for index, block in enumerate(blocks):
        checked(canonical_cidr_errors(block), block, f"spec.cidrs[{index}]", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    immutable(spec.get("cidrs"), before.get("cidrs"), "spec.cidrs", errs)
    return errs


RULES = {
    "ServiceCIDR": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({}),
        generation=False,
        printer=Printer((NAME, Column("CIDRs"), AGE), _row),
    ),
}
