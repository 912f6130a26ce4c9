"""Persistent volume claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import class_of, requested_storage
from rayplane.control_plane.api.errors import forbidden, invalid, required
from rayplane.control_plane.api.kinds.core.volume_fields import (
    DEPRECATED_ANNOTATIONS,
    STORAGE_CLASS,
    VOLUME_MODES,
    access_modes,
    protect,
    validate_access_modes,
)
from rayplane.control_plane.api.kinds.metadata import IMMUTABLE, Errors, checked, immutable, one_of, validate_selector
from rayplane.control_plane.api.kinds.pod_template.defaults import canonical_resources
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.pod_template.warnings import of_claim
from rayplane.control_plane.api.kinds.rules import AS_WRITTEN, Status
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.columns import AGE, NAME, UNSET, Cell, Column, Printer, age
from rayplane.control_plane.api.machinery.quantity import QuantityError, compare
from rayplane.control_plane.api.meta import Object, is_deleting, name

PVC_PROTECTION = "kubernetes.io/pvc-protection"
_CLAIM_UPDATE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def default_claim(obj: Object) -> None:
    spec = obj.setdefault("spec", {})
    if not spec.get("volumeMode"):
        spec["volumeMode"] = "Filesystem"
    resources = spec.get("resources")
    if resources:
        canonical_resources(resources.get("requests"))
        canonical_resources(resources.get("limits"))


def validate_claim_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    modes = spec.get("accessModes") or ()
    if not modes:
        errs.append(required(f"{path}.accessModes", "at least 1 access mode is required"))
    validate_selector(spec.get("selector"), f"{path}.selector", errs)
    validate_access_modes(modes, path, errs)
    size, at = requested_storage({"spec": spec}), f"{path}.resources[storage]"
    if size is None:
        errs.append(required(at))
    else:
        quantity = validate_quantity(size, at, errs, least=None)
        if quantity is not None and quantity.nano <= 0:
            errs.append(invalid(at, str(quantity), "must be greater than zero"))
    own, mode, attributes = (spec.get(f) for f in ("storageClassName", "volumeMode", "volumeAttributesClassName"))
    if own:
        checked(names.subdomain_errors(own), own, f"{path}.storageClassName", errs)
    if mode is not None:
        one_of(mode, VOLUME_MODES, f"{path}.volumeMode", errs)
    _sources(spec, path, errs)
    if attributes:
        checked(names.subdomain_errors(attributes), attributes, f"{path}.volumeAttributesClassName", errs)


def _sources(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    """Where the first bytes come from, in the fields that tell it."""
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    for field, one in (("dataSource", source), ("dataSourceRef", reference)):
        if one is not None:
            _source(one, f"{path}.{field}", errs)
    if source is None or reference is None:
        return
    if reference.get("namespace"):
        errs.append(
            invalid(path, f"{path}.dataSource", "may not be specified when dataSourceRef.namespace is specified")
        )
    elif any(source.get(field) != reference.get(field) for field in ("apiGroup", "kind", "name")):
        errs.append(invalid(path, f"{path}.dataSource", "must match dataSourceRef"))


def _source(ref: Mapping[str, Any], path: str, errs: Errors) -> None:
    for field in ("name", "kind"):
        if not ref.get(field):
            errs.append(required(f"{path}.{field}"))
    group, kind, space = ref.get("apiGroup") or "", ref.get("kind") or "", ref.get("namespace")
    if not group and kind != "PersistentVolumeClaim":
        text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        errs.append(invalid(path, kind, text))
    if group:
        checked(names.subdomain_errors(group), group, f"{path}.apiGroup", errs)
    if space:
        checked(names.label_errors(space), space, f"{path}.namespace", errs)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_claim_spec(obj.get("spec") or {}, "spec", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    """A claim's spec changes only by binding (volumeName set once), by growing, and by another class of attributes."""
    errs: Errors = []
    spec, before = dict(new.get("spec") or {}), dict(old.get("spec") or {})
    _kept(spec, before, new, old, errs)
    _size(spec, before, old, errs)
    immutable(spec.get("volumeMode"), before.get("volumeMode"), "volumeMode", errs)
    attributes = spec.get("volumeAttributesClassName")
    if (old.get("status") or {}).get("currentVolumeAttributesClassName") is not None and not attributes:
        what = "nil" if attributes is None else "an empty string"
        text = f"update from non-nil value to {what} is forbidden"
        if before.get("volumeAttributesClassName") != attributes:
            errs.append(forbidden("spec.volumeAttributesClassName", text))
    return errs


