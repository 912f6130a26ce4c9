"""Validation of persistent volumes, claims and storage classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayplane.control_plane.api.claims import requested_storage
from rayplane.control_plane.api.errors import FieldError, forbidden, invalid, not_supported, required
from rayplane.control_plane.api.kinds.metadata import checked, immutable, one_of, validate_selector
from rayplane.control_plane.api.kinds.pod_template.affinity import validate_node_selector
from rayplane.control_plane.api.kinds.pod_template.resources import validate_quantity
from rayplane.control_plane.api.kinds.pod_template.volumes import SOURCES, validate_source
from rayplane.control_plane.api.machinery import names
from rayplane.control_plane.api.machinery.quantity import QuantityError, compare
from rayplane.control_plane.api.meta import Object

Errors = list[FieldError]
ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_VOLUME_MODES = ("Block", "Filesystem")
_RECLAIM = ("Delete", "Recycle", "Retain")
_BINDING = ("Immediate", "WaitForFirstConsumer")
_CLAIM_UPDATE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
)


def _access_modes(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    modes = spec.get("accessModes")
    if not modes:
        errs.append(required(f"{path}.accessModes", "at least 1 access mode is required"))
        return
    for mode in modes:
        if mode not in ACCESS_MODES:
            errs.append(not_supported(f"{path}.accessModes", mode, ACCESS_MODES))
    if "ReadWriteOncePod" in modes and len(modes) > 1:
        text = "may not use ReadWriteOncePod with other access modes"
        errs.append(forbidden(f"{path}.accessModes", text))


def validate_claim_spec(spec: Mapping[str, Any], path: str, errs: Errors) -> None:
    _access_modes(spec, path, errs)
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
        one_of(mode, _VOLUME_MODES, f"{path}.volumeMode", errs)


def persistent_volume_claim(obj: Object) -> Errors:
    errs: Errors = []
    validate_claim_spec(obj.get("spec") or {}, "spec", errs)
    return errs


def persistent_volume_claim_update(new: Object, old: Object) -> Errors:
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


def persistent_volume(obj: Object) -> Errors:
    errs: Errors = []
    spec = obj.get("spec") or {}
    _access_modes(spec, "spec", errs)
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
    one_of(spec.get("volumeMode"), _VOLUME_MODES, "spec.volumeMode", errs)
    affinity = (spec.get("nodeAffinity") or {}).get("required")
    if affinity is not None:
        validate_node_selector(affinity, "spec.nodeAffinity.required", errs)
    elif spec.get("local") is not None:
        errs.append(required("spec.nodeAffinity", "Local volume requires node affinity"))
    return errs


def persistent_volume_update(new: Object, old: Object) -> Errors:
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


def storage_class(obj: Object) -> Errors:
    errs: Errors = []
    provisioner = obj.get("provisioner")
    if not provisioner:
        errs.append(required("provisioner"))
    else:
        checked(names.qualified_name_errors(provisioner.lower()), provisioner, "provisioner", errs)
    for key in obj.get("parameters") or ():
        if not key:
            errs.append(invalid("parameters", key, "field must not be empty."))
    one_of(obj.get("reclaimPolicy"), ("Delete", "Retain"), "reclaimPolicy", errs)
    one_of(obj.get("volumeBindingMode"), _BINDING, "volumeBindingMode", errs)
    return errs


def storage_class_update(new: Object, old: Object) -> Errors:
    errs: Errors = []
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        errs.append(forbidden("parameters", "updates to parameters are forbidden."))
    if new.get("provisioner") != old.get("provisioner"):
        errs.append(forbidden("provisioner", "updates to provisioner are forbidden."))
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        errs.append(forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden."))
    immutable(new.get("volumeBindingMode"), old.get("volumeBindingMode"), "volumeBindingMode", errs)
    return errs
