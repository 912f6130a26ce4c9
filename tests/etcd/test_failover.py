"""How soon another member leads: at once when the leader's process is seen to be gone, else when its lease is over."""

import asyncio

import pytest

from control_plane.etcd.server import Member
from control_plane.rpc import RpcError
from control_plane.rpc.memory import DirectLink, Fabric
from proto.etcd import rpc_pb2 as pb
from tests.etcd.harness import TICK_S, EtcdCluster, etcd_cluster


class Cut(DirectLink):
    """No message passes to or from a host; connections are neither refused nor reset."""

    def __init__(self) -> None:
        self.host = ""

    def delay(self, source: str, target: str) -> float | None:
        return None if self.host in (source, target) else 0.0


async def ticks_until_another_leads(cluster: EtcdCluster, lost: int) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(60):
        while not any(m.is_leader and m.member_id != lost for m in cluster.members):
            await asyncio.sleep(TICK_S / 20)
    return (loop.time() - began) / TICK_S


async def settled(seed: int, cluster: EtcdCluster) -> Member:
    """A leader that is a while in office; which moment of a tick it is depends on the seed."""
    leader = await cluster.wait_leader()
    await cluster.put(b"k", b"v")
    await asyncio.sleep(TICK_S * (20 + seed / 7))
    return leader


@pytest.mark.parametrize("seed", range(8))
async def test_a_killed_leader_is_replaced_within_three_ticks(seed: int) -> None:
    async with etcd_cluster(3, seed=seed) as cluster:
        leader = await settled(seed, cluster)
        await cluster.kill(leader.config.name)
        assert await ticks_until_another_leads(cluster, leader.member_id) <= 3.5
        await cluster.put_retrying(b"k", b"w")


async def test_of_five_members_two_may_die_one_after_the_other() -> None:
    async with etcd_cluster(5) as cluster:
        for _ in range(2):
            leader = await settled(0, cluster)
            await cluster.kill(leader.config.name)
            assert await ticks_until_another_leads(cluster, leader.member_id) <= 5.5


async def test_a_leader_that_is_cut_off_keeps_its_lease() -> None:
    cut = Cut()
    async with etcd_cluster(3, fabric=Fabric(cut)) as cluster:
        leader = await settled(0, cluster)
        cut.host = leader.config.name
        ticks = await ticks_until_another_leads(cluster, leader.member_id)
        assert ticks >= leader.config.election_ticks - 1


async def test_broken_connections_to_a_living_leader_change_nothing() -> None:
    fabric = Fabric()
    async with etcd_cluster(3, fabric=fabric) as cluster:
        leader = await settled(0, cluster)
        term = leader.node.term
        for _ in range(20):
            fabric.sever(lambda client, server: leader.config.name in (client, server))
            await asyncio.sleep(TICK_S * 4)
        assert leader.is_leader and leader.node.term == term


async def test_a_wrong_report_of_the_leaders_death_changes_nothing() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        term = leader.node.term
        for _ in range(30):
            for member in cluster.members:
                member.gone(leader.member_id)
            await asyncio.sleep(TICK_S * 1.1)
        assert leader.is_leader and leader.node.term == term
        response: pb.PutResponse = await cluster.put(b"k", b"w")
        assert response.header.raft_term == term


async def test_a_follower_that_dies_is_nobodys_concern() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        term = leader.node.term
        await cluster.kill(next(m.config.name for m in cluster.members if m is not leader))
        await asyncio.sleep(TICK_S * 30)
        assert leader.is_leader and leader.node.term == term


async def test_without_a_quorum_nobody_raises_the_term() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        survivor = next(m for m in cluster.members if m is not leader)
        term = leader.node.term
        for name in [m.config.name for m in cluster.members if m is not survivor]:
            await cluster.kill(name)
        await asyncio.sleep(TICK_S * 100)
        assert survivor.node.term == term
        with pytest.raises(RpcError):
            await cluster.put(b"k", b"w", endpoint=survivor.client_address)
