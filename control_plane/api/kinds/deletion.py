"""Deletion: grace periods, finalizers, propagation, and when an object may really go.

Source: Kubernetes concepts "Pod termination", "Finalizers", "Garbage Collection".
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rayplane.control_plane.api.errors import BadRequest, Conflict
from rayplane.control_plane.api.kinds.registry import rules_by_object
from rayplane.control_plane.api.meta import Object, format_time, parse_time
from rayplane.control_plane.api.pods.state import pod_is_terminated

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
POD_GRACE_SECONDS = 30
_PROPAGATION = frozenset({"", "Orphan", "Background", "Foreground"})


@dataclass(frozen=True, slots=True)
class Deletion:
    """The effect of a delete request: `remove` the object now, or store it when it `changed`."""

    remove: bool
    changed: bool


GRACE_SECONDS_MAX = 10 * 365 * 86_400
"""More than anybody waits; what is asked for beyond it has no date that a calendar knows."""


def grace_period(obj: Object, requested: int | None) -> int:
    """Seconds an object is given to end: pods that run somewhere have some, others none."""
    if obj.get("kind") != "Pod" or (obj.get("apiVersion") or "v1") != "v1":
        return 0
    spec = obj.get("spec") or {}
    seconds = requested
    if seconds is None:
        seconds = spec.get("terminationGracePeriodSeconds")
        seconds = POD_GRACE_SECONDS if seconds is None else seconds
    if seconds < 0:
        seconds = 1
    if not spec.get("nodeName") or pod_is_terminated(obj):
        return 0
    return min(int(seconds), GRACE_SECONDS_MAX)


def check_preconditions(obj: Object, resource: str, *, uid: str = "", version: str = "") -> None:
    """Conflict when the object is not the one the request means (`resource` is plural[.group])."""
    metadata = obj["metadata"]
    for what, wanted, actual in (
        ("UID", uid, metadata.get("uid") or ""),
        ("ResourceVersion", version, metadata.get("resourceVersion") or ""),
    ):
        if wanted and wanted != actual:
            cause = (
                f"the {what} in the precondition ({wanted}) does not match the {what} in record "
                f"({actual}). The object might have been deleted and then recreated"
            )
            raise Conflict.of(resource, metadata.get("name") or "", cause)


def _propagate(obj: Object, propagation: str, orphan_dependents: bool | None) -> bool:
    """Set the garbage collector's finalizers; True when they changed."""
    if propagation not in _PROPAGATION:
        raise BadRequest(f'invalid propagationPolicy "{propagation}": use "Foreground", "Background" or "Orphan"')
    metadata = obj["metadata"]
    before = list(metadata.get("finalizers") or ())
    if not propagation and orphan_dependents is not None:
        propagation = "Orphan" if orphan_dependents else "Background"
    if not propagation:
        if ORPHAN in before or FOREGROUND in before:
            return False
        if rules_by_object(obj).orphans:
            propagation = "Orphan"
    after = [one for one in before if one not in (ORPHAN, FOREGROUND)]
    if propagation == "Orphan":
        after.append(ORPHAN)
    elif propagation == "Foreground":
        after.append(FOREGROUND)
    if after == before:
        return False
    if after:
        metadata["finalizers"] = after
    else:
        metadata.pop("finalizers", None)
    return True


def removable(obj: Object) -> bool:
    """True for an object that is being deleted and that nothing holds back any more."""
    metadata = obj["metadata"]
    if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if obj.get("kind") == "Namespace" and (obj.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")


def begin_deletion(
    obj: Object,
    *,
    now: datetime,
    grace_seconds: int | None = None,
    propagation: str = "",
    orphan_dependents: bool | None = None,
) -> Deletion:
    """Mark `obj` as being deleted, in place, and say whether it may be removed at once.

    A second request can only shorten the grace period. BadRequest for an unknown propagation.
    """
    changed = _propagate(obj, propagation, orphan_dependents)
    metadata = obj["metadata"]
    seconds = grace_period(obj, grace_seconds)
    if not metadata.get("deletionTimestamp"):
        metadata["deletionTimestamp"] = format_time(now + timedelta(seconds=seconds))
        metadata["deletionGracePeriodSeconds"] = seconds
        if metadata.get("generation"):
            metadata["generation"] += 1
        if obj.get("kind") == "Namespace":
            obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
        changed = True
    else:
        changed = _shorten(metadata, seconds, asked=grace_seconds is not None) or changed
    return Deletion(remove=removable(obj), changed=changed)


def _shorten(metadata: dict[str, Any], seconds: int, *, asked: bool) -> bool:
    current = metadata.get("deletionGracePeriodSeconds") or 0
    if not asked and seconds != 0:
        return False
    if seconds >= current:
        return False
    # The deadline counts from when the deletion began, not from this request.
    end = parse_time(metadata["deletionTimestamp"]) - timedelta(seconds=current - seconds)
    metadata["deletionTimestamp"] = format_time(end)
    metadata["deletionGracePeriodSeconds"] = seconds
    return True
