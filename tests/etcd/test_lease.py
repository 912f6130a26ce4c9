"""Leases as an etcd client sees them, over several members and a change of the leader."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.state_machine.lessor import CHECKPOINT_INTERVAL_S, STALE_ENTRIES_MAX, Lessor
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.harness import EtcdCluster, etcd_cluster


async def keep_alive(cluster: EtcdCluster, lease: int, endpoint: int = 0) -> int:
    async def requests() -> AsyncIterator[pb.LeaseKeepAliveRequest]:
        yield pb.LeaseKeepAliveRequest(ID=lease)

    async with contextlib.aclosing(cluster.stub("Lease", endpoint).LeaseKeepAlive(requests())) as answers:
        return (await anext(answers)).TTL


async def grant(cluster: EtcdCluster, ttl_s: int, *, key: bytes = b"", endpoint: int = 0) -> int:
    lease = (await cluster.stub("Lease", endpoint).LeaseGrant(pb.LeaseGrantRequest(TTL=ttl_s))).ID
    if key:
        await cluster.stub("KV", endpoint).Put(pb.PutRequest(key=key, value=b"v", lease=lease))
    return lease


async def gone(cluster: EtcdCluster, key: bytes) -> int:
    """Wait until the key is gone; the revision then."""
    while True:
        response = await cluster.get(key)
        if not response.kvs:
            return response.header.revision
        await asyncio.sleep(0.05)


async def test_grant_attach_list_and_revoke_through_every_member() -> None:
    async with etcd_cluster(3) as cluster:
        lease = await grant(cluster, 60, key=b"a", endpoint=1)
        await cluster.stub("KV", 2).Put(pb.PutRequest(key=b"b", lease=lease))
        await cluster.put(b"a", b"detached")
        for endpoint in range(3):
            stub = cluster.stub("Lease", endpoint)
            info = await stub.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
            assert (info.grantedTTL, list(info.keys)) == (60, [b"b"])
            assert 55 <= info.TTL <= 61
            assert [entry.ID for entry in (await stub.LeaseLeases(pb.LeaseLeasesRequest())).leases] == [lease]
            assert await keep_alive(cluster, lease, endpoint) == 60
        await cluster.stub("Lease", 2).LeaseRevoke(pb.LeaseRevokeRequest(ID=lease))
        assert not (await cluster.get(b"b")).kvs
        assert (await cluster.get(b"a")).kvs[0].value == b"detached"


async def test_an_unknown_lease() -> None:
    async with etcd_cluster(3) as cluster:
        for endpoint in range(3):
            stub = cluster.stub("Lease", endpoint)
            assert await keep_alive(cluster, 77, endpoint) == 0
            assert (await stub.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=77))).TTL == -1
            with pytest.raises(RpcError, match="requested lease not found"):
                await stub.LeaseRevoke(pb.LeaseRevokeRequest(ID=77))
        await cluster.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(ID=7, TTL=10))
        with pytest.raises(RpcError, match="lease already exists"):
            await cluster.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(ID=7, TTL=10))


async def test_expiry_deletes_all_keys_in_one_revision() -> None:
    async with etcd_cluster(3) as cluster:
        lease = await grant(cluster, 1, key=b"a")
        await cluster.stub("KV").Put(pb.PutRequest(key=b"b", lease=lease))
        before = (await cluster.get(b"a")).header.revision
        assert await gone(cluster, b"a") == before + 1
        assert not (await cluster.get(b"b")).kvs


async def test_leases_survive_a_restart_of_all_members() -> None:
    async with etcd_cluster(1) as cluster:
        lease = await grant(cluster, 2, key=b"a")
        await cluster.stop("m0")
        await cluster.start("m0")
        await cluster.wait_leader()
        info = await cluster.stub("Lease").LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease, keys=True))
        assert (info.grantedTTL, list(info.keys)) == (2, [b"a"])
        await gone(cluster, b"a")


async def test_a_new_leader_expires_leases_too() -> None:
    async with etcd_cluster(3) as cluster:
        await grant(cluster, 1, key=b"a")
        leader = await cluster.wait_leader()
        await cluster.kill(leader.config.name)
        await cluster.wait_leader()
        await gone(cluster, b"a")


def test_time_counts_on_the_leader_only_and_anew_with_each_leader() -> None:
    lessor = Lessor()
    lessor.grant(1, 10, 0.0)
    assert lessor.expired(1e9) == []
    lessor.promote(100.0, 1.0)
    assert lessor.remaining(1, 100.0) == 11
    assert lessor.expired(110.9) == []
    assert lessor.renew(1, 110.9) == 10
    assert lessor.expired(120.8) == []
    assert lessor.expired(120.9) == [1]
    with pytest.raises(errors.LeaseNotFound):
        lessor.renew(1, 120.9)
    assert lessor.expired(121.0) == [], "not again before its revocation had time to come"
    assert lessor.expired(123.0) == [1], "but again when it was lost"
    lessor.demote()
    assert lessor.expired(1e9) == []


def test_a_checkpoint_keeps_a_long_lease_from_starting_over() -> None:
    lessor = Lessor()
    lessor.promote(0.0, 0.0)
    lessor.grant(1, 1000, 0.0)
    ((lease, remaining),) = lessor.due_checkpoints(CHECKPOINT_INTERVAL_S)
    assert (lease, remaining) == (1, 700)
    lessor.checkpoint(1, remaining, CHECKPOINT_INTERVAL_S)
    lessor.demote()
    lessor.promote(5000.0, 0.0)
    assert lessor.remaining(1, 5000.0) == 700
    lessor.renew(1, 5001.0)
    assert lessor.remaining(1, 5001.0) == 1000


@pytest.mark.turn(0, of=2)
@pytest.mark.slow
async def test_a_renewed_lease_does_not_fall_back_to_its_checkpoint_with_the_next_leader() -> None:
    async with etcd_cluster(3) as cluster:
        lease = await grant(cluster, 1000, key=b"a")
        await asyncio.sleep(2 * CHECKPOINT_INTERVAL_S + 1)
        await keep_alive(cluster, lease)
        await cluster.put(b"later", b"")
        leader = await cluster.wait_leader()
        await cluster.stop(leader.config.name)
        await cluster.wait_leader()
        info = await cluster.stub("Lease").LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease))
        assert info.TTL > 900


def test_leases_that_come_and_go_leave_nothing() -> None:
    lessor = Lessor()
    lessor.promote(0.0, 0.0)
    lessor.grant(1, 10, 0.0)
    for number in range(2, 5_000):
        lessor.grant(number, 1_000_000, 0.0)
        lessor.revoke(number)
    assert len(lessor._heap) + len(lessor._checkpoints) < 2 * STALE_ENTRIES_MAX
    assert lessor.expired(10.0) == [1]
