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
_FINALIZERS = {"": "", "Orphan": ORPHAN, "Background": "", "Foreground": FOREGROUND}


@dataclass(frozen=True, slots=True)
class Deletion:
    """The effect of a delete request: `remove` the object now, or store it when it `changed`."""

    remove: bool
    changed: bool


GRACE_SECONDS_MAX = 10 * 365 * 86_400
"""More than anybody waits; what is asked for beyond it has no date that a calendar knows."""


def _is_core(obj: Object, kind: str) -> bool:
    return obj.get("kind") == kind and (obj.get("apiVersion") or "v1") == "v1"


def _grace_period(pod: Object, requested: int | None) -> int:
    """Seconds that a pod is given to end: where it runs somewhere."""
    spec = pod.get("spec") or {}
    seconds = requested
    if seconds is None:
        seconds = spec.get("terminationGracePeriodSeconds")
        seconds = POD_GRACE_SECONDS if seconds is None else seconds
    if not spec.get("nodeName") or pod_is_terminated(pod):
        return 0
    return min(int(seconds), GRACE_SECONDS_MAX) if seconds >= 0 else 1


def check_preconditions(obj: Object, resource: str, *, uid: str = "", version: str = "") -> None:
    """Conflict when the object is not the one the request means (`resource` is plural[.group])."""
    metadata, group = obj["metadata"], (obj.get("apiVersion") or "v1").rpartition("/")[0]
    own = rules_by_object(obj).ends_by_itself
    for what, wanted, actual, happened in (
        ("UID", uid, metadata.get("uid") or "", "deleted and then recreated"),
        ("ResourceVersion", version, metadata.get("resourceVersion") or "", "modified"),
    ):
        if not wanted or wanted == actual:
            continue
        name = metadata.get("name") or ""
        if own:
            cause = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}"
            raise Conflict.of(resource.partition(".")[0], name, cause, group=group)
        cause = (
            f"the {what} in the precondition ({wanted}) does not match the {what} in record "
            f"({actual}). The object might have been {happened}"
        )
        raise Conflict.of(obj.get("kind") or "", name, cause, group=group)


def _propagate(obj: Object, propagation: str, orphan_dependents: bool | None) -> bool:
    """Set the garbage collector's finalizers; True when they changed."""
    metadata, rules = obj["metadata"], rules_by_object(obj)
    before = list(metadata.get("finalizers") or ())
    if not propagation and orphan_dependents is not None:
        propagation = "Orphan" if orphan_dependents else "Background"
    if not rules.has_dependents:
        propagation = "Background"
    elif not propagation:
        if ORPHAN in before or FOREGROUND in before:
            return False
        propagation = "Orphan" if rules.orphans else ""
    after = [one for one in before if one not in (ORPHAN, FOREGROUND)]
    if _FINALIZERS[propagation]:
        after.append(_FINALIZERS[propagation])
    if set(after) == set(before):
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
    if _is_core(obj, "Namespace") and (obj.get("spec") or {}).get("finalizers"):
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

    What goes at once is not marked, but for pods. BadRequest for an unknown propagation.
    """
    if propagation not in _FINALIZERS:
        raise BadRequest(f'invalid propagationPolicy "{propagation}": use "Foreground", "Background" or "Orphan"')
    metadata = obj["metadata"]
    if grace_seconds is not None and grace_seconds < 0:
        grace_seconds = 1
    if rules_by_object(obj).ends_by_itself and not metadata.get("deletionTimestamp"):
        return _begin_end(obj, now, propagation, orphan_dependents)
    if _is_core(obj, "Namespace") and (obj.get("spec") or {}).get("finalizers"):
        return Deletion(remove=False, changed=False)
    pending = metadata.get("deletionGracePeriodSeconds") or 0
    graceful = _is_core(obj, "Pod") and (pending > 0 or not metadata.get("deletionTimestamp"))
    if graceful and pending and (grace_seconds is None or grace_seconds >= pending):
        # It ends already, and no later: how its dependents fare was said before.
        return Deletion(remove=False, changed=False)
    seconds = grace_seconds if pending and grace_seconds is not None else _grace_period(obj, grace_seconds)
    changed = _propagate(obj, propagation, orphan_dependents)
    if graceful:
        _mark(metadata, now, seconds)
        return Deletion(remove=removable(obj), changed=True)
    if not metadata.get("finalizers"):
        return Deletion(remove=True, changed=True)
    before = (metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"))
    _mark(metadata, now, 0)
    after = (metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds"))
    return Deletion(remove=False, changed=changed or before != after)


def _begin_end(obj: Object, now: datetime, propagation: str, orphan_dependents: bool | None) -> Deletion:
    """Mark what ends by its own rules: no grace period is counted for it."""
    obj["metadata"]["deletionTimestamp"] = format_time(now)
    if _is_core(obj, "Namespace"):
        _propagate(obj, propagation, orphan_dependents)
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    return Deletion(remove=removable(obj), changed=True)


def _mark(metadata: dict[str, Any], now: datetime, seconds: int) -> None:
    """Set the end, for the first time or an earlier one."""
    ends = metadata.get("deletionTimestamp")
    if not ends:
        metadata["deletionTimestamp"] = format_time(now + timedelta(seconds=seconds))
        if metadata.get("generation"):
            metadata["generation"] += 1
    elif current := metadata.get("deletionGracePeriodSeconds"):
        # The deadline counts from when the deletion began, not from this request.
        metadata["deletionTimestamp"] = format_time(parse_time(ends) - timedelta(seconds=current - seconds))
    metadata["deletionGracePeriodSeconds"] = seconds
