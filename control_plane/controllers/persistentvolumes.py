"""PersistentVolumes: their phase, and what becomes of them when their claim goes.

Source: Kubernetes concepts "Persistent Volumes" (reclaiming, phases).
"""

from __future__ import annotations

from collections.abc import Iterable

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import LOCAL, REPLICATED, same_mode
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import member_address
from rayplane.control_plane.controllers.actions import (
    DeleteVolume,
    Event,
    IfAbsent,
    Patch,
    Update,
    UpdateStatus,
)
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
from rayplane.control_plane.controllers.nodelifecycle import ready_status
from rayplane.control_plane.controllers.volume_match import BOUND_BY_CONTROLLER, PROVISIONED_BY, nodes_of

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
            if not named and not same_mode(volume, claim):
                return _mode_mismatch(volume, claim)
            if named in (None, "", key):
                return self._phase(volume, "Bound")
            if PROVISIONED_BY not in meta.annotations(volume) or _policy(volume) != "Delete":
                return result([_unbound(volume)])
        if meta.status(volume).get("phase") not in ("Released", "Failed"):
            return self._release(volume, claim)
        return self._reclaim(volume, view)

    def _release(self, volume: Object, claim: Object | None) -> Result:
        released = self._phase(volume, "Released")
        if claim is not None:
            return released
        # The cache of claims may lag behind the one of volumes.
        ref = meta.spec(volume)["claimRef"]
        owner = (CLAIMS, ref.get("namespace") or "", ref.get("name") or "", ref["uid"])
        guard = {"uid": meta.uid(volume), "resourceVersion": meta.resource_version(volume)}
        body = {"metadata": guard, "status": {"phase": "Released", "message": None}}
        return result([IfAbsent((owner,), (Patch(VOLUMES, "", meta.name(volume), body, subresource="status"),))])

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
        policy = _policy(volume)
        if policy == "Retain" or meta.is_deleting(volume):
            return NOTHING
        if policy == "Recycle":
            return self._fail(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
        if policy != "Delete":
            text = "Volume has unrecognized PersistentVolumeReclaimPolicy"
            return self._fail(volume, "VolumeUnknownReclaimPolicy", text)
        if PROVISIONED_BY not in meta.annotations(volume):
            return self._fail(volume, "VolumeFailedDelete", _not_deletable(volume))
        if (meta.spec(volume).get("csi") or {}).get("driver") not in (LOCAL, REPLICATED):
            return NOTHING  # whoever provisioned it deletes it
        return self._delete(volume, view)

    def _fail(self, volume: Object, reason: str, text: str) -> Result:
        failed = self._phase(volume, "Failed", message=text)
        if failed is NOTHING:
            return NOTHING
        return result([Event(volume, "Warning", reason, text), *failed.actions])

    def _delete(self, volume: Object, view: View) -> Result:
        everywhere = not meta.spec(volume).get("nodeAffinity")
        holders = nodes_of(volume)
        nodes = sorted(view.list("nodes"), key=lambda n: (meta.name(n) not in holders, meta.name(n)))
        ready = [n for n in nodes if ready_status(n) == "True" and member_address(n)]
        if not everywhere:
            # Bytes on one node: it has to be there itself, ready or not, unless it is gone for good.
            ready = [n for n in nodes if meta.name(n) in holders]
        elif not ready:
            return result(requeue_after=RETRY_S)
        targets = tuple((meta.name(n), member_address(n)) for n in ready)
        lost = tuple(meta.name(n) for n in nodes if ready_status(n) != "True") if everywhere else ()
        ref = meta.spec(volume)["claimRef"]
        owner = (CLAIMS, ref.get("namespace") or "", ref.get("name") or "", ref["uid"])
        # A claim that lives but is bound to another volume is no reason to keep this one.
        claim = view.get(*owner[:3])
        absent = () if claim is not None and meta.uid(claim) == ref["uid"] else (owner,)
        return result([DeleteVolume(volume, targets, lost_nodes=lost, absent=absent)])


def _policy(volume: Object) -> str:
    return meta.spec(volume).get("persistentVolumeReclaimPolicy") or "Retain"


def _not_deletable(volume: Object) -> str:
    """Why a volume made by hand is not deleted: files of a machine are its user's, also below /tmp."""
    path = (meta.spec(volume).get("hostPath") or {}).get("path")
    if path is None:
        name = meta.name(volume)
        return f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
    if not path.startswith("/tmp/") or path == "/tmp/":
        return f"host_path deleter only supports /tmp/.+ but received provided {path}"
    return f"{path} is the machine's own: delete its files there, and this PersistentVolume"


def _unbound(volume: Object) -> Update:
    """A volume whose claim got another one: free again, or as its user reserved it."""
    changed = meta.copy_for_write(volume)
    if BOUND_BY_CONTROLLER in meta.annotations(volume):
        del changed["metadata"]["annotations"][BOUND_BY_CONTROLLER]
        del changed["spec"]["claimRef"]
    else:
        changed["spec"]["claimRef"] = {k: v for k, v in meta.spec(volume)["claimRef"].items() if k != "uid"}
    return Update(VOLUMES, changed)


def _mode_mismatch(volume: Object, claim: Object) -> Result:
    asked = f'requested PersistentVolumeClaim "{meta.name(claim)}" due to incompatible volumeMode.'
    own = f"Cannot bind PersistentVolume to {asked}"
    other = f'Cannot bind PersistentVolume "{meta.name(volume)}" to {asked}'
    return result(
        [
            Event(volume, "Warning", "VolumeMismatch", own),
            Event(claim, "Warning", "VolumeMismatch", other),
        ]
    )
