"""The level of a cluster's log: nothing is written that a member cannot read, and who cannot read it does not go on."""

import asyncio
from typing import Any

import pytest

from rayplane.control_plane.client import convoys as client
from rayplane.control_plane.etcd.server.codec import PEER, Kind
from rayplane.control_plane.etcd.server.replication import proposals
from rayplane.control_plane.etcd.server.services.peer import PeerService
from rayplane.control_plane.etcd.server.state_machine.level import LEVEL, common_level
from rayplane.control_plane.etcd.server.upkeep.level_rise import CHECK_EVERY_S
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire
from rayplane.storage.formats import FIRST, NewerFormat
from tests.etcd.harness import SETTLE_S, TICK_S, EtcdCluster, etcd_cluster


def test_the_common_level_is_the_lowest_and_unknown_where_one_is_silent() -> None:
    assert common_level([2, 3, 2]) == 2
    assert common_level([2, 0]) == FIRST  # builds before levels
    assert common_level([2, None, 2]) == FIRST
    assert common_level([]) == FIRST


async def convoy(cluster: EtcdCluster) -> None:
    stub = Stub(cluster.network.channel(cluster.endpoints[0]), client.SERVICE)
    txns = [pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=b"a%d" % i))]) for i in range(4)]
    told = await stub.Txns(wire.Convoy(transactions=txns))
    assert not any(outcome.code for outcome in told.outcomes)


async def test_no_entry_of_many_is_written_while_others_could_not_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Kind] = []
    older = asyncio.Event()
    encode, answer = proposals.encode_request, PeerService.Members

    def noted(request_id: int, kind: Kind, request: Any) -> bytes:
        written.append(kind)
        return encode(request_id, kind, request)

    async def as_older(self: PeerService, request: wire.MembersRequest, context: Any) -> wire.MembersResponse:
        response = await answer(self, request, context)
        if older.is_set():
            response.ClearField("level")
        return response

    monkeypatch.setattr(proposals, "encode_request", noted)
    monkeypatch.setattr(PeerService, "Members", as_older)
    older.set()
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        await asyncio.sleep(3 * CHECK_EVERY_S)
        await convoy(cluster)
        assert Kind.LEVEL not in written and Kind.CONVOY not in written
        older.clear()  # they are upgraded
        async with asyncio.timeout(SETTLE_S):
            while any(m.machine.level.now < LEVEL for m in cluster.members):
                await asyncio.sleep(TICK_S)
        await convoy(cluster)
        assert Kind.CONVOY in written
        with pytest.raises(RpcError, match="reads level 1 of the log, the cluster has 2"):
            await Stub(cluster.nodes["m1"].network.channel("m0:2380"), PEER).Claim(wire.Attributes(id=5, name="old"))


async def test_a_member_stops_at_a_level_that_it_cannot_read() -> None:
    async with etcd_cluster(1) as cluster:
        await cluster.wait_leader()
        member = cluster.members[0]
        member._proposer.propose_unwatched(Kind.LEVEL, wire.Level(level=LEVEL + 1, build="9.0"))
        async with asyncio.timeout(SETTLE_S):
            await member.wait_stopped()
        assert isinstance(member.failure, NewerFormat)
        assert "made by rayplane 9.0" in str(member.failure)
