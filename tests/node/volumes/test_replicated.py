"""Volumes: reserved space, bytes that follow the pod, fenced writers."""

import asyncio
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from rayplane.node.volumes import (
    Fenced,
    InvalidVolume,
    LocalBackend,
    NoCapacity,
    NoQuorum,
    PeerError,
    Reservations,
    VolumeConflict,
    VolumeError,
    VolumeNotFound,
    WrongNode,
)
from rayplane.node.volumes.drivers.replicated.manifest import used_bytes
from rayplane.storage.env import Disk, LocalDisk, SimulatedDisk, SystemClock
from rayplane.storage.errors import Code
from tests.node.volumes.volume_cluster import GIB, Cluster, tree, until, write


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    made = Cluster(tmp_path)
    for node in ("a", "b", "c"):
        await made.add(node)
    yield made
    await made.stop()


def exists(path: str) -> bool:
    return os.path.exists(path)


def fill(path: str) -> None:
    """One of everything."""
    root = Path(path)
    (root / "dir" / "empty").mkdir(parents=True)
    (root / "dir" / "small").write_bytes(b"small")
    (root / "big").write_bytes(os.urandom(300_000) + bytes(300_000) + b"end")
    (root / "none").touch()
    (root / "link").symlink_to("dir/small")
    (root / "script").write_text("#!/bin/sh\n")
    (root / "script").chmod(0o750)
    os.mkfifo(root / "pipe")
    Path(os.fsdecode(os.fsencode(path) + b"/\xff\xfe")).write_bytes(b"not utf-8")
    (root / "closed").mkdir()
    (root / "closed" / "file").write_bytes(b"read only")
    (root / "closed" / "file").chmod(0o400)
    (root / "closed").chmod(0o500)


async def move(cluster: Cluster, source: str, target: str, volume: str = "v") -> str:
    await cluster.backends[source].unpublish(volume)
    return (await cluster.backends[target].publish(volume)).path


# Local volumes and space


