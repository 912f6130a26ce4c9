"""Transactions that are asked for in the same turn of the event loop, sent in one call.

Each stays one by itself, with its own revision and its own outcome. Members other than this project's know no such
call: then each is sent by itself, as it is when there is but one.
"""

import asyncio
from collections.abc import Awaitable, Callable

import grpc

from rayplane.control_plane.client.endpoints import Endpoints, call_any
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

SERVICE = wire.DESCRIPTOR.services_by_name["Convoys"]
#: In one call: so many, and about so many bytes. Any member takes these, however small the largest request that it was
#: told to take: it allows for as much around a request (etcd's overhead of 512 KiB).
TRANSACTIONS_MAX = 128
BYTES_MAX = 512 << 10
#: A member that does not know the call is not asked again this long.
UNKNOWN_S = 60.0

_CODES = {code.value[0]: code for code in grpc.StatusCode}

Single = Callable[[pb.TxnRequest, float], Awaitable[pb.TxnResponse]]


class _Convoy:
    """Transactions that set out together, and who waits for what becomes of each."""

    __slots__ = ("room", "task", "transactions", "waiting")

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.transactions: list[pb.TxnRequest] = []
        self.waiting: list[asyncio.Future[pb.TxnResponse]] = []
        self.room = BYTES_MAX

    def leave_behind_who_gave_up(self) -> None:
        """What nobody waits for any more before it was sent is not sent."""
        if any(answer.done() for answer in self.waiting):
            there = [(t, a) for t, a in zip(self.transactions, self.waiting, strict=True) if not a.done()]
            self.transactions, self.waiting = [t for t, _ in there], [a for _, a in there]


class Convoys:
    """Convoys of one client. Each travels by a task of its own: a caller that is cancelled takes nobody with it."""

    def __init__(self, endpoints: Endpoints, single: Single, stub: Callable[[str], Stub]) -> None:
        """`single` sends one by itself; `stub` is of the service Convoys at an address."""
        self._endpoints = endpoints
        self._single = single
        self._stub = stub
        self._gathering: dict[float, _Convoy] = {}  # by the time they have
        self._unknown_until = 0.0
        # Never more than there are callers.
        self._under_way: dict[asyncio.Task[None], None] = {}

    async def txn(self, request: pb.TxnRequest, timeout: float) -> pb.TxnResponse:
        """The answer to this transaction. Raises RpcError."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._unknown_until:
            return await self._single(request, timeout)
        size = request.ByteSize()
        convoy = self._gathering.get(timeout)
        if convoy is None or len(convoy.transactions) >= TRANSACTIONS_MAX or size > convoy.room:
            convoy = self._gathering[timeout] = _Convoy()
            # It begins after those that ask in this turn.
            convoy.task = loop.create_task(self._send(convoy, timeout), name="convoy of transactions")
            self._under_way[convoy.task] = None
            convoy.task.add_done_callback(self._ended)
        answer: asyncio.Future[pb.TxnResponse] = loop.create_future()
        convoy.transactions.append(request)
        convoy.waiting.append(answer)
        convoy.room -= size
        try:
            return await answer
        except asyncio.CancelledError:
            if all(a.done() for a in convoy.waiting):
                self._close(convoy, timeout)
                convoy.task.cancel()
            raise

    def _close(self, convoy: _Convoy, timeout: float) -> None:
        """Nobody joins it any more."""
        if self._gathering.get(timeout) is convoy:
            del self._gathering[timeout]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.pop(task, None)

    async def _send(self, convoy: _Convoy, timeout: float) -> None:
        self._close(convoy, timeout)
        convoy.leave_behind_who_gave_up()
        error: Exception = RpcError(grpc.StatusCode.UNAVAILABLE, "the convoy of transactions was given up")
        try:
            if len(convoy.transactions) == 1:
                _settle(convoy.waiting[0], await self._single(convoy.transactions[0], timeout))
            else:
                await self._send_all(convoy, timeout)
        except Exception as e:
            error = e
        finally:
            for answer in convoy.waiting:
                _settle(answer, error)

    async def _send_all(self, convoy: _Convoy, timeout: float) -> None:
        request = wire.Convoy(transactions=convoy.transactions)

        async def once(address: str, left: float) -> wire.Outcomes:
            told: wire.Outcomes = await self._stub(address).Txns(request, timeout=left)
            return told

        try:
            told = await call_any(self._endpoints, once, timeout=timeout, idempotent=False, sticky=True)
        except RpcError as e:
            if e.code is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            self._unknown_until = asyncio.get_running_loop().time() + UNKNOWN_S
            each = (self._single(r, timeout) for r in convoy.transactions)
            for answer, outcome in zip(
                convoy.waiting, await asyncio.gather(*each, return_exceptions=True), strict=True
            ):
                _settle(answer, outcome)
            return
        if len(told.outcomes) != len(convoy.waiting):
            what = f"{len(told.outcomes)} outcomes of {len(convoy.waiting)} transactions"
            raise RpcError(grpc.StatusCode.INTERNAL, f"a member told {what}: what became of each is unknown")
        for answer, one in zip(convoy.waiting, told.outcomes, strict=True):
            _settle(answer, _read(one))


def _read(outcome: wire.Outcome) -> pb.TxnResponse | RpcError:
    if outcome.code:
        return RpcError(_CODES.get(outcome.code, grpc.StatusCode.UNKNOWN), outcome.text)
    return outcome.response


def _settle(answer: "asyncio.Future[pb.TxnResponse]", outcome: pb.TxnResponse | BaseException) -> None:
    if answer.done():
        return
    if isinstance(outcome, BaseException):
        answer.set_exception(outcome)
        # Whoever waited for it may be gone.
        answer.exception()
    else:
        answer.set_result(outcome)
