"""The provisioner, the outside part of volumes: CSI calls to the node hosts that keep the bytes.

Call metadata `csi-driver` and `csi-node` say which of a host's backends is meant. CreateVolume carries the node as
accessibility requirement too, and the claim's and volume's names as parameters under the keys of the external
provisioner; the answer's volume context becomes the volume's attributes (`replicas`: the nodes of a replicated one).
A local volume is made and deleted on its node; a replicated one through any of the nodes, tried in order.
Both are idempotent by CSI's contract, so they are simply tried again.
Source: Container Storage Interface v1, Controller service.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.controllers.actions import (
    Action,
    Create,
    Delete,
    DeleteVolume,
    Event,
    Expand,
    Patch,
    Provision,
    Write,
)
from rayplane.control_plane.controllers.manager.executor import ActionFailed, with_error
from rayplane.control_plane.controllers.volume_match import HOSTNAME
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.csi import csi_pb2 as csi

log = logging.getLogger(__name__)
_CONTROLLER = csi.DESCRIPTOR.services_by_name["Controller"]
_MODES = {
    "ReadWriteOnce": csi.VolumeCapability.AccessMode.SINGLE_NODE_MULTI_WRITER,
    "ReadWriteOncePod": csi.VolumeCapability.AccessMode.SINGLE_NODE_SINGLE_WRITER,
    "ReadOnlyMany": csi.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY,
    "ReadWriteMany": csi.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER,
}
VOLUMES = "persistentvolumes"


class Provisioner:
    """A provisioner that creates and deletes volumes on node hosts."""

    def __init__(self, network: Network, *, timeout_s: float) -> None:
        self._network = network
        self._timeout_s = timeout_s

    async def provision(self, action: Action) -> list[Write]:
        """Make the bytes; returns the write of the PersistentVolume. Raises ActionFailed."""
        assert isinstance(action, Provision)
        driver = meta.spec(action.volume)["csi"]["driver"]
        errors = []
        for node, address in action.targets:
            request = _request(action, node)
            try:
                response = await self.call(address, node, driver).CreateVolume(request)
            except RpcError as e:
                errors.append(f"{node}: {e.message}")
                continue
            return [_created(action, response.volume)]
        name = meta.spec(action.volume)["storageClassName"]
        text = f'failed to provision volume with StorageClass "{name}": {"; ".join(errors)}'
        event = Event(action.claim, "Warning", "ProvisioningFailed", text)
        raise ActionFailed(text, event=event)

    async def delete_volume(self, action: Action) -> list[Write]:
        """Delete the bytes; returns the delete of the PersistentVolume. Raises ActionFailed."""
        assert isinstance(action, DeleteVolume)
        source = meta.spec(action.volume)["csi"]
        errors = []
        for node, address in action.targets:
            if not address:
                errors.append(f"{node}: the node publishes no address")
                continue
            call = self.call(address, node, source["driver"])
            try:
                for lost in action.lost_nodes:
                    await call.ControllerUnpublishVolume(
                        csi.ControllerUnpublishVolumeRequest(volume_id=source["volumeHandle"], node_id=lost)
                    )
                await call.DeleteVolume(csi.DeleteVolumeRequest(volume_id=source["volumeHandle"]))
            except RpcError as e:
                errors.append(f"{node}: {e.message}")
                continue
            return [Delete(VOLUMES, action.volume)]
        if not errors:
            return [Delete(VOLUMES, action.volume)]
        raise self._failed(action, "; ".join(errors))

    async def expand(self, action: Action) -> list[Write]:
        """Let the bytes grow; returns the write of the PersistentVolume, or of the claim that says why not."""
        assert isinstance(action, Expand)
        source = meta.spec(action.volume)["csi"]
        room = csi.CapacityRange(required_bytes=action.capacity_bytes)
        request = csi.ControllerExpandVolumeRequest(volume_id=source["volumeHandle"], capacity_range=room)
        errors = []
        for node, address in action.targets:
            try:
                await self.call(address, node, source["driver"]).ControllerExpandVolume(request)
            except RpcError as e:
                errors.append(f"{node}: {e.message}")
                continue
            body = {"metadata": {"uid": meta.uid(action.volume)}, "spec": {"capacity": {"storage": action.storage}}}
            return [Patch(VOLUMES, "", meta.name(action.volume), body)]
        return [with_error(action.failed, "; ".join(errors))]

    def _failed(self, action: DeleteVolume, why: str) -> ActionFailed:
        text = f"rpc error deleting volume: {why}"
        return ActionFailed(text, event=Event(action.volume, "Warning", "VolumeFailedDelete", text))

    def call(self, address: str, node: str, driver: str) -> _Backend:
        """One backend of one node."""
        stub = Stub(self._network.channel(address), _CONTROLLER)
        return _Backend(stub, {"csi-driver": driver, "csi-node": node}, timeout_s=self._timeout_s)


class _Backend:
    """One backend of one node: `await backend.Method(request)`."""

    def __init__(self, stub: Stub, metadata: dict[str, str], *, timeout_s: float) -> None:
        self._stub, self._metadata, self._timeout_s = stub, metadata, timeout_s

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)
        return functools.partial(call, timeout=self._timeout_s, metadata=self._metadata)


def _request(action: Provision, node: str) -> csi.CreateVolumeRequest:
    volume, claim = action.volume, action.claim
    spec = meta.spec(volume)
    parameters = {
        **action.parameters,
        "csi.storage.k8s.io/pv/name": meta.name(volume),
        "csi.storage.k8s.io/pvc/name": meta.name(claim),
        "csi.storage.k8s.io/pvc/namespace": meta.namespace(claim),
    }
    origin = None
    if action.snapshot_id:
        origin = csi.VolumeContentSource(snapshot={"snapshot_id": action.snapshot_id})
    elif action.source_volume_id:
        origin = csi.VolumeContentSource(volume={"volume_id": action.source_volume_id})
    topology = [csi.Topology(segments={HOSTNAME: node})]
    return csi.CreateVolumeRequest(
        name=spec["csi"]["volumeHandle"],
        capacity_range=csi.CapacityRange(required_bytes=action.capacity_bytes, limit_bytes=action.capacity_bytes),
        volume_capabilities=[
            _capability(mode, block=spec.get("volumeMode") == "Block")
            for mode in spec.get("accessModes") or ()
            if mode in _MODES
        ],
        parameters=parameters,
        volume_content_source=origin,
        accessibility_requirements=csi.TopologyRequirement(preferred=topology),
    )


def _capability(mode: str, *, block: bool) -> csi.VolumeCapability:
    access = csi.VolumeCapability.AccessMode(mode=_MODES[mode])
    if block:
        return csi.VolumeCapability(block=csi.VolumeCapability.BlockVolume(), access_mode=access)
    return csi.VolumeCapability(mount=csi.VolumeCapability.MountVolume(), access_mode=access)


def _created(action: Provision, made: csi.Volume) -> Create:
    volume = meta.copy_for_write(action.volume)
    source = volume["spec"]["csi"]
    source["volumeHandle"] = made.volume_id or source["volumeHandle"]
    source["volumeAttributes"].update(dict(made.volume_context))
    text = f"Successfully provisioned volume {meta.name(volume)}"
    done = Event(action.claim, "Normal", "ProvisioningSucceeded", text)
    return Create(VOLUMES, volume, done=done, exists_ok=True)
