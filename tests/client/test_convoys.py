"""Transactions that travel together: who shares a call, and what becomes of each when calls and callers fail."""

import asyncio
from typing import Any, cast

import grpc
import pytest

from rayplane.control_plane.client.convoys import BYTES_MAX, TRANSACTIONS_MAX, UNKNOWN_S, Convoys
from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1.raft_pb2 import Convoy, Outcome, Outcomes
from tests.etcd.virtual import VirtualLoop

TIMEOUT_S = 5.0


def put(key: str, value: bytes = b"") -> pb.TxnRequest:
    return pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=key.encode(), value=value))])


def key_of(request: pb.TxnRequest) -> str:
    return request.success[0].request_put.key.decode()


class Member:
    """A member that carries out all but what it is told to refuse; `calls` has the keys of each call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.refused: dict[str, RpcError] = {}
        self.broken: RpcError | None = None
        self.forgets = 0
        self.silent = asyncio.Event()
        self.silent.set()
        self.convoys = Convoys(Endpoints(["one"]), self._single, lambda _: cast(Stub, self))

    def _carry_out(self, request: pb.TxnRequest) -> pb.TxnResponse:
        if key_of(request) in self.refused:
            raise self.refused[key_of(request)]
        return pb.TxnResponse(header=pb.ResponseHeader(revision=int(key_of(request))), succeeded=True)

    async def _single(self, request: pb.TxnRequest, timeout: float) -> pb.TxnResponse:
        self.calls.append([key_of(request)])
        return self._carry_out(request)

    async def Txns(self, convoy: Convoy, timeout: float) -> Outcomes:
        requests = list(convoy.transactions)
        self.calls.append([key_of(r) for r in requests])
        await self.silent.wait()
        if self.broken is not None:
            raise self.broken
        outcomes = []
        for request in requests:
            try:
                outcomes.append(Outcome(response=self._carry_out(request)))
            except RpcError as e:
                outcomes.append(Outcome(code=e.code.value[0], text=e.message))
        return Outcomes(outcomes=outcomes[self.forgets :])

    async def all(self, *keys: str, value: bytes = b"", timeout: float = TIMEOUT_S) -> list[Any]:
        """The revision of each, or how it failed."""
        answers = await asyncio.gather(
            *(self.convoys.txn(put(key, value), timeout) for key in keys), return_exceptions=True
        )
        return [a.header.revision if isinstance(a, pb.TxnResponse) else a for a in answers]


async def test_those_of_one_turn_share_a_call_and_each_has_its_own_outcome() -> None:
    member = Member()
    member.refused["2"] = RpcError(grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
    one, two, three = await member.all("1", "2", "3")
    assert (one, three) == (1, 3)
    assert (two.code, two.message) == (grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
    assert await member.all("4") == [4]
    assert member.calls == [["1", "2", "3"], ["4"]]


async def test_a_call_has_a_limit_and_one_time_limit() -> None:
    member = Member()
    keys = [str(n) for n in range(TRANSACTIONS_MAX + 1)]
    assert await member.all(*keys) == list(range(TRANSACTIONS_MAX + 1))
    assert [len(call) for call in member.calls] == [TRANSACTIONS_MAX, 1]
    member.calls.clear()
    await member.all("1", "2", "3", value=bytes(BYTES_MAX // 2))
    assert sorted(map(len, member.calls)) == [1, 1, 1]
    member.calls.clear()
    await asyncio.gather(member.all("1", "2"), member.all("3", "4", timeout=0.8))
    assert member.calls == [["1", "2"], ["3", "4"]]


def test_a_member_that_knows_no_such_call_gets_one_at_a_time_for_a_while() -> None:
    async def main() -> None:
        member = Member()
        member.broken = RpcError(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
        member.refused["2"] = RpcError(grpc.StatusCode.INVALID_ARGUMENT, "no")
        assert await member.all("1", "2") == [1, member.refused["2"]]
        assert await member.all("3", "4") == [3, 4]
        assert member.calls == [["1", "2"], ["1"], ["2"], ["3"], ["4"]]
        member.calls.clear()
        member.broken = None
        await asyncio.sleep(UNKNOWN_S)
        await member.all("5", "6")
        assert member.calls == [["5", "6"]]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())


async def test_what_breaks_the_call_is_told_to_all() -> None:
    member = Member()
    member.broken = RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
    assert await member.all("1", "2") == [member.broken, member.broken]
    assert member.calls == [["1", "2"]], "a write that may have been taken is not sent again"


async def test_a_caller_that_gives_up_takes_nobody_with_it() -> None:
    member = Member()
    member.silent.clear()
    gone, there = (asyncio.create_task(member.convoys.txn(put(key), TIMEOUT_S)) for key in ("1", "2"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    member.silent.set()
    assert (await there).header.revision == 2


async def test_what_its_caller_gave_up_before_it_left_is_not_sent() -> None:
    member = Member()
    gone, there = (asyncio.create_task(member.convoys.txn(put(key), TIMEOUT_S)) for key in ("1", "2"))
    # Both have joined; the convoy's own turn comes after theirs.
    await asyncio.sleep(0)
    gone.cancel()
    assert (await there).header.revision == 2
    assert member.calls == [["2"]]


async def test_a_member_that_tells_of_fewer_than_it_was_sent_is_no_answer_to_any() -> None:
    member = Member()
    member.forgets = 1
    one, two = await member.all("1", "2")
    assert one is two and one.code is grpc.StatusCode.INTERNAL and "1 outcomes of 2" in one.message
    assert not one.unsent, "who asked must take it for a write that may have been done"


async def test_a_call_that_nobody_waits_for_is_ended() -> None:
    member = Member()
    member.silent.clear()
    tasks = [asyncio.create_task(member.convoys.txn(put(key), TIMEOUT_S)) for key in ("1", "2")]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    (carrier,) = member.convoys._under_way
    for task in tasks:
        task.cancel()
    await asyncio.wait([*tasks, carrier])
    assert carrier.cancelled()