def _kept(spec: dict[str, Any], before: dict[str, Any], new: Object, old: Object, errs: Errors) -> None:
    notes, had = meta.annotations(new).get(STORAGE_CLASS), meta.annotations(old).get(STORAGE_CLASS)
    upgraded = had is not None and before.get("storageClassName") is None and spec.get("storageClassName") == had
    if not upgraded and notes != had:
        errs.append(invalid(f"metadata.annotations.{STORAGE_CLASS}", notes or "", IMMUTABLE))
    free = {"volumeAttributesClassName"}
    if not before.get("volumeName"):
        free.add("volumeName")
    # A class may be filled in later, once, for claims made before there was a default.
    if upgraded or (before.get("storageClassName") is None and had is None):
        free.add("storageClassName")
    pair = [{k: v for k, v in one.items() if k not in free} for one in (spec, before)]
    if (new.get("status") or {}).get("phase") == "Bound":
        for one in pair:
            one["resources"] = _without_storage(one.get("resources") or {})
    if pair[0] != pair[1]:
        errs.append(forbidden("spec", _CLAIM_UPDATE))


def _without_storage(resources: Mapping[str, Any]) -> dict[str, Any]:
    return {
        part: {k: v for k, v in amounts.items() if k != "storage"} for part, amounts in resources.items() if amounts
    }


def _size(spec: Mapping[str, Any], before: Mapping[str, Any], old: Object, errs: Errors) -> None:
    """A claim that could not grow may ask for less again, but not for less than it has."""
    size, earlier = requested_storage({"spec": spec}), requested_storage({"spec": before})
    has = ((old.get("status") or {}).get("capacity") or {}).get("storage")
    try:
        shrinks = compare(size or 0, earlier or 0) < 0 and compare(size or 0, has or 0) <= 0
    except QuantityError:
        return
    if shrinks:
        errs.append(forbidden("spec.resources.requests.storage", "field can not be less than status.capacity"))


def _validate_status(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if not (new.get("spec") or {}).get("accessModes"):
        errs.append(required("Spec.accessModes"))
    for resource, amount in ((new.get("status") or {}).get("capacity") or {}).items():
        at = f"status.capacity[{resource}]"
        quantity = validate_quantity(amount, at, errs, least=None)
        if quantity is not None and quantity.value < 0:
            errs.append(invalid(at, quantity.value, "must be a valid resource quantity"))
    return errs


def _row(obj: Object, now: datetime) -> list[Cell]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    bound = bool(spec.get("volumeName"))
    return [
        name(obj),
        "Terminating" if is_deleting(obj) else status.get("phase") or "",
        spec.get("volumeName") or "",
        ((status.get("capacity") or {}).get("storage") or "0") if bound else "",
        access_modes(status.get("accessModes")) if bound else "",
        class_of(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _prepare_create(obj: Object) -> None:
    protect(obj, PVC_PROTECTION)
    _same_source(obj)


_COLUMNS = (
    NAME, Column("Status"), Column("Volume"), Column("Capacity"), Column("Access Modes"),
    Column("StorageClass"), Column("VolumeAttributesClass"), AGE,
    Column("VolumeMode", priority=1),
)  # fmt: skip


def _same_source(obj: Object) -> None:
    """Where a new claim's bytes come from is said in two fields, of which clients may know only one."""
    spec = obj["spec"]
    if (spec.get("dataSourceRef") or {}).get("namespace"):
        del spec["dataSourceRef"]  # of the gate CrossNamespaceVolumeDataSource, which is closed
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if source and not reference:
        spec["dataSourceRef"] = dict(source)
    elif reference and not source:
        spec["dataSource"] = dict(reference)


def _warnings(obj: Object, old: Object | None) -> list[str]:
    key = STORAGE_CLASS
    found = [f"metadata.annotations[{key}]: {DEPRECATED_ANNOTATIONS[key]}"]
    if key not in (obj["metadata"].get("annotations") or {}):
        found = []
    return [*found, *of_claim(obj.get("spec") or {}, "spec")]


RULES = {
    "PersistentVolumeClaim": replace(
        AS_WRITTEN,
        warnings=_warnings,
        defaults=default_claim,
        prepare_create=_prepare_create,
        validate=_validate,
        validate_update=_validate_update,
        validate_status_update=_validate_status,
        status=Status({"phase": "Pending"}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
