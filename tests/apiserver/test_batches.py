"""Turns of the operations of batches, and transactions that travel together."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from rayplane.control_plane.apiserver.grpc import batches
from rayplane.control_plane.apiserver.storage.convoys import ConvoyedTxns
from rayplane.control_plane.apiserver.storage.grouping import GROUP_MAX, GroupedTxns
from rayplane.control_plane.apiserver.storage.store import absent, at_revision, put_op
from rayplane.control_plane.client import ops
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as etcd_pb
from rayplane.proto.rayplane.v1 import objects_pb2 as pb
from tests.apiserver.fake_etcd import FakeEtcd


def operations(resource: str, count: int) -> list[pb.Operation]:
    return [ops.get(resource, f"{resource}-{n}", "default") for n in range(count)]


class Work:
    """Operations that take one turn of the loop each, or wait for `go`."""

    def __init__(self) -> None:
        self.under_way = 0
        self.most = 0
        self.done: list[str] = []
        self.go = asyncio.Event()

    async def turn(self, operation: pb.Operation) -> pb.Result:
        return await self._do(operation, lambda: asyncio.sleep(0))

    async def stuck(self, operation: pb.Operation) -> pb.Result:
        async def wait() -> None:
            await self.go.wait()

        return await self._do(operation, wait)

    async def _do(self, operation: pb.Operation, wait: Callable[[], Awaitable[None]]) -> pb.Result:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await wait()
        self.under_way -= 1
        name = operation.get.ref.name
        self.done.append(name)
        return pb.Result(json=name.encode())


async def test_results_come_in_the_order_of_the_operations() -> None:
    found = await batches.run(operations("pods", 50), Work().turn)
    assert [r.json.decode() for r in found] == [f"pods-{n}" for n in range(50)]
    assert await batches.run([], Work().turn) == []


async def test_a_late_small_batch_does_not_wait_for_an_early_large_one() -> None:
    work = Work()
    large = asyncio.ensure_future(batches.run(operations("pods", 1000), work.turn))
    await asyncio.sleep(0)
    await batches.run(operations("services", 3), work.turn)
    assert not large.done() and len(work.done) < 200
    await large


async def test_what_is_small_goes_many_at_a_time() -> None:
    for resource, at_once in (("leases.coordination.k8s.io", batches.SMALL), ("pods", batches.ANYTHING)):
        work = Work()
        await batches.run(operations(resource, 200), work.turn)
        assert work.most == at_once


async def test_a_cancelled_batch_ends_what_is_under_way() -> None:
    work = Work()
    stuck = asyncio.ensure_future(batches.run(operations("pods", 100), work.stuck))
    await asyncio.sleep(0)
    await cancel_and_wait(stuck)
    assert not work.done


# --- grouped transactions -----------------------------------------------------------------------


def create(group: GroupedTxns, key: str) -> Awaitable[etcd_pb.TxnResponse]:
    return group.txn([absent(key)], [put_op(key, b"value of " + key.encode())], [])


async def test_transactions_of_one_turn_are_one_transaction() -> None:
    etcd = FakeEtcd()
    group = GroupedTxns(ConvoyedTxns(etcd))  # type: ignore[arg-type]
    before, calls = etcd.revision, etcd.calls
    answers = await asyncio.gather(*(create(group, f"/k{n}") for n in range(30)))
    assert all(a.succeeded for a in answers)
    assert {a.header.revision for a in answers} == {before + 1}
    assert etcd.calls == calls + 1
    assert etcd.live[b"/k7"].value == b"value of /k7"


async def test_one_that_fails_does_not_keep_the_others_from_their_write() -> None:
    etcd = FakeEtcd()
    group = GroupedTxns(ConvoyedTxns(etcd))  # type: ignore[arg-type]
    await create(group, "/k3")
    answers = await asyncio.gather(*(create(group, f"/k{n}") for n in range(6)))
    assert [a.succeeded for a in answers] == [n != 3 for n in range(6)]
    assert len(etcd.live) == 6


async def test_one_key_twice_and_more_than_fit_are_several_transactions() -> None:
    etcd = FakeEtcd()
    group = GroupedTxns(ConvoyedTxns(etcd))  # type: ignore[arg-type]
    first = await create(group, "/k")
    again = [group.txn([at_revision("/k", first.header.revision)], [put_op("/k", b"%d" % n)], []) for n in range(2)]
    answers = await asyncio.gather(*again)
    assert sorted(a.succeeded for a in answers) == [False, True]
    many = await asyncio.gather(*(create(group, f"/m{n}") for n in range(GROUP_MAX * 2 + 1)))
    assert all(a.succeeded for a in many)
    assert len({a.header.revision for a in many}) == 3


async def test_an_error_reaches_everybody_in_the_group() -> None:
    etcd = FakeEtcd()
    etcd.down = RpcError(grpc.StatusCode.UNAVAILABLE, "gone")
    group = GroupedTxns(ConvoyedTxns(etcd))  # type: ignore[arg-type]
    answers = await asyncio.gather(*(create(group, f"/k{n}") for n in range(5)), return_exceptions=True)
    assert all(isinstance(a, RpcError) and a.message == "gone" for a in answers)
    etcd.down = None
    assert (await create(group, "/k0")).succeeded


async def test_nobody_waits_for_ever_when_the_one_that_carries_the_group_is_cancelled() -> None:
    etcd = FakeEtcd()
    group = GroupedTxns(ConvoyedTxns(etcd))  # type: ignore[arg-type]
    tasks = [asyncio.ensure_future(create(group, f"/k{n}")) for n in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tasks[0].cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert all(isinstance(a, RpcError) or a.succeeded for a in answers[1:])  # type: ignore[union-attr]
