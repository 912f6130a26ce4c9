"""Volume attachments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.errors import forbidden, invalid, required, too_long
from rayplane.control_plane.api.kinds.core.persistent_volume import validate_csi_source
from rayplane.control_plane.api.kinds.core.volume_fields import validate_access_modes
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, NO_DEFAULTS, Status
from rayplane.control_plane.api.kinds.storage.csi_node import validate_driver_name
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, name

_METADATA_BYTES_MAX, _MESSAGE_BYTES_MAX = 256 * 1024, 1024


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
    errs = _common(obj)
    spec = obj.get("spec") or {}
    validate_driver_name(spec.get("attacher") or "", "spec.attacher", errs)
    volume = (spec.get("source") or {}).get("persistentVolumeName")
    if volume is not None:
        checked(names.subdomain_errors(volume), volume, "spec.source.persistentVolumeName", errs)
    return errs


def _common(obj: Object) -> Errors:
    """What is looked at when it changes, too."""
    errs: Errors = []
    spec = obj.get("spec") or {}
    if not spec.get("attacher"):
        errs.append(required("spec.attacher"))
    _source(spec.get("source") or {}, "spec.source", errs)
    node = spec.get("nodeName") or ""
    checked(names.subdomain_errors(node), node, "spec.nodeName", errs)
    _reported(obj.get("status") or {}, errs)
    return errs


def _source(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    volume, inline = source.get("persistentVolumeName"), source.get("inlineVolumeSpec")
    both = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
    if volume is None and inline is None:
        errs.append(required(path, both))
    elif volume is not None and inline is not None:
        errs.append(forbidden(path, both))
    elif volume == "":
        errs.append(required(f"{path}.persistentVolumeName", "must specify non empty persistentVolumeName"))
    elif inline is not None:
        _inline(inline, f"{path}.inlineVolumeSpec", errs)


def _inline(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """A volume that is told of in a pod: it is a driver's, and nobody claims it."""
    context = "in the context of inline volumes"
    for field in ("claimRef", "capacity", "nodeAffinity", "storageClassName"):
        if spec.get(field):
            errs.append(forbidden(f"{path}.{field}", f"may not be specified {context}"))
    modes, csi = spec.get("accessModes") or (), spec.get("csi")
    if not modes:
        errs.append(required(f"{path}.accessModes"))
    validate_access_modes(modes, path, errs)
    if spec.get("persistentVolumeReclaimPolicy") not in (None, "", "Retain"):
        errs.append(forbidden(f"{path}.persistentVolumeReclaimPolicy", f"may only be Retain {context}"))
    if csi is None:
        errs.append(required(f"{path}.csi", f"has to be specified {context}"))
    else:
        validate_csi_source(csi, f"{path}.csi", errs)
    if spec.get("volumeMode") not in (None, "Filesystem"):
        errs.append(forbidden(f"{path}.volumeMode", f"may not specify volumeMode other than Filesystem {context}"))


def _reported(status: Mapping[str, Any], errs: Errors) -> None:
    size = sum(len(k.encode()) + len((v or "").encode()) for k, v in (status.get("attachmentMetadata") or {}).items())
    if size > _METADATA_BYTES_MAX:
        errs.append(too_long("status.attachmentMetadata", _METADATA_BYTES_MAX))
    for field in ("attachError", "detachError"):
        error = status.get(field) or {}
        if len((error.get("message") or "").encode()) > _MESSAGE_BYTES_MAX:
            errs.append(too_long(f"status.{field}.message", _METADATA_BYTES_MAX))
        if (error.get("errorCode") or 0) < 0:
            text = f"must be between 0 and {2**31 - 1}, inclusive"
            errs.append(invalid(f"status.{field}.errorCode", error["errorCode"], text))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    _reported(new.get("status") or {}, errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs = _common(new)
    immutable(new.get("spec"), old.get("spec"), "spec", errs)
    return errs


RULES = {
    "VolumeAttachment": replace(
        AS_WRITTEN,
        defaults=NO_DEFAULTS,
        validate=_validate,
        validate_update=_validate_update,
        revalidates=False,
        validate_status_update=_validate_status,
        status=Status({"attached": False}, metadata=frozenset()),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
