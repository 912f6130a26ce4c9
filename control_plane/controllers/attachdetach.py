"""The attaching of volumes to nodes: where a CSI driver wants to be asked before a node uses a volume, and after.

A VolumeAttachment asks the driver's own attacher, which says in its status that it is done, or why not; the node's
status lists what is attached. The cluster's own drivers attach nothing. Keys are `volume/<name>` and `node/<name>`.
Source: Kubernetes' attach-detach controller and CSI volume plugin (names, reasons, messages); API reference
storage.k8s.io/v1 VolumeAttachment, CSIDriver.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import LOCAL, REPLICATED
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.pods.state import pod_is_terminated
from rayplane.control_plane.api.pods.volumes import claims_of
from rayplane.control_plane.controllers.core import (
    NOTHING,
    Action,
    BaseController,
    Create,
    Delete,
    Event,
    Moment,
    Patch,
    Result,
    View,
    Watch,
    result,
)

ATTACHMENTS, DRIVERS = "volumeattachments.storage.k8s.io", "csidrivers.storage.k8s.io"
VOLUMES, CLAIMS = "persistentvolumes", "persistentvolumeclaims"
RETRY_S = 15.0
_SHARED = frozenset({"ReadOnlyMany", "ReadWriteMany"})


def _volume_key(volume: Object, _: View) -> Iterable[str]:
    return (f"volume/{meta.name(volume)}",)


def _volumes_of_pod(pod: Object, view: View) -> Iterable[str]:
    found = []
    for key in claims_of(pod) if meta.node_name(pod) else ():
        claim = view.get(CLAIMS, *meta.split_key(key))
        if claim is not None and meta.spec(claim).get("volumeName"):
            found.append(f"volume/{meta.spec(claim)['volumeName']}")
    return found


def _volume_of_claim(claim: Object, _: View) -> Iterable[str]:
    name = meta.spec(claim).get("volumeName")
    return (f"volume/{name}",) if name else ()


def _attachment_keys(attachment: Object, _: View) -> Iterable[str]:
    spec = meta.spec(attachment)
    name = (spec.get("source") or {}).get("persistentVolumeName")
    return [f"node/{spec.get('nodeName')}", *([f"volume/{name}"] if name else [])]


def _attached_to(node: Object, view: View) -> Iterable[str]:
    """What is attached to a node: it may have no more use of something."""
    found = [meta.spec(one) for one in view.list(ATTACHMENTS) if meta.spec(one).get("nodeName") == meta.name(node)]
    return [f"volume/{(spec.get('source') or {}).get('persistentVolumeName')}" for spec in found]


def _used_otherwise(old: Object, new: Object) -> bool:
    return meta.node_name(old) != meta.node_name(new) or pod_is_terminated(old) != pod_is_terminated(new)


class AttachDetachController(BaseController):
    name = "persistentvolume-attach-detach"
    component = "attachdetach-controller"

    def __init__(self, *, coalesce_s: float = 0.05) -> None:
        self._told: dict[str, dict[tuple[str, str], str]] = {}
        """What pods were told last of a volume's attachment, by the volume and by pod and node."""
        self.watches = (
            Watch("pods", _volumes_of_pod, delay_s=coalesce_s, changed=_used_otherwise),
            Watch(CLAIMS, _volume_of_claim),
            Watch(VOLUMES, _volume_key),
            Watch(ATTACHMENTS, _attachment_keys),
            Watch(DRIVERS, None),
            Watch("nodes", _attached_to, changed=lambda old, new: _in_use(old) != _in_use(new)),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, name = key.partition("/")
        if what == "node":
            return result(_of_node(name, view))
        volume = view.get(VOLUMES, "", name)
        told = self._told.pop(name, {})
        if volume is None or not wants_attach(volume, view):
            return NOTHING
        users = _users(volume, view)
        steps = _attach(volume, users, view) + _detach(volume, users, view)
        news: list[Action] = []
        for node, pods in users.items():
            text = _outcome(volume, node, users, view)
            for pod in pods if text is not None else ():
                assert text is not None
                ident = (meta.uid(pod), node)
                if told.get(ident) != text[2]:
                    news.append(Event(pod, *text))
                self._told.setdefault(name, {})[ident] = text[2]
        waits = any(_attachment(volume, node, view) is None for node in users)
        return result(steps, news, requeue_after=RETRY_S if waits else None)


def wants_attach(volume: Object, view: View) -> bool:
    """Whether a volume's driver is asked before a node uses it: unless its CSIDriver says that it is not."""
    driver = (meta.spec(volume).get("csi") or {}).get("driver")
    if not driver or driver in (LOCAL, REPLICATED):
        return False
    known = view.get(DRIVERS, "", driver)
    return known is None or meta.spec(known).get("attachRequired") is not False


def _users(volume: Object, view: View) -> dict[str, list[Object]]:
    """The pods that use a volume, by their node."""
    ref = meta.spec(volume).get("claimRef") or {}
    found: dict[str, list[Object]] = {}
    for pod in sorted(view.indexed("pods", "claim", f"{ref.get('namespace')}/{ref.get('name')}"), key=meta.name):
        if meta.node_name(pod) and not pod_is_terminated(pod):
            found.setdefault(meta.node_name(pod), []).append(pod)
    return found


def attachment_name(volume: Object, node: str) -> str:
    source = meta.spec(volume)["csi"]
    text = f"{source.get('volumeHandle') or ''}{source['driver']}{node}"
    return f"csi-{hashlib.sha256(text.encode()).hexdigest()}"


def _attachment(volume: Object, node: str, view: View) -> Object | None:
    return view.get(ATTACHMENTS, "", attachment_name(volume, node))


def _of_volume(volume: Object, view: View) -> list[Object]:
    """The attachments of a volume that were made here."""
    return [
        one
        for one in view.indexed(ATTACHMENTS, "volume", meta.name(volume))
        if meta.name(one) == attachment_name(volume, str(meta.spec(one).get("nodeName") or ""))
    ]


def _is_exclusive(volume: Object) -> bool:
    return not _SHARED & {*(meta.spec(volume).get("accessModes") or ())}


def _held_elsewhere(volume: Object, node: str, view: View) -> bool:
    """True for a volume of one node at a time that another node has, or is about to have."""
    return _is_exclusive(volume) and any(meta.spec(one).get("nodeName") != node for one in _of_volume(volume, view))


def _attach(volume: Object, users: dict[str, list[Object]], view: View) -> list[Action]:
    steps: list[Action] = []
    for node in users:
        known = _attachment(volume, node, view)
        if known is not None or view.get("nodes", "", node) is None or _held_elsewhere(volume, node, view):
            continue
        spec = {
            "attacher": meta.spec(volume)["csi"]["driver"],
            "nodeName": node,
            "source": {"persistentVolumeName": meta.name(volume)},
        }
        own = {"name": attachment_name(volume, node)}
        body = {"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": own, "spec": spec}
        steps.append(Create(ATTACHMENTS, body, exists_ok=True))
        if _is_exclusive(volume):
            break
    return steps


def _detach(volume: Object, users: dict[str, list[Object]], view: View) -> list[Action]:
    """Give back what no pod of a node uses any more, once the node says so too, or is gone."""
    steps: list[Action] = []
    for one in _of_volume(volume, view):
        node = str(meta.spec(one).get("nodeName") or "")
        if node in users or meta.is_deleting(one) or _unique_name(one, view) in _in_use(view.get("nodes", "", node)):
            continue
        steps.append(Delete(ATTACHMENTS, one))
    return steps


def _in_use(node: Object | None) -> list[str]:
    return list(meta.status(node).get("volumesInUse") or ()) if node is not None else []


def _outcome(volume: Object, node: str, users: dict[str, list[Object]], view: View) -> tuple[str, str, str] | None:
    """What the pods of a node are told: the type, reason and message of an Event."""
    name = meta.name(volume)
    known = _attachment(volume, node, view)
    if known is None:
        if not _held_elsewhere(volume, node, view) and len(users) == 1:
            return None
        text = "Volume is already exclusively attached to one node and can't be attached to another"
        return "Warning", "FailedAttachVolume", f'Multi-Attach error for volume "{name}" {text}'
    status = meta.status(known)
    if status.get("attached"):
        return "Normal", "SuccessfulAttachVolume", f'AttachVolume.Attach succeeded for volume "{name}" '
    error = (status.get("attachError") or {}).get("message")
    if error:
        return "Warning", "FailedAttachVolume", f'AttachVolume.Attach failed for volume "{name}" : {error}'
    return None


# --- nodes --------------------------------------------------------------------------------------


def _unique_name(attachment: Object, view: View) -> str:
    """A volume as a node's status names it."""
    spec = meta.spec(attachment)
    volume = view.get(VOLUMES, "", (spec.get("source") or {}).get("persistentVolumeName") or "")
    handle = (meta.spec(volume).get("csi") or {}).get("volumeHandle") if volume is not None else ""
    return f"kubernetes.io/csi/{spec.get('attacher')}^{handle}"


def _of_node(name: str, view: View) -> list[Action]:
    """The node's status lists what is attached to it."""
    node = view.get("nodes", "", name)
    if node is None:
        return []
    attached = sorted(
        _unique_name(one, view)
        for one in view.list(ATTACHMENTS)
        if meta.spec(one).get("nodeName") == name and meta.status(one).get("attached")
    )
    wanted: list[dict[str, Any]] = [{"name": one, "devicePath": ""} for one in attached]
    if wanted == (meta.status(node).get("volumesAttached") or []):
        return []
    body = {"metadata": {"uid": meta.uid(node)}, "status": {"volumesAttached": wanted or None}}
    return [Patch("nodes", "", name, body, subresource="status")]
