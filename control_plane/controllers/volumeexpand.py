"""Growth of claims: a bound claim that asks for more gets it from its volume's driver, or is told why not.

A driver's failure is tried again. Whoever asks for less again, but more than there is, gets that instead. Only volumes
of the cluster's own drivers are looked after: those of others have a resizer of their own.
Source: Kubernetes concepts "Persistent Volumes" (expanding claims, recovering from failure); reasons and messages as
the external resizer writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import (
    LOCAL,
    REPLICATED,
    allocated_storage,
    capacity_bytes,
    is_bound,
    requested_bytes,
    requested_storage,
    with_allocated_storage,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import Event, Expand, UpdateStatus
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    own_key,
    result,
)
from rayplane.control_plane.controllers.provisioning import targets_of
from rayplane.control_plane.controllers.volume_match import is_bound_to

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
RETRY_S = 10.0
_STORAGE = "storage"
_RESIZING, _FAILED = "Resizing", "ControllerResizeError"
_IN_PROGRESS, _INFEASIBLE = "ControllerResizeInProgress", "ControllerResizeInfeasible"


def _claim_of(volume: Object, _: View) -> Iterable[str]:
    ref = meta.spec(volume).get("claimRef")
    return (f"{ref.get('namespace') or ''}/{ref.get('name') or ''}",) if ref else ()


class VolumeExpandController(BaseController):
    name = "persistentvolume-expander"
    component = "external-resizer"
    watches = (Watch(CLAIMS, own_key), Watch(VOLUMES, _claim_of), Watch("nodes", None))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        claim = view.get(CLAIMS, *meta.split_key(key))
        if claim is None or meta.is_deleting(claim) or not is_bound(claim):
            return NOTHING
        volume = view.get(VOLUMES, "", meta.spec(claim).get("volumeName") or "")
        source = meta.spec(volume).get("csi") or {} if volume is not None else {}
        if volume is None or not is_bound_to(volume, claim) or source.get("driver") not in (LOCAL, REPLICATED):
            return NOTHING
        if requested_bytes(claim) <= capacity_bytes(volume):
            return _finished(claim, volume)
        marked = _marked(claim, volume, now)
        if marked is not None:
            return result([marked])
        targets = targets_of(volume, view)
        if not targets:
            return result(requeue_after=RETRY_S)
        expand = Expand(
            volume,
            targets,
            storage=str(requested_storage(claim)),
            capacity_bytes=requested_bytes(claim),
            failed=_failure(claim, volume, now),
        )
        return result([expand], requeue_after=RETRY_S)


def _marked(claim: Object, volume: Object, now: Moment) -> UpdateStatus | None:
    """The write that says that the claim grows, and how far; None where it says so."""
    status = meta.status(claim)
    wanted = requested_storage(claim)
    known = allocated_storage(claim) == wanted
    if known and (status.get("allocatedResourceStatuses") or {}).get(_STORAGE) in (_IN_PROGRESS, _INFEASIBLE):
        return None
    conditions = [one for one in status.get("conditions") or () if one.get("type") != _FAILED]
    meta.set_condition(conditions, {"type": _RESIZING, "status": "True"}, now.stamp)
    text = f"External resizer is resizing volume {meta.name(volume)}"
    marked = _with(claim, wanted, _IN_PROGRESS, conditions)
    return UpdateStatus(CLAIMS, marked, done=Event(claim, "Normal", "Resizing", text))


def _failure(claim: Object, volume: Object, now: Moment) -> UpdateStatus:
    """What is written of a growth that failed, with the error to be filled in."""
    conditions = list(meta.status(claim).get("conditions") or ())
    condition = {"type": _FAILED, "status": "True", "message": "failed to expand pvc with: {error}"}
    meta.set_condition(conditions, condition, now.stamp)
    driver = meta.spec(volume)["csi"]["driver"]
    text = f'resize volume "{meta.name(volume)}" by resizer "{driver}" failed: {{error}}'
    failed = _with(claim, requested_storage(claim), _INFEASIBLE, conditions)
    return UpdateStatus(CLAIMS, failed, done=Event(claim, "Warning", "VolumeResizeFailed", text))


def _with(claim: Object, wanted: Any, state: str, conditions: list[dict[str, Any]]) -> Object:
    status = meta.status(claim)
    return {
        **claim,
        "status": {
            **with_allocated_storage(status, wanted),
            "allocatedResourceStatuses": {**(status.get("allocatedResourceStatuses") or {}), _STORAGE: state},
            "conditions": conditions,
        },
    }


def _finished(claim: Object, volume: Object) -> Result:
    """The claim has what it asks for: nothing says any more that it grows, or could not."""
    status = dict(meta.status(claim))
    states = {k: v for k, v in (status.get("allocatedResourceStatuses") or {}).items() if k != _STORAGE}
    if _STORAGE not in (status.get("allocatedResourceStatuses") or {}):
        return NOTHING
    status["allocatedResourceStatuses"] = states
    if not states:
        del status["allocatedResourceStatuses"]
    status["capacity"] = {**(status.get("capacity") or {}), **(meta.spec(volume).get("capacity") or {})}
    grown = allocated_storage(claim) == requested_storage(claim)
    status = with_allocated_storage(status, requested_storage(claim))
    status["conditions"] = [
        one for one in status.get("conditions") or () if one.get("type") not in (_RESIZING, _FAILED)
    ]
    if not status["conditions"]:
        del status["conditions"]
    # Whoever asks for what it has again has got nothing new.
    done = Event(claim, "Normal", "VolumeResizeSuccessful", "Resize volume succeeded") if grown else None
    return result([UpdateStatus(CLAIMS, {**claim, "status": status}, done=done)])
