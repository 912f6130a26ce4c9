"""Rows of volumes, claims, storage classes and CSI kinds."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import class_of
from rayplane.control_plane.api.machinery.columns import AGE, NAME, NONE, UNSET, Cell, Column, Printer, age
from rayplane.control_plane.api.meta import Object, is_deleting, name

_MODES = {
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOnce": "RWO",
    "ReadWriteOncePod": "RWOP",
}
_MODE_ORDER = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_DEFAULT_CLASS = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


def access_modes(modes: Sequence[str] | None) -> str:
    """`RWO,ROX`: the short names, each once, in a fixed order."""
    return ",".join(_MODES[mode] for mode in _MODE_ORDER if mode in (modes or ()))


def _claim(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    bound = bool(spec.get("volumeName"))
    return [
        name(obj),
        "Terminating" if is_deleting(obj) else status.get("phase") or "",
        spec.get("volumeName") or "",
        ((status.get("capacity") or {}).get("storage") or "") if bound else "",
        access_modes(status.get("accessModes")) if bound else "",
        class_of(obj),
        status.get("currentVolumeAttributesClassName") or UNSET,
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _volume(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    claim = spec.get("claimRef")
    return [
        name(obj),
        (spec.get("capacity") or {}).get("storage") or "",
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


def _storage_class(obj: Object, now: datetime) -> list[Cell]:
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


def _csi_driver(obj: Object, now: datetime) -> list[Cell]:
    spec = obj.get("spec") or {}
    attach = spec.get("attachRequired")
    return [
        name(obj),
        True if attach is None else attach,
        bool(spec.get("podInfoOnMount")),
        bool(spec.get("storageCapacity")),
        ",".join(one.get("audience") or "" for one in spec.get("tokenRequests") or ()) or UNSET,
        bool(spec.get("requiresRepublish")),
        ",".join(spec.get("volumeLifecycleModes") or ()) or NONE,
        age(obj, now),
    ]


def _csi_node(obj: Object, now: datetime) -> list[Cell]:
    return [name(obj), len((obj.get("spec") or {}).get("drivers") or ()), age(obj, now)]


def _attachment(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return [
        name(obj),
        spec.get("attacher") or "",
        (spec.get("source") or {}).get("persistentVolumeName") or "",
        spec.get("nodeName") or "",
        bool(status.get("attached")),
        age(obj, now),
    ]


PRINTERS = {
    ("", "PersistentVolumeClaim"): Printer(
        (
            NAME, Column("Status"), Column("Volume"), Column("Capacity"), Column("Access Modes"),
            Column("StorageClass"), Column("VolumeAttributesClass"), AGE,
            Column("VolumeMode", priority=1),
        ),
        _claim,
    ),
    ("", "PersistentVolume"): Printer(
        (
            NAME, Column("Capacity"), Column("Access Modes"), Column("Reclaim Policy"),
            Column("Status"), Column("Claim"), Column("StorageClass"),
            Column("VolumeAttributesClass"), Column("Reason"), AGE,
            Column("VolumeMode", priority=1),
        ),
        _volume,
    ),
    ("storage.k8s.io", "StorageClass"): Printer(
        (
            NAME, Column("Provisioner"), Column("ReclaimPolicy"), Column("VolumeBindingMode"),
            Column("AllowVolumeExpansion"), AGE,
        ),
        _storage_class,
    ),
    ("storage.k8s.io", "CSIDriver"): Printer(
        (
            NAME, Column("AttachRequired", "boolean"), Column("PodInfoOnMount", "boolean"),
            Column("StorageCapacity", "boolean"), Column("TokenRequests"),
            Column("RequiresRepublish", "boolean"), Column("Modes"), AGE,
        ),
        _csi_driver,
    ),
    ("storage.k8s.io", "CSINode"): Printer((NAME, Column("Drivers", "integer"), AGE), _csi_node),
    ("storage.k8s.io", "VolumeAttachment"): Printer(
        (
            NAME, Column("Attacher", format="name"), Column("PV"), Column("Node"),
            Column("Attached", "boolean"), AGE,
        ),
        _attachment,
    ),
}  # fmt: skip
