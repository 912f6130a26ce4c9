"""Snapshots of replicated volumes: copies from replica to replica, of one moment, that survive nodes."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from rayplane.node.volumes.backend import Source
from rayplane.node.volumes.drivers.replicated import backend as driver
from rayplane.node.volumes.drivers.replicated.duplicate import Held
from rayplane.node.volumes.drivers.replicated.manifest import (
    BLOCK_BYTES,
    FILE,
    Entry,
    Manifest,
    Version,
    hash_block,
)
from rayplane.node.volumes.drivers.replicated.replica_client import Replica
from rayplane.node.volumes.errors import (
    InvalidVolume,
    NoQuorum,
    PeerError,
    TooSmall,
    VolumeConflict,
    VolumeNotFound,
    WrongNode,
)
from rayplane.storage.errors import Code
from tests.node.volumes.volume_cluster import GIB, Cluster

MIB = 1024**2


@pytest.fixture
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    # Its sockets are below it: their paths must be short.
    root = Path(tempfile.mkdtemp(prefix="snap-"))
    request.addfinalizer(lambda: shutil.rmtree(root))
    cluster = Cluster(root)
    for node in ("a", "b", "c"):
        await cluster.add(node)
    yield cluster
    await cluster.stop()


async def written(cluster: Cluster, volume: str, node: str = "a", /, **files: bytes) -> Path:
    root = Path((await cluster.backends[node].publish(volume)).path)
    for name, data in files.items():
        (root / name).write_bytes(data)
    return root


def _files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def held(cluster: Cluster, volume: str, node: str) -> dict[str, bytes]:
    root = Path((await cluster.backends[node].publish(volume)).path)
    found = _files(root)
    await cluster.backends[node].unpublish(volume)
    return found


async def test_a_snapshot_keeps_what_was_written_before_it(cluster: Cluster) -> None:
    a = cluster.backends["a"]
    await a.create("v", GIB)
    old = {"small": b"old", "large": bytes(range(256)) * 1000}
    root = await written(cluster, "v", **old)
    taken = await a.snapshot("s", "v")
    assert (taken.snapshot_id, taken.volume_id, taken.size_bytes) == ("s", "v", GIB)
    (root / "small").write_bytes(b"new")
    assert await a.snapshot("s", "v") == taken
    await a.unpublish("v")
    # Any node restores it, while one of them is away.
    cluster.dead.add("a")
    b = cluster.backends["b"]
    assert await b.snapshots() == [taken]
    await b.create("r", GIB, Source(snapshot_id="s"))
    assert await held(cluster, "r", "c") == old
    await b.create("clone", 2 * GIB, Source(volume_id="v"))
    assert await held(cluster, "clone", "b") == {**old, "small": b"new"}
    cluster.dead.clear()


async def test_the_node_that_uses_a_volume_copies_it(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await written(cluster, "v", file=b"here")
    with pytest.raises(WrongNode, match="in use on node a"):
        await cluster.backends["b"].snapshot("s", "v")
    assert await cluster.directory.read("s") is None
    await cluster.backends["a"].snapshot("s", "v")


async def test_an_empty_volume_has_an_empty_snapshot(cluster: Cluster) -> None:
    b = cluster.backends["b"]
    await b.create("v", GIB)
    await b.snapshot("s", "v")
    await b.create("r", GIB, Source(snapshot_id="s"))
    assert await held(cluster, "r", "a") == {}


async def test_a_copy_is_for_nobody_before_it_is_whole(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = cluster.backends["a"], cluster.backends["b"]
    await a.create("v", GIB)
    await written(cluster, "v", file=b"kept")
    await a.unpublish("v")

    async def fails(*_: Any, **__: Any) -> None:
        raise NoQuorum("too few")

    monkeypatch.setattr(driver, "ship", fails)
    for make in (a.snapshot("s", "v"), a.create("r", GIB, Source(volume_id="v"))):
        with pytest.raises(NoQuorum):
            await make
    monkeypatch.undo()
    assert await a.snapshots() == []
    with pytest.raises(WrongNode):
        await b.publish("r")
    with pytest.raises(VolumeNotFound):
        await b.create("x", GIB, Source(snapshot_id="s"))
    # Any other node finishes it.
    await b.create("r", GIB, Source(volume_id="v"))
    assert await held(cluster, "r", "c") == {"file": b"kept"}
    await b.snapshot("s", "v")
    assert [one.snapshot_id for one in await a.snapshots()] == ["s"]


async def test_volumes_are_no_snapshots_and_the_other_way_round(cluster: Cluster) -> None:
    a = cluster.backends["a"]
    await a.create("v", GIB)
    await a.create("w", GIB)
    await a.snapshot("s", "v")
    with pytest.raises(InvalidVolume):
        await a.delete_snapshot("v")
    with pytest.raises(VolumeNotFound):
        await a.create("r", GIB, Source(snapshot_id="v"))
    with pytest.raises(VolumeNotFound):
        await a.create("r", GIB, Source(volume_id="s"))
    with pytest.raises(WrongNode):
        await a.publish("s")
    with pytest.raises(TooSmall):
        await a.create("r", GIB - 1, Source(snapshot_id="s"))
    with pytest.raises(VolumeConflict):
        await a.snapshot("s", "w")
    with pytest.raises(VolumeConflict):
        await a.create("s", GIB)
    assert await cluster.directory.read("r") is None


async def test_a_deleted_snapshot_gives_its_room_back(cluster: Cluster) -> None:
    a = cluster.backends["a"]
    await a.create("v", GIB)
    free = await a.free_bytes()
    await a.snapshot("s", "v")
    assert await a.free_bytes() == free - GIB
    for _ in range(2):
        await a.delete_snapshot("s")
    assert await a.free_bytes() == free
    assert await a.snapshots() == []


class Moving:
    """A replica that goes on to what `later` says once its first manifest is read."""

    node = "a"

    def __init__(self, first: bytes, later: bytes) -> None:
        self._contents = [first, later]
        self._failures = [PeerError(Code.FAILED_PRECONDITION, "changed while it was read")]

    async def manifest(self) -> tuple[Version, Manifest]:
        if self._failures:
            raise self._failures.pop()
        data = self._contents[0]
        if len(self._contents) > 1:
            self._contents.pop(0)
        return Version(1, 1), {b"f": Entry(FILE, 0o600, len(data), BLOCK_BYTES, (hash_block(data),))}

    async def fetch(self, hashes: list[bytes]) -> list[bytes]:
        if [hash_block(self._contents[0])] != hashes:
            raise PeerError(Code.FAILED_PRECONDITION, "lacks the block")
        return [self._contents[0]]


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.DATA_LOSS])
async def test_what_cannot_be_read_is_a_failure_and_not_another_content(code: Code) -> None:
    """Else it would be tried for ever, and nobody would hear of it."""
    source = Moving(b"first", b"first")
    held = Held(cast(Replica, source))
    (block,) = (await held.scan())[0][b"f"].blocks

    async def fetch(hashes: list[bytes]) -> list[bytes]:
        raise PeerError(code, "no")

    source.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no"):
        await held.block(block, b"f", 0, BLOCK_BYTES)


async def test_what_moves_on_while_it_is_copied_is_copied_as_it_is_then() -> None:
    held = Held(cast(Replica, Moving(b"first", b"later")))
    manifest, _ = await held.scan()
    (block,) = manifest[b"f"].blocks
    assert await held.block(block, b"f", 0, BLOCK_BYTES) is None
    manifest, _ = await held.scan()
    (block,) = manifest[b"f"].blocks
    assert await held.block(block, b"f", 0, BLOCK_BYTES) == b"later"
    assert (await held.scan())[0] == manifest
