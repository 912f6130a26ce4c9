"""Create and update strategies per kind: what they do to an object before it is validated and stored.

All functions change their first argument in place. Parts taken over from the old object are shared
with it, so both must be treated as read-only once stored. Order for a create: name, uid and
creationTimestamp set by the caller, `default`, `prepare_for_create`, validation; for an update:
`default`, `prepare_for_update`, validation.
Source: Kubernetes API conventions ("Metadata", "Spec and Status"), API reference of each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rayplane.control_plane.api.kinds.registry import Resource as Kind
from rayplane.control_plane.api.kinds.registry import rules_by_object, rules_for
from rayplane.control_plane.api.kinds.rules import Rules, Status
from rayplane.control_plane.api.meta import Object

SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
_MAX_GENERATED = 63
_OUTSIDE_SPEC = frozenset({"apiVersion", "kind", "metadata", "status"})
_KEPT_METADATA = ("uid", "creationTimestamp", "generation", "generateName")
_MARKS = ("deletionTimestamp", "deletionGracePeriodSeconds")


class Resource(Kind, Protocol):
    """The facts of a resource that are needed here (see `machinery.resources.ResourceInfo`)."""

    @property
    def subresources(self) -> Mapping[str, Any]: ...


def _rules(obj: Object, info: Resource | None) -> Rules:
    return rules_for(info) if info is not None else rules_by_object(obj)


def _has_status(rules: Rules, info: Resource | None) -> bool:
    """Whether ordinary writes cannot change `status`: a custom resource says so by a subresource."""
    return isinstance(rules.status, Status) or (info is not None and info.custom and "status" in info.subresources)


def _has_generation(rules: Rules, info: Resource | None) -> bool:
    """Whether metadata.generation counts the changes: of custom resources it always does."""
    return rules.generation or (info is not None and info.custom)


def generated_name(prefix: str, suffix: str) -> str:
    """`metadata.name` from generateName and SUFFIX_LENGTH characters of SUFFIX_ALPHABET."""
    return prefix[: _MAX_GENERATED - len(suffix)] + suffix


# --- create -------------------------------------------------------------------------------------


def prepare_for_create(obj: Object, info: Resource | None = None) -> None:
    """Make `obj` what a new object of its kind looks like.

    Drops what clients may not set (status, deletion marks), sets generation 1, phases, protection
    finalizers, and the generated selector of a Job (from metadata.uid, which must be set).
    """
    metadata = obj.setdefault("metadata", {})
    for field in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"):
        metadata.pop(field, None)
    rules = _rules(obj, info)
    if _has_generation(rules, info):
        metadata["generation"] = 1
    status = rules.status
    if not isinstance(status, Status):
        if _has_status(rules, info):
            obj.pop("status", None)
    elif not status.given_on_create:
        obj.pop("status", None)
        if status.initial is not None:
            obj["status"] = _fresh(status.initial)
    rules.prepare_create(obj)


def _fresh(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _fresh(one) for name, one in value.items()}
    return value


# --- update -------------------------------------------------------------------------------------


def prepare_for_update(new: Object, old: Object, info: Resource | None = None) -> None:
    """Keep what an ordinary update cannot change, and count the change.

    Status and system metadata come from `old`; generation goes up by one when anything but metadata differs, and as
    the kind says.
    """
    rules = _rules(new, info)
    _keep_metadata(new, old)
    if _has_status(rules, info):
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    rules.prepare_update(new, old)
    if _has_generation(rules, info) and rules.counts(new, old):
        new["metadata"]["generation"] = (old["metadata"].get("generation") or 0) + 1


def _keep_metadata(new: Object, old: Object) -> None:
    metadata, before = new.setdefault("metadata", {}), old["metadata"]
    metadata.pop("selfLink", None)
    for field in _KEPT_METADATA:
        if field in before:
            metadata[field] = before[field]
        else:
            metadata.pop(field, None)
    # An update cannot undo a deletion. One that would begin it is refused by validation.
    metadata.update({field: before[field] for field in _MARKS if field in before})


def metadata_with_status(info: Resource | None, rules: Rules | None = None) -> frozenset[str]:
    """The fields of metadata that a write of the status may change too: none of a custom resource."""
    status = (rules or _rules({}, info)).status
    return status.metadata if isinstance(status, Status) else frozenset()


def prepare_for_status_update(new: Object, old: Object, info: Resource | None = None) -> None:
    """Take only `status` from `new`, and of metadata what the kind allows: the rest comes from `old`.

    managedFields are always the new ones.
    """
    rules = _rules(new, info)
    given = new.get("metadata") or {}
    metadata = dict(old["metadata"])
    for field in ("managedFields", "resourceVersion", *metadata_with_status(info, rules)):
        if field in given:
            metadata[field] = given[field]
        else:
            metadata.pop(field, None)
    for field in list(new):
        if field not in _OUTSIDE_SPEC:
            del new[field]
    for field, value in old.items():
        if field not in _OUTSIDE_SPEC:
            new[field] = value
    new["metadata"] = metadata
    rules.prepare_status_update(new, old)
