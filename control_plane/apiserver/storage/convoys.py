"""Transactions that leave together: what comes while others are under way waits a moment for their end.

A round of raft costs its members ten times what one more entry in it does. Whoever writes alone never waits, and nobody
waits for longer than `HOLD_S`; many who write at once fill two rounds in turn, one under way while the other gathers.
Each transaction stays one by itself, with its own revision (unlike those in `grouping`).
"""

import asyncio
from collections.abc import Sequence

from rayplane.control_plane.client.etcd import TIMEOUT_S, EtcdClient
from rayplane.proto.etcd import rpc_pb2 as pb

#: About what a round takes where disks and machines are quick. Five times as much saved no CPU where they are not, and
#: who waits here keeps others waiting.
HOLD_S = 0.002


class ConvoyedTxns:
    """Transactions that set out in convoys. `txn` is that of the client."""

    def __init__(self, etcd: EtcdClient) -> None:
        self._etcd = etcd
        self._under_way = 0
        self._open = False  # whether a convoy sets out in this turn of the loop
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        timeout: float = TIMEOUT_S,
    ) -> pb.TxnResponse:
        """The answer to this transaction. Raises RpcError."""
        loop = asyncio.get_running_loop()
        if self._under_way and not self._open:
            if self._timer is None:
                self._timer = loop.call_later(HOLD_S, self._leave)
            place: asyncio.Future[None] = loop.create_future()
            self._waiting.append(place)
            await place
        elif not self._open:
            self._open = True
            loop.call_soon(self._close)
        self._under_way += 1
        try:
            return await self._etcd.txn(compare, success, failure, timeout=timeout)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._leave()

    def _close(self) -> None:
        self._open = False

    def _leave(self) -> None:
        """All that wait set out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, []
        for place in waiting:
            if not place.done():
                place.set_result(None)
