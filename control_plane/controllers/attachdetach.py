"""The attaching of volumes to nodes: where a CSI driver wants to be asked before a node uses a volume, and after.

A VolumeAttachment asks the driver's own attacher, which says in its status that it is done, or why not; the node's
status lists what is attached, and the node what it has in use. What no pod uses any more is detached when the node does
not use it either, which the API server itself is asked; its status lists it no more before that, so that no pod that
comes meanwhile begins with it. A node that is not ready, or has the `out-of-service` taint, may lose what it says that
it uses: the first after `Timing.force_detach_s`, the second at once.

The cluster's own drivers attach nothing. Keys are `volume/<name>` and `node/<name>`. State: what pods were told, and
since when nobody uses what is attached; both begin anew with a new leader.
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
from rayplane.control_plane.api.pods.volumes import attachable_name, claims_of
from rayplane.control_plane.api.taints import NO_EXECUTE, OUT_OF_SERVICE
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    Event,
    IfUnused,
    Patch,
)
from rayplane.control_plane.controllers.config import Timing
from rayplane.control_plane.controllers.core import (
    NOTHING,
    BaseController,
    Moment,
    Result,
    View,
    Watch,
    result,
    soonest,
)

ATTACHMENTS, DRIVERS = "volumeattachments.storage.k8s.io", "csidrivers.storage.k8s.io"
VOLUMES, CLAIMS = "persistentvolumes", "persistentvolumeclaims"
RETRY_S = 15.0
_TIMING = Timing()
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
    name = _volume_name(attachment)
    return [f"node/{_node_of(attachment)}", *([f"volume/{name}"] if name else [])]


def _attached_to(node: Object, view: View) -> Iterable[str]:
    """What is attached to a node: it may have no more use of something."""
    return [f"volume/{_volume_name(one)}" for one in view.indexed(ATTACHMENTS, "node", meta.name(node))]


def _used_otherwise(old: Object, new: Object) -> bool:
    return meta.node_name(old) != meta.node_name(new) or pod_is_terminated(old) != pod_is_terminated(new)


class AttachDetachController(BaseController):
    name = "persistentvolume-attach-detach"
    component = "attachdetach-controller"

    def __init__(self, timing: Timing = _TIMING) -> None:
        self._force_after_s = timing.force_detach_s
        self._unused: dict[str, dict[str, float]] = {}
        """Since when nobody uses what is attached, by the volume and by the attachment's uid."""
        self._told: dict[str, dict[tuple[str, str], str]] = {}
        """What pods were told last of a volume's attachment, by the volume and by pod and node."""
        self.watches = (
            Watch("pods", _volumes_of_pod, delay_s=timing.coalesce_s, changed=_used_otherwise),
            Watch(CLAIMS, _volume_of_claim),
            Watch(VOLUMES, _volume_key),
            Watch(ATTACHMENTS, _attachment_keys),
            Watch(DRIVERS, None),
            Watch("nodes", _attached_to, changed=lambda old, new: _bearing(old) != _bearing(new)),
        )

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        what, _, name = key.partition("/")
        if what == "node":
            return result(self._list(name, view, now))
        volume = view.get(VOLUMES, "", name)
        told, unused = self._told.pop(name, {}), self._unused.pop(name, {})
        if volume is None or not wants_attach(volume, view):
            return NOTHING
        users = _users(volume, view)
        steps, detached = _attach(volume, users, view), self._detach(volume, users, view, now=now, unused=unused)
        news: list[Action] = []
        for node, pods in users.items():
            text = _outcome(volume, node, users, view)
            for pod in pods if text is not None else ():
                assert text is not None
                ident = (meta.uid(pod), node)
                if told.get(ident) != text[2]:
                    news.append(Event(pod, *text))
                self._told.setdefault(name, {})[ident] = text[2]
        waits = RETRY_S if any(_attachment(volume, node, view) is None for node in users) else None
        nodes = {_node_of(one): None for one in _of_volume(volume, view)}
        listed = [patch for node in nodes for patch in self._list(node, view, now)]
        gone = [self._given_back(one, view, now) for one in detached]
        return result(steps, news, listed, gone, requeue_after=soonest(waits, self._due(volume, now)))

    def _detach(
        self, volume: Object, users: dict[str, list[Object]], view: View, *, now: Moment, unused: dict[str, float]
    ) -> list[Object]:
        """The attachments to give back. `unused`: since when nobody used which; remembers it."""
        left = [one for one in _of_volume(volume, view) if _node_of(one) not in users and not meta.is_deleting(one)]
        if left:
            self._unused[meta.name(volume)] = {meta.uid(one): unused.get(meta.uid(one), now.mono) for one in left}
        return [one for one in left if self._may_go(one, view, now)]

    def _may_go(self, one: Object, view: View, now: Moment) -> bool:
        """Whether an attachment that no pod uses may be given back."""
        node = view.get("nodes", "", _node_of(one))
        if _unique_name(one, view) not in in_use(node) or node is None or _is_out_of_service(node):
            return True
        return not meta.condition_is(node, "Ready") and self._is_overdue(one, now)

    def _is_overdue(self, one: Object, now: Moment) -> bool:
        since = self._unused.get(_volume_name(one), {}).get(meta.uid(one), now.mono)
        return now.mono - since >= self._force_after_s

    def _given_back(self, one: Object, view: View, now: Moment) -> IfUnused | Delete:
        gone = Delete(ATTACHMENTS, one)
        node = view.get("nodes", "", _node_of(one))
        if self._is_overdue(one, now) or (node is not None and _is_out_of_service(node)):
            return gone
        return IfUnused(_node_of(one), _unique_name(one, view), (gone,))

    def _due(self, volume: Object, now: Moment) -> float | None:
        """Seconds until a node that is not ready may lose this volume; None where that is not the matter."""
        waits = [since + self._force_after_s - now.mono for since in self._unused.get(meta.name(volume), {}).values()]
        return soonest(*(wait for wait in waits if wait > 0))

    def _list(self, name: str, view: View, now: Moment) -> list[Action]:
        """The node's status lists what is attached to it, but for what is about to go."""
        node = view.get("nodes", "", name)
        if node is None:
            return []
        attached = sorted(
            _unique_name(one, view)
            for one in view.indexed(ATTACHMENTS, "node", name)
            if meta.status(one).get("attached") and not meta.is_deleting(one)
            if _is_used(one, view) or not self._may_go(one, view, now)
        )
        wanted: list[dict[str, Any]] = [{"name": one, "devicePath": ""} for one in attached]
        if wanted == (meta.status(node).get("volumesAttached") or []):
            return []
        body = {"metadata": {"uid": meta.uid(node)}, "status": {"volumesAttached": wanted or None}}
        return [Patch("nodes", "", name, body, subresource="status")]


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


