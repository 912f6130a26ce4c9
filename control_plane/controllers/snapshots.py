"""Volume snapshots of the cluster's own drivers: from a claim to a content, and a snapshot that can be restored.

What the external snapshotter's two parts do, for volumes of `rayplane.io/local` and `rayplane.io/replicated`; a class
may also name the provisioner by which its volume was asked for. Snapshots of other drivers are left alone. Keys:
`snapshot/NAMESPACE/NAME` and `content/NAME`. The kinds are custom resources: nothing is watched until they are served.
Source: snapshot.storage.k8s.io/v1 (external-snapshotter), Kubernetes concepts "Volume Snapshots"; reasons and messages
as the external snapshotter writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.claims import LOCAL, REPLICATED, is_bound
from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers import snapshot_sources as sources
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    DeleteSnapshot,
    Event,
    Patch,
    TakeSnapshot,
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
    result,
)
from rayplane.control_plane.controllers.finalizers import with_finalizers, without_finalizer
from rayplane.control_plane.controllers.provisioning import hosts, targets_of
from rayplane.control_plane.controllers.snapshot_sources import CLASSES, CONTENTS, GROUP, SNAPSHOTS, content_of
from rayplane.control_plane.controllers.volume_match import PROVISIONED_BY, is_bound_to

CLAIMS, VOLUMES = "persistentvolumeclaims", "persistentvolumes"
DEFAULT_CLASS = "snapshot.storage.kubernetes.io/is-default-class"
BEING_CREATED = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
BEING_DELETED = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
CLAIM_FINALIZER = "snapshot.storage.kubernetes.io/pvc-as-source-protection"
SOURCE_FINALIZER = "snapshot.storage.kubernetes.io/volumesnapshot-as-source-protection"
BOUND_FINALIZER = "snapshot.storage.kubernetes.io/volumesnapshot-bound-protection"
CONTENT_FINALIZER = "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"
RETRY_S = 5.0
_NANOS = 1_000_000_000
_START = datetime(1970, 1, 1, tzinfo=UTC)


class _Refused(Exception):
    """The reason why a snapshot cannot be taken now; `reason`: of the event."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Foreign(Exception):
    """Another driver's snapshot."""


def _snapshot_keys(snapshot: Object, _: View) -> Iterable[str]:
    named = content_of(snapshot)
    return [f"snapshot/{meta.key(snapshot)}", *([f"content/{named}"] if named else [])]


def _content_keys(content: Object, _: View) -> Iterable[str]:
    ref = meta.spec(content).get("volumeSnapshotRef") or {}
    return f"content/{meta.name(content)}", f"snapshot/{ref.get('namespace') or ''}/{ref.get('name') or ''}"


def _keys_of_claim(claim: Object, view: View) -> Iterable[str]:
    """Snapshots of a claim, and those it is made from."""
    names = (meta.name(claim), sources.snapshot_of(claim))
    return [
        f"snapshot/{meta.key(snapshot)}"
        for snapshot in in_namespace(view, SNAPSHOTS, meta.namespace(claim))
        if sources.claim_of(snapshot) == names[0] or meta.name(snapshot) == names[1]
    ]


class SnapshotController(CustomController):
    name = "volumesnapshot"
    component = "snapshot-controller"

    def __init__(self) -> None:
        self.custom = (Watch(SNAPSHOTS, _snapshot_keys), Watch(CONTENTS, _content_keys), Watch(CLASSES, None))
        self.watches = (Watch(CLAIMS, _keys_of_claim), Watch(VOLUMES, None), Watch("nodes", None))

    def reconcile(self, key: str, view: View, now: Moment) -> Result:
        kind, _, rest = key.partition("/")
        if kind == "content":
            content = view.get(CONTENTS, "", rest)
            return NOTHING if content is None else reconcile_content(content, view, now)
        snapshot = view.get(SNAPSHOTS, *meta.split_key(rest))
        if snapshot is None:
            return NOTHING
        try:
            return _end(snapshot, view) if meta.is_deleting(snapshot) else _go_on(snapshot, view)
        except _Foreign:
            return NOTHING
        except _Refused as e:
            return _error(snapshot, e.reason, str(e), now)


# --- snapshots ----------------------------------------------------------------------------------


