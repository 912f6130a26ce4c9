"""PersistentVolumes: their phase, and what becomes of them when their claim goes.

Source: Kubernetes concepts "Persistent Volumes" (reclaiming, phases).
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    DeleteVolume,
    Event,
    Moment,
    Result,
    UpdateStatus,
    View,
    Watch,
    own_key,
    result,
)
from rayplane.control_plane.controllers.nodelifecycle import ready_status
from rayplane.control_plane.controllers.volume_match import PROVISIONED_BY, nodes_of

CLAIMS = "persistentvolumeclaims"
VOLUMES = "persistentvolumes"
RETRY_S = 5.0


def _volumes_of_claim(claim: Object, view: View) -> Iterable[str]:
    named = meta.spec(claim).get("volumeName")
    keys = [meta.name(v) for v in view.indexed(VOLUMES, "claimref", meta.key(claim))]
    return [named, *keys] if named else keys


class VolumeController(BaseController):
    name = "persistentvolume-binder"
    component = "persistentvolume-controller"
    watches = (Watch(VOLUMES, own_key), Watch(CLAIMS, _volumes_of_claim), Watch("nodes", None))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        volume = view.get(VOLUMES, "", key)
        if volume is None:
            return NOTHING
        ref = meta.spec(volume).get("claimRef")
        if not ref or not ref.get("uid"):
            return self._phase(volume, "Available")
        claim = view.get(CLAIMS, ref.get("namespace") or "", ref.get("name") or "")
        if claim is not None and meta.uid(claim) == ref["uid"]:
            named = meta.spec(claim).get("volumeName")
            if named in (None, "", key):
                return self._phase(volume, "Bound")
        if meta.status(volume).get("phase") not in ("Released", "Failed"):
            return self._phase(volume, "Released")
        policy = meta.spec(volume).get("persistentVolumeReclaimPolicy") or "Retain"
        if policy != "Delete" or meta.is_deleting(volume):
            return NOTHING
        return self._reclaim(volume, view)

    def _phase(self, volume: Object, phase: str, *, message: str = "") -> Result:
        old = meta.status(volume)
        if old.get("phase") == phase and (old.get("message") or "") == message:
            return NOTHING
        status = {**old, "phase": phase}
        status.pop("message", None)
        if message:
            status["message"] = message
        return result([UpdateStatus(VOLUMES, {**volume, "status": status})])

    def _reclaim(self, volume: Object, view: View) -> Result:
        if PROVISIONED_BY not in meta.annotations(volume):
            text = (
                f'error getting deleter volume plugin for volume "{meta.name(volume)}": '
                "no deletable volume plugin matched"
            )
            failed = self._phase(volume, "Failed", message=text)
            if failed is NOTHING:
                return NOTHING
            event = Event(volume, "Warning", "VolumeFailedDelete", text)
            return result([event, *failed.actions])
        everywhere = not meta.spec(volume).get("nodeAffinity")
        holders = nodes_of(volume)
        nodes = sorted(view.list("nodes"), key=lambda n: (meta.name(n) not in holders, meta.name(n)))
        ready = [n for n in nodes if ready_status(n) == "True" and HOST_ADDRESS in meta.annotations(n)]
        if not everywhere:
            # Bytes on one node: it has to be there itself, ready or not, unless it is gone for good.
            ready = [n for n in nodes if meta.name(n) in holders]
        elif not ready:
            return result(requeue_after=RETRY_S)
        targets = tuple((meta.name(n), meta.annotations(n).get(HOST_ADDRESS, "")) for n in ready)
        lost = tuple(meta.name(n) for n in nodes if ready_status(n) != "True") if everywhere else ()
        ref = meta.spec(volume)["claimRef"]
        owner = (CLAIMS, ref.get("namespace") or "", ref.get("name") or "", ref["uid"])
        # A claim that lives but is bound to another volume is no reason to keep this one.
        claim = view.get(*owner[:3])
        absent = () if claim is not None and meta.uid(claim) == ref["uid"] else (owner,)
        return result([DeleteVolume(volume, targets, lost_nodes=lost, absent=absent)])
