"""Many small transactions in one: for heartbeats and events, which are most of what is written in a busy cluster.

Transactions that are asked for in the same turn of the event loop travel as one, with all their conditions and all
their writes. When it goes through, all of them have; when a condition does not hold, each is tried by itself.

Only for kinds whose watchers may miss a change: all keys of a group get the same revision, and who resumes a watch
after it saw a part of them is not told of the rest. A renewal is repeated soon, and events are told as well as can be
(Kubernetes API reference, Event v1 core: "best-effort"). A hundred Leases that are renewed every second are one
transaction of etcd's then, and not a hundred.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.client.etcd import EtcdClient
from control_plane.rpc import RpcError
from control_plane.rpc.errors import Code
from proto.etcd import rpc_pb2 as pb

# etcd takes 128 operations in a transaction by default.
GROUP_MAX = 100


@dataclass(slots=True, eq=False)
class _Waiting:
    compare: Sequence[pb.Compare]
    success: Sequence[pb.RequestOp]
    failure: Sequence[pb.RequestOp]
    answer: "asyncio.Future[pb.TxnResponse]"


class GroupedTxns:
    """`txn` is that of the client, for transactions that each write one key."""

    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd
        self._waiting: list[_Waiting] = []

    async def txn(
        self, compare: Sequence[pb.Compare], success: Sequence[pb.RequestOp], failure: Sequence[pb.RequestOp]
    ) -> pb.TxnResponse:
        """The answer to this transaction. Raises RpcError."""
        waiting = _Waiting(compare, success, failure, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if len(self._waiting) > 1:
            return await waiting.answer
        # The first one carries the others, which come in the same turn.
        await asyncio.sleep(0)
        group, self._waiting = self._waiting, []
        try:
            for part in _parts(group):
                await self._run(part)
        except RpcError as e:
            _fail(group, e)
        finally:
            # Cancelled on the way: what has become of the others is unknown.
            _fail(group, RpcError(Code.UNAVAILABLE, "the group of transactions was given up"))
        return waiting.answer.result()

    async def _run(self, group: list[_Waiting]) -> None:
        if len(group) > 1:
            compare = [c for w in group for c in w.compare]
            response = await self._etcd.txn(compare, [o for w in group for o in w.success])
            if response.succeeded:
                one = pb.TxnResponse(header=response.header, succeeded=True)
                for w in group:
                    _answer(w, one)
                return
        answers = await asyncio.gather(
            *(self._etcd.txn(w.compare, w.success, w.failure) for w in group), return_exceptions=True
        )
        for w, answer in zip(group, answers, strict=True):
            _answer(w, answer)


def _parts(group: list[_Waiting]) -> list[list[_Waiting]]:
    """Such that no key occurs twice in one, as etcd demands."""
    parts: list[list[_Waiting]] = []
    keys: set[bytes] = set()
    for w in group:
        key = w.compare[0].key
        if not parts or key in keys or len(parts[-1]) >= GROUP_MAX:
            parts.append([])
            keys = set()
        parts[-1].append(w)
        keys.add(key)
    return parts


def _answer(waiting: _Waiting, answer: pb.TxnResponse | BaseException) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, BaseException):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


def _fail(group: list[_Waiting], error: RpcError) -> None:
    for w in group:
        if not w.answer.done():
            w.answer.set_exception(error)
            # Whoever waited for it may be gone.
            w.answer.exception()
