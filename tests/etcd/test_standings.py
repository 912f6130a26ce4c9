"""Where members stand, asked by who puts a majority's word together."""

from collections.abc import AsyncIterator

import pytest

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.client.standings import SERVICE, agreed
from rayplane.control_plane.etcd.server import Member
from rayplane.control_plane.rpc import Stub
from rayplane.control_plane.rpc.memory import Fabric
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1.raft_pb2 import Question, Standing
from tests.etcd.harness import EtcdCluster, etcd_cluster
from tests.etcd.test_failover import Cut, settled, ticks_until_another_leads


async def standing(cluster: EtcdCluster, member: Member) -> Standing:
    async def question() -> AsyncIterator[Question]:
        yield Question(number=7)

    stub = Stub(cluster.network.channel(member.client_address), SERVICE)
    (told,) = [one async for one in stub.Ask(question())]
    assert (told.number, told.member_id) == (7, member.member_id)
    return told


async def test_a_leader_tells_what_is_committed_and_the_others_their_term() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        revision = (await cluster.put(b"k", b"v")).header.revision
        told = {m.member_id: await standing(cluster, m) for m in cluster.members}
        assert told[leader.member_id].revision == revision
        assert sorted(told[leader.member_id].voters) == sorted(told)
        assert [t.revision for n, t in told.items() if n != leader.member_id] == [0, 0]
        assert {t.term for t in told.values()} == {leader.term}


async def test_a_client_has_its_own_writes_in_the_revision() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        etcd = EtcdClient(cluster.network, cluster.endpoints)
        await etcd.prefer_leader()
        standings = etcd.standings()
        for number in range(20):
            written = (await etcd.put(b"k", b"%d" % number)).header.revision
            assert await standings.revision() == written
        await standings.stop()


async def test_a_client_looks_for_another_leader_when_an_answer_is_of_another_term() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        etcd = EtcdClient(cluster.network, cluster.endpoints)
        await etcd.prefer_leader()
        assert etcd.endpoints.preferred == leader.client_address
        term, asked, status = etcd._term, list[int](), etcd.status

        async def counted(address: str, *, timeout: float) -> pb.StatusResponse:
            asked.append(etcd._term)
            return await status(address, timeout=timeout)

        etcd.status = counted  # type: ignore[assignment,method-assign]
        await etcd.put(b"k", b"v")
        await etcd.prefer_leader(again=False)
        assert term not in asked, "of the same term nobody is asked"
        del etcd.status
        heir = next(m for m in cluster.members if m is not leader)
        await etcd.move_leader(leader.client_address, heir.member_id)
        await cluster.put_retrying(b"k", b"w")
        await etcd.member_list()
        await etcd.prefer_leader(again=False)
        assert etcd.endpoints.preferred == heir.client_address


@pytest.mark.parametrize("seed", range(2))
async def test_a_leader_that_was_cut_off_is_not_believed(seed: int) -> None:
    """It still thinks that it leads, and does not know what its heir has acknowledged."""
    cut = Cut()
    async with etcd_cluster(3, fabric=Fabric(cut)) as cluster:
        old = await settled(seed, cluster)
        before = await standing(cluster, old)
        cut.host = cluster.name_of(old)
        await ticks_until_another_leads(cluster, old.member_id)
        await cluster.put_retrying(b"k", b"new")
        others = [await standing(cluster, m) for m in cluster.members if m is not old]
        assert agreed(others) > before.revision
        assert all(agreed([before, follower]) == 0 for follower in others if not follower.revision)
