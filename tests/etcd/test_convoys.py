"""Many transactions in one call: each is one by itself, on every member."""

import asyncio
from typing import Any

import pytest

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.client import convoys as client
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.config import MemberConfig
from rayplane.control_plane.etcd.server.services.convoys import TRANSACTIONS_MAX
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1.raft_pb2 import Convoy, Outcome
from tests.etcd.harness import SETTLE_S, EtcdCluster, etcd_cluster


def put(key: bytes, value: bytes = b"", **options: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, **options))


def get(key: bytes, **options: Any) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, **options))


def delete(key: bytes, end: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=True))


def absent(key: bytes) -> pb.Compare:
    return pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=0)


async def convoy(cluster: EtcdCluster, *txns: pb.TxnRequest, member: int = 0, **metadata: str) -> list[Outcome]:
    stub = Stub(cluster.network.channel(cluster.endpoints[member]), client.SERVICE)
    told = await stub.Txns(Convoy(transactions=txns), metadata=metadata)
    return list(told.outcomes)


def response(outcome: Outcome) -> pb.TxnResponse:
    assert not outcome.code, outcome.text
    return outcome.response


async def hashes(cluster: EtcdCluster) -> set[int]:
    """Of all members, once they have come equally far."""
    await cluster.applied_everywhere()
    return {
        (await cluster.stub("Maintenance", member.client_address).HashKV(pb.HashKVRequest())).hash
        for member in cluster.members
    }


@pytest.mark.parametrize("member", range(3))
async def test_each_has_its_own_revision_and_sees_those_before_it(member: int) -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        first, again, read = await convoy(
            cluster,
            pb.TxnRequest(compare=[absent(b"a")], success=[put(b"a", b"1")], failure=[get(b"a")]),
            pb.TxnRequest(compare=[absent(b"a")], success=[put(b"a", b"2")], failure=[get(b"a"), put(b"b", b"3")]),
            pb.TxnRequest(success=[get(b"b")]),
            member=member,
        )
        done, refused, seen = response(first), response(again), response(read)
        assert (done.succeeded, refused.succeeded) == (True, False)
        assert refused.header.revision == done.header.revision + 1
        assert refused.responses[0].response_range.kvs[0].value == b"1"
        assert seen.responses[0].response_range.kvs[0].value == b"3"
        assert done.header.member_id == cluster.members[member].member_id


async def test_what_is_wrong_with_one_is_told_of_that_one() -> None:
    async with etcd_cluster(1) as cluster:
        await cluster.wait_leader()
        outcomes = await convoy(
            cluster,
            pb.TxnRequest(success=[put(b"a", b"1")]),
            pb.TxnRequest(success=[put(b"a"), put(b"a")]),
            pb.TxnRequest(success=[put(b"b", lease=7)]),
            pb.TxnRequest(success=[put(b"c", bytes(2 << 20))]),
            pb.TxnRequest(success=[put(b"d", b"4")]),
        )
        assert [o.text for o in outcomes if o.code] == [
            errors.DuplicateKey().message,
            errors.LeaseNotFound().message,
            errors.RequestTooLarge().message,
        ]
        first, last = response(outcomes[0]), response(outcomes[4])
        assert last.header.revision == first.header.revision + 1
        assert await convoy(cluster) == []


async def test_members_that_nobody_asked_do_the_same() -> None:
    async with etcd_cluster(3) as cluster:
        await cluster.wait_leader()
        nested = pb.RequestOp(request_txn=pb.TxnRequest(compare=[absent(b"x")], success=[put(b"x"), get(b"a")]))
        outcomes = await convoy(
            cluster,
            pb.TxnRequest(success=[put(b"a", b"1"), put(b"b", b"2")]),
            pb.TxnRequest(success=[put(b"a", ignore_value=True, prev_kv=True), get(b"a"), delete(b"b")]),
            pb.TxnRequest(success=[nested, put(b"c", b"3")]),
            pb.TxnRequest(success=[put(b"a", b"4"), get(b"a", revision=1_000)]),
            pb.TxnRequest(success=[delete(b"a", b"\0")]),
            pb.TxnRequest(success=[put(b"z", b"5")]),
        )
        assert [bool(o.code) for o in outcomes] == [False, False, False, True, False, False]
        assert len(await hashes(cluster)) == 1


async def test_all_is_refused_where_nothing_could_be_taken() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        txn = pb.TxnRequest(success=[put(b"a")])
        with pytest.raises(RpcError) as many:
            await convoy(cluster, *[txn] * (TRANSACTIONS_MAX + 1))
        assert many.value.code is errors.Code.INVALID_ARGUMENT
        others = [name for name, node in cluster.nodes.items() if node.member is not leader]
        for name in others:
            await cluster.kill(name)
        lost = asyncio.create_task(convoy(cluster, txn, txn, member=cluster.members.index(leader)))
        while not leader.driver.proposals:
            await asyncio.sleep(0)
        leader.driver.proposals.fail_all(errors.LeaderChanged)
        with pytest.raises(RpcError) as unknown:
            await lost
        assert unknown.value.message == errors.LeaderChanged().message
        leader._proposer.drain()
        with pytest.raises(RpcError) as stopped:
            await convoy(cluster, txn)
        assert stopped.value.message == errors.Stopped().message


