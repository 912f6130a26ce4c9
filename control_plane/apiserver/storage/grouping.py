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

from rayplane.control_plane.apiserver.storage.convoys import ConvoyedTxns
from rayplane.control_plane.apiserver.storage.outcomes import surely_not_done
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb

# etcd takes 128 operations in a transaction by default.
GROUP_MAX = 100
# And requests of 1.5 MiB: what is large travels with few others, or alone.
GROUP_BYTES_MAX = 1 << 20
# A leader has lost its lease when the answer takes longer: better ask another member while there is time.
_TIMEOUT_S = 0.8
_NOBODYS_FAULT = (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)


@dataclass(slots=True, eq=False)
class _Waiting:
    compare: Sequence[pb.Compare]
    success: Sequence[pb.RequestOp]
    failure: Sequence[pb.RequestOp]
    answer: "asyncio.Future[pb.TxnResponse]"


class GroupedTxns:
    """Transactions sent in groups. `txn` is that of the client, for transactions that each write one key.

    A group is sent by a task of this object, so that no caller works for the others: one that is cancelled leaves its
    group, and is not sent if that is still possible.
    """

    def __init__(self, convoyed: ConvoyedTxns) -> None:
        """A group sets out with the convoys of all other writes."""
        self._convoyed = convoyed
        self._waiting: list[_Waiting] = []
        self._gathering = False
        # One task for each turn of the loop in which something came: never more than there are callers.
        self._sending: dict[asyncio.Task[None], None] = {}
        self._stopped = False

    async def txn(
        self, compare: Sequence[pb.Compare], success: Sequence[pb.RequestOp], failure: Sequence[pb.RequestOp]
    ) -> pb.TxnResponse:
        """The answer to this transaction. Raises RpcError."""
        if self._stopped:
            raise _given_up()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(compare, success, failure, loop.create_future())
        self._waiting.append(waiting)
        if not self._gathering:
            self._gathering = True
            task = loop.create_task(self._send(), name="group of transactions")
            self._sending[task] = None
            task.add_done_callback(self._sent)
        return await waiting.answer

    async def stop(self) -> None:
        """End what is under way: what has become of it is unknown."""
        self._stopped = True
        tasks = list(self._sending)
        await cancel_and_wait(*tasks)
        _fail(self._waiting, _given_up())

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.pop(task, None)

    async def _send(self) -> None:
        # The task begins after those that ask in this turn.
        self._gathering = False
        group, self._waiting = [w for w in self._waiting if not w.answer.done()], []
        error: Exception = _given_up()
        try:
            for part in _parts(group):
                await self._run(part)
        except Exception as e:
            error = e
        finally:
            _fail(group, error)

    async def _run(self, group: list[_Waiting]) -> None:
        if len(group) > 1:
            compare = [c for w in group for c in w.compare]
            try:
                success = [o for w in group for o in w.success]
                response = await self._convoyed.txn(compare, success, timeout=_TIMEOUT_S)
            except RpcError as e:
                if e.code in _NOBODYS_FAULT or not surely_not_done(e):
                    raise
                # Refused for one of them (its size, its lease): the others must not suffer for it.
                response = pb.TxnResponse(succeeded=False)
            if response.succeeded:
                one = pb.TxnResponse(header=response.header, succeeded=True)
                for w in group:
                    _answer(w, one)
                return
        answers = await asyncio.gather(
            *(self._convoyed.txn(w.compare, w.success, w.failure, timeout=_TIMEOUT_S) for w in group),
            return_exceptions=True,
        )
        for w, answer in zip(group, answers, strict=True):
            _answer(w, answer)


def _parts(group: list[_Waiting]) -> list[list[_Waiting]]:
    """Such that etcd takes each: no key occurs twice in one, and none is too large."""
    parts: list[list[_Waiting]] = []
    keys: set[bytes] = set()
    room = 0
    for w in group:
        key, size = w.compare[0].key, sum(len(o.request_put.value) for o in w.success)
        if not parts or key in keys or len(parts[-1]) >= GROUP_MAX or size > room:
            parts.append([])
            keys, room = set(), GROUP_BYTES_MAX
        parts[-1].append(w)
        keys.add(key)
        room -= size
    return parts


def _answer(waiting: _Waiting, answer: pb.TxnResponse | BaseException) -> None:
    if waiting.answer.done():
        return
    if isinstance(answer, BaseException):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


def _fail(group: list[_Waiting], error: Exception) -> None:
    for w in group:
        if not w.answer.done():
            w.answer.set_exception(error)
            # Whoever waited for it may be gone.
            w.answer.exception()


def _given_up() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "the group of transactions was given up: the server stops")
