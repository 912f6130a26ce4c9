"""Persistent volume claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

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
from rayplane.control_plane.api.kinds.metadata import Errors, checked, one_of, validate_selector
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
    validate_access_modes(spec, path, errs)
    validate_selector(spec.get("selector"), f"{path}.selector", errs)
    size = requested_storage({"spec": spec})
    if size is None:
        errs.append(required(f"{path}.resources[storage]"))
    else:
        at = f"{path}.resources[storage]"
        quantity = validate_quantity(size, at, errs)
        if quantity is not None and quantity.nano == 0:
            errs.append(invalid(at, str(quantity), "must be greater than zero"))
    own = spec.get("storageClassName")
    if own:
        checked(names.subdomain_errors(own), own, f"{path}.storageClassName", errs)
    mode = spec.get("volumeMode")
    if mode is not None:
        one_of(mode, VOLUME_MODES, f"{path}.volumeMode", errs)


def _validate(obj: Object) -> Errors:
    errs: Errors = []
    validate_claim_spec(obj.get("spec") or {}, "spec", errs)
    return errs


def _validate_update(new: Object, old: Object) -> Errors:
    """A claim's spec changes only by binding (volumeName set once) and by growing."""
    errs: Errors = []
    spec, before = dict(new.get("spec") or {}), dict(old.get("spec") or {})
    if not before.get("volumeName"):
        spec.pop("volumeName", None)
        before.pop("volumeName", None)
    # A class may be filled in later, once, for claims made before there was a default.
    if before.get("storageClassName") is None:
        spec.pop("storageClassName", None)
    bound = (old.get("status") or {}).get("phase") == "Bound"
    size, earlier = requested_storage({"spec": spec}), requested_storage({"spec": before})
    if size != earlier:
        try:
            shrinks = compare(size or 0, earlier or 0) < 0
        except QuantityError:
            return errs
        if shrinks and bound:
            text = "field can not be less than previous value"
            errs.append(forbidden("spec.resources.requests.storage", text))
    for one in (spec, before):
        one.pop("resources", None)
        one.pop("volumeAttributesClassName", None)
    if spec != before or (size != earlier and not bound):
        errs.append(forbidden("spec", _CLAIM_UPDATE))
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
    source, reference = spec.get("dataSource"), spec.get("dataSourceRef")
    if source and not reference:
        spec["dataSourceRef"] = dict(source)
    elif reference and not source and not reference.get("namespace"):
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
        status=Status({"phase": "Pending"}),
        generation=False,
        printer=Printer(_COLUMNS, _row),
    ),
}