def _go_on(snapshot: Object, view: View) -> Result:
    """The next step of a snapshot that is to be."""
    claim_name, content_name = sources.claim_of(snapshot), sources.named_content(snapshot)
    if bool(claim_name) == bool(content_name):
        text = "Exactly one of PersistentVolumeClaimName and VolumeSnapshotContentName should be specified"
        raise _Refused("SnapshotValidationError", text)
    content = view.get(CONTENTS, "", content_of(snapshot))
    if content is None and meta.status(snapshot).get("boundVolumeSnapshotContentName"):
        raise _Refused("SnapshotContentMissing", "VolumeSnapshotContent is missing")
    if content is None and content_name:
        raise _Refused("SnapshotContentMissing", "VolumeSnapshotContent is missing")
    if content is None:
        return _begin(snapshot, view)
    _check_content(snapshot, content)
    missing = [f for f in (SOURCE_FINALIZER, BOUND_FINALIZER) if f not in meta.finalizers(snapshot)]
    if missing:
        return result([with_finalizers(SNAPSHOTS, snapshot, [*meta.finalizers(snapshot), *missing])])
    if not _ref(content).get("uid"):
        return result([_bind(snapshot, content)])
    return _follow(snapshot, content, view)


def _check_content(snapshot: Object, content: Object) -> None:
    """Raises _Foreign, _Refused."""
    if meta.spec(content).get("driver") not in (LOCAL, REPLICATED):
        raise _Foreign
    handle = (meta.spec(content).get("source") or {}).get("snapshotHandle")
    if sources.named_content(snapshot) and not handle:
        text = "VolumeSnapshotContent is dynamically provisioned while expecting a pre-provisioned one"
        raise _Refused("SnapshotContentMismatch", text)
    if not sources.named_content(snapshot) and handle:
        text = "is pre-provisioned while expecting a dynamically provisioned one"
        raise _Refused("SnapshotContentMismatch", f"VolumeSnapshotContent {meta.name(content)} {text}")
    if not sources.is_bound_back(content, snapshot):
        text = f"VolumeSnapshotContent [{meta.name(content)}] is bound to a different snapshot"
        raise _Refused("SnapshotContentMisbound", text)


def _begin(snapshot: Object, view: View) -> Result:
    """Protect the claim, and make the content."""
    claim = view.get(CLAIMS, meta.namespace(snapshot), sources.claim_of(snapshot))
    volume = _volume(snapshot, claim, view)
    spec = meta.spec(snapshot)
    if not spec.get("volumeSnapshotClassName"):
        name = meta.name(_default_class(volume, view))
        guard = {"uid": meta.uid(snapshot), "resourceVersion": meta.resource_version(snapshot)}
        patch = {"metadata": guard, "spec": {"volumeSnapshotClassName": name}}
        return result([Patch(SNAPSHOTS, meta.namespace(snapshot), meta.name(snapshot), patch)])
    known = _class(snapshot, volume, view)
    if SOURCE_FINALIZER not in meta.finalizers(snapshot):
        return result([with_finalizers(SNAPSHOTS, snapshot, [*meta.finalizers(snapshot), SOURCE_FINALIZER])])
    if CLAIM_FINALIZER not in meta.finalizers(claim or {}):
        if claim is None or meta.is_deleting(claim):
            raise _uncreated(snapshot, f"cannot add finalizer on claim {meta.name(claim or {})}: it is being deleted")
        return result([with_finalizers(CLAIMS, claim, [*meta.finalizers(claim), CLAIM_FINALIZER])])
    text = f"Waiting for a snapshot {meta.key(snapshot)} to be created by the CSI driver."
    made = _content(snapshot, known, volume)
    return result([Create(CONTENTS, made, done=Event(snapshot, "Normal", "CreatingSnapshot", text), exists_ok=True)])


def _uncreated(snapshot: Object, why: str) -> _Refused:
    text = f'failed to get input parameters to create snapshot {meta.name(snapshot)}: "{why}"'
    return _Refused("SnapshotContentCreationFailed", f"Failed to create snapshot content with error {text}")


def _volume(snapshot: Object, claim: Object | None, view: View) -> Object:
    """The volume that is to be copied. Raises _Foreign, _Refused."""
    named = meta.spec(snapshot).get("volumeSnapshotClassName")
    known = view.get(CLASSES, "", named) if named else None
    volume = None
    if claim is not None and is_bound(claim):
        volume = view.get(VOLUMES, "", meta.spec(claim)["volumeName"])
    if volume is None and known is not None and known.get("driver") not in (LOCAL, REPLICATED):
        raise _Foreign
    if claim is None:
        name = sources.claim_of(snapshot)
        raise _uncreated(
            snapshot, f'failed to retrieve PVC {name} from the lister: persistentvolumeclaim "{name}" not found'
        )
    if not is_bound(claim):
        raise _uncreated(
            snapshot, f"the PVC {meta.name(claim)} is not yet bound to a PV, will not attempt to take a snapshot"
        )
    if volume is None or not is_bound_to(volume, claim):
        raise _uncreated(snapshot, "claim in dataSource not bound or invalid")
    if _driver(volume) not in (LOCAL, REPLICATED):
        raise _Foreign
    return volume


