"""Defaults of volumes, claims and storage classes."""

from __future__ import annotations

from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.meta import Object


def persistent_volume_claim(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("volumeMode"):
        spec["volumeMode"] = "Filesystem"
    resources = spec.get("resources")
    if resources:
        canonical_resources(resources.get("requests"))
        canonical_resources(resources.get("limits"))


def persistent_volume(obj: Object) -> None:
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


def storage_class(obj: Object) -> None:
    if not obj.get("reclaimPolicy"):
        obj["reclaimPolicy"] = "Delete"
    if not obj.get("volumeBindingMode"):
        obj["volumeBindingMode"] = "Immediate"


def csi_driver(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    for field, value in (
        ("attachRequired", True),
        ("fsGroupPolicy", "ReadWriteOnceWithFSType"),
        ("podInfoOnMount", False),
        ("requiresRepublish", False),
        ("seLinuxMount", False),
        ("storageCapacity", False),
    ):
        if spec.get(field) is None:
            spec[field] = value
    if not spec.get("volumeLifecycleModes"):
        spec["volumeLifecycleModes"] = ["Persistent"]
