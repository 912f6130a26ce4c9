"""The CSI face of the backends, as a client sees it."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.node.volumes import CsiDriver, LocalBackend, Reservations
from rayplane.proto.csi import csi_pb2 as csi
from rayplane.storage.env import LocalDisk, SystemClock
from tests.node.volumes.volume_cluster import GIB, Cluster
from tests.rpc.open_service import open_service

MODE = csi.VolumeCapability.AccessMode


def capability(mode: Any = MODE.SINGLE_NODE_WRITER, **kind: Any) -> csi.VolumeCapability:
    kind = kind or {"mount": csi.VolumeCapability.MountVolume()}
    return csi.VolumeCapability(access_mode=MODE(mode=mode), **kind)


class Client:
    """Stubs of the three services."""

    def __init__(self, channel: Any) -> None:
        services = csi.DESCRIPTOR.services_by_name
        self.identity = Stub(channel, services["Identity"])
        self.controller = Stub(channel, services["Controller"])
        self.node = Stub(channel, services["Node"])


@pytest.fixture
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    # The cluster's sockets are below it: their paths must be short.
    root = Path(tempfile.mkdtemp(prefix="csi-"))
    request.addfinalizer(lambda: shutil.rmtree(root))
    cluster = Cluster(root)
    for node in ("a", "b"):
        await cluster.add(node)
    locals_ = {}
    for node in ("a", "b"):
        disk = LocalDisk(tmp_path / "local" / node)
        locals_[node] = LocalBackend(node, disk, Reservations(disk, node, 10 * GIB), SystemClock())
    driver = CsiDriver({"rayplane.io/local": locals_, "rayplane.io/replicated": cluster.backends}, version="1.2.3")
    network = MemoryNetwork(Fabric(), "test")
    server = await network.serve(
        "test:0",
        [open_service(csi.DESCRIPTOR.services_by_name[name], driver) for name in ("Identity", "Controller", "Node")],
    )
    yield Client(network.channel(server.address))
    await network.close()
    await cluster.stop()


def on(node: str = "a", driver: str = "rayplane.io/local") -> dict[str, str]:
    return {"csi-node": node, "csi-driver": driver}


async def test_a_plugin_introduces_itself(client: Client) -> None:
    info = await client.identity.GetPluginInfo(csi.GetPluginInfoRequest())
    assert (info.name, info.vendor_version) == ("rayplane.io/local", "1.2.3")
    info = await client.identity.GetPluginInfo(csi.GetPluginInfoRequest(), metadata=on(driver="rayplane.io/replicated"))
    assert info.name == "rayplane.io/replicated"
    assert (await client.identity.Probe(csi.ProbeRequest())).ready.value
    assert (await client.identity.GetPluginCapabilities(csi.GetPluginCapabilitiesRequest())).capabilities
    assert (await client.controller.ControllerGetCapabilities(csi.ControllerGetCapabilitiesRequest())).capabilities
    node = await client.node.NodeGetInfo(csi.NodeGetInfoRequest(), metadata=on("b"))
    assert (node.node_id, dict(node.accessible_topology.segments)) == ("b", {"kubernetes.io/hostname": "b"})


@pytest.mark.parametrize("driver", ["rayplane.io/local", "rayplane.io/replicated"])
async def test_a_volumes_whole_life(client: Client, tmp_path: Path, driver: str) -> None:
    create = csi.CreateVolumeRequest(
        name="pvc-1",
        capacity_range=csi.CapacityRange(required_bytes=GIB),
        volume_capabilities=[capability()],
        accessibility_requirements=csi.TopologyRequirement(
            preferred=[csi.Topology(segments={"kubernetes.io/hostname": "b"})]
        ),
    )
    volume = (await client.controller.CreateVolume(create, metadata={"csi-driver": driver})).volume
    assert (volume.volume_id, volume.capacity_bytes) == ("pvc-1", GIB)
    nodes = [t.segments["kubernetes.io/hostname"] for t in volume.accessible_topology]
    assert nodes == (["b"] if driver == "rayplane.io/local" else [])
    again = (await client.controller.CreateVolume(create, metadata={"csi-driver": driver})).volume
    assert again == volume
    call = {"metadata": on("b", driver)}
    await client.controller.ControllerPublishVolume(
        csi.ControllerPublishVolumeRequest(volume_id="pvc-1", node_id="b"), metadata={"csi-driver": driver}
    )
    target = str(tmp_path / "pod-volume")
    os.mkdir(target)
    for _ in range(2):
        await client.node.NodeStageVolume(csi.NodeStageVolumeRequest(volume_id="pvc-1"), **call)
        await client.node.NodePublishVolume(csi.NodePublishVolumeRequest(volume_id="pvc-1", target_path=target), **call)
    write(f"{target}/file", b"12345")
    # What is not a link to the volume is nobody's to replace or remove.
    foreign = str(tmp_path / "foreign")
    os.symlink("/etc", foreign)
    for path in (foreign, str(tmp_path), "relative", f"{tmp_path}/a/../b", ""):
        with pytest.raises(RpcError):
            await client.node.NodePublishVolume(
                csi.NodePublishVolumeRequest(volume_id="pvc-1", target_path=path), **call
            )
    await client.node.NodeUnpublishVolume(
        csi.NodeUnpublishVolumeRequest(volume_id="pvc-1", target_path=foreign), **call
    )
    assert exists(foreign)
    assert exists(f"{target}.sync") == (driver == "rayplane.io/replicated")
    stats = await client.node.NodeGetVolumeStats(csi.NodeGetVolumeStatsRequest(volume_id="pvc-1"), **call)
    assert (stats.usage[0].used, stats.usage[0].total, stats.usage[1].used) == (5, GIB, 1)
    with pytest.raises(RpcError) as refused:
        await client.controller.DeleteVolume(csi.DeleteVolumeRequest(volume_id="pvc-1"), **call)
    assert refused.value.code is grpc.StatusCode.FAILED_PRECONDITION
    for _ in range(2):
        await client.node.NodeUnpublishVolume(
            csi.NodeUnpublishVolumeRequest(volume_id="pvc-1", target_path=target), **call
        )
        await client.node.NodeUnstageVolume(csi.NodeUnstageVolumeRequest(volume_id="pvc-1"), **call)
    assert not exists(target)
    for _ in range(2):
        await client.controller.DeleteVolume(
            csi.DeleteVolumeRequest(volume_id="pvc-1"), metadata={"csi-driver": driver}
        )
    capacity = await client.controller.GetCapacity(csi.GetCapacityRequest(), **call)
    assert capacity.available_capacity in (10 * GIB, 50 * GIB)


def exists(path: str) -> bool:
    return os.path.lexists(path)


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (csi.CreateVolumeRequest(name="v"), grpc.StatusCode.INVALID_ARGUMENT),
        (csi.CreateVolumeRequest(name="", volume_capabilities=[capability()]), grpc.StatusCode.INVALID_ARGUMENT),
        (
            csi.CreateVolumeRequest(
                name="v", volume_capabilities=[capability()], capacity_range=csi.CapacityRange(required_bytes=99 * GIB)
            ),
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ),
        (
            csi.CreateVolumeRequest(
                name="v",
                volume_capabilities=[capability()],
                capacity_range=csi.CapacityRange(required_bytes=2, limit_bytes=1),
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            csi.CreateVolumeRequest(
                name="v", volume_capabilities=[capability(block=csi.VolumeCapability.BlockVolume())]
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ],
)
async def test_impossible_volumes_are_refused(
    client: Client, request_: csi.CreateVolumeRequest, code: grpc.StatusCode
) -> None:
    with pytest.raises(RpcError) as refused:
        await client.controller.CreateVolume(request_)
    assert refused.value.code is code


async def test_a_replicated_volume_has_one_writer_node(client: Client) -> None:
    call = {"metadata": on(driver="rayplane.io/replicated")}
    await client.controller.CreateVolume(csi.CreateVolumeRequest(name="v", volume_capabilities=[capability()]), **call)
    request = csi.ValidateVolumeCapabilitiesRequest(volume_id="v", volume_capabilities=[capability()])
    assert (await client.controller.ValidateVolumeCapabilities(request, **call)).HasField("confirmed")
    shared = capability(MODE.MULTI_NODE_MULTI_WRITER)
    request = csi.ValidateVolumeCapabilitiesRequest(volume_id="v", volume_capabilities=[shared])
    answer = await client.controller.ValidateVolumeCapabilities(request, **call)
    assert not answer.HasField("confirmed") and "ReadWriteOnce" in answer.message


async def test_a_volume_whose_writer_is_unknown_or_gone_can_be_released_and_deleted(client: Client) -> None:
    call = {"metadata": on(driver="rayplane.io/replicated")}
    await client.controller.CreateVolume(csi.CreateVolumeRequest(name="v", volume_capabilities=[capability()]), **call)
    await client.node.NodeStageVolume(
        csi.NodeStageVolumeRequest(volume_id="v"), metadata=on("b", "rayplane.io/replicated")
    )
    delete = csi.DeleteVolumeRequest(volume_id="v")
    with pytest.raises(RpcError, match="in use on node b"):
        await client.controller.DeleteVolume(delete, **call)
    await client.controller.ControllerUnpublishVolume(csi.ControllerUnpublishVolumeRequest(volume_id="v"), **call)
    await client.controller.DeleteVolume(delete, **call)


async def test_what_is_not_offered_is_unimplemented(client: Client) -> None:
    with pytest.raises(RpcError) as refused:
        await client.controller.ControllerModifyVolume(csi.ControllerModifyVolumeRequest(volume_id="v"))
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("driver", ["rayplane.io/local", "rayplane.io/replicated"])
async def test_a_volume_grows(client: Client, driver: str) -> None:
    call: Any = {"metadata": on(driver=driver)}
    room = csi.CapacityRange(required_bytes=GIB)
    made = csi.CreateVolumeRequest(name="v", capacity_range=room, volume_capabilities=[capability()])
    await client.controller.CreateVolume(made, **call)
    more = csi.CapacityRange(required_bytes=2 * GIB)
    expand = csi.ControllerExpandVolumeRequest(volume_id="v", capacity_range=more)
    for _ in range(2):  # again, as a retry does
        answer = await client.controller.ControllerExpandVolume(expand, **call)
        assert (answer.capacity_bytes, answer.node_expansion_required) == (2 * GIB, False)
    too_much = csi.CapacityRange(required_bytes=10_000 * GIB)
    with pytest.raises(RpcError) as refused:
        expand = csi.ControllerExpandVolumeRequest(volume_id="v", capacity_range=too_much)
        await client.controller.ControllerExpandVolume(expand, **call)
    assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    unknown = csi.ControllerExpandVolumeRequest(volume_id="w", capacity_range=more)
    with pytest.raises(RpcError) as refused:
        await client.controller.ControllerExpandVolume(unknown, **call)
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
