"""Members with large stores on real disks: nothing that takes long keeps one from its other work."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env import LocalDisk
from tests.etcd.harness import EtcdCluster, etcd_cluster

PUTS_AT_ONCE = 100
R = pb.RangeRequest


async def _turns(work: Awaitable[object]) -> int:
    """How often others have had their turn until it was done."""
    task, turns = asyncio.ensure_future(work), 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    await task
    return turns


async def _fill(cluster: EtcdCluster, keys: int, value: bytes) -> None:
    stub = cluster.stub("KV")
    for start in range(0, keys, PUTS_AT_ONCE):
        ops = [
            pb.RequestOp(request_put=pb.PutRequest(key=b"k%05d" % n, value=value))
            for n in range(start, start + PUTS_AT_ONCE)
        ]
        await stub.Txn(pb.TxnRequest(success=ops))


@pytest.fixture
async def lmdb_member(tmp_path: Path) -> AsyncIterator[EtcdCluster]:
    """One member on a real disk, with a store of some megabytes."""
    async with etcd_cluster(1, disk=lambda: LocalDisk(tmp_path)) as cluster:
        await _fill(cluster, 2_000, bytes(2_000))
        yield cluster


async def test_what_reads_everything_lets_others_work_meanwhile(lmdb_member: EtcdCluster) -> None:
    kv_stub, maintenance = lmdb_member.stub("KV"), lmdb_member.stub("Maintenance")

    async def snapshot() -> None:
        async for _ in maintenance.Snapshot(pb.SnapshotRequest()):
            pass

    # Each slice handles a few hundred kilobytes of the 4 MB.
    for work in (
        maintenance.HashKV(pb.HashKVRequest()),
        maintenance.Defragment(pb.DefragmentRequest()),
        snapshot(),
        kv_stub.Range(R(key=b"k", range_end=b"l")),
    ):
        assert await _turns(work) >= 8
    assert (await kv_stub.Range(R(key=b"k", range_end=b"l", count_only=True))).count == 2_000


async def test_status_tells_what_a_defragmentation_gave_back(lmdb_member: EtcdCluster) -> None:
    kv_stub, maintenance = lmdb_member.stub("KV"), lmdb_member.stub("Maintenance")
    await kv_stub.DeleteRange(pb.DeleteRangeRequest(key=b"k", range_end=b"k019"))
    revision = (await kv_stub.Range(R(key=b"k"))).header.revision
    await kv_stub.Compact(pb.CompactionRequest(revision=revision))
    before = await maintenance.Status(pb.StatusRequest())
    await maintenance.Defragment(pb.DefragmentRequest())
    after = await maintenance.Status(pb.StatusRequest())
    assert after.dbSize < before.dbSize // 5
    assert after.dbSizeInUse <= after.dbSize
    assert (await kv_stub.Range(R(key=b"k", range_end=b"l", count_only=True))).count == 100


async def test_a_far_behind_member_takes_a_snapshot_in_slices(tmp_path: Path) -> None:
    disks = iter(range(3))
    limits: dict[str, Any] = {"snapshot_count": 10, "catch_up_entries": 5}
    async with etcd_cluster(3, disk=lambda: LocalDisk(tmp_path / str(next(disks))), **limits) as cluster:
        await cluster.put(b"a", b"1")
        leader = await cluster.wait_leader()
        behind = next(name for name, node in cluster.nodes.items() if node.member is not leader)
        await cluster.stop(behind)
        await _fill(cluster, 3_000, bytes(1_000))
        member = await cluster.start(behind)
        await cluster.applied_everywhere()
        assert member.store.hash_kv() == leader.store.hash_kv()
        assert member.store.range(b"k", b"l", count_only=True).count == 3_000
