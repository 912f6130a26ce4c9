"""Persistent volumes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from rayplane.control_plane.api.claims import class_of
from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.core.volume_fields import (
    DEPRECATED_ANNOTATIONS,
    VOLUME_MODES,
    access_modes,
    protect,
    validate_access_modes,
)
from rayplane.control_plane.api.kinds.metadata import Errors, immutable, one_of
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.pod_template.volumes import SOURCES, validate_source
from rayplane.control_plane.api.kinds.pod_template.warnings import node_term, old_sources
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery.columns import AGE, NAME, UNSET, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, is_deleting, name

PV_PROTECTION = "kubernetes.io/pv-protection"
_RECLAIM = ("Delete", "Recycle", "Retain")


def _default(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("persistentVolumeReclaimPolicy"):
        spec["persistentVolumeReclaimPolicy"] = "Retain"
    if not spec.get("volumeMode"):
        spec["volumeMode"] = "Filesystem"
    canonical_resources(spec.get("capacity"))
    if spec.get("hostPath") is not None:
        spec["hostPath"].setdefault("type", "")
    if spec.get("iscsi") is not None and not spec["iscsi"].get("iscsiInterface"):
        spec["iscsi"]["iscsiInterface"] = "default"
    claim = spec.get("claimRef")
    if claim is not None:
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")


def validate_volume(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    validate_access_modes(spec, "spec", errs)
    capacity = spec.get("capacity") or {}
    if not capacity:
        errs.append(required("spec.capacity"))
    elif set(capacity) != {"storage"}:
        errs.append(not_supported("spec.capacity", sorted(capacity), ("storage",)))
    else:
        at = "spec.capacity[storage]"
        quantity = validate_quantity(capacity["storage"], at, errs)
        if quantity is not None and quantity.nano <= 0:
            errs.append(invalid(at, str(quantity), "must be greater than zero"))
    validate_source(spec, "spec", errs)
    one_of(
        spec.get("persistentVolumeReclaimPolicy"),
        _RECLAIM,
        "spec.persistentVolumeReclaimPolicy",
        errs,
    )
    one_of(spec.get("volumeMode"), VOLUME_MODES, "spec.volumeMode", errs)
    affinity = (spec.get("nodeAffinity") or {}).get("required")
    if affinity is not None:
        validate_node_selector(affinity, "spec.nodeAffinity.required", errs)
    elif spec.get("local") is not None:
        errs.append(required("spec.nodeAffinity", "Local volume requires node affinity"))
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    sources = {k: v for k, v in spec.items() if k in SOURCES}
    if sources != {k: v for k, v in before.items() if k in SOURCES}:
        text = "spec.persistentvolumesource is immutable after creation"
        errs.append(forbidden("spec.persistentvolumesource", text))
    immutable(spec.get("volumeMode"), before.get("volumeMode"), "spec.volumeMode", errs)
    if before.get("nodeAffinity") is not None:
        immutable(spec.get("nodeAffinity"), before["nodeAffinity"], "spec.nodeAffinity", errs)
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    claim = spec.get("claimRef")
    return [
        name(obj),
        (spec.get("capacity") or {}).get("storage") or "0",
        access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy") or "",
        "Terminating" if is_deleting(obj) else status.get("phase") or "",
        f"{claim.get('namespace')}/{claim.get('name')}" if claim else "",
        class_of(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        status.get("reason") or "",
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _prepare_create(obj: Object) -> None:
    protect(obj, PV_PROTECTION)


_COLUMNS = (
    NAME, Column("Capacity"), Column("Access Modes"), Column("Reclaim Policy"),
    Column("Status"), Column("Claim"), Column("StorageClass"),
    Column("VolumeAttributesClass"), Column("Reason"), AGE,
    Column("VolumeMode", priority=1),
)  # fmt: skip


def _warnings(obj: Object, old: Object | None) -> list[str]:
    spec, annotations = obj.get("spec") or {}, obj["metadata"].get("annotations") or {}
    required = (spec.get("nodeAffinity") or {}).get("required") or {}
    found: list[str] = []
    for index, term in enumerate(required.get("nodeSelectorTerms") or ()):
        found += node_term(term, f"spec.nodeAffinity.required.nodeSelectorTerms[{index}]")
    found += [
        f"metadata.annotations[{key}]: {text}" for key, text in DEPRECATED_ANNOTATIONS.items() if key in annotations
    ]
    if spec.get("persistentVolumeReclaimPolicy") == "Recycle":
        text = "Instead, the recommended approach is to use dynamic provisioning."
        found.append(f"spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. {text}")
    return [*found, *old_sources(spec, "spec")]


RULES = {
    "PersistentVolume": replace(
        AS_WRITTEN,
        warnings=_warnings,
        defaults=_default,
        prepare_create=_prepare_create,
        validate=validate_volume,
        validate_update=_validate_update,
        status=Status({"phase": "Pending"}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