def _is_used(one: Object, view: View) -> bool:
    """Whether a pod of the attachment's node uses its volume."""
    volume = view.get(VOLUMES, "", _volume_name(one))
    return volume is not None and _node_of(one) in _users(volume, view)


def _attachment(volume: Object, node: str, view: View) -> Object | None:
    return view.get(ATTACHMENTS, "", attachment_name(volume, node))


def _of_volume(volume: Object, view: View) -> list[Object]:
    """The attachments of a volume that were made here."""
    return [
        one
        for one in view.indexed(ATTACHMENTS, "volume", meta.name(volume))
        if meta.name(one) == attachment_name(volume, _node_of(one))
    ]


def _is_exclusive(volume: Object) -> bool:
    return not _SHARED & {*(meta.spec(volume).get("accessModes") or ())}


def _held_elsewhere(volume: Object, node: str, view: View) -> bool:
    """True for a volume of one node at a time that another node has, or is about to have."""
    return _is_exclusive(volume) and any(_node_of(one) != node for one in _of_volume(volume, view))


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


def in_use(node: Object | None) -> list[str]:
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
    volume = view.get(VOLUMES, "", _volume_name(attachment))
    handle = (meta.spec(volume).get("csi") or {}).get("volumeHandle") if volume is not None else ""
    return attachable_name(str(meta.spec(attachment).get("attacher")), str(handle or ""))


def _volume_name(attachment: Object) -> str:
    return str((meta.spec(attachment).get("source") or {}).get("persistentVolumeName") or "")


def _node_of(attachment: Object) -> str:
    return str(meta.spec(attachment).get("nodeName") or "")


def _is_out_of_service(node: Object) -> bool:
    taints = meta.spec(node).get("taints") or ()
    return any(one.get("key") == OUT_OF_SERVICE and one.get("effect") == NO_EXECUTE for one in taints)


def _bearing(node: Object) -> tuple[list[str], bool, bool]:
    """What of a node bears upon what is attached to it."""
    return in_use(node), meta.condition_is(node, "Ready"), _is_out_of_service(node)
