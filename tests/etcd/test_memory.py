"""One figure for everything that could grow: the bytes that members, their simulated disks included, hold on to."""

import asyncio
import gc
import random
import tracemalloc
from typing import Any

import pytest

from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.keyvalue import BackendError
from tests.etcd.harness import EtcdCluster, etcd_cluster

VALUE_BYTES = 2_000
PUTS = 120
ROUNDS = 8


async def _round(cluster: EtcdCluster, rng: random.Random) -> None:
    """Everything clients do: writes, deletes, leases that come and go, watches, reads, and a compaction."""
    lease, kv = cluster.stub("Lease"), cluster.stub("KV")
    stream = cluster.members[0].watches.open()
    stream.create(pb.WatchCreateRequest(key=b"k", range_end=b"l", progress_notify=True))
    for number in range(PUTS):
        await kv.Put(pb.PutRequest(key=b"k%d" % (number % 10), value=rng.randbytes(VALUE_BYTES)))
        if number % 10 == 0:
            granted = await lease.LeaseGrant(pb.LeaseGrantRequest(TTL=100_000))
            await kv.Put(pb.PutRequest(key=b"new %d" % rng.getrandbits(60), value=b"v", lease=granted.ID))
            await lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=granted.ID))
    seen = 0
    while seen < PUTS:
        seen += sum(len(response.events) for response in await stream.next())
    stream.close()
    revision = (await cluster.get(b"k0")).header.revision
    await kv.Compact(pb.CompactionRequest(revision=revision))
    await asyncio.sleep(1)  # of virtual time, for what members do by the way


@pytest.mark.turn(1, of=2)
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_long_run_holds_no_more_than_a_short_one() -> None:
    rng = random.Random(1)
    limits: dict[str, Any] = {"snapshot_count": 100, "catch_up_entries": 50, "wal_segment_bytes": 64 * 1024}
    async with etcd_cluster(3, **limits) as cluster:
        tracemalloc.start()
        try:
            held = []
            for _ in range(ROUNDS):
                await _round(cluster, rng)
                await cluster.applied_everywhere()
                gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    written = 3 * PUTS * VALUE_BYTES  # by all members in one round
    # What is held goes up and down with the snapshots, by less than one round's writes.
    assert max(held[ROUNDS // 2 :]) < max(held[: ROUNDS // 2]) + written // 2, held


async def test_a_member_whose_store_fails_stops_instead_of_looking_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.put(b"a", b"1")
        member = cluster.members[0]

        def fail() -> None:
            raise BackendError("no space left on device")

        monkeypatch.setattr(member.store, "scrub", lambda budget: fail())
        async with asyncio.timeout(10):
            await member.wait_stopped()
        assert isinstance(member.failure, BackendError)
        cluster.nodes["m0"].member = None
        await cluster.put_retrying(b"a", b"2")


async def test_a_log_is_cut_short_however_often_its_member_restarts() -> None:
    async with etcd_cluster(1, snapshot_count=10, wal_segment_bytes=16 * 1024) as cluster:
        for number in range(20):
            await cluster.put(b"big%d" % number, bytes(VALUE_BYTES))
        sizes = []
        for _ in range(14):  # each life writes less than the store holds
            for _ in range(12):
                await cluster.put(b"big0", bytes(VALUE_BYTES))
            revision = (await cluster.get(b"big0")).header.revision
            await cluster.stub("KV").Compact(pb.CompactionRequest(revision=revision))
            await cluster.stop("m0")
            disk = cluster.nodes["m0"].disk
            sizes.append(sum(len(disk.read(f"wal/{name}")) for name in disk.list("wal")))
            await cluster.start("m0")
            await cluster.wait_leader()
        assert sizes[-1] < 2 * max(sizes[:4]), sizes
