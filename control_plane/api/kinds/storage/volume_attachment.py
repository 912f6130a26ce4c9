"""Volume attachments."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.errors import invalid, required
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name(obj),
        spec.get("attacher") or "",
        (spec.get("source") or {}).get("persistentVolumeName") or "",
        spec.get("nodeName") or "",
        bool(status.get("attached")),
        age(obj, now),
    ]


_COLUMNS = (
    NAME, Column("Attacher", format="name"), Column("PV"), Column("Node"),
    Column("Attached", "boolean"), AGE,
)  # fmt: skip


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    attacher = spec.get("attacher") or ""
    if not attacher:
        errs.append(required("spec.attacher"))
    else:
        checked(names.subdomain_errors(attacher.lower()), attacher, "spec.attacher", errs)
    node = spec.get("nodeName") or ""
    checked(names.subdomain_errors(node), node, "spec.nodeName", errs)
    source = spec.get("source") or {}
    volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
    if not volume and inline is None:
        errs.append(required("spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"))
    elif volume and inline is not None:
        text = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        errs.append(invalid("spec.source", source, text))
    elif volume:
        checked(names.subdomain_errors(volume), volume, "spec.source.persistentVolumeName", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


RULES = {
    "VolumeAttachment": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        status=Status({"attached": False}, metadata=frozenset()),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
