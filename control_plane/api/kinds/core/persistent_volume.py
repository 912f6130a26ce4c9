"""Persistent volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api.claims import LOCAL, REPLICATED, class_of
from rayplane.control_plane.api.errors import forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.core.volume_fields import (
    DEPRECATED_ANNOTATIONS,
    VOLUME_MODES,
    access_modes,
    protect,
    validate_access_modes,
)
from rayplane.control_plane.api.kinds.metadata import Errors, checked, immutable, one_of
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.pod_template.volumes import SOURCES, validate_source
from rayplane.control_plane.api.kinds.pod_template.warnings import node_term, old_sources
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.kinds.storage.csi_node import validate_driver_name
from rayplane.control_plane.api.machinery import names
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
    modes = spec.get("accessModes") or ()
    if not modes:
        errs.append(required("spec.accessModes"))
    validate_access_modes(modes, "spec", errs)
    _capacity(spec.get("capacity") or {}, "spec.capacity", errs)
    policy, affinity = spec.get("persistentVolumeReclaimPolicy"), spec.get("nodeAffinity")
    one_of(policy, _RECLAIM, "spec.persistentVolumeReclaimPolicy", errs)
    if affinity is not None and affinity.get("required") is None:
        errs.append(required("spec.nodeAffinity.required", "must specify required node constraints"))
    elif affinity is not None:
        validate_node_selector(affinity["required"], "spec.nodeAffinity.required", errs)
    validate_source(spec, "spec", errs)
    if spec.get("local") is not None and affinity is None:
        errs.append(required("spec.nodeAffinity", "Local volume requires node affinity"))
    if spec.get("csi") is not None:
        validate_csi_source(spec["csi"], "spec.csi", errs)
    host = (spec.get("hostPath") or {}).get("path")
    if host and not host.replace("/", "").replace(".", "") and policy == "Recycle":
        text = "may not be 'recycle' for a hostPath mount of '/'"
        errs.append(forbidden("spec.persistentVolumeReclaimPolicy", text))
    own, attributes = spec.get("storageClassName"), spec.get("volumeAttributesClassName")
    if own:
        checked(names.subdomain_errors(own), own, "spec.storageClassName", errs)
    one_of(spec.get("volumeMode"), VOLUME_MODES, "spec.volumeMode", errs)
    if attributes is not None:
        _attributes_class(attributes, spec, errs)
    return errs


def _capacity(capacity: Mapping[str, Any], path: str, errs: Errors) -> None:
    if not capacity:
        errs.append(required(path))
    if set(capacity) != {"storage"}:
        errs.append(not_supported(path, capacity, ("storage",)))
    for resource, amount in capacity.items():
        at = f"{path}[{resource}]"
        quantity = validate_quantity(amount, at, errs, least=None)
        if quantity is None:
            continue
        if quantity.value < 0:
            errs.append(invalid(at, quantity.value, "must be a valid resource quantity"))
        if quantity.nano <= 0:
            errs.append(invalid(at, str(quantity), "must be greater than zero"))


def validate_csi_source(source: Mapping[str, Any], path: str, errs: Errors) -> None:
    """A volume that a driver serves: which, under what name, and the secrets it needs for that."""
    if not source.get("volumeHandle"):
        errs.append(required(f"{path}.volumeHandle"))
    for field in _CSI_SECRETS:
        secret = source.get(field)
        if secret is None:
            continue
        for part, check in (("name", names.subdomain_errors), ("namespace", names.label_errors)):
            value = secret.get(part) or ""
            if not value:
                errs.append(required(f"{path}.{field}.{part}"))
            else:
                checked(check(value), value, f"{path}.{field}.{part}", errs)


_CSI_SECRETS = (
    "controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef",
)  # fmt: skip


def _attributes_class(name: str, spec: Mapping[str, Any], errs: Errors) -> None:
    at = "spec.volumeAttributesClassName"
    if not name:
        errs.append(required(at, "an empty string is disallowed"))
    else:
        checked(names.subdomain_errors(name), name, at, errs)
    if spec.get("csi") is None:
        errs.append(required("spec.csi", "has to be specified when using volumeAttributesClassName"))


def _validate_new(obj: Object) -> Errors:
    """The driver's name is looked at once: it never changes, and our own, with a slash, are older than the rule."""
    errs = validate_volume(obj)
    driver = ((obj.get("spec") or {}).get("csi") or {}).get("driver")
    if driver and driver not in (LOCAL, REPLICATED):
        validate_driver_name(driver, "spec.csi.driver", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    errs = validate_volume(new)
    spec, before = new.get("spec") or {}, old.get("spec") or {}
    sources, known = ({k: v for k, v in one.items() if k in SOURCES} for one in (spec, before))
    csi, had = sources.get("csi"), known.get("csi")
    if csi is not None and had is not None and had.get("controllerExpandSecretRef") is None:
        # What is needed to grow may be said later.
        sources["csi"] = {field: value for field, value in csi.items() if field != "controllerExpandSecretRef"}
    if sources != known:
        text = "spec.persistentvolumesource is immutable after creation"
        errs.append(forbidden("spec.persistentvolumesource", text))
    # These paths are Kubernetes', which begin here.
    immutable(spec.get("volumeMode"), before.get("volumeMode"), "volumeMode", errs)
    if before.get("nodeAffinity") is not None:
        immutable(spec.get("nodeAffinity"), before["nodeAffinity"], "nodeAffinity", errs)
    if before.get("volumeAttributesClassName") is not None and spec.get("volumeAttributesClassName") is None:
        errs.append(forbidden("spec.volumeAttributesClassName", "update from non-nil value to nil is forbidden"))
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
        validate=_validate_new,
        validate_update=_validate_update,
        revalidates=False,
        status=Status({"phase": "Pending"}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
