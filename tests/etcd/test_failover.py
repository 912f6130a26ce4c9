"""How soon another member leads: at once when the leader's process is seen to be gone, else when its lease is over."""

import asyncio
from collections.abc import Callable

import pytest

from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.etcd.server.upkeep.ticker import Ticker
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.memory import DirectLink, Fabric
from rayplane.proto.etcd import rpc_pb2 as pb
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


@pytest.mark.parametrize("seed", range(4))
async def test_broken_connections_to_a_living_leader_change_nothing(seed: int) -> None:
    fabric = Fabric()
    async with etcd_cluster(3, seed=seed, fabric=fabric) as cluster:
        leader = await settled(seed, cluster)
        term, name = leader.term, leader.config.name
        for _ in range(20):
            fabric.sever(lambda client, server: name in (client, server))
            # Who breaks them faster than they are made again, in both directions, cuts the leader off.
            async with asyncio.timeout(60):
                while sum(name in (call.client.host, call.server.host) for call in fabric.calls) < 4:
                    await asyncio.sleep(TICK_S / 4)
            await asyncio.sleep(TICK_S * 4)
        assert leader.is_leader and leader.term == term


async def test_a_wrong_report_of_the_leaders_death_changes_nothing() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        term = leader.term
        for _ in range(30):
            for member in cluster.members:
                member.driver.gone(leader.member_id)
            await asyncio.sleep(TICK_S * 1.1)
        assert leader.is_leader and leader.term == term
        response: pb.PutResponse = await cluster.put(b"k", b"w")
        assert response.header.raft_term == term


async def test_a_follower_that_dies_is_nobodys_concern() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        term = leader.term
        await cluster.kill(next(m.config.name for m in cluster.members if m is not leader))
        await asyncio.sleep(TICK_S * 30)
        assert leader.is_leader and leader.term == term


async def test_without_a_quorum_nobody_raises_the_term() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await settled(0, cluster)
        survivor = next(m for m in cluster.members if m is not leader)
        term = leader.term
        for name in [m.config.name for m in cluster.members if m is not survivor]:
            await cluster.kill(name)
        await asyncio.sleep(TICK_S * 100)
        assert survivor.term == term
        with pytest.raises(RpcError):
            await cluster.put(b"k", b"w", endpoint=survivor.client_address)


class Held(DirectLink):
    """Messages to one host arrive only when its loop runs again."""

    def __init__(self) -> None:
        self.host, self.until = "", 0.0

    def delay(self, source: str, target: str) -> float | None:
        return max(0.0, self.until - asyncio.get_running_loop().time()) if target == self.host else 0.0


@pytest.mark.parametrize("elapsed", [0, 9, 19])
async def test_a_follower_whose_loop_stood_still_hears_its_leader_before_it_stands(elapsed: int) -> None:
    held, loop = Held(), asyncio.get_running_loop()
    async with etcd_cluster(3, fabric=Fabric(held)) as cluster:
        leader = await settled(0, cluster)
        follower = next(m for m in cluster.members if m is not leader)
        term, raft = leader.term, follower.driver._node._raft
        leaders: list[int] = []
        follower.driver.on_leader.append(lambda state: leaders.append(state.lead))
        held.host, held.until = follower.config.name, loop.time() + TICK_S * 30
        # Its loop stands still: no tick, no message; and then the tick that was due comes before the messages.
        follower.ticker.stop()
        await asyncio.sleep(TICK_S * 29)
        raft.election_elapsed = min(elapsed, raft.election_timeout_ticks - 1)
        follower.ticker._tick()
        await asyncio.sleep(TICK_S * 40)
        assert leader.is_leader and leader.term == term
        assert follower.leader_id == leader.member_id and 0 not in leaders


async def test_a_loop_that_is_always_late_still_finds_a_lost_leader() -> None:
    cut = Cut()
    async with etcd_cluster(3, fabric=Fabric(cut)) as cluster:
        leader = await settled(0, cluster)
        for member in cluster.members:
            tick = member.ticker._tick

            def late(ticker: Ticker = member.ticker, tick: Callable[[], None] = tick) -> None:
                ticker._due -= TICK_S * 3
                tick()

            member.ticker._tick = late  # type: ignore[method-assign]
        cut.host = leader.config.name
        assert await ticks_until_another_leads(cluster, leader.member_id) <= 4 * leader.config.election_ticks