@pytest.fixture(params=["local", "simulated"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return LocalDisk(tmp_path) if request.param == "local" else SimulatedDisk()


async def test_claims_reserve_their_size(disk: Disk) -> None:
    backend = LocalBackend("n", disk, Reservations(disk, "n", 50 * GIB), SystemClock())
    for n in range(10):
        await backend.create(f"v{n}", 5 * GIB)
    with pytest.raises(NoCapacity, match="node n has 0 of"):
        await backend.create("one-more", 1)
    assert (await backend.create("v0", 5 * GIB)).nodes == ("n",)  # again, as a retry does
    with pytest.raises(VolumeConflict):
        await backend.create("v0", 4 * GIB)
    await backend.delete("v3")
    await backend.delete("v3")
    assert await backend.free_bytes() == 5 * GIB
    with pytest.raises(NoCapacity, match="v4 needs 6442450944 more"):
        await backend.expand("v4", 11 * GIB)
    assert (await backend.expand("v4", 8 * GIB)).capacity_bytes == 8 * GIB
    assert (await backend.expand("v4", 5 * GIB)).capacity_bytes == 8 * GIB
    assert await backend.free_bytes() == 2 * GIB
    await backend.delete("v4")
    await backend.create("v4", 5 * GIB)
    again = Reservations(disk, "n", 50 * GIB)
    assert again.free_bytes == 5 * GIB and "v3" not in again.reserved("local")


async def test_a_local_volume_keeps_its_files(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    backend = LocalBackend("n", disk, Reservations(disk, "n", GIB), SystemClock())
    await backend.create("v", 1000)
    path = (await backend.publish("v")).path
    write(path, "data", b"12345")
    assert (await backend.usage("v")).used_bytes == 5
    with pytest.raises(WrongNode):
        await backend.delete("v")
    await backend.unpublish("v")
    assert tree((await backend.publish("v")).path) == {"data": b"12345"}
    await backend.unpublish("v")
    await backend.delete("v")
    assert not exists(path)
    with pytest.raises(VolumeNotFound):
        await backend.publish("v")


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 300])
async def test_volume_ids_cannot_lead_elsewhere(disk: Disk, name: str) -> None:
    backend = LocalBackend("n", disk, Reservations(disk, "n", GIB), SystemClock())
    with pytest.raises(InvalidVolume):
        await backend.create(name, 1)
    with pytest.raises(InvalidVolume):
        await backend.delete(name)


# Replicated volumes


async def test_bytes_follow_the_pod(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    fill(path)
    wanted = tree(path)
    path = await move(cluster, "a", "b")
    assert tree(path) == wanted
    assert stat.S_IMODE(os.stat(f"{path}/script").st_mode) == 0o750
    assert stat.S_IMODE(os.stat(f"{path}/closed").st_mode) == 0o500
    write(path, "big", b"changed")
    os.rename(f"{path}/dir/small", f"{path}/moved")
    os.unlink(f"{path}/none")
    wanted = tree(path)
    assert tree(await move(cluster, "b", "c")) == wanted


async def test_a_long_temporary_directory_keeps_no_volume_from_its_pod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The barrier's address would be longer than the kernel takes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    made = Cluster(tmp_path, replicas=1, sockets="")
    await made.add("a")
    try:
        await made.backends["a"].create("v", GIB)
        published = await made.backends["a"].publish("v")
        reader, writer = await asyncio.open_unix_connection(published.sync_socket)
        writer.write(b"sync\n")
        assert (await reader.readline()).startswith(b"ok")
        writer.close()
    finally:
        await made.stop()


async def test_the_barrier_confirms_what_survives_the_node(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    published = await cluster.backends["a"].publish("v")
    reader, writer = await asyncio.open_unix_connection(published.sync_socket)
    last = 0
    for n in range(5):
        write(published.path, "journal", b"%d" % n * 100)
        writer.write(b"sync\n")
        answer = (await reader.readline()).split()
        assert answer[0] == b"ok" and int(answer[1]) > last
        last = int(answer[1])
    writer.write(b"sync\nnonsense\n")
    assert await reader.readline() == b"ok %d\n" % last  # nothing changed
    assert (await reader.readline()).startswith(b"error unknown command")
    writer.close()
    await cluster.kill("a", wipe=True)
    again = await cluster.backends["b"].publish("v")
    assert tree(again.path)["journal"] == b"4" * 100


async def test_changes_travel_without_being_asked_for(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    publication = cluster.backends["a"].publication("v")
    write(path, "file", b"x")
    # A scan may find the file when it is made and not yet filled.
    await until(lambda: used_bytes(publication.manifest) == 1 and not publication.lagging)
    await cluster.kill("a", wipe=True)
    assert tree((await cluster.backends["c"].publish("v")).path) == {"file": b"x"}


@pytest.mark.parametrize("error", [OSError("the disk does not answer"), ValueError("a bug")])
async def test_a_round_that_fails_is_told_to_whom_it_was_for_and_the_next_goes_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    publication = cluster.backends["a"].publication("v")
    scan = publication._content.scan
    failures: list[Exception] = []

    async def failing() -> object:
        if not failures and publication._barrier == [] and waiting.done() is False:
            failures.append(error)
            raise error
        return await scan()

    write(path, "file", b"x")
    monkeypatch.setattr(publication._content, "scan", failing)
    waiting = asyncio.ensure_future(publication.sync())
    with pytest.raises(VolumeError, match="cannot be read"):
        await waiting
    async with asyncio.timeout(60):
        await publication.sync()
    assert b"file" in publication.manifest and failures


async def test_a_replica_that_a_fault_of_ours_kept_from_its_bytes_gets_them_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    publication = cluster.backends["a"].publication("v")
    ship = publication._ship
    failures: list[object] = []

    async def failing(*shipment: object) -> None:
        if len(failures) < 6:
            failures.append(shipment)
            raise ValueError("a bug")
        await ship(*shipment)  # type: ignore[arg-type]

    monkeypatch.setattr(publication, "_ship", failing)
    write(path, "file", b"x")
    async with asyncio.timeout(60):
        await publication.sync()
    await until(lambda: not publication.lagging)


async def test_only_changed_blocks_travel(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "big", os.urandom(4_000_000))
    await cluster.backends["a"].sync("v")
    # A majority has it; the third replica may still be getting it.
    await until(lambda: not cluster.backends["a"].publication("v").lagging)
    sent: list[int] = []
    original = cluster.services["b"].Apply

    async def counted(request: Any, context: Any) -> Any:
        sent.append(sum(len(block) for block in request.blocks))
        return await original(request, context)

    cluster.services["b"].Apply = counted  # type: ignore[method-assign]
    write(path, "big", b"changed", offset=2_000_000)
    os.rename(f"{path}/big", f"{path}/renamed")
    await cluster.backends["a"].sync("v")
    await until(lambda: not cluster.backends["a"].publication("v").lagging)
    assert 0 < sum(sent) <= 65536


@pytest.mark.parametrize("first", [[], [PeerError(Code.DEADLINE_EXCEEDED, "it took too long")]])
async def test_slow_replicas_hold_a_volume_up_until_they_have_what_the_next_node_needs(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, first: list[PeerError]
) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    gate, tries, failures = asyncio.Event(), 0, {"b": [*first], "c": [*first]}
    for node in ("b", "c"):
        service = cluster.services[node]

        async def commit(*call: Any, commit: Any = service.Commit, node: str = node) -> Any:
            if failures[node]:
                raise failures[node].pop()
            await gate.wait()
            return await commit(*call)

        monkeypatch.setattr(service, "Commit", commit)
    publication = cluster.backends["a"].publication("v")
    sync = publication.sync

    async def tried() -> int:
        nonlocal tries
        tries += 1
        return await sync()

    monkeypatch.setattr(publication, "sync", tried)
    write(path, "orders", b"a kettle")
    cluster.barrier_timeout("v", "a", 0.02)
    moving = asyncio.create_task(move(cluster, "a", "b"))
    await until(lambda: tries == 3 or moving.done())
    gate.set()
    assert tree(await moving) == {"orders": b"a kettle"}


@pytest.mark.parametrize("why", ["wanted", "overtaken"])
async def test_a_volume_that_is_wanted_again_or_never_rests_is_not_waited_for(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    publication = cluster.backends["a"].publication("v")

    async def never(*_: object) -> None:
        if why == "wanted":
            await asyncio.Event().wait()

    monkeypatch.setattr(publication._content, "block", never)
    write(path, "orders", b"a kettle")
    cluster.barrier_timeout("v", "a", 0.02)
    if why == "wanted":
        cluster.wanted.add(("a", "v"))
    with pytest.raises(NoQuorum):
        await cluster.backends["a"].unpublish("v")
    assert (await cluster.backends["a"].publish("v")).path == path and tree(path) == {"orders": b"a kettle"}


async def test_a_minority_of_dead_replicas_stops_nobody(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await cluster.kill("c")
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "file", b"1")
    await cluster.backends["a"].sync("v")
    await cluster.restart("c")
    await until(lambda: not cluster.backends["a"].publication("v").lagging)
    await cluster.kill("b", wipe=True)
    write(path, "file", b"2")
    await cluster.backends["a"].sync("v")
    await cluster.kill("a", wipe=True)
    with pytest.raises(NoQuorum, match="1 of 3 replicas answer, 2 must"):
        await cluster.backends["c"].publish("v")


async def test_without_a_majority_the_barrier_says_so(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    published = await cluster.backends["a"].publish("v")
    cluster.isolate("a")
    cluster.barrier_timeout("v", "a", 0.2)
    write(published.path, "file", b"1")
    reader, writer = await asyncio.open_unix_connection(published.sync_socket)
    writer.write(b"sync\n")
    assert (await reader.readline()).startswith(b"error volume v: no majority of a, b, c")
    cluster.cut.clear()
    cluster.barrier_timeout("v", "a", 20.0)
    writer.write(b"sync\n")
    assert (await reader.readline()).startswith(b"ok ")
    writer.close()


async def test_an_old_writer_is_fenced(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    old = await cluster.backends["a"].publish("v")
    write(old.path, "file", b"confirmed")
    await cluster.backends["a"].sync("v")
    cluster.isolate("a")
    write(old.path, "file", b"never confirmed")
    new = await cluster.backends["b"].publish("v")
    assert tree(new.path)["file"] == b"confirmed"
    cluster.cut.clear()
    write(old.path, "late", b"late")
    with pytest.raises(Fenced, match="node b writes"):
        await cluster.backends["a"].sync("v")
    await until(lambda: bool(cluster.fenced))
    assert cluster.fenced == [("a", "v")]
    await cluster.backends["a"].unpublish("v")  # gives up its directory without harm
    assert not exists(old.path)
    write(new.path, "file", b"newer")
    await cluster.backends["b"].sync("v")
    assert tree(await move(cluster, "b", "a")) == {"file": b"newer"}


async def test_a_restarted_writer_keeps_what_it_had_not_sent(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    await cluster.kill("a")
    write(path, "file", b"written while nobody looked")
    again = await (await cluster.restart("a")).publish("v")
    assert tree(again.path) == {"file": b"written while nobody looked"}
    await cluster.backends["a"].sync("v")
    await cluster.kill("a")
    elsewhere = await cluster.backends["b"].publish("v")
    assert tree(elsewhere.path) == tree(path)
    write(elsewhere.path, "file", b"newer")
    await cluster.backends["b"].unpublish("v")
    back = await (await cluster.restart("a")).publish("v")  # what is left there is old by now
    assert tree(back.path) == {"file": b"newer"}


async def test_a_wiped_replica_does_not_vote(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await cluster.kill("c")
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "file", b"1")
    await cluster.backends["a"].sync("v")  # on a and b
    await cluster.kill("a")
    await cluster.kill("b", wipe=True)
    await cluster.restart("b")
    await cluster.restart("c")
    with pytest.raises(NoQuorum):
        await cluster.backends["c"].publish("v")
    await cluster.restart("a")
    assert tree((await cluster.backends["c"].publish("v")).path) == {"file": b"1"}


async def test_a_wiped_replica_does_not_vote_before_it_is_filled(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await cluster.kill("c")
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "file", b"1")
    await cluster.backends["a"].sync("v")  # on a and b
    await cluster.kill("b", wipe=True)
    cluster.mute.add(("b", "Commit"))
    await cluster.restart("b")
    store, filling = (cluster.services[node].stores[node] for node in ("a", "b"))
    before = store.committed["v"]
    write(path, "file", b"2")
    # The writer meets it, as empty as it is, and is lost before it could fill it.
    await until(lambda: store.committed["v"] > before and filling.volumes() == ["v"])
    await cluster.kill("a")
    await cluster.restart("c")
    with pytest.raises(NoQuorum, match="b: it lost what it held and is not filled again"):
        await cluster.backends["c"].publish("v")
    cluster.mute.clear()
    await cluster.restart("a")
    assert tree((await cluster.backends["c"].publish("v")).path) == {"file": b"2"}
    await until(lambda: not filling.is_filling("v"))


async def test_a_full_volume_says_so_until_there_is_room(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", 100_000)
    published = await cluster.backends["a"].publish("v")
    reader, writer = await asyncio.open_unix_connection(published.sync_socket)
    write(published.path, "file", bytes(100_001))
    writer.write(b"sync\n")
    assert b"may hold 100000" in await reader.readline()
    write(published.path, "file", bytes(100_000))
    writer.write(b"sync\n")
    assert (await reader.readline()).startswith(b"ok ")
    writer.close()


async def test_a_full_volume_that_grows_in_use_has_room(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", 100_000)
    published = await cluster.backends["a"].publish("v")
    write(published.path, "file", bytes(150_000))
    with pytest.raises(VolumeError, match="may hold 100000"):
        await cluster.backends["a"].sync("v")
    assert (await cluster.backends["b"].expand("v", 200_000)).capacity_bytes == 200_000
    await cluster.backends["a"].sync("v")
    assert (await cluster.backends["c"].expand("v", 150_000)).capacity_bytes == 200_000  # again, or less: as it is
    assert exists(os.path.join(await move(cluster, "a", "b"), "file"))
    assert (await cluster.backends["b"].usage("v")).capacity_bytes == 200_000


async def test_a_volume_grows_on_all_its_nodes_or_on_none(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, replicas=2)
    for node, size in (("a", 5), ("b", 3)):
        await cluster.add(node, capacity=size * GIB)
    await cluster.backends["a"].create("v", 2 * GIB)
    with pytest.raises(NoCapacity, match="1073741824 of 3221225472 bytes left"):
        await cluster.backends["a"].expand("v", 4 * GIB)
    free = {node: await backend.free_bytes() // GIB for node, backend in cluster.backends.items()}
    assert free == {"a": 3, "b": 1}
    assert (await cluster.backends["a"].expand("v", 3 * GIB)).capacity_bytes == 3 * GIB
    free = {node: await backend.free_bytes() // GIB for node, backend in cluster.backends.items()}
    assert free == {"a": 2, "b": 0}
    await cluster.stop()


async def test_deleted_volumes_free_their_space_everywhere(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await cluster.backends["a"].publish("v")
    with pytest.raises(WrongNode, match="in use on node a"):
        await cluster.backends["b"].delete("v")
    await cluster.backends["a"].unpublish("v")
    await cluster.kill("c")
    await cluster.backends["b"].delete("v")
    await cluster.backends["b"].delete("v")
    with pytest.raises(VolumeNotFound):
        await cluster.backends["a"].publish("v")
    await cluster.restart("c")
    for node in cluster.services:
        assert cluster.services[node].stores[node].volumes() == []
        assert await cluster.backends[node].free_bytes() == 50 * GIB
    assert await cluster.directory.read("v") is None


async def test_a_dead_nodes_volume_can_be_released_and_deleted(cluster: Cluster) -> None:
    await cluster.backends["a"].create("v", GIB)
    await cluster.backends["a"].publish("v")
    await cluster.kill("a")
    await cluster.backends["b"].release("v", "a")
    await cluster.backends["b"].delete("v")
    with pytest.raises(VolumeError):
        await cluster.backends["b"].find("v")


async def test_simulated_disks_reserve_fence_and_stay_empty(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    disks = {node: SimulatedDisk() for node in "abc"}
    cluster.disk = lambda node: disks[node]  # type: ignore[method-assign]
    for node in "abc":
        await cluster.add(node, capacity=GIB)
    await cluster.backends["a"].create("v", GIB)
    published = await cluster.backends["a"].publish("v")
    assert (published.path, published.sync_socket) == ("/simulated/volumes/v", "")
    cluster.isolate("a")
    await cluster.backends["b"].publish("v")
    cluster.cut.clear()
    with pytest.raises(VolumeError):
        await cluster.backends["a"].publish("w")
    assert await cluster.backends["c"].free_bytes() == 0
    await cluster.kill("c")
    disks["c"].kill()
    await cluster.restart("c")
    assert cluster.services["c"].stores["c"].volumes() == ["v"]
    await cluster.stop()


def test_every_error_names_a_status() -> None:
    import grpc

    def below(kind: type[VolumeError]) -> Iterable[type[VolumeError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    for kind in below(VolumeError):
        code = getattr(kind, "code", "INTERNAL")
        assert hasattr(grpc.StatusCode, code)


async def test_barriers_that_gave_up_leave_nothing_behind(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for node in ("a", "b", "c"):
        await cluster.add(node)
    await cluster.backends["a"].create("v", GIB)
    published = await cluster.backends["a"].publish("v")
    cluster.isolate("a")
    (Path(published.path) / "file").write_bytes(b"changed")
    cluster.barrier_timeout("v", "a", 0.2)
    for _ in range(2):
        calls = (cluster.backends["a"].sync("v") for _ in range(20))
        refused = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, NoQuorum) for answer in refused)
    publication = cluster.backends["a"].publication("v")
    await until(lambda: not publication._durable_waiters)
    await cluster.stop()


@pytest.mark.parametrize("volume", ["../../x", "/etc", "a/../../b", "", "a\0b"])
async def test_volume_handles_are_names(cluster: Cluster, tmp_path: Path, volume: str) -> None:
    """A PersistentVolume made by hand may name any handle."""
    backend = cluster.backends["a"]
    before = sorted(os.listdir(tmp_path))
    for call in (backend.publish, backend.find, backend.usage, backend.release, backend.delete):
        with pytest.raises(InvalidVolume):
            await call(volume)
    with pytest.raises(InvalidVolume):
        backend.published_at(volume)
    assert sorted(os.listdir(tmp_path)) == before
