"""Snapshots of local volumes, and volumes made from them: real bytes in real directories."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.node.volumes import CsiDriver, LocalBackend, Reservations
from rayplane.node.volumes.backend import Source
from rayplane.node.volumes.drivers import copying
from rayplane.node.volumes.errors import (
    InvalidVolume,
    NoCapacity,
    TooSmall,
    VolumeBusy,
    VolumeConflict,
    VolumeError,
    VolumeFull,
    VolumeNotFound,
)
from rayplane.proto.csi import csi_pb2 as csi
from rayplane.storage.env import LocalDisk, SimulatedDisk, SystemClock
from tests.node.volumes.volume_cluster import GIB
from tests.rpc.open_service import open_service

LOCAL = {"csi-driver": "rayplane.io/local"}


def make(root: Path, node: str = "a", room: int = 10 * GIB) -> LocalBackend:
    disk = LocalDisk(root / node)
    return LocalBackend(node, disk, Reservations(disk, node, room), SystemClock())


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return make(tmp_path)


async def volume(backend: LocalBackend, name: str, size: int = GIB, source: Source | None = None) -> Path:
    await backend.create(name, size, source)
    return Path(backend.published_at(name).path)


def tree(root: Path) -> dict[str, Any]:
    """What a directory holds: modes, and bytes or where links lead."""
    found: dict[str, Any] = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(root))] = (path.lstat().st_mode, what)
    return found


def fill(root: Path) -> None:
    (root / "deep" / "er").mkdir(parents=True)
    (root / "deep" / "er" / "file").write_bytes(os.urandom(200_000))
    (root / "empty").write_bytes(b"")
    (root / "run.sh").write_text("true")
    (root / "run.sh").chmod(0o755)
    (root / "deep").chmod(0o555)
    os.symlink("/etc/passwd", root / "out")
    os.symlink("deep", root / "in")


async def test_a_snapshot_keeps_what_the_volume_held(backend: LocalBackend) -> None:
    root = await volume(backend, "v")
    fill(root)
    before = tree(root)
    taken = await backend.snapshot("s", "v")
    assert (taken.snapshot_id, taken.volume_id, taken.size_bytes) == ("a/s", "v", GIB)
    (root / "run.sh").write_text("changed")
    (root / "new").write_text("new")
    (root / "empty").unlink()
    restored = await volume(backend, "r", source=Source(snapshot_id="a/s"))
    assert tree(restored) == before
    # What is restored is its own: neither the snapshot nor the volume sees what becomes of it.
    (restored / "run.sh").write_text("of the restored one")
    again = await volume(backend, "again", 2 * GIB, Source(snapshot_id="a/s"))
    assert tree(again) == before
    assert (root / "run.sh").read_text() == "changed"


async def test_a_clone_holds_what_its_source_holds(backend: LocalBackend) -> None:
    root = await volume(backend, "v")
    fill(root)
    assert tree(await volume(backend, "c", source=Source(volume_id="v"))) == tree(root)
    with pytest.raises(TooSmall):
        await backend.create("small", GIB - 1, Source(volume_id="v"))
    with pytest.raises(VolumeNotFound):
        await backend.create("none", GIB, Source(volume_id="nobody"))


async def test_a_snapshot_outlives_its_volume_and_the_host(backend: LocalBackend, tmp_path: Path) -> None:
    fill(await volume(backend, "v"))
    before = tree(Path(backend.published_at("v").path))
    first = await backend.snapshot("s", "v")
    await backend.delete("v")
    await backend.stop()
    later = make(tmp_path)
    assert await later.snapshots() == [first]
    assert await later.snapshot("s", "v") == first
    assert tree(await volume(later, "r", source=Source(snapshot_id="a/s"))) == before
    with pytest.raises(VolumeConflict):
        await later.snapshot("s", "other")


async def test_a_snapshot_takes_room_until_it_is_deleted(backend: LocalBackend) -> None:
    root = await volume(backend, "v")
    (root / "file").write_bytes(b"x" * 1000)
    free = await backend.free_bytes()
    await backend.snapshot("s", "v")
    assert await backend.free_bytes() == free - 1000
    for _ in range(2):
        await backend.delete_snapshot("a/s")
    assert await backend.free_bytes() == free
    assert await backend.snapshots() == []
    with pytest.raises(VolumeNotFound):
        await backend.create("r", GIB, Source(snapshot_id="a/s"))
    assert not list(root.parent.parent.glob("local-snapshots/*"))


@pytest.mark.parametrize("bad", ["b/s", "s", "a/../s", "a/..", "a/", "", "a//s", "../a/s", "a/s/s"])
async def test_ids_of_others_reach_nothing(backend: LocalBackend, bad: str) -> None:
    await volume(backend, "v")
    await backend.snapshot("s", "v")
    with pytest.raises((VolumeNotFound, InvalidVolume)):
        await backend.delete_snapshot(bad)
    with pytest.raises((VolumeNotFound, InvalidVolume)):
        await backend.create("r", GIB, Source(snapshot_id=bad))
    with pytest.raises(InvalidVolume):
        await backend.snapshot("../s", "v")
    assert [one.snapshot_id for one in await backend.snapshots()] == ["a/s"]


async def test_a_volume_that_is_too_full_or_a_node_without_room_is_refused(tmp_path: Path) -> None:
    backend = make(tmp_path, room=3000)
    root = await volume(backend, "v", 1000)
    (root / "file").write_bytes(b"x" * 1001)
    with pytest.raises(VolumeFull):
        await backend.snapshot("s", "v")
    (root / "file").write_bytes(b"x" * 900)
    await backend.snapshot("s", "v")
    with pytest.raises(TooSmall):
        await backend.create("r", 999, Source(snapshot_id="a/s"))
    with pytest.raises(NoCapacity):
        await backend.create("r", 1101, Source(snapshot_id="a/s"))
    assert await backend.free_bytes() == 1100
    assert not (tmp_path / "a" / "volumes" / "local" / "r").exists()


async def test_a_directory_that_never_rests_is_not_copied(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await volume(backend, "v")
    (root / "file").write_bytes(b"0")

    class Restless(copying.TreeScanner):
        def scan(self) -> Any:
            found = super().scan()
            (root / "file").write_bytes(os.urandom(8))
            self._kept.clear()
            return found

    monkeypatch.setattr(copying, "TreeScanner", Restless)
    with pytest.raises(VolumeBusy):
        await backend.snapshot("s", "v")
    assert await backend.snapshots() == []
    monkeypatch.undo()
    await backend.snapshot("s", "v")
    assert tree(await volume(backend, "r", source=Source(snapshot_id="a/s"))) == tree(root)


async def test_whoever_gives_up_and_asks_again_gets_the_same_copy(
    backend: LocalBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    await volume(backend, "v")
    copies, go = 0, asyncio.Event()
    copy = copying.Copies.copy

    async def slow(*args: Any, **options: Any) -> int:
        nonlocal copies
        copies += 1
        await go.wait()
        return await copy(*args, **options)

    monkeypatch.setattr(copying.Copies, "copy", slow)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await backend.snapshot("s", "v")
    asked = asyncio.create_task(backend.snapshot("s", "v"))
    await asyncio.sleep(0)
    go.set()
    assert (await asked).snapshot_id == "a/s"
    assert copies == 1


async def test_a_host_that_stops_ends_its_copies(backend: LocalBackend) -> None:
    root = await volume(backend, "v")
    (root / "file").write_bytes(os.urandom(100_000))
    asked = asyncio.create_task(backend.snapshot("s", "v"))
    await asyncio.sleep(0)
    await backend.stop()
    try:
        await asked
    except VolumeError:
        assert await backend.snapshots() == []
    assert not list(root.parent.parent.glob("local-snapshots/*.copy"))


async def test_a_simulated_disk_has_snapshots_without_bytes() -> None:
    disk = SimulatedDisk()
    backend = LocalBackend("a", disk, Reservations(disk, "a", 10 * GIB), SystemClock())
    await backend.create("v", GIB)
    await backend.snapshot("s", "v")
    await backend.create("r", GIB, Source(snapshot_id="a/s"))
    assert await backend.free_bytes() == 8 * GIB


# --- over CSI -----------------------------------------------------------------------------------


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Any]:
    yield _controller(tmp_path)


async def _controller(root: Path) -> tuple[Any, dict[str, LocalBackend], MemoryNetwork]:
    nodes = {node: make(root, node) for node in ("a", "b")}
    network = MemoryNetwork(Fabric(), "test")
    driver = CsiDriver({"rayplane.io/local": nodes}, version="1")
    service = csi.DESCRIPTOR.services_by_name["Controller"]
    server = await network.serve("test:0", [open_service(service, driver)])
    return Stub(network.channel(server.address), service), nodes, network


def wanted(name: str, **source: Any) -> csi.CreateVolumeRequest:
    kind = csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(), access_mode=csi.VolumeCapability.AccessMode(mode="SINGLE_NODE_WRITER")
    )
    return csi.CreateVolumeRequest(
        name=name,
        capacity_range=csi.CapacityRange(required_bytes=GIB),
        volume_capabilities=[kind],
        volume_content_source=csi.VolumeContentSource(**source),
    )


async def test_snapshots_over_csi(controller: Any) -> None:
    stub, nodes, network = await controller
    root = await volume(nodes["b"], "v")
    (root / "file").write_text("old")
    offered = (await stub.ControllerGetCapabilities(csi.ControllerGetCapabilitiesRequest())).capabilities
    names = {csi.ControllerServiceCapability.RPC.Type.Name(one.rpc.type) for one in offered}
    assert {"CREATE_DELETE_SNAPSHOT", "LIST_SNAPSHOTS", "CLONE_VOLUME"} <= names
    for name in ("s1", "s2", "s3"):
        request = csi.CreateSnapshotRequest(name=name, source_volume_id="v")
        taken = (await stub.CreateSnapshot(request)).snapshot
        assert (taken.snapshot_id, taken.source_volume_id, taken.ready_to_use) == (f"b/{name}", "v", True)
        assert (await stub.CreateSnapshot(request)).snapshot == taken
    page = await stub.ListSnapshots(csi.ListSnapshotsRequest(max_entries=2))
    assert [one.snapshot.snapshot_id for one in page.entries] == ["b/s1", "b/s2"]
    page = await stub.ListSnapshots(csi.ListSnapshotsRequest(starting_token=page.next_token))
    assert ([one.snapshot.snapshot_id for one in page.entries], page.next_token) == (["b/s3"], "")
    one = await stub.ListSnapshots(csi.ListSnapshotsRequest(snapshot_id="b/s2"))
    assert len(one.entries) == 1
    assert not (await stub.ListSnapshots(csi.ListSnapshotsRequest(source_volume_id="other"))).entries
    with pytest.raises(RpcError) as refused:
        await stub.ListSnapshots(csi.ListSnapshotsRequest(starting_token="9" * 30))
    assert refused.value.code is grpc.StatusCode.ABORTED
    restore = wanted("r", snapshot=csi.VolumeContentSource.SnapshotSource(snapshot_id="b/s1"))
    # A snapshot of one node makes no volume of another.
    with pytest.raises(RpcError) as refused:
        await stub.CreateVolume(restore, metadata={"csi-node": "a"})
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    made = (await stub.CreateVolume(restore, metadata={"csi-node": "b"})).volume
    assert made.content_source == restore.volume_content_source
    assert (Path(nodes["b"].published_at("r").path) / "file").read_text() == "old"
    for _ in range(2):
        await stub.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id="b/s1"))
    with pytest.raises(RpcError) as refused:
        await stub.DeleteSnapshot(csi.DeleteSnapshotRequest(snapshot_id="c/s1"))
    assert refused.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(RpcError) as refused:
        await stub.CreateVolume(wanted("x"), metadata={"csi-node": "b"})
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT
    await network.close()
