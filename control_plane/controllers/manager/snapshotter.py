"""The snapshotter, the outside part of snapshots: CSI calls to the node hosts that keep the bytes.

Taking and deleting are idempotent by CSI's contract, so they are simply tried again. What went wrong is written into
the content's status, and told by an event, when it is not what is said there already.
Source: Container Storage Interface v1, Controller service; reasons and messages as the external snapshotter's sidecar.
"""

from __future__ import annotations

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.actions import (
    Action,
    DeleteSnapshot,
    Event,
    TakeSnapshot,
    UpdateStatus,
    Write,
)
from rayplane.control_plane.controllers.manager.executor import ActionFailed
from rayplane.control_plane.controllers.manager.provisioner import Provisioner
from rayplane.control_plane.controllers.snapshot_sources import told
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.csi import csi_pb2 as csi

_NANOS = 1_000_000_000


class Snapshotter:
    """A snapshotter that takes and deletes snapshots on node hosts."""

    def __init__(self, hosts: Provisioner) -> None:
        self._hosts = hosts

    async def take(self, action: Action) -> list[Write]:
        """Returns the write of the content's status, which says either how it went or why not."""
        assert isinstance(action, TakeSnapshot)
        errors = []
        for node, address in action.targets:
            try:
                found = await self._taken(action, node, address)
            except RpcError as e:
                errors.append(f"{node}: {e.message}")
                continue
            if found is not None:
                return [_ready(action, found)]
            errors.append(f"{node}: there is no snapshot {action.snapshot_id}")
        return _told(action, "; ".join(errors))

    async def _taken(self, action: TakeSnapshot, node: str, address: str) -> csi.Snapshot | None:
        call = self._hosts.call(address, node, action.driver)
        if action.snapshot_id:
            listed = await call.ListSnapshots(csi.ListSnapshotsRequest(snapshot_id=action.snapshot_id))
            return listed.entries[0].snapshot if listed.entries else None
        request = csi.CreateSnapshotRequest(
            name=action.name, source_volume_id=action.volume_id, parameters=action.parameters
        )
        found: csi.Snapshot = (await call.CreateSnapshot(request)).snapshot
        return found

    async def delete(self, action: Action) -> list[Write]:
        """Delete the bytes; returns the write that says so. Raises ActionFailed."""
        assert isinstance(action, DeleteSnapshot)
        errors = []
        for node, address in action.targets:
            request = csi.DeleteSnapshotRequest(snapshot_id=action.snapshot_id)
            try:
                await self._hosts.call(address, node, action.driver).DeleteSnapshot(request)
            except RpcError as e:
                errors.append(f"{node}: {e.message}")
                continue
            return [action.done]
        if not errors:
            return [action.done]
        event = Event(action.content, "Warning", "SnapshotDeleteError", "Failed to delete snapshot")
        raise ActionFailed("; ".join(errors), event=event)


def _ready(action: TakeSnapshot, found: csi.Snapshot) -> UpdateStatus:
    status = {key: value for key, value in meta.status(action.content).items() if key != "error"}
    status |= {
        "snapshotHandle": found.snapshot_id,
        "readyToUse": found.ready_to_use,
        "restoreSize": found.size_bytes,
        "creationTime": found.creation_time.seconds * _NANOS + found.creation_time.nanos,
    }
    return UpdateStatus(action.failed.resource, {**action.content, "status": status})


def _told(action: TakeSnapshot, error: str) -> list[Write]:
    write = told(action.failed, error)
    before = (meta.status(action.content).get("error") or {}).get("message")
    return [write] if meta.status(write.obj)["error"]["message"] != before else []