def _driver(volume: Object) -> str:
    return str((meta.spec(volume).get("csi") or {}).get("driver") or "")


def _serves(known: Object, volume: Object) -> bool:
    """A class is of the volume's driver, or of the provisioner in whose place that stands."""
    return known.get("driver") in (_driver(volume), meta.annotations(volume).get(PROVISIONED_BY))


def _default_class(volume: Object, view: View) -> Object:
    marked = [c for c in view.list(CLASSES) if meta.annotations(c).get(DEFAULT_CLASS) == "true" and _serves(c, volume)]
    if len(marked) == 1:
        return marked[0]
    why = f"{len(marked)} default snapshot classes were found" if marked else "cannot find default snapshot class"
    raise _Refused("SetDefaultSnapshotClassFailed", f"Failed to set default snapshot class with error {why}")


def _class(snapshot: Object, volume: Object, view: View) -> Object:
    name = meta.spec(snapshot)["volumeSnapshotClassName"]
    known = view.get(CLASSES, "", name)
    if known is None:
        raise _uncreated(snapshot, f'volumesnapshotclass.{GROUP} "{name}" not found')
    if _serves(known, volume):
        return known
    if known.get("driver") not in (LOCAL, REPLICATED):
        raise _Foreign
    raise _uncreated(snapshot, f"class {name} is of driver {known.get('driver')}, the volume of {_driver(volume)}")


def _content(snapshot: Object, known: Object, volume: Object) -> Object:
    spec = {
        "deletionPolicy": known.get("deletionPolicy") or "Delete",
        "driver": _driver(volume),
        "source": {"volumeHandle": meta.spec(volume)["csi"]["volumeHandle"]},
        "sourceVolumeMode": meta.spec(volume).get("volumeMode") or "Filesystem",
        "volumeSnapshotClassName": meta.name(known),
        "volumeSnapshotRef": {
            "apiVersion": f"{GROUP}/v1",
            "kind": "VolumeSnapshot",
            "namespace": meta.namespace(snapshot),
            "name": meta.name(snapshot),
            "uid": meta.uid(snapshot),
            "resourceVersion": meta.resource_version(snapshot),
        },
    }
    own = {"name": content_of(snapshot), "finalizers": [CONTENT_FINALIZER]}
    return {"apiVersion": f"{GROUP}/v1", "kind": "VolumeSnapshotContent", "metadata": own, "spec": spec}


def _ref(content: Object) -> dict[str, Any]:
    return meta.spec(content).get("volumeSnapshotRef") or {}


def _bind(snapshot: Object, content: Object) -> Patch:
    """Let a content that was made beforehand know whose it is."""
    guard = {"uid": meta.uid(content), "resourceVersion": meta.resource_version(content)}
    spec: dict[str, Any] = {"volumeSnapshotRef": {"uid": meta.uid(snapshot)}}
    if meta.spec(snapshot).get("volumeSnapshotClassName"):
        spec["volumeSnapshotClassName"] = meta.spec(snapshot)["volumeSnapshotClassName"]
    return Patch(CONTENTS, "", meta.name(content), {"metadata": guard, "spec": spec})