async def test_of_those_that_fail_for_different_reasons_each_is_told_its_own() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        for name in [name for name, node in cluster.nodes.items() if node.member is not leader]:
            await cluster.kill(name)
        fine, twice = pb.TxnRequest(success=[put(b"a")]), pb.TxnRequest(success=[put(b"a"), put(b"a")])
        lost = asyncio.create_task(convoy(cluster, fine, twice, member=cluster.members.index(leader)))
        while not leader.driver.proposals:
            await asyncio.sleep(0)
        # The one may have been done, the other surely was not: who asked acts upon that.
        leader.driver.proposals.fail_all(errors.LeaderChanged)
        assert [o.text for o in await lost] == [errors.LeaderChanged().message, errors.DuplicateKey().message]


async def test_all_of_a_convoy_are_one_entry_of_the_log() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        before = leader.applied
        outcomes = await convoy(cluster, *(pb.TxnRequest(success=[put(b"%d" % n)]) for n in range(50)))
        assert {o.response.succeeded for o in outcomes} == {True}
        assert leader.applied == before + 1
        assert len(await hashes(cluster)) == 1


async def test_a_convoy_that_authentication_overtook_does_nothing() -> None:
    async with etcd_cluster(1) as cluster:
        leader = await cluster.wait_leader()
        auth = cluster.stub("Auth")
        await auth.UserAdd(pb.AuthUserAddRequest(name="root", password="root"))
        await auth.RoleAdd(pb.AuthRoleAddRequest(name="root"))
        await auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
        enabled = asyncio.ensure_future(leader._proposer.propose(Kind.AUTH_ENABLE, pb.AuthEnableRequest()))
        late = asyncio.ensure_future(
            leader._proposer.propose(Kind.CONVOY, Convoy(transactions=[pb.TxnRequest(success=[put(b"a")])]))
        )
        await enabled
        (refusal,) = await late
        assert isinstance(refusal, errors.EtcdError) and not leader.store.range(b"a").kvs


def test_a_member_takes_all_that_a_client_sends_in_one_call_however_small_its_requests_are() -> None:
    size = client.BYTES_MAX // client.TRANSACTIONS_MAX
    txn = pb.TxnRequest(success=[put(b"k", bytes(size - 16))])
    assert size - 8 <= txn.ByteSize() <= size
    full = Convoy(transactions=[txn] * client.TRANSACTIONS_MAX)
    member = MemberConfig(name="m", client_address="m:1", peer_address="m:2", max_request_bytes=size + 512)
    assert full.ByteSize() <= member.max_message_bytes
    assert len(full.transactions) <= TRANSACTIONS_MAX


async def test_callers_are_judged_one_by_one_once_authentication_is_on() -> None:
    async with etcd_cluster(1) as cluster:
        await cluster.wait_leader()
        auth = cluster.stub("Auth")
        for name in ("root", "user"):
            await auth.UserAdd(pb.AuthUserAddRequest(name=name, password=name))
        await auth.RoleAdd(pb.AuthRoleAddRequest(name="root"))
        await auth.RoleAdd(pb.AuthRoleAddRequest(name="writer"))
        await auth.RoleGrantPermission(
            pb.AuthRoleGrantPermissionRequest(name="writer", perm={"permType": 2, "key": b"mine"})
        )
        await auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user="user", role="writer"))
        await auth.AuthEnable(pb.AuthEnableRequest())
        token = (await auth.Authenticate(pb.AuthenticateRequest(name="user", password="user"))).token
        mine, other = await convoy(
            cluster,
            pb.TxnRequest(success=[put(b"mine")]),
            pb.TxnRequest(success=[put(b"other")]),
            token=token,
        )
        assert response(mine).succeeded
        assert other.text == errors.PermissionDenied().message


async def test_what_a_leader_does_not_take_is_handed_to_it_again_and_holds_nothing_up() -> None:
    async with etcd_cluster(3, request_timeout_s=SETTLE_S) as cluster:
        leader = await cluster.wait_leader()
        gone, asked = (m for m in cluster.members if m is not leader)
        await cluster.kill(cluster.name_of(gone))
        # A leader that hands over takes nothing; when its heir does not answer it goes on, in the same term.
        leader.driver.transfer_leader(gone.member_id)
        term = leader.driver.term
        txns = [pb.TxnRequest(success=[put(b"a")]), pb.TxnRequest(success=[put(b"b")])]
        outcomes = await convoy(cluster, *txns, member=cluster.members.index(asked))
        assert [o.code for o in outcomes] == [0, 0]
        assert (leader.driver.term, leader.is_leader) == (term, True)
