"""KV semantics as an etcd client sees them (etcd API reference, "KV API guarantees" and rpc.proto)."""

import asyncio
from typing import Any

import grpc
import pytest

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.harness import EtcdCluster, etcd_cluster

Compare = pb.Compare


async def refused(call: object, error: type[errors.EtcdError]) -> None:
    with pytest.raises(RpcError) as caught:
        await call  # type: ignore[misc]
    assert (caught.value.code, caught.value.message) == (error.status, errors.PREFIX + error.text)


def put(key: bytes, value: bytes = b"", **options: Any) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, **options))


def delete(key: bytes, end: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end))


def get(key: bytes, **options: Any) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, **options))


def txn(
    *ops: pb.RequestOp, compare: list[Compare] | None = None, orelse: list[pb.RequestOp] | None = None
) -> pb.TxnRequest:
    return pb.TxnRequest(compare=compare or [], success=ops, failure=orelse or [])


async def fill(cluster: EtcdCluster) -> None:
    for number, key in enumerate([b"a", b"b", b"c", b"d"]):
        await cluster.put(key, b"%d" % (9 - number))
    await cluster.put(b"b", b"again")


async def test_a_put_is_read_with_its_history() -> None:
    async with etcd_cluster(1) as cluster:
        stub = cluster.stub("KV")
        first = await stub.Put(pb.PutRequest(key=b"k", value=b"1"))
        second = await stub.Put(pb.PutRequest(key=b"k", value=b"2", prev_kv=True))
        assert second.header.revision == first.header.revision + 1
        assert second.prev_kv.value == b"1"
        (now,) = (await cluster.get(b"k")).kvs
        assert (now.value, now.version, now.create_revision, now.mod_revision) == (
            b"2",
            2,
            first.header.revision,
            second.header.revision,
        )
        (past,) = (await cluster.get(b"k", revision=first.header.revision)).kvs
        assert past.value == b"1"
        assert first.header.cluster_id and first.header.member_id and first.header.raft_term


async def test_range_limits_counts_sorts_and_filters() -> None:
    async with etcd_cluster(1) as cluster:
        await fill(cluster)
        limited = await cluster.get(b"a", range_end=b"\0", limit=2)
        assert [k.key for k in limited.kvs] == [b"a", b"b"]
        assert (limited.count, limited.more) == (4, True)
        counted = await cluster.get(b"a", range_end=b"d", count_only=True)
        assert (counted.count, len(counted.kvs)) == (3, 0)
        newest = await cluster.get(
            b"a",
            range_end=b"\0",
            limit=2,
            sort_target=pb.RangeRequest.MOD,
            sort_order=pb.RangeRequest.DESCEND,
        )
        assert [k.key for k in newest.kvs] == [b"b", b"d"]
        assert newest.more
        by_value = await cluster.get(b"a", range_end=b"\0", sort_target=pb.RangeRequest.VALUE)
        assert [k.key for k in by_value.kvs] == [b"d", b"c", b"a", b"b"]
        changed = await cluster.get(b"a", range_end=b"\0", min_mod_revision=4, max_mod_revision=5, keys_only=True)
        assert [(k.key, k.value) for k in changed.kvs] == [(b"c", b""), (b"d", b"")]
        assert changed.count == 4


async def test_delete_range_tells_what_it_deleted() -> None:
    async with etcd_cluster(1) as cluster:
        await fill(cluster)
        stub = cluster.stub("KV")
        before = (await cluster.get(b"a")).header.revision
        deleted = await stub.DeleteRange(pb.DeleteRangeRequest(key=b"b", range_end=b"d", prev_kv=True))
        assert deleted.deleted == 2
        assert [k.value for k in deleted.prev_kvs] == [b"again", b"7"]
        nothing = await stub.DeleteRange(pb.DeleteRangeRequest(key=b"b"))
        assert (nothing.deleted, nothing.header.revision) == (0, before + 1)


async def test_a_transaction_takes_one_branch_in_one_revision() -> None:
    async with etcd_cluster(1) as cluster:
        stub = cluster.stub("KV")
        absent = Compare(key=b"k", target=Compare.CREATE, result=Compare.EQUAL, create_revision=0)
        request = txn(put(b"k", b"v"), put(b"l", b"w"), get(b"k"), compare=[absent], orelse=[get(b"k")])
        first = await stub.Txn(request)
        assert first.succeeded
        assert first.responses[2].response_range.kvs[0].value == b"v"
        assert first.header.revision == 2
        second = await stub.Txn(request)
        assert not second.succeeded
        assert second.responses[0].response_range.kvs[0].mod_revision == 2
        assert second.header.revision == 2


