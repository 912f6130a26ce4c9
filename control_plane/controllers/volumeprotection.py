"""Protection finalizers: a claim stays while a pod uses it, a volume while it is bound.

A claim is let go only after the API server itself has listed no pod of a node with it, whatever the pod's phase: the
caches may not have one yet that is being started.

Of a bound claim its condition `Unused` says whether a pod refers to it that has not ended, be it on a node or not.
Source: Kubernetes concepts "Persistent Volumes" (storage object in use protection), its protection controllers, and
KEP-5541 (unused since when).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claim_name, claims_of
from rayplane.control_plane.controllers.actions import IfUnclaimed, UpdateStatus
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
from rayplane.control_plane.controllers.finalizers import protection

PVC_PROTECTION = "kubernetes.io/pvc-protection"
PV_PROTECTION = "kubernetes.io/pv-protection"
CLAIMS = "persistentvolumeclaims"


def _may_run(pod: Object) -> bool:
    """Whether a node has it, or may: whoever has no node yet gets none while the claim is being deleted."""
    return bool(meta.node_name(pod))


class Uses:
    """The claims that those pods use that count: by default those that a node has, or may still have."""

    def __init__(self, pods: Iterable[Object], *, counts: Callable[[Object], bool] = _may_run) -> None:
        self._named: set[str] = set()
        self._made: set[tuple[str, str]] = set()
        """Claims made for a pod's own volumes, with the pod's uid."""
        for pod in pods:
            for volume in meta.spec(pod).get("volumes") or () if counts(pod) else ():
                key = f"{meta.namespace(pod)}/{claim_name(volume, meta.name(pod))}"
                if volume.get("persistentVolumeClaim"):
                    self._named.add(key)
                elif volume.get("ephemeral") is not None and not _is_shut_down(pod):
                    self._made.add((key, meta.uid(pod)))

    def has(self, claim: Object) -> bool:
        owner = meta.controller_of(claim) or {}
        return meta.key(claim) in self._named or (meta.key(claim), owner.get("uid") or "") in self._made


def _is_shut_down(pod: Object) -> bool:
    """Whether its node is done with it. What is only waited for may be waiting for the claim in turn."""
    return meta.is_deleting(pod) and meta.metadata(pod).get("deletionGracePeriodSeconds") == 0


def _has_ended(pod: Object) -> bool:
    """Whether it uses nothing any more, or will not: it has ended, or is deleted and no container runs."""
    return pod_is_terminated(pod) or (meta.is_deleting(pod) and not _runs(pod))


def _runs(pod: Object) -> bool:
    states = [one.get("state") or {} for one in meta.status(pod).get("containerStatuses") or ()]
    return any(one.get("terminated") is None and one.get("waiting") is None for one in states)


def _unused(is_used: bool) -> dict[str, Any]:
    if is_used:
        reason, text = "PodUsingPVC", "A pod is currently referencing this PVC"
    else:
        reason, text = "NoPodsUsingPVC", "No pods are currently referencing this PVC"
    return {"type": "Unused", "status": str(not is_used), "reason": reason, "message": text}


def _used_claims(pod: Object, _view: View) -> Iterable[str]:
    return claims_of(pod)


def _usage_changed(old: Object, new: Object) -> bool:
    return _has_ended(old) != _has_ended(new) or _is_shut_down(old) != _is_shut_down(new)


class ProtectionController(BaseController):
    """One instance for claims, one for volumes."""

    component = "volume-protection-controller"

    def __init__(self, *, resource: str) -> None:
        self.name = f"{resource}-protection"
        self._resource = resource
        self._finalizer = PV_PROTECTION if resource == "persistentvolumes" else PVC_PROTECTION
        watches: Sequence[Watch] = (Watch(resource, own_key),)
        if resource == CLAIMS:
            watches = (*watches, Watch("pods", _used_claims, changed=_usage_changed))
        self.watches = watches

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        o = view.get(self._resource, *meta.split_key(key))
        if o is None:
            return NOTHING
        write = protection(self._resource, o, self._finalizer, lambda: self._in_use(o, view))
        if write is None:
            return self._tell(o, view, now) if self._resource == CLAIMS else NOTHING
        lets_go = meta.is_deleting(o) and self._resource == CLAIMS
        return result([IfUnclaimed(o, (write,)) if lets_go else write])

    def _tell(self, claim: Object, view: View, now: Moment) -> Result:
        """Since when nobody uses a claim: the time of the condition's last transition."""
        status = meta.status(claim)
        if status.get("phase") != "Bound" or meta.is_deleting(claim):
            return NOTHING
        users = Uses(view.indexed("pods", "claim", meta.key(claim)), counts=lambda pod: not _has_ended(pod))
        conditions = list(status.get("conditions") or ())
        if not meta.set_condition(conditions, _unused(users.has(claim)), now.stamp):
            return NOTHING
        return result([UpdateStatus(CLAIMS, {**claim, "status": {**status, "conditions": conditions}})])

    def _in_use(self, o: Object, view: View) -> bool:
        if self._resource == "persistentvolumes":
            return meta.status(o).get("phase") == "Bound"
        return Uses(view.indexed("pods", "claim", meta.key(o))).has(o)
