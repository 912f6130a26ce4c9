"""Pure questions about snapshots: whose they are, who holds them, what a claim is to be made from.

Source: snapshot.storage.k8s.io/v1 (external-snapshotter); Kubernetes concepts "Persistent Volumes" (data sources).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import LOCAL, capacity_bytes, is_bound, requested_bytes, same_mode
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.actions import UpdateStatus
from rayplane.control_plane.controllers.core import View
from rayplane.control_plane.controllers.volume_match import is_bound_to, nodes_of

GROUP = "snapshot.storage.k8s.io"
CLAIM_KIND = "PersistentVolumeClaim"
SNAPSHOTS, CONTENTS, CLASSES = (
    f"volumesnapshots.{GROUP}",
    f"volumesnapshotcontents.{GROUP}",
    f"volumesnapshotclasses.{GROUP}",
)


def claim_of(snapshot: Object) -> str:
    """The claim a snapshot is taken of; empty for one that is there already."""
    return (meta.spec(snapshot).get("source") or {}).get("persistentVolumeClaimName") or ""


def named_content(snapshot: Object) -> str:
    """The content, made beforehand, that a snapshot asks for."""
    return (meta.spec(snapshot).get("source") or {}).get("volumeSnapshotContentName") or ""


def content_of(snapshot: Object) -> str:
    """The name of a snapshot's content, be it there or not."""
    bound = meta.status(snapshot).get("boundVolumeSnapshotContentName")
    return bound or named_content(snapshot) or f"snapcontent-{meta.uid(snapshot)}"


def is_bound_back(content: Object, snapshot: Object) -> bool:
    """A content names this snapshot (one without a uid was written by a user)."""
    ref = meta.spec(content).get("volumeSnapshotRef") or {}
    return (
        ref.get("name") == meta.name(snapshot)
        and ref.get("namespace") == meta.namespace(snapshot)
        and ref.get("uid") in (None, "", meta.uid(snapshot))
    )


def data_source(claim: Object) -> tuple[str, str, str]:
    """Group, kind and name of what a claim's first bytes come from; empty for none."""
    spec = meta.spec(claim)
    source = spec.get("dataSourceRef") or spec.get("dataSource") or {}
    return source.get("apiGroup") or "", source.get("kind") or "", source.get("name") or ""


def snapshot_of(claim: Object) -> str:
    """The snapshot that a claim is made from; empty for none."""
    group, kind, name = data_source(claim)
    return name if (group, kind) == (GROUP, "VolumeSnapshot") else ""


def is_being_restored(claim: Object, snapshot: Object) -> bool:
    return snapshot_of(claim) == meta.name(snapshot) and meta.status(claim).get("phase") == "Pending"


def node_of(handle: str) -> str:
    """The node that holds a local snapshot, which its handle tells."""
    return handle.rpartition("/")[0]


def told(write: UpdateStatus, error: str) -> UpdateStatus:
    """The write of a content's status, and its event, with an error where they have `{error}`."""
    status = meta.status(write.obj)
    message = status["error"]["message"].replace("{error}", error)
    done = write.done and replace(write.done, message=message)
    return replace(
        write, obj={**write.obj, "status": {**status, "error": {**status["error"], "message": message}}}, done=done
    )


def may_come_back(handle: str, driver: str, view: View) -> bool:
    """Whether there is a node that could still be asked for a snapshot, one day."""
    return driver != LOCAL or view.get("nodes", "", node_of(handle)) is not None


@dataclass(frozen=True, slots=True)
class Origin:
    """The source of a new volume. `node`: the only one that can make it; empty if any can."""

    snapshot_id: str = ""
    volume_id: str = ""
    node: str = ""


def is_populated(claim: Object) -> bool:
    """Somebody else fills the claim's volume: its source is of a kind that no driver knows."""
    group, kind, _ = data_source(claim)
    return (group, kind) not in (("", ""), ("", CLAIM_KIND), (GROUP, "VolumeSnapshot"))


def origin_of(claim: Object, driver: str, view: View) -> Origin | str:
    """What a claim's volume is to be made from, or why it cannot be now; an empty one for no source."""
    _, kind, name = data_source(claim)
    if not kind:
        return Origin()
    return _cloned(claim, name, driver, view) if kind == CLAIM_KIND else _restored(claim, name, driver, view)


def _restored(claim: Object, name: str, driver: str, view: View) -> Origin | str:
    snapshot = view.get(SNAPSHOTS, meta.namespace(claim), name)
    prefix = f"error getting handle for DataSource Type VolumeSnapshot by Name {name}: "
    if snapshot is None:
        return f'{prefix}error getting snapshot {name} from api server: {SNAPSHOTS} "{name}" not found'
    if meta.is_deleting(snapshot):
        return f"{prefix}snapshot {name} is currently being deleted"
    if meta.status(snapshot).get("readyToUse") is not True:
        return f"{prefix}snapshot {name} is not Ready"
    content = view.get(CONTENTS, "", content_of(snapshot))
    if (
        content is None
        or not is_bound_back(content, snapshot)
        or not meta.spec(content)["volumeSnapshotRef"].get("uid")
    ):
        return f"{prefix}snapshot {name} is not bound to its content"
    if meta.spec(content).get("driver") != driver:
        return f"{prefix}snapshot {name} is of driver {meta.spec(content).get('driver')}, the class of {driver}"
    handle = meta.status(content).get("snapshotHandle")
    if not handle:
        return f"{prefix}snapshot {name} has no handle"
    least = int(meta.status(content).get("restoreSize") or 0)
    if requested_bytes(claim) < least:
        asked = requested_bytes(claim)
        return f"{prefix}requested volume size {asked} is less than the size {least} for the source snapshot {name}"
    return Origin(snapshot_id=handle, node=node_of(handle) if driver == LOCAL else "")


def _cloned(claim: Object, name: str, driver: str, view: View) -> Origin | str:
    source = view.get("persistentvolumeclaims", meta.namespace(claim), name)
    prefix = f"error getting handle for DataSource Type {CLAIM_KIND} by Name {name}: "
    if source is None:
        return f'{prefix}error getting PVC {name} from api server: persistentvolumeclaims "{name}" not found'
    if meta.is_deleting(source):
        return f"{prefix}the PVC DataSource {name} is currently being deleted"
    volume = view.get("persistentvolumes", "", meta.spec(source).get("volumeName") or "") if is_bound(source) else None
    if volume is None or not is_bound_to(volume, source):
        return f"{prefix}the PVC DataSource {name} is not bound"
    known = meta.spec(volume).get("csi") or {}
    if known.get("driver") != driver:
        return f"{prefix}the source PVC is of driver {known.get('driver') or 'none'}, the class of {driver}"
    if not same_mode(volume, claim):
        return f"{prefix}the source PVC and destination PVCs for claim {meta.name(claim)} have different volume modes"
    if requested_bytes(claim) < capacity_bytes(volume):
        return (
            f"{prefix}error, new PVC request must be greater than or equal in size to the specified PVC data source, "
            f"requested {requested_bytes(claim)} but source is {capacity_bytes(volume)}"
        )
    held = nodes_of(volume) if driver == LOCAL else []
    return Origin(volume_id=str(known.get("volumeHandle") or ""), node=held[0] if held else "")
