"""The Container Storage Interface (v1) in front of the backends of a node host.

Handlers for `csi.v1` Identity, Controller and Node. A CSI plugin serves one driver on one node; a host may serve
several, so call metadata may say which: `csi-driver` and `csi-node` (without them: the first driver, the first node;
CreateVolume also takes the node from the topology asked for). There are no mounts without root: NodePublishVolume makes
`target_path` a symbolic link to the volume's directory, and `target_path`.sync one to its sync barrier, if it has one;
`readonly` is up to the pod. Volumes grow in use, without a part of the
node. Snapshots are whole copies, ready when they are there; volumes are made from them, and from other volumes.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from rayplane.node.volumes.backend import Backend, Published, Snapshot, Snapshots, Source, VolumeInfo
from rayplane.node.volumes.errors import InvalidVolume, NotOffered, StaleToken, VolumeNotFound
from rayplane.proto.csi import csi_pb2 as csi
from rayplane.storage.beneath import is_whole

DEFAULT_CAPACITY_BYTES = 1024**3
"""Of a volume created without a size."""
_DIGITS_MAX = 19
TOPOLOGY_KEY = "kubernetes.io/hostname"
_Mode = csi.VolumeCapability.AccessMode
_SINGLE_NODE = frozenset(
    {
        _Mode.SINGLE_NODE_WRITER,
        _Mode.SINGLE_NODE_READER_ONLY,
        _Mode.SINGLE_NODE_SINGLE_WRITER,
        _Mode.SINGLE_NODE_MULTI_WRITER,
    }
)


class CsiDriver:
    """The CSI services of a host. `backends`: driver name (the provisioner) -> node name -> backend."""

    def __init__(self, backends: Mapping[str, Mapping[str, Backend]], *, version: str) -> None:
        self._backends, self._version = backends, version

    # Choosing

    def _driver(self, context: Any) -> str:
        name = context.metadata.get("csi-driver") or next(iter(self._backends))
        if name not in self._backends:
            raise VolumeNotFound(f"driver {name} is not served here, but {', '.join(self._backends)}")
        return str(name)

    def _backend(self, context: Any, node: str = "") -> Backend:
        nodes = self._backends[self._driver(context)]
        name = context.metadata.get("csi-node") or node or next(iter(nodes))
        if name not in nodes:
            raise VolumeNotFound(f"node {name} is not on this host")
        return nodes[name]

    # Identity

    async def GetPluginInfo(self, request: csi.GetPluginInfoRequest, context: Any) -> csi.GetPluginInfoResponse:
        return csi.GetPluginInfoResponse(name=self._driver(context), vendor_version=self._version)

    async def GetPluginCapabilities(
        self, request: csi.GetPluginCapabilitiesRequest, context: Any
    ) -> csi.GetPluginCapabilitiesResponse:
        service, expansion = csi.PluginCapability.Service, csi.PluginCapability.VolumeExpansion
        return csi.GetPluginCapabilitiesResponse(
            capabilities=[
                *(
                    csi.PluginCapability(service=service(type=kind))
                    for kind in (service.CONTROLLER_SERVICE, service.VOLUME_ACCESSIBILITY_CONSTRAINTS)
                ),
                csi.PluginCapability(volume_expansion=expansion(type=expansion.ONLINE)),
            ]
        )

    async def Probe(self, request: csi.ProbeRequest, context: Any) -> csi.ProbeResponse:
        return csi.ProbeResponse(ready={"value": True})

    # Controller

    async def ControllerGetCapabilities(
        self, request: csi.ControllerGetCapabilitiesRequest, context: Any
    ) -> csi.ControllerGetCapabilitiesResponse:
        rpc = csi.ControllerServiceCapability.RPC
        return csi.ControllerGetCapabilitiesResponse(
            capabilities=[
                csi.ControllerServiceCapability(rpc=rpc(type=kind))
                for kind in (
                    rpc.CREATE_DELETE_VOLUME,
                    rpc.PUBLISH_UNPUBLISH_VOLUME,
                    rpc.GET_CAPACITY,
                    rpc.EXPAND_VOLUME,
                    rpc.SINGLE_NODE_MULTI_WRITER,
                    *self._of_snapshots(context),
                )
            ]
        )

    def _of_snapshots(self, context: Any) -> tuple[Any, ...]:
        rpc = csi.ControllerServiceCapability.RPC
        if not isinstance(self._backend(context), Snapshots):
            return ()
        return rpc.CREATE_DELETE_SNAPSHOT, rpc.LIST_SNAPSHOTS, rpc.CLONE_VOLUME

    async def CreateVolume(self, request: csi.CreateVolumeRequest, context: Any) -> csi.CreateVolumeResponse:
        backend = self._backend(context, _wanted_node(request.accessibility_requirements, self._nodes(context)))
        reason = _refusal(request.volume_capabilities, single_node=False)
        if reason or not request.volume_capabilities:
            raise InvalidVolume(reason or "volume_capabilities must not be empty")
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        size = required or (min(limit, DEFAULT_CAPACITY_BYTES) if limit else DEFAULT_CAPACITY_BYTES)
        if limit and size > limit:
            raise InvalidVolume(f"required_bytes {required} is above limit_bytes {limit}")
        if not request.HasField("volume_content_source"):
            return csi.CreateVolumeResponse(volume=_volume(await backend.create(request.name, size)))
        wanted = request.volume_content_source
        source = Source(wanted.snapshot.snapshot_id, wanted.volume.volume_id)
        if not isinstance(backend, Snapshots):
            raise NotOffered(f"driver {self._driver(context)} makes no volumes from others: create an empty one")
        if not (source.snapshot_id or source.volume_id):
            raise InvalidVolume("volume_content_source must name a snapshot or a volume")
        made = _volume(await backend.create(request.name, size, source))
        made.content_source.CopyFrom(wanted)
        return csi.CreateVolumeResponse(volume=made)

    # Snapshots

    async def CreateSnapshot(self, request: csi.CreateSnapshotRequest, context: Any) -> csi.CreateSnapshotResponse:
        backend = _taker(await self._holder(context, request.source_volume_id))
        found = await backend.snapshot(request.name, request.source_volume_id)
        return csi.CreateSnapshotResponse(snapshot=_snapshot(found))

    async def DeleteSnapshot(self, request: csi.DeleteSnapshotRequest, context: Any) -> csi.DeleteSnapshotResponse:
        # The driver of a node knows which node a snapshot is on: what is elsewhere is not taken for gone.
        await _taker(self._backend(context, request.snapshot_id.rpartition("/")[0])).delete_snapshot(
            request.snapshot_id
        )
        return csi.DeleteSnapshotResponse()

    async def ListSnapshots(self, request: csi.ListSnapshotsRequest, context: Any) -> csi.ListSnapshotsResponse:
        one = "csi-node" in context.metadata
        found: dict[str, Snapshot] = {}
        for backend in [self._backend(context)] if one else self._nodes(context).values():
            found.update((snapshot.snapshot_id, snapshot) for snapshot in await _taker(backend).snapshots())
        wanted = [
            snapshot
            for key, snapshot in sorted(found.items())
            if request.snapshot_id in ("", key) and request.source_volume_id in ("", snapshot.volume_id)
        ]
        start = _token(request.starting_token, len(wanted))
        end = min(len(wanted), start + request.max_entries) if request.max_entries > 0 else len(wanted)
        entry = csi.ListSnapshotsResponse.Entry
        return csi.ListSnapshotsResponse(
            entries=[entry(snapshot=_snapshot(snapshot)) for snapshot in wanted[start:end]],
            next_token=str(end) if end < len(wanted) else "",
        )

    def _nodes(self, context: Any) -> Mapping[str, Backend]:
        return self._backends[self._driver(context)]

    async def DeleteVolume(self, request: csi.DeleteVolumeRequest, context: Any) -> csi.DeleteVolumeResponse:
        await (await self._holder(context, request.volume_id)).delete(request.volume_id)
        return csi.DeleteVolumeResponse()

    async def _holder(self, context: Any, volume_id: str) -> Backend:
        """The backend of this host that knows a volume; any if none does."""
        if "csi-node" not in context.metadata:
            for backend in self._nodes(context).values():
                with contextlib.suppress(VolumeNotFound):
                    await backend.find(volume_id)
                    return backend
        return self._backend(context)

    async def ControllerExpandVolume(
        self, request: csi.ControllerExpandVolumeRequest, context: Any
    ) -> csi.ControllerExpandVolumeResponse:
        required, limit = request.capacity_range.required_bytes, request.capacity_range.limit_bytes
        if limit and required > limit:
            raise InvalidVolume(f"required_bytes {required} is above limit_bytes {limit}")
        backend = await self._holder(context, request.volume_id)
        info = await backend.expand(request.volume_id, required)
        return csi.ControllerExpandVolumeResponse(capacity_bytes=info.capacity_bytes, node_expansion_required=False)

    async def ControllerPublishVolume(
        self, request: csi.ControllerPublishVolumeRequest, context: Any
    ) -> csi.ControllerPublishVolumeResponse:
        """Attach nothing; say whether the node could use the volume."""
        info = await (await self._holder(context, request.volume_id)).find(request.volume_id)
        if info.nodes and request.node_id not in info.nodes:
            raise InvalidVolume(f"volume {request.volume_id} is on node {', '.join(info.nodes)}, not {request.node_id}")
        return csi.ControllerPublishVolumeResponse()

    async def ControllerUnpublishVolume(
        self, request: csi.ControllerUnpublishVolumeRequest, context: Any
    ) -> csi.ControllerUnpublishVolumeResponse:
        """The node, alive or not, has no more use of the volume; without a node, nobody has."""
        release: Callable[[str, str], Any] | None = getattr(self._backend(context), "release", None)
        if release is not None:
            with contextlib.suppress(VolumeNotFound):
                await release(request.volume_id, request.node_id)
        return csi.ControllerUnpublishVolumeResponse()

    async def ValidateVolumeCapabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest, context: Any
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        info = await (await self._holder(context, request.volume_id)).find(request.volume_id)
        # A volume of one node serves all that run there, whatever they call it.
        reason = _refusal(request.volume_capabilities, single_node=not info.nodes)
        if reason:
            return csi.ValidateVolumeCapabilitiesResponse(message=reason)
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(volume_capabilities=request.volume_capabilities)
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    async def GetCapacity(self, request: csi.GetCapacityRequest, context: Any) -> csi.GetCapacityResponse:
        node = request.accessible_topology.segments.get(TOPOLOGY_KEY, "")
        return csi.GetCapacityResponse(available_capacity=await self._backend(context, node).free_bytes())

    # Node

    async def NodeGetCapabilities(
        self, request: csi.NodeGetCapabilitiesRequest, context: Any
    ) -> csi.NodeGetCapabilitiesResponse:
        rpc = csi.NodeServiceCapability.RPC
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[
                csi.NodeServiceCapability(rpc=rpc(type=kind))
                for kind in (rpc.STAGE_UNSTAGE_VOLUME, rpc.GET_VOLUME_STATS, rpc.SINGLE_NODE_MULTI_WRITER)
            ]
        )

    async def NodeGetInfo(self, request: csi.NodeGetInfoRequest, context: Any) -> csi.NodeGetInfoResponse:
        node = self._backend(context).node
        return csi.NodeGetInfoResponse(node_id=node, accessible_topology=csi.Topology(segments={TOPOLOGY_KEY: node}))

    async def NodeStageVolume(self, request: csi.NodeStageVolumeRequest, context: Any) -> csi.NodeStageVolumeResponse:
        await self._backend(context).publish(request.volume_id)
        return csi.NodeStageVolumeResponse()

    async def NodeUnstageVolume(
        self, request: csi.NodeUnstageVolumeRequest, context: Any
    ) -> csi.NodeUnstageVolumeResponse:
        await self._backend(context).unpublish(request.volume_id)
        return csi.NodeUnstageVolumeResponse()

    async def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest, context: Any
    ) -> csi.NodePublishVolumeResponse:
        check_target(request.target_path)
        published = await self._backend(context).publish(request.volume_id)
        await asyncio.get_running_loop().run_in_executor(None, _link, request.target_path, published)
        return csi.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, context: Any
    ) -> csi.NodeUnpublishVolumeResponse:
        check_target(request.target_path)
        published = self._backend(context).published_at(request.volume_id)
        await asyncio.get_running_loop().run_in_executor(None, _unlink, request.target_path, published)
        return csi.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest, context: Any
    ) -> csi.NodeGetVolumeStatsResponse:
        usage = await self._backend(context).usage(request.volume_id)
        unit = csi.VolumeUsage
        return csi.NodeGetVolumeStatsResponse(
            usage=[
                unit(
                    available=max(0, usage.capacity_bytes - usage.used_bytes),
                    total=usage.capacity_bytes,
                    used=usage.used_bytes,
                    unit=unit.BYTES,
                ),
                unit(used=usage.files, unit=unit.INODES),
            ]
        )


def _volume(info: VolumeInfo) -> csi.Volume:
    return csi.Volume(
        volume_id=info.volume_id,
        capacity_bytes=info.capacity_bytes,
        volume_context={"replicas": ",".join(info.replicas)} if info.replicas else {},
        accessible_topology=[csi.Topology(segments={TOPOLOGY_KEY: node}) for node in info.nodes],
    )


def _snapshot(snapshot: Snapshot) -> csi.Snapshot:
    made = csi.Snapshot(
        snapshot_id=snapshot.snapshot_id,
        source_volume_id=snapshot.volume_id,
        size_bytes=snapshot.size_bytes,
        ready_to_use=True,
    )
    made.creation_time.FromDatetime(snapshot.taken_at)
    return made


def _taker(backend: Backend) -> Snapshots:
    if not isinstance(backend, Snapshots):
        raise NotOffered("the driver takes no snapshots")
    return backend


def _token(text: str, most: int) -> int:
    """Where a list goes on. Raises StaleToken, as CSI asks."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < _DIGITS_MAX and int(text) <= most):
        raise StaleToken(f"starting_token {text[:_DIGITS_MAX]!r} is none of the last list's: begin again without one")
    return int(text)


