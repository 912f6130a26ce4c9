"""Replicas made anew: never against a newer writer, as long as it takes, and each where the record says or nowhere."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from rayplane.node.volumes import Fenced, PeerError
from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from rayplane.storage.errors import Code
from tests.node.volumes.volume_cluster import FAST, GIB, PATIENT, Cluster, until, write


async def running(root: Path, *nodes: str, patient: bool = False) -> Cluster:
    cluster = Cluster(root, timing=PATIENT if patient else FAST)
    for node in nodes:
        # Each has less room than the one before, so that volumes are placed in this order.
        await cluster.add(node, capacity=(50 - len(cluster.services)) * GIB)
    return cluster


def held(cluster: Cluster, node: str) -> list[str]:
    return cluster.services[node].stores[node].volumes()


@pytest.mark.parametrize("is_late", [False, True])
async def test_a_writer_that_others_followed_makes_no_replica_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    """The one that was lost has forgotten that it promised itself to the newer writer."""
    cluster = await running(tmp_path, "a", "b", "c", patient=True)
    await cluster.backends["a"].create("v", GIB)
    old = await cluster.backends["a"].publish("v")
    await until(lambda: not cluster.backends["a"].publication("v").lagging)
    read, earlier = cluster.directory.read, [await cluster.directory.read("v")]
    cluster.isolate("a")
    await cluster.backends["b"].publish("v")  # with b and c

    async def read_before(volume: str) -> tuple[VolumeRecord, int] | None:
        return earlier.pop() if earlier else await read(volume)

    if is_late:
        monkeypatch.setattr(cluster.directory, "read", read_before)
    await cluster.services["c"].stores["c"].delete("v")
    cluster.cut -= {("a", "c")}
    write(old.path, "file", b"of the old writer")
    with pytest.raises(Fenced, match="published on another node or deleted"):
        await cluster.backends["a"].sync("v")
    assert cluster.fenced == [("a", "v")]
    await cluster.stop()


async def test_a_copy_that_takes_long_is_not_begun_again(tmp_path: Path) -> None:
    cluster = await running(tmp_path, "a", "b", "c", "d")
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "file", os.urandom(1000))
    await cluster.backends["a"].sync("v")
    publication = cluster.backends["a"].publication("v")
    await until(lambda: not publication.lagging)
    cluster.barrier_timeout("v", "a", 0.2)
    commit = cluster.services["d"].Commit

    async def slow(request: object, context: object) -> object:
        await asyncio.sleep(0.8)  # longer than a replica may fail and a barrier last
        return await commit(request, context)  # type: ignore[arg-type]

    cluster.services["d"].Commit = slow  # type: ignore[method-assign, assignment]
    await cluster.kill("b")
    write(path, "other", b"after the loss")
    await until(lambda: publication.record.replicas == ("a", "d", "c") or ("d", "Delete") in cluster.calls)
    assert ("d", "Delete") not in cluster.calls
    await cluster.stop()


async def test_a_node_that_refuses_a_replica_is_given_up(tmp_path: Path) -> None:
    cluster = await running(tmp_path, "a", "b", "c", "d", patient=True)
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    publication = cluster.backends["a"].publication("v")
    await until(lambda: not publication.lagging)
    publication._timing = replace(FAST, barrier_timeout_s=60.0)

    async def refuse(*_: object) -> object:
        raise PeerError(Code.RESOURCE_EXHAUSTED, "others took the room")

    cluster.services["d"].Create = refuse  # type: ignore[method-assign, assignment]
    await cluster.kill("b")
    write(path, "other", b"after the loss")
    await until(lambda: ("d", "Delete") in cluster.calls)
    assert publication.record.replicas == ("a", "b", "c")
    await cluster.stop()


@pytest.mark.parametrize("node", ["a", "b"])
async def test_a_replica_that_is_gone_is_filled_again_though_nobody_writes(tmp_path: Path, node: str) -> None:
    cluster = await running(tmp_path, "a", "b", "c")
    await cluster.backends["a"].create("v", GIB)
    write((await cluster.backends["a"].publish("v")).path, "file", b"12345")
    await cluster.backends["a"].sync("v")
    publication = cluster.backends["a"].publication("v")
    await until(lambda: not publication.lagging)
    store, version = cluster.services[node].stores[node], publication.version
    await store.delete("v")
    await until(lambda: store.committed == {"v": version})
    assert store.inventory("v", files=False, after=b"").used_bytes == 5
    await cluster.stop()


@pytest.mark.parametrize("is_written", [False, True])
async def test_a_repair_that_is_stopped_leaves_what_the_record_may_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool
) -> None:
    cluster = await running(tmp_path, "a", "b", "c", "d")
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    directory_write, reached, never = cluster.directory.write, asyncio.Event(), asyncio.Event()

    async def unanswered(record: VolumeRecord, revision: int) -> int | None:
        await directory_write(record, revision)
        reached.set()
        await never.wait()
        raise AssertionError

    async def endless(*_: object) -> object:
        reached.set()
        await never.wait()
        raise AssertionError

    if is_written:
        monkeypatch.setattr(cluster.directory, "write", unanswered)
    else:
        cluster.services["d"].Commit = endless  # type: ignore[method-assign, assignment]
    await cluster.kill("b")
    write(path, "other", b"after the loss")
    await reached.wait()
    assert held(cluster, "d") == ["v"]
    await cluster.backends.pop("a").stop()
    assert held(cluster, "d") == (["v"] if is_written else [])
    monkeypatch.undo()
    assert ("d" in (await cluster.backends["c"].record("v")).replicas) == is_written
    await cluster.stop()


async def test_a_volume_is_not_spread_as_soon_as_it_is_published(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for node in ("a", "b", "c"):
        await cluster.add(node, machine="one")
    await cluster.backends["a"].create("v", GIB)
    await cluster.add("d")
    cluster.calls.clear()
    path = (await cluster.backends["a"].publish("v")).path
    for content in (b"1", b"2", b"3"):
        write(path, "file", content)
        await cluster.backends["a"].sync("v")
    assert ("d", "Capacity") not in cluster.calls
    await cluster.stop()


async def test_what_a_volume_uses_is_not_asked_of_a_replica_that_is_being_filled(tmp_path: Path) -> None:
    cluster = await running(tmp_path, "a", "b", "c", patient=True)
    await cluster.backends["a"].create("v", GIB)
    write((await cluster.backends["a"].publish("v")).path, "file", b"12345")
    await until(lambda: not cluster.backends["a"].publication("v").lagging)
    await cluster.backends["a"].unpublish("v")
    await cluster.services["a"].stores["a"].delete("v")
    await cluster.services["a"].stores["a"].create("v", GIB, again=True)
    assert (await cluster.backends["b"].usage("v")).used_bytes == 5
    await cluster.stop()
