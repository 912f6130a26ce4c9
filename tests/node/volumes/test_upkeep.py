"""Volumes that nobody uses: whole and apart again after losses, and at anybody's disposal all the while."""

import asyncio
from pathlib import Path

import pytest

from rayplane.node.volumes.drivers.replicated.directory import VolumeRecord
from tests.node.volumes.volume_cluster import FAST, GIB, Cluster, tree, until, write


async def unused(root: Path, *nodes: str, machine: str = "") -> Cluster:
    """A cluster in which `v`, which is on all nodes, has been in use and is not any more."""
    cluster = Cluster(root, timing=FAST)
    for node in nodes:
        await cluster.add(node, machine=machine)
    await cluster.backends[nodes[0]].create("v", GIB)
    write((await cluster.backends[nodes[0]].publish("v")).path, "file", b"precious")
    await cluster.backends[nodes[0]].unpublish("v")
    return cluster


def record(cluster: Cluster) -> VolumeRecord:
    return cluster.directory._records["v"][0]


def held(cluster: Cluster, node: str) -> list[str]:
    return cluster.services[node].stores[node].volumes()


async def test_a_replica_that_is_lost_is_made_anew_elsewhere(tmp_path: Path) -> None:
    cluster = await unused(tmp_path, "a", "b", "c")
    await cluster.add("d")
    await cluster.look_after("a", "b", "c", "d")
    await cluster.kill("c", wipe=True)
    await until(lambda: record(cluster).replicas == ("a", "b", "d"))
    assert record(cluster).writer == ""
    await cluster.kill("a", wipe=True)
    path = (await cluster.backends["d"].publish("v")).path
    assert tree(path) == {"file": b"precious"}
    await cluster.stop()


async def test_a_node_that_comes_back_empty_is_filled_again(tmp_path: Path) -> None:
    cluster = await unused(tmp_path, "a", "b", "c")
    await cluster.look_after("a")
    await cluster.kill("c", wipe=True)
    await cluster.restart("c")
    store = cluster.services["c"].stores["c"]
    await until(lambda: store.volumes() == ["v"] and not store.is_filling("v"))
    await cluster.kill("a", wipe=True)
    assert tree((await cluster.backends["b"].publish("v")).path) == {"file": b"precious"}
    await cluster.stop()


async def test_replicas_that_share_a_machine_are_spread_when_there_is_another(tmp_path: Path) -> None:
    cluster = await unused(tmp_path, "a", "b", "c", machine="one")
    await cluster.look_after("a", "b", "c")
    await cluster.add("d", machine="two")
    await until(lambda: "d" in record(cluster).replicas)
    await cluster.add("e", machine="three")
    await until(lambda: {"d", "e"} <= {*record(cluster).replicas} and len(record(cluster).replicas) == 3)
    await cluster.stop()


async def test_what_cannot_be_better_is_left_alone(tmp_path: Path) -> None:
    cluster = await unused(tmp_path, "a", "b", "c", machine="one")
    before, asked = record(cluster), len(cluster.calls)
    await cluster.look_after("a", "b", "c")
    await until(lambda: len(cluster.calls) > asked)
    await asyncio.sleep(5 * FAST.spread_every_s)
    assert record(cluster) == before
    assert {name for _, name in cluster.calls[asked:]} == {"Inventory"}
    assert len(cluster.calls) - asked == 3, "it is looked at once"
    await cluster.stop()


@pytest.mark.parametrize("is_used", [True, False])
async def test_it_may_be_used_or_deleted_while_it_is_looked_after(tmp_path: Path, is_used: bool) -> None:
    cluster = await unused(tmp_path, "a", "b", "c")
    await cluster.add("d")
    await cluster.kill("c", wipe=True)
    commit, reached, goes_on = cluster.services["d"].Commit, asyncio.Event(), asyncio.Event()

    async def slow(request: object, context: object) -> object:
        reached.set()
        await goes_on.wait()
        return await commit(request, context)  # type: ignore[arg-type]

    cluster.services["d"].Commit = slow  # type: ignore[method-assign, assignment]
    await cluster.look_after("a")
    await reached.wait()
    if is_used:
        path = (await cluster.backends["b"].publish("v")).path
        goes_on.set()
        write(path, "file", b"newer")
        await cluster.backends["b"].sync("v")
        await until(lambda: record(cluster).replicas == ("a", "b", "d"))
        assert record(cluster).writer == "b"
    else:
        await cluster.backends["b"].delete("v")
        goes_on.set()
        await until(lambda: not held(cluster, "a") and not held(cluster, "d"))
    await cluster.stop()


async def test_who_was_overtaken_leaves_the_replica_that_the_newer_writer_has_taken(tmp_path: Path) -> None:
    cluster = await unused(tmp_path, "a", "b", "c")
    await cluster.add("d")
    await cluster.kill("c", wipe=True)
    commit, delete = cluster.services["d"].Commit, cluster.services["d"].Delete
    reached, given_up = asyncio.Event(), asyncio.Event()

    async def first_is_lost(request: object, context: object) -> object:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await commit(request, context)  # type: ignore[arg-type]

    async def late(request: object, context: object) -> object:
        await until(lambda: record(cluster).replicas == ("a", "b", "d"))
        try:
            return await delete(request, context)  # type: ignore[arg-type]
        finally:
            given_up.set()

    cluster.services["d"].Commit = first_is_lost  # type: ignore[method-assign, assignment]
    cluster.services["d"].Delete = late  # type: ignore[method-assign, assignment]
    await cluster.look_after("a")
    await reached.wait()
    await cluster.backends["b"].publish("v")
    await given_up.wait()
    assert held(cluster, "d") == ["v"]
    await cluster.kill("a", wipe=True)
    await cluster.backends["b"].unpublish("v")
    assert tree((await cluster.backends["d"].publish("v")).path) == {"file": b"precious"}
    await cluster.stop()
