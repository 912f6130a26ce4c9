"""Claims of generic ephemeral volumes: made for the pod that names them, and gone with it.

Source: Kubernetes concepts "Ephemeral Volumes", and its ephemeral volume controller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claim_name
from rayplane.control_plane.controllers.actions import Action, Create, Event
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
)

CLAIMS = "persistentvolumeclaims"


def _owning_pod(claim: Object, _view: View) -> Iterable[str]:
    owner = meta.controller_of(claim)
    if owner is not None and owner.get("kind") == "Pod":
        yield f"{meta.namespace(claim)}/{owner['name']}"


def _templates(pod: Object) -> Iterator[tuple[Object, Object]]:
    """The volumes of a pod that claims are made for, each with what its claim is to be."""
    for volume in meta.spec(pod).get("volumes") or ():
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if template is not None:
            yield volume, template


def _pod_with_claims(pod: Object, _view: View) -> Iterable[str]:
    return (meta.key(pod),) if any(_templates(pod)) else ()


class EphemeralVolumeController(BaseController):
    name = "ephemeral-volume"
    component = "ephemeral_volume"
    watches = (Watch("pods", _pod_with_claims), Watch(CLAIMS, _owning_pod))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        pod = view.get("pods", *meta.split_key(key))
        if pod is None or meta.is_deleting(pod) or pod_is_terminated(pod):
            return NOTHING
        actions: list[Action] = []
        for volume, template in _templates(pod):
            actions += self._claim(pod, claim_name(volume, meta.name(pod)), template, view)
        return result(actions)

    def _claim(self, pod: Object, name: str, template: Object, view: View) -> list[Action]:
        namespace = meta.namespace(pod)
        claim = view.get(CLAIMS, namespace, name)
        if claim is not None:
            if meta.is_controlled_by(claim, pod):
                return []
            text = f"PVC {namespace}/{name} was not created for pod {namespace}/{meta.name(pod)} (pod is not owner)"
            return [Event(pod, "Warning", "FailedBinding", f"ephemeral volume: {text}")]
        made = template.get("metadata") or {}
        metadata = {k: made[k] for k in ("labels", "annotations") if made.get(k)}
        metadata |= {"name": name, "namespace": namespace, "ownerReferences": [meta.owner_reference(pod)]}
        claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": template["spec"]}
        return [Create(CLAIMS, claim, exists_ok=True)]
