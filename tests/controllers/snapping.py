"""Hosts that keep snapshots, and the objects of snapshots' kinds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.controllers.snapshot_sources import CLASSES, CONTENTS, GROUP, SNAPSHOTS
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.csi import csi_pb2 as csi
from tests.controllers.cluster import Cluster

GI = 1024**3
KINDS = {SNAPSHOTS: "VolumeSnapshot", CONTENTS: "VolumeSnapshotContent", CLASSES: "VolumeSnapshotClass"}


class Hosts:
    """The hosts of nodes: each keeps snapshots, unless it is `broken`."""

    def __init__(self) -> None:
        self.kept: dict[str, csi.Snapshot] = {}
        self.broken: RpcError | None = None
        self.calls: list[str] = []

    def call(self, address: str, node: str, driver: str) -> Any:
        async def create(request: csi.CreateSnapshotRequest) -> csi.CreateSnapshotResponse:
            self._do(f"create {request.name} of {request.source_volume_id} on {node}")
            made = csi.Snapshot(
                snapshot_id=f"{node}/{request.name}", source_volume_id=request.source_volume_id, size_bytes=GI
            )
            made.ready_to_use = True
            made.creation_time.FromSeconds(1_700_000_000)
            self.kept[made.snapshot_id] = made
            return csi.CreateSnapshotResponse(snapshot=made)

        async def delete(request: csi.DeleteSnapshotRequest) -> csi.DeleteSnapshotResponse:
            self._do(f"delete {request.snapshot_id} on {node}")
            self.kept.pop(request.snapshot_id, None)
            return csi.DeleteSnapshotResponse()

        async def find(request: csi.ListSnapshotsRequest) -> csi.ListSnapshotsResponse:
            self._do(f"list {request.snapshot_id} on {node}")
            found = [self.kept[request.snapshot_id]] if request.snapshot_id in self.kept else []
            entry = csi.ListSnapshotsResponse.Entry
            return csi.ListSnapshotsResponse(entries=[entry(snapshot=one) for one in found])

        assert address == f"host-{node}:1"
        assert driver == "rayplane.io/local"
        return SimpleNamespace(CreateSnapshot=create, DeleteSnapshot=delete, ListSnapshots=find)

    def _do(self, what: str) -> None:
        self.calls.append(what)
        if self.broken is not None:
            raise self.broken


def custom(cluster: Cluster, resource: str, name: str, namespace: str = "default", **fields: Any) -> Object:
    own: dict[str, Any] = {"name": name, **fields.pop("metadata", {})}
    if namespace:
        own["namespace"] = namespace
    made = {"apiVersion": f"{GROUP}/v1", "kind": KINDS[resource], "metadata": own, **fields}
    return cluster.create(resource, made)
