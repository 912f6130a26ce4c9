"""Compaction of etcd's history, once for all servers: whoever advances the shared key does it."""

import asyncio
import logging
from collections import deque
from datetime import timedelta

from rayplane.control_plane.apiserver.storage.store import put_op
from rayplane.control_plane.client.deletions import Deletions
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.client.history import Forgotten, History
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2
from rayplane.storage.env import Clock

log = logging.getLogger(__name__)

_KEY = "compact_rev_key"  # as kube-apiserver names it, so that both could share an etcd
_SHARE_MAX = 0.5
"""The part of what etcd may hold above which history is kept for a shorter time than it should be."""


class Compactor:
    """Every interval, history older than the interval before is dropped; with `history_s`, what is older than that.

    `clock_s`: how often the time is written down, by which revisions are told apart then, and who has deleted what.
    """

    def __init__(
        self,
        etcd: EtcdClient,
        clock: Clock,
        interval_s: float,
        *,
        history_s: float = 0.0,
        clock_s: float = 0.0,
        deletions: Deletions | None = None,
    ) -> None:
        self._etcd = etcd
        self._history = History(etcd)
        self._clock = clock
        self._interval_s = interval_s
        self._history_s = max(history_s, interval_s)
        self._kept_s = self._history_s
        self._clock_s = clock_s
        self._deletions = deletions
        # Revisions, and when they were already there by the loop's clock. Oldest first, an interval apart.
        self._seen: deque[tuple[float, int]] = deque(maxlen=int(self._history_s / interval_s) + 2 if interval_s else 0)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._interval_s > 0:
            self._tasks.append(loop.create_task(self._run()))
        if self._clock_s > 0:
            self._tasks.append(loop.create_task(self._tick()))

    async def stop(self) -> None:
        while self._tasks:
            await cancel_and_wait(self._tasks.pop())

    async def _tick(self) -> None:
        while True:
            try:
                if self._deletions is not None:
                    await self._deletions.write(self._etcd)
                await self._history.tick(self._clock.now(), self._clock_s)
            except RpcError as e:
                log.debug("the time is not written down: %s", e)
            await asyncio.sleep(self._clock_s)

    async def _run(self) -> None:
        version, revision = 0, 0
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                now_s = asyncio.get_running_loop().time()
                version, revision = await self.once(version, await self.due(revision, now_s))
            except RpcError as e:
                log.info("etcd's history is not compacted this time: %s", e)

    async def due(self, before: int, now_s: float) -> int:
        """The revision to compact to: `before`, the one of the last time, unless history is kept; 0 is none.

        Then it is what this server saw that long ago (`now_s`: now by the loop's clock), so that no machine's clock
        stops compaction or hastens it. After a start, while it has seen none, nothing is dropped, but what times tell
        where the store is too full.
        """
        if not self._clock_s:
            return before
        status = await self._etcd.status(self._etcd.endpoints.pick())
        share = status.dbSizeInUse / status.dbSizeQuota if status.dbSizeQuota else 0.0
        self._kept_s = kept_span(self._kept_s, share, least_s=self._interval_s, most_s=self._history_s)
        if self._kept_s < self._history_s:
            log.warning("etcd holds much: only the last %d s of its history are kept", self._kept_s)
        if before:
            self._seen.append((now_s, before))
        if old := [revision for seen_s, revision in self._seen if seen_s <= now_s - self._kept_s]:
            return old[-1]
        if share <= _SHARE_MAX:
            return 0
        try:
            return await self._history.at(self._clock.now() - timedelta(seconds=self._kept_s))
        except Forgotten:
            return 0

    async def once(self, version: int, revision: int) -> tuple[int, int]:
        """Compact to `revision` if nobody else has since `version`; what to pass next time."""
        compare = rpc_pb2.Compare(
            key=_KEY.encode(),
            target=rpc_pb2.Compare.VERSION,
            result=rpc_pb2.Compare.EQUAL,
            version=version,
        )
        get = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=_KEY.encode()))
        response = await self._etcd.txn([compare], [put_op(_KEY, str(revision).encode())], [get])
        now = response.header.revision
        if not response.succeeded:
            kvs = response.responses[0].response_range.kvs
            return (kvs[0].version if kvs else 0), now
        if revision > 0:
            await self._etcd.compact(revision)
        return version + 1, now


def kept_span(before_s: float, share: float, *, least_s: float, most_s: float) -> float:
    """For how long history is kept: half as long while the store is too full, and twice as long once there is room."""
    if share > _SHARE_MAX:
        return max(before_s / 2, least_s)
    return min(before_s * 2, most_s) if share < _SHARE_MAX / 2 else before_s
