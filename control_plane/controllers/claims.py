"""PersistentVolumeClaims: find a volume, or have one made, and bind.

Source: Kubernetes concepts "Persistent Volumes", "Storage Classes"; reasons and messages as kube-controller-manager
and the external provisioner write them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import (
    BIND_COMPLETED,
    NO_PROVISIONER,
    SELECTED_NODE,
    class_of,
    mismatch,
    refers_to,
)
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.controllers.actions import (
    Action,
    Event,
    Patch,
    Provision,
    Update,
    UpdateStatus,
)
from rayplane.control_plane.controllers.core import (
    NOTHING,
    CustomController,
    Moment,
    Result,
    View,
    Watch,
    in_namespace,
    own_key,
    result,
)
from rayplane.control_plane.controllers.provisioning import ATTRIBUTES, plan
from rayplane.control_plane.controllers.snapshot_sources import CONTENTS, SNAPSHOTS, is_being_restored, is_populated
from rayplane.control_plane.controllers.volume_match import (
    BOUND_BY_CONTROLLER,
    best_match,
    default_class,
    is_bound_to,
    storage_class,
    waits_for_consumer,
)

CLAIMS = "persistentvolumeclaims"
VOLUMES = "persistentvolumes"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
STORAGE_PROVISIONER_BETA = "volume.beta.kubernetes.io/storage-provisioner"
RETRY_S = 5.0  # for claims nothing can be made for now


def _claims_of_volume(volume: Object, view: View) -> Iterable[str]:
    """The claim a volume names, and claims that name it; a free volume concerns all that wait in its class."""
    ref = meta.spec(volume).get("claimRef")
    keys = [f"{ref.get('namespace')}/{ref.get('name')}"] if ref else []
    keys += [meta.key(c) for c in view.indexed(CLAIMS, "volume", meta.name(volume))]
    return keys if ref else [*keys, *_pending(view, class_of(volume))]


def _pending(view: View, name: str) -> list[str]:
    return [meta.key(c) for c in view.list(CLAIMS) if not meta.spec(c).get("volumeName") and class_of(c) == name]


def _claims_of_class(storage: Object, view: View) -> Iterable[str]:
    return [*_pending(view, meta.name(storage)), *_pending(view, "")]


def _waiting_claims(pod: Object, view: View) -> Iterable[str]:
    """Claims without a volume that a pod wants to use."""
    for key in claims_of(pod):
        claim = view.get(CLAIMS, *meta.split_key(key))
        if claim is not None and not meta.spec(claim).get("volumeName"):
            yield key


def _placement_changed(old: Object, new: Object) -> bool:
    return meta.node_name(old) != meta.node_name(new)


def _claims_from(snapshot: Object, view: View) -> Iterable[str]:
    """Claims that wait to be made from a snapshot."""
    claims = in_namespace(view, CLAIMS, meta.namespace(snapshot))
    return [meta.key(claim) for claim in claims if is_being_restored(claim, snapshot)]


class ClaimController(CustomController):
    name = "persistentvolumeclaim-binder"
    component = "persistentvolume-controller"
    watches = (
        Watch(CLAIMS, own_key),
        Watch(VOLUMES, _claims_of_volume),
        Watch("storageclasses.storage.k8s.io", _claims_of_class),
        Watch("nodes", None),
        Watch(ATTRIBUTES, None),
        Watch("pods", _waiting_claims, changed=_placement_changed),
    )
    custom = (Watch(SNAPSHOTS, _claims_from), Watch(CONTENTS, None))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        claim = view.get(CLAIMS, *meta.split_key(key))
        if claim is None:
            return NOTHING
        if BIND_COMPLETED in meta.annotations(claim):
            return self._check_bound(claim, view)
        if meta.is_deleting(claim):
            return NOTHING
        name = meta.spec(claim).get("volumeName")
        if name:
            return self._bind_named(claim, view.get(VOLUMES, "", name), name)
        return self._find(claim, view)

    # --- unbound --------------------------------------------------------------------------------

    def _find(self, claim: Object, view: View) -> Result:
        name = class_of(claim)
        storage = storage_class(view, name)
        selected = meta.annotations(claim).get(SELECTED_NODE)
        waiting = waits_for_consumer(storage) and not selected
        node = view.get("nodes", "", selected) if selected else None
        pool = view.list(VOLUMES)
        if waiting:
            pool = [v for v in pool if refers_to(v, claim)]
        volume = best_match(pool, claim, node=node)
        if volume is not None:
            return result(_bind(claim, volume))
        unset = meta.spec(claim).get("storageClassName") is None and not name
        if unset and (default := default_class(view)) is not None:
            return result([_patch_claim(claim, {"spec": {"storageClassName": meta.name(default)}})])
        if waiting:
            return self._stay_pending(claim, _waits_for(claim, view))
        if not name:
            text = "no persistent volumes available for this claim and no storage class is set"
            return self._stay_pending(claim, Event(claim, "Normal", "FailedBinding", text))
        if storage is None:
            text = f'storageclass.storage.k8s.io "{name}" not found'
            return self._stay_pending(claim, Event(claim, "Warning", "ProvisioningFailed", text))
        if storage.get("provisioner") == NO_PROVISIONER:
            text = f"no volume plugin matched name: {NO_PROVISIONER}"
            return self._stay_pending(claim, Event(claim, "Warning", "ProvisioningFailed", text))
        return self._provision(claim, storage, view)

    def _provision(self, claim: Object, storage: Object, view: View) -> Result:
        provisioner = storage.get("provisioner") or ""
        if meta.annotations(claim).get(STORAGE_PROVISIONER) != provisioner:
            text = (
                f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or "
                "manually by the system administrator. If volume creation is delayed, please verify that the "
                "provisioner is running and correctly registered."
            )
            notes = {STORAGE_PROVISIONER: provisioner, STORAGE_PROVISIONER_BETA: provisioner}
            note = {"metadata": {"annotations": notes}}
            event = Event(claim, "Normal", "ExternalProvisioning", text)
            return result([event, _patch_claim(claim, note)])
        if is_populated(claim):
            text = "Assuming an external populator will provision the volume"
            return self._stay_pending(claim, Event(claim, "Normal", "Provisioning", text))
        planned = plan(claim, storage, view)
        if isinstance(planned, Provision):
            text = f'External provisioner is provisioning volume for claim "{meta.key(claim)}"'
            return result([Event(claim, "Normal", "Provisioning", text), planned])
        text = f'failed to provision volume with StorageClass "{meta.name(storage)}": {planned.reason}'
        failed = Event(claim, "Warning", "ProvisioningFailed", text)
        if planned.reschedule and waits_for_consumer(storage):
            note = {"metadata": {"annotations": {SELECTED_NODE: None}}}
            return result([failed, _patch_claim(claim, note)], requeue_after=RETRY_S)
        return self._stay_pending(claim, failed, again=RETRY_S)

    def _stay_pending(self, claim: Object, *events: Event, again: float | None = None) -> Result:
        steps: list[Action] = [*events]
        if meta.status(claim).get("phase") != "Pending":
            status = {**meta.status(claim), "phase": "Pending"}
            steps.append(UpdateStatus(CLAIMS, {**claim, "status": status}))
        return result(steps, requeue_after=again)

    def _bind_named(self, claim: Object, volume: Object | None, name: str) -> Result:
        """The user, or an earlier half-done binding, named the volume."""
        if volume is None:
            return self._stay_pending(claim)
        if not meta.spec(volume).get("claimRef"):
            why = mismatch(volume, claim)
            if why:
                text = f'Cannot bind to requested volume "{name}": {why}'
                return self._stay_pending(claim, Event(claim, "Warning", "VolumeMismatch", text))
        elif not refers_to(volume, claim):
            text = f'volume "{name}" already bound to a different claim.'
            ours = BOUND_BY_CONTROLLER in meta.annotations(claim)
            return self._stay_pending(claim, *([Event(claim, "Warning", "FailedBinding", text)] if ours else []))
        return result(_bind(claim, volume))

    # --- bound ----------------------------------------------------------------------------------

    def _check_bound(self, claim: Object, view: View) -> Result:
        name = meta.spec(claim).get("volumeName") or ""
        volume = view.get(VOLUMES, "", name) if name else None
        if volume is None:
            lost = "its PersistentVolume" if name else "reference to PersistentVolume"
            text = f"Bound claim has lost {lost}. Data on the volume is lost!"
            return self._lose(claim, "ClaimLost", text)
        if not meta.spec(volume).get("claimRef"):
            return result(_bind(claim, volume))
        if not is_bound_to(volume, claim):
            text = "Two claims are bound to the same volume, this one is bound incorrectly"
            return self._lose(claim, "ClaimMisbound", text)
        wanted = {
            **meta.status(claim),
            "phase": "Bound",
            "accessModes": list(meta.spec(volume).get("accessModes") or ()),
            "capacity": dict(meta.spec(volume).get("capacity") or {}),
        }
        attributes = meta.spec(volume).get("volumeAttributesClassName")
        if attributes and meta.status(claim).get("phase") != "Bound":
            wanted["currentVolumeAttributesClassName"] = attributes
        if wanted == meta.status(claim):
            return NOTHING
        return result([UpdateStatus(CLAIMS, {**claim, "status": wanted})])

    def _lose(self, claim: Object, reason: str, text: str) -> Result:
        if meta.status(claim).get("phase") == "Lost":
            return NOTHING
        status = {k: v for k, v in meta.status(claim).items() if k not in ("accessModes", "capacity")}
        status["phase"] = "Lost"
        event = Event(claim, "Warning", reason, text)
        return result([event, UpdateStatus(CLAIMS, {**claim, "status": status})])


def _waits_for(claim: Object, view: View) -> Event:
    """An event that says what has to come before a claim of a waiting class gets its volume."""
    pods = view.indexed("pods", "claim", meta.key(claim))
    names = sorted(meta.name(p) for p in pods if not meta.node_name(p) and not pod_is_terminated(p))
    if not names:
        text = "waiting for first consumer to be created before binding"
        return Event(claim, "Normal", "WaitForFirstConsumer", text)
    text = f"waiting for pod{'s' if len(names) > 1 else ''} {','.join(names)} to be scheduled"
    return Event(claim, "Normal", "WaitForPodScheduled", text)


def _patch_claim(claim: Object, body: dict[str, Any]) -> Patch:
    guarded = {**body, "metadata": {**body.get("metadata", {}), "uid": meta.uid(claim)}}
    return Patch(CLAIMS, meta.namespace(claim), meta.name(claim), guarded)


def _bind(claim: Object, volume: Object) -> list[Action]:
    """The next step of binding: first the volume, then the claim (a crash in between is picked up again)."""
    if not is_bound_to(volume, claim):
        changed = meta.copy_for_write(volume)
        if not meta.spec(volume).get("claimRef"):
            changed["metadata"].setdefault("annotations", {})[BOUND_BY_CONTROLLER] = "yes"
        changed["spec"]["claimRef"] = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": meta.namespace(claim),
            "name": meta.name(claim),
            "uid": meta.uid(claim),
            "resourceVersion": meta.resource_version(claim),
        }
        return [Update(VOLUMES, changed)]
    changed = meta.copy_for_write(claim)
    notes = changed["metadata"].setdefault("annotations", {})
    if not meta.spec(claim).get("volumeName"):
        notes[BOUND_BY_CONTROLLER] = "yes"
    notes[BIND_COMPLETED] = "yes"
    changed["spec"]["volumeName"] = meta.name(volume)
    return [Update(CLAIMS, changed)]
