"""Placement of replicas: where there is room, apart from each other, anew where one was lost."""

import os
from pathlib import Path

import pytest

from rayplane.node.volumes import NoCapacity
from tests.node.volumes.volume_cluster import FAST, GIB, Cluster, tree, until, write


async def test_a_lost_replica_is_replaced(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, timing=FAST)
    for node in ("a", "b", "c", "d"):
        await cluster.add(node, capacity=10 * GIB if node != "d" else 9 * GIB)
    await cluster.backends["a"].create("v", GIB)
    path = (await cluster.backends["a"].publish("v")).path
    write(path, "file", os.urandom(200_000))
    await cluster.backends["a"].sync("v")
    assert (await cluster.backends["a"].record("v")).replicas == ("a", "b", "c")
    await cluster.kill("b")
    write(path, "other", b"after the loss")
    publication = cluster.backends["a"].publication("v")
    await until(lambda: publication.record.replicas == ("a", "d", "c") and not publication.lagging)
    assert (await cluster.backends["a"].record("v")).replicas == ("a", "d", "c")
    wanted = tree(path)
    await cluster.restart("b")  # it learns that it is no replica any more
    assert cluster.services["b"].stores["b"].volumes() == []
    await cluster.kill("a", wipe=True)
    assert tree((await cluster.backends["b"].publish("v")).path) == wanted
    await cluster.stop()


async def test_replicas_are_on_different_machines(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, timing=FAST)
    for node, size, machine in (("a", 9, "m1"), ("b", 8, "m1"), ("c", 7, "m2"), ("d", 6, "m2"), ("e", 5, "m3")):
        await cluster.add(node, capacity=size * GIB, machine=machine)
    await cluster.backends["b"].create("v", GIB)
    assert (await cluster.backends["b"].record("v")).replicas == ("b", "c", "e")
    path = (await cluster.backends["b"].publish("v")).path
    write(path, "file", b"kept")
    await cluster.backends["b"].sync("v")
    publication = cluster.backends["b"].publication("v")
    # A machine is lost, and its node comes back, as it is, on one that has a replica already.
    await cluster.kill("e", wipe=True)
    write(path, "other", b"x")
    await until(lambda: set(publication.record.replicas) == {"b", "c", "a"})
    await cluster.restart("e", machine="m2")
    # Nothing better can be had until a machine comes.
    await cluster.add("f", capacity=9 * GIB, machine="m4")
    await until(lambda: set(publication.record.replicas) == {"b", "c", "f"} and not publication.lagging)
    await cluster.kill("b", wipe=True)
    assert tree((await cluster.backends["f"].publish("v")).path) == {"file": b"kept", "other": b"x"}
    await cluster.stop()


async def test_volumes_are_placed_where_there_is_room(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, replicas=2)
    for node, size in (("a", 1), ("b", 5), ("c", 4), ("d", 3)):
        await cluster.add(node, capacity=size * GIB)
    assert (await cluster.backends["a"].create("v", 2 * GIB)).nodes == ()
    assert (await cluster.backends["a"].record("v")).replicas == ("b", "c")
    await cluster.backends["d"].create("w", 3 * GIB)
    assert (await cluster.backends["d"].record("w")).replicas == ("d", "b")
    with pytest.raises(NoCapacity):
        await cluster.backends["d"].create("x", 2 * GIB)
    free = {node: await backend.free_bytes() // GIB for node, backend in cluster.backends.items()}
    assert free == {"a": 1, "b": 0, "c": 2, "d": 0}
    await cluster.stop()