def _wanted_node(topology: csi.TopologyRequirement, nodes: Mapping[str, Backend]) -> str:
    """The first node of a requirement that is on this host; empty if it asks for none. Raises VolumeNotFound."""
    asked = [t.segments.get(TOPOLOGY_KEY, "") for t in (*topology.preferred, *topology.requisite)]
    for node in asked:
        if node in nodes:
            return node
    if any(asked):
        raise VolumeNotFound(f"no node of the required topology ({', '.join(asked)}) is on this host")
    return ""


def _refusal(capabilities: Any, *, single_node: bool) -> str:
    """Why a capability cannot be had; empty if all can."""
    for capability in capabilities:
        if capability.HasField("block"):
            return "block volumes are not offered: use volumeMode Filesystem"
        mode = capability.access_mode.mode
        if single_node and mode not in _SINGLE_NODE:
            name = _Mode.Mode.Name(mode) if mode in _Mode.Mode.values() else mode
            return f"access mode {name} is not offered: use ReadWriteOnce"
    return ""


def check_target(path: str) -> None:
    """Check a target path. Raises InvalidVolume."""
    if not is_whole(path):
        raise InvalidVolume(f"target_path {path!r} must be absolute and must not contain '..'")


def _link(target: str, published: Published) -> None:
    """Idempotent; an empty directory made for the mount gives way, and nothing else does."""
    if not os.path.isdir(published.path):
        return  # an imaginary one
    for path, goal in ((target, published.path), (f"{target}.sync", published.sync_socket)):
        if not goal or _link_at(path) == goal:
            continue
        try:
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)
            os.symlink(goal, path)
        except OSError as e:
            raise InvalidVolume(f"target_path {path} cannot be made a link to the volume: {e.strerror}") from e


def _unlink(target: str, published: Published) -> None:
    """Remove the links to this volume; a link that leads elsewhere is not ours."""
    for path, goal in ((target, published.path), (f"{target}.sync", published.sync_socket)):
        if goal and _link_at(path) == goal:
            os.unlink(path)


def _link_at(path: str) -> str | None:
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return None