async def test_nested_compares_see_the_state_before_any_write() -> None:
    async with etcd_cluster(1) as cluster:
        untouched = Compare(key=b"k", target=Compare.VERSION, result=Compare.EQUAL, version=0)
        nested = pb.RequestOp(request_txn=txn(put(b"seen", b"old"), compare=[untouched]))
        response = await cluster.stub("KV").Txn(txn(put(b"k", b"v"), nested))
        assert response.responses[1].response_txn.succeeded
        assert (await cluster.get(b"seen")).kvs[0].value == b"old"


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(key=b"k", target=Compare.VALUE, result=Compare.EQUAL, value=b"v"), True),
        (Compare(key=b"k", target=Compare.VALUE, result=Compare.GREATER, value=b"w"), False),
        (Compare(key=b"k", target=Compare.VALUE, result=Compare.LESS, value=b"w"), True),
        (Compare(key=b"k", target=Compare.MOD, result=Compare.NOT_EQUAL, mod_revision=3), False),
        (Compare(key=b"k", target=Compare.VERSION, result=Compare.EQUAL, version=2), True),
        (Compare(key=b"k", target=Compare.LEASE, result=Compare.EQUAL, lease=0), True),
        (Compare(key=b"none", target=Compare.VALUE, result=Compare.NOT_EQUAL, value=b"v"), False),
        (Compare(key=b"none", target=Compare.MOD, result=Compare.LESS, mod_revision=1), True),
        (Compare(key=b"k", range_end=b"m", target=Compare.MOD, result=Compare.GREATER, mod_revision=2), True),
        (Compare(key=b"k", range_end=b"m", target=Compare.VERSION, result=Compare.EQUAL, version=2), False),
    ],
)
async def test_compare(compare: Compare, holds: bool) -> None:
    async with etcd_cluster(1) as cluster:
        for key in (b"k", b"k", b"l"):
            await cluster.put(key, b"v")
        response = await cluster.stub("KV").Txn(txn(compare=[compare]))
        assert response.succeeded is holds


async def test_refusals_have_the_codes_and_texts_of_etcd() -> None:
    async with etcd_cluster(1) as cluster:
        stub = cluster.stub("KV")
        await fill(cluster)
        await stub.Compact(pb.CompactionRequest(revision=4))
        refusals = [
            (stub.Put(pb.PutRequest(value=b"v")), errors.EmptyKey),
            (stub.Range(pb.RangeRequest()), errors.EmptyKey),
            (stub.Put(pb.PutRequest(key=b"x", ignore_value=True)), errors.KeyNotFound),
            (stub.Put(pb.PutRequest(key=b"x", value=b"v", ignore_value=True)), errors.ValueProvided),
            (stub.Put(pb.PutRequest(key=b"x", lease=7)), errors.LeaseNotFound),
            (stub.Put(pb.PutRequest(key=b"x", value=bytes(1536 * 1024))), errors.RequestTooLarge),
            (stub.Range(pb.RangeRequest(key=b"a", revision=3)), errors.Compacted),
            (stub.Range(pb.RangeRequest(key=b"a", revision=99)), errors.FutureRevision),
            (stub.Compact(pb.CompactionRequest(revision=4)), errors.Compacted),
            (stub.Compact(pb.CompactionRequest(revision=99)), errors.FutureRevision),
            (stub.Txn(txn(*[get(b"a")] * 129)), errors.TooManyOps),
            (stub.Txn(txn(put(b"k"), put(b"k"))), errors.DuplicateKey),
            (stub.Txn(txn(get(b"a", revision=99), put(b"k"))), errors.FutureRevision),
        ]
        for call, error in refusals:
            await refused(call, error)
        assert not (await cluster.get(b"k")).kvs, "a refused transaction must change nothing"


async def test_ignored_value_and_lease_are_kept() -> None:
    async with etcd_cluster(1) as cluster:
        lease = await cluster.stub("Lease").LeaseGrant(pb.LeaseGrantRequest(TTL=60))
        stub = cluster.stub("KV")
        await stub.Put(pb.PutRequest(key=b"k", value=b"v", lease=lease.ID))
        await stub.Put(pb.PutRequest(key=b"k", value=b"w", ignore_lease=True))
        (kept,) = (await cluster.get(b"k")).kvs
        assert (kept.value, kept.lease) == (b"w", lease.ID)
        await stub.Put(pb.PutRequest(key=b"k", ignore_value=True))
        (kept,) = (await cluster.get(b"k")).kvs
        assert (kept.value, kept.lease) == (b"w", 0)


async def test_space_quota_raises_an_alarm_that_refuses_writes_but_not_deletes() -> None:
    async with etcd_cluster(1, quota_bytes=50_000) as cluster:
        stub = cluster.stub("KV")
        with pytest.raises(RpcError) as caught:
            for number in range(2_000):
                await stub.Put(pb.PutRequest(key=b"%d" % number, value=bytes(5_000)))
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        alarms = await cluster.stub("Maintenance").Alarm(pb.AlarmRequest())
        while not alarms.alarms:
            await asyncio.sleep(0.01)
            alarms = await cluster.stub("Maintenance").Alarm(pb.AlarmRequest())
        assert alarms.alarms[0].alarm == pb.NOSPACE
        assert (await stub.DeleteRange(pb.DeleteRangeRequest(key=b"0"))).deleted == 1