def _follow(snapshot: Object, content: Object, view: View) -> Result:
    """The snapshot's status says what its content's does; a claim that has been copied is free."""
    before, theirs = meta.status(snapshot), meta.status(content)
    status = {k: v for k, v in before.items() if k != "error"}
    status |= {"boundVolumeSnapshotContentName": meta.name(content), "readyToUse": theirs.get("readyToUse") is True}
    if "creationTime" in theirs and "creationTime" not in status:
        taken = _START + timedelta(microseconds=int(theirs["creationTime"]) // 1000)
        status["creationTime"] = meta.format_time(taken)
    if theirs.get("restoreSize") and "restoreSize" not in status:
        status["restoreSize"] = str(
            quantity.Quantity(int(theirs["restoreSize"]) * quantity.NANO, quantity.Format.BINARY_SI)
        )
    if theirs.get("error") and not status["readyToUse"]:
        status["error"] = dict(theirs["error"])
    if status == before:
        return result(_freed(snapshot, view) if status["readyToUse"] else ())
    steps: list[Action] = []
    if "creationTime" in status and "creationTime" not in before:
        text = f"Snapshot {meta.key(snapshot)} was successfully created by the CSI driver."
        steps.append(Event(snapshot, "Normal", "SnapshotCreated", text))
    if status["readyToUse"] and not before.get("readyToUse"):
        steps.append(Event(snapshot, "Normal", "SnapshotReady", f"Snapshot {meta.key(snapshot)} is ready to use."))
    return result([UpdateStatus(SNAPSHOTS, {**snapshot, "status": status})], steps)


def _freed(snapshot: Object, view: View) -> list[Action]:
    """The claim is protected no more, unless another snapshot of it is under way."""
    claim = view.get(CLAIMS, meta.namespace(snapshot), sources.claim_of(snapshot))
    if claim is None or CLAIM_FINALIZER not in meta.finalizers(claim):
        return []
    for other in in_namespace(view, SNAPSHOTS, meta.namespace(snapshot)):
        unready = meta.status(other).get("readyToUse") is not True
        if sources.claim_of(other) == meta.name(claim) and meta.uid(other) != meta.uid(snapshot) and unready:
            return []
    return [without_finalizer(CLAIMS, claim, CLAIM_FINALIZER)]


def _end(snapshot: Object, view: View) -> Result:
    """The next step of a snapshot that goes: its content first, as its policy says."""
    ours = [f for f in meta.finalizers(snapshot) if f in (SOURCE_FINALIZER, BOUND_FINALIZER)]
    if not ours:
        return NOTHING
    content = view.get(CONTENTS, "", content_of(snapshot))
    if content is not None and (not _ref(content).get("uid") or not sources.is_bound_back(content, snapshot)):
        content = None
    if content is None:
        rest = [f for f in meta.finalizers(snapshot) if f not in ours]
        return result(_freed(snapshot, view), [with_finalizers(SNAPSHOTS, snapshot, rest)])
    if meta.spec(content).get("driver") not in (LOCAL, REPLICATED):
        raise _Foreign
    if any(
        sources.is_being_restored(claim, snapshot) for claim in in_namespace(view, CLAIMS, meta.namespace(snapshot))
    ):
        text = "Snapshot is being used to restore a PVC"
        return result([Event(snapshot, "Warning", "SnapshotDeletePending", text)], requeue_after=RETRY_S)
    if BEING_DELETED not in meta.annotations(content):
        return result([_annotate(content, BEING_DELETED, "yes")])
    if meta.spec(content).get("deletionPolicy") == "Delete":
        return result([Delete(CONTENTS, content)] if not meta.is_deleting(content) else ())
    rest = [f for f in meta.finalizers(snapshot) if f not in ours]
    return result(_freed(snapshot, view), [with_finalizers(SNAPSHOTS, snapshot, rest)])


def _error(snapshot: Object, reason: str, text: str, now: Moment) -> Result:
    status = meta.status(snapshot)
    if (status.get("error") or {}).get("message") == text:
        return result(requeue_after=RETRY_S)
    status = {**status, "error": {"message": text, "time": now.stamp}, "readyToUse": False}
    event = Event(snapshot, "Warning", reason, text)
    return result([UpdateStatus(SNAPSHOTS, {**snapshot, "status": status}, done=event)], requeue_after=RETRY_S)


def _annotate(content: Object, note: str, value: str | None) -> Patch:
    body = {"metadata": {"uid": meta.uid(content), "annotations": {note: value}}}
    return Patch(CONTENTS, "", meta.name(content), body)


# --- contents -----------------------------------------------------------------------------------


def reconcile_content(content: Object, view: View, now: Moment) -> Result:
    """The next step of a content: take the snapshot, look whether it is there, delete it."""
    spec = meta.spec(content)
    source = spec.get("source") or {}
    if spec.get("driver") not in (LOCAL, REPLICATED):
        return NOTHING
    if bool(source.get("volumeHandle")) == bool(source.get("snapshotHandle")):
        text = "Exactly one of VolumeHandle and SnapshotHandle should be specified"
        return result([Event(content, "Warning", "ContentValidationError", text)])
    notes = meta.annotations(content)
    if meta.is_deleting(content):
        unbound = bool(source.get("snapshotHandle")) and not _ref(content).get("uid")
        if unbound or (BEING_DELETED in notes and BEING_CREATED not in notes):
            return _remove(content, view)
        if BEING_CREATED not in notes:
            return NOTHING  # its snapshot is there: it goes before its content
    elif CONTENT_FINALIZER not in meta.finalizers(content) and _ref(content).get("uid"):
        return result([with_finalizers(CONTENTS, content, [*meta.finalizers(content), CONTENT_FINALIZER])])
    if meta.status(content).get("readyToUse"):
        return result([_annotate(content, BEING_CREATED, None)] if BEING_CREATED in notes else ())
    return _look(content, view, now) if source.get("snapshotHandle") else _take(content, view, now)


def _take(content: Object, view: View, now: Moment) -> Result:
    spec = meta.spec(content)
    handle, driver = spec["source"]["volumeHandle"], spec["driver"]
    if BEING_CREATED not in meta.annotations(content):
        return result([_annotate(content, BEING_CREATED, "yes")])
    volume = next((v for v in view.list(VOLUMES) if _driver(v) == driver and _handle(v) == handle), None)
    targets = targets_of(volume, view) if volume is not None else ()
    text = f'Failed to create snapshot: failed to take snapshot of the volume {handle}: "{{error}}"'
    failed = _failed(content, "SnapshotCreationFailed", text, now)
    if not targets:
        if meta.is_deleting(content):  # what never came to be needs nobody's answer
            return result([_annotate(content, BEING_CREATED, None)])
        why = "no node that holds it is ready" if volume is not None else "there is no such volume"
        return _unasked(content, failed, why)
    known = view.get(CLASSES, "", spec.get("volumeSnapshotClassName") or "")
    parameters = {k: str(v) for k, v in ((known or {}).get("parameters") or {}).items()}
    # As the external snapshotter names them, after the snapshot.
    name = f"snapshot-{_ref(content).get('uid') or meta.uid(content)}"
    take = TakeSnapshot(content, driver, targets, failed, name=name, volume_id=handle, parameters=parameters)
    return result([take], requeue_after=RETRY_S)


def _look(content: Object, view: View, now: Moment) -> Result:
    spec = meta.spec(content)
    handle, driver = spec["source"]["snapshotHandle"], spec["driver"]
    failed = _failed(
        content, "SnapshotContentCheckandUpdateFailed", "Failed to check and update snapshot content: {error}", now
    )
    targets = hosts(view, [sources.node_of(handle)], local=driver == LOCAL)
    if not targets:
        return _unasked(content, failed, f"no node that could hold snapshot {handle} is ready")
    return result([TakeSnapshot(content, driver, targets, failed, snapshot_id=handle)], requeue_after=RETRY_S)


def _failed(content: Object, reason: str, text: str, now: Moment) -> UpdateStatus:
    status = {**meta.status(content), "error": {"message": text, "time": now.stamp}, "readyToUse": False}
    return UpdateStatus(CONTENTS, {**content, "status": status}, done=Event(content, "Warning", reason, text))


def _unasked(content: Object, failed: UpdateStatus, why: str) -> Result:
    """Nobody can be asked now: say so, once."""
    write = sources.told(failed, why)
    before = (meta.status(content).get("error") or {}).get("message")
    return result([write] if meta.status(write.obj)["error"]["message"] != before else (), requeue_after=RETRY_S)


def _remove(content: Object, view: View) -> Result:
    """The bytes, where the policy says so; then the content."""
    status = meta.status(content)
    handle = status.get("snapshotHandle")
    if handle and meta.spec(content).get("deletionPolicy") == "Delete":
        driver = meta.spec(content)["driver"]
        targets = hosts(view, [sources.node_of(handle)], local=driver == LOCAL)
        if not targets and sources.may_come_back(handle, driver, view):
            event = Event(content, "Warning", "SnapshotDeleteError", "Failed to delete snapshot")
            return result([event], requeue_after=RETRY_S)
        gone = ("snapshotHandle", "readyToUse", "creationTime", "restoreSize")
        cleared = {**content, "status": {k: v for k, v in status.items() if k not in gone}}
        return result([DeleteSnapshot(content, driver, targets, handle, UpdateStatus(CONTENTS, cleared))])
    if CONTENT_FINALIZER not in meta.finalizers(content):
        return NOTHING
    return result([without_finalizer(CONTENTS, content, CONTENT_FINALIZER)])


def _handle(volume: Object) -> str:
    return str(meta.spec(volume)["csi"].get("volumeHandle") or "")
