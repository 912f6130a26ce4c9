"""The Convoys service: many transactions in one call, each of them one by itself, as if they had come by `KV.Txn`.

A call costs a member more than the transaction in it does.
"""

import asyncio

from google.protobuf.message import Message

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.codec import Kind
from rayplane.control_plane.etcd.server.ports import Proposer
from rayplane.control_plane.etcd.server.services.kv import KVService
from rayplane.control_plane.etcd.server.state_machine.level import Level
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.control_plane.rpc.errors import error_of
from rayplane.proto.rayplane.v1 import raft_pb2 as wire

TRANSACTIONS_MAX = 256
"""In one call: it is applied in one step, of some ten milliseconds."""


class ConvoysService:
    """A service that hands a convoy's transactions to the log together."""

    def __init__(self, kv: KVService, level: Level, proposer: Proposer) -> None:
        self._kv = kv
        self._level = level
        self._proposer = proposer

    async def Txns(self, request: wire.Convoy, context: Context) -> wire.Outcomes:
        """Raises RpcError where it is the same for all of them: none was taken, or of none it is known."""
        kv, transactions = self._kv, request.transactions
        kv.gate(context)
        if len(transactions) > TRANSACTIONS_MAX:
            raise RpcError(errors.Code.INVALID_ARGUMENT, f"a convoy has {TRANSACTIONS_MAX} transactions at most")
        found: dict[int, Message | BaseException] = {}
        together: list[int] = []
        apart: list[int] = []
        # An older member cannot read an entry of many.
        may = self._level.admits(Kind.CONVOY) and not kv.callers.enabled
        for at, txn in enumerate(transactions):
            try:
                writes = kv.check_txn(txn).writes
            except errors.EtcdError as e:
                found[at] = e
                continue
            (together if writes and may else apart).append(at)
        if together:
            all_of_them = len(together) == len(transactions)
            convoy = request if all_of_them else wire.Convoy(transactions=[transactions[at] for at in together])
            found.update(zip(together, await self._propose(convoy), strict=True))
        if apart:
            answers = (kv.Txn(transactions[at], context) for at in apart)
            found.update(zip(apart, await asyncio.gather(*answers, return_exceptions=True), strict=True))
        return self._told([found[at] for at in range(len(transactions))])

    async def _propose(self, convoy: wire.Convoy) -> list[Message | BaseException]:
        """One entry for all: they are done in a row, or none is known to be."""
        try:
            outcomes: list[Message | BaseException] = await self._proposer.propose(Kind.CONVOY, convoy)
        except errors.EtcdError as e:
            return [e] * len(convoy.transactions)
        return outcomes

    def _told(self, found: list[Message | BaseException]) -> wire.Outcomes:
        told, failures = wire.Outcomes(), []
        add, stamp = told.outcomes.add, self._kv.stamp
        for one in found:
            if isinstance(one, Message):
                add(response=stamp(one))
            elif isinstance(one, Exception):
                failures.append(error := error_of(one))
                add(code=error.code.value[0], text=error.message)
            else:
                raise one
        if failures and len(failures) == len(found):
            first = failures[0]
            # Only the same text for all: by it a client knows whether a transaction may still be done.
            if first.retryable and all(error.message == first.message for error in failures):
                # Who asks should ask another member next.
                raise first
        return told
