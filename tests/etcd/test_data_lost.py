"""A member whose disk was put back to an older state: it neither votes nor serves, stops once and says why."""

import asyncio
import copy
import logging
import random
from dataclasses import replace

import pytest

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd import raft
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.etcd.server.bootstrap.recovery import LOST_FILE
from rayplane.control_plane.etcd.server.errors import DataLost
from rayplane.control_plane.rpc.memory import Fabric
from tests.etcd.harness import EtcdCluster, etcd_cluster
from tests.etcd.test_failover import Cut


async def put_back(cluster: EtcdCluster, name: str, *, writes: int = 20) -> None:
    """End a member; let it come back, take part in `writes`, die, and find its disk as it was at its first end."""
    await cluster.stop(name)
    before = copy.deepcopy(cluster.nodes[name].env.disk)
    await cluster.start(name)
    for i in range(writes):
        await cluster.put_retrying(b"k%d" % i, b"v")
    await cluster.applied_everywhere()
    await cluster.kill(name)
    node = cluster.nodes[name]
    node.env = replace(node.env, disk=before)


def follower(cluster: EtcdCluster) -> str:
    return next(cluster.name_of(m) for m in cluster.members if not m.is_leader)


async def test_a_follower_that_was_put_back_does_not_start_even_where_the_leader_changed_since() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        lost = follower(cluster)
        await put_back(cluster, lost)
        # The next leader never led the lost one; only the one before, a follower by now, knows.
        leader = await cluster.wait_leader()
        heir = next(m for m in cluster.members if m is not leader)
        leader.driver.transfer_leader(heir.member_id)
        async with asyncio.timeout(20):
            while not heir.is_leader:
                await asyncio.sleep(0.01)
        for _ in range(2):
            with pytest.raises(DataLost, match=r"put back to an older state; .* remove it from the cluster"):
                await cluster.start(lost)
        assert cluster.nodes[lost].disk.exists(LOST_FILE)
        await cluster.put_retrying(b"still", b"writable")


async def test_a_leader_that_was_put_back_does_not_start() -> None:
    async with etcd_cluster(3) as cluster:
        lost = cluster.name_of(await cluster.wait_leader())
        await cluster.stop(lost)
        before = copy.deepcopy(cluster.nodes[lost].env.disk)
        await cluster.start(lost)
        member = cluster.nodes[lost].alive
        async with asyncio.timeout(20):
            while not member.is_leader:
                (await cluster.wait_leader()).driver.transfer_leader(member.member_id)
                await asyncio.sleep(0.05)
        await cluster.put_retrying(b"k", b"v")
        last = member.applied
        async with asyncio.timeout(20):
            while any(m.driver.acknowledged(member.member_id, 0)[1] < last for m in cluster.members if m is not member):
                await asyncio.sleep(0.01)
        await cluster.kill(lost)
        node = cluster.nodes[lost]
        node.env = replace(node.env, disk=before)
        with pytest.raises(DataLost, match="put back"):
            await cluster.start(lost)


async def test_one_that_could_ask_nobody_stops_at_the_first_word_of_the_leader(
    caplog: pytest.LogCaptureFixture,
) -> None:
    link = Cut()
    async with etcd_cluster(3, fabric=Fabric(link)) as cluster:
        await cluster.wait_leader()
        lost = follower(cluster)
        await put_back(cluster, lost)
        node = cluster.nodes[lost]
        link.host = lost
        member = Member(node.config, node.env, node.network)
        await member.start()
        caplog.clear()
        link.host = ""
        async with asyncio.timeout(20):
            await member.wait_stopped()
        assert isinstance(member.failure, raft.LostEntries)
        said = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert len(said) == 1 and said[0].exc_info is None and "put back to an older state" in said[0].message
        with pytest.raises(DataLost):
            await cluster.start(lost)


async def test_impossible_input_from_a_peer_ends_the_member_once(caplog: pytest.LogCaptureFixture) -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        member = next(m for m in cluster.members if m is not leader)
        beat = raft.Message(raft.MessageType.HEARTBEAT, member.member_id, leader.member_id, leader.term)
        for _ in range(5):
            with pytest.raises(errors.EtcdError, match="stopped"):
                member.driver.receive([beat._replace(commit=10_000)], [])
        async with asyncio.timeout(20):
            await member.wait_stopped()
        assert isinstance(member.failure, raft.InvariantViolated)
        assert len([r for r in caplog.records if r.levelno >= logging.ERROR]) == 1
        assert not cluster.nodes[cluster.name_of(member)].disk.exists(LOST_FILE)


async def test_members_that_only_lag_or_die_are_never_taken_for_lost() -> None:
    """Whatever dies and comes back, with its disk as it was: all of them, leaders, in any order."""
    rng = random.Random(7)
    async with etcd_cluster(3) as cluster:
        for round_ in range(8):
            await cluster.put_retrying(b"r%d" % round_, b"v")
            names = rng.sample(sorted(cluster.nodes), rng.choice((1, 1, 2, 3)))
            for name in names:
                await cluster.kill(name, crash=rng if rng.random() < 0.5 else None)
            for name in names:
                await cluster.start(name)
            await cluster.wait_leader()
        assert [(await cluster.get(b"r%d" % i)).count for i in range(8)] == [1] * 8


async def test_a_member_that_failed_to_start_can_be_aborted_and_stopped() -> None:
    async with etcd_cluster(1) as cluster:
        node = cluster.nodes["m0"]
        await cluster.stop("m0")
        await node.disk.write_atomic(LOST_FILE, b"gone")
        member = Member(node.config, node.env, node.network)
        with pytest.raises(DataLost, match="gone"):
            await member.start()
        await member.abort()
        await member.stop()
        never = Member(node.config, node.env, node.network)
        await never.abort()
