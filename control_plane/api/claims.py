"""Claims and persistent volumes: what a claim asks for, whether a volume is fit for it, whose a volume is.

Source: Kubernetes API reference core/v1 PersistentVolumeClaim; concepts "Persistent Volumes" (binding).
"""

from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.selectors import from_label_selector
from rayplane.control_plane.api.meta import Object

CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
LOCAL, REPLICATED = "rayplane.io/local", "rayplane.io/replicated"
"""The cluster's own provisioners; each is a driver of volumes by the same name."""
SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""A claim's annotation: the node that its first consumer goes to, by the scheduler."""
NO_PROVISIONER = "kubernetes.io/no-provisioner"
"""The provisioner of a StorageClass whose volumes are made by hand."""
_USABLE = (None, "", "Pending", "Available")


def class_of(o: Object) -> str:
    """Storage class of a claim or volume; empty for none."""
    return meta.annotations(o).get(CLASS_ANNOTATION) or meta.spec(o).get("storageClassName") or ""


def requested_storage(claim: Object) -> Any:
    """The quantity a claim asks for, as written; None when it asks for none."""
    return ((meta.spec(claim).get("resources") or {}).get("requests") or {}).get("storage")


def requested_bytes(claim: Object) -> int:
    return quantity.value(requested_storage(claim) or "0")


def allocated_storage(claim: Object) -> Any:
    """The quantity that a claim grows to, or has grown to, as written; None where it never grew."""
    return (meta.status(claim).get("allocatedResources") or {}).get("storage")


def with_allocated_storage(status: dict[str, Any], storage: Any) -> dict[str, Any]:
    """A claim's status with the quantity it grows to."""
    return {**status, "allocatedResources": {**(status.get("allocatedResources") or {}), "storage": storage}}


def capacity_bytes(volume: Object) -> int:
    return quantity.value((meta.spec(volume).get("capacity") or {}).get("storage") or "0")


def is_bound(claim: Object) -> bool:
    """The claim has its volume, and both sides know."""
    if not meta.spec(claim).get("volumeName"):
        return False
    return BIND_COMPLETED in meta.annotations(claim) or meta.status(claim).get("phase") == "Bound"


def refers_to(volume: Object, claim: Object) -> bool:
    """The volume's claimRef names this claim (one without a uid was written by a user)."""
    ref = meta.spec(volume).get("claimRef") or {}
    return (
        bool(ref)
        and ref.get("name") == meta.name(claim)
        and ref.get("namespace") == meta.namespace(claim)
        and ref.get("uid") in (None, "", meta.uid(claim))
    )


def is_free(volume: Object) -> bool:
    """Nobody's, and ready to become somebody's."""
    return not meta.spec(volume).get("claimRef") and meta.status(volume).get("phase") in _USABLE


def mismatch(volume: Object, claim: Object) -> str:
    """Why a claim cannot have the volume that its user named; empty if it can."""
    if capacity_bytes(volume) < requested_bytes(claim):
        return "requested PV is too small"
    if class_of(volume) != class_of(claim):
        return "storageClassName does not match"
    if not _same(volume, claim, "volumeAttributesClassName"):
        return "volumeAttributesClassName does not match"
    if not same_mode(volume, claim):
        return "incompatible volumeMode"
    return "" if _offers_modes(volume, claim) else "incompatible accessMode"


def same_mode(volume: Object, claim: Object) -> bool:
    return _same(volume, claim, "volumeMode", "Filesystem")


def _same(volume: Object, claim: Object, field: str, default: str = "") -> bool:
    return (meta.spec(volume).get(field) or default) == (meta.spec(claim).get(field) or default)


def _offers_modes(volume: Object, claim: Object) -> bool:
    return set(meta.spec(claim).get("accessModes") or ()) <= set(meta.spec(volume).get("accessModes") or ())


def fits(volume: Object, claim: Object) -> bool:
    """The volume is what a claim asks for, and it is there to stay.

    Who made it for this claim has chosen its class and labels.
    """
    if (
        meta.is_deleting(volume)
        or capacity_bytes(volume) < requested_bytes(claim)
        or not _offers_modes(volume, claim)
        or not same_mode(volume, claim)
        or not _same(volume, claim, "volumeAttributesClassName")
    ):
        return False
    if refers_to(volume, claim):
        return True
    selector = meta.spec(claim).get("selector")
    return class_of(volume) == class_of(claim) and (
        selector is None or from_label_selector(selector).matches(meta.labels(volume))
    )
