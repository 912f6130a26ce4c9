"""Compaction of etcd's history, once for all servers: whoever advances the shared key does it."""

import asyncio
import logging

from rayplane.control_plane.apiserver.storage.store import put_op
from rayplane.control_plane.client.etcd import EtcdClient
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2

log = logging.getLogger(__name__)

_KEY = "compact_rev_key"  # as kube-apiserver names it, so that both could share an etcd


class Compactor:
    """Every interval, history older than the interval before is dropped."""

    def __init__(self, etcd: EtcdClient, interval_s: float) -> None:
        self._etcd = etcd
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._interval_s > 0:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            await cancel_and_wait(self._task)
            self._task = None

    async def _run(self) -> None:
        version, revision = 0, 0
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                version, revision = await self.once(version, revision)
            except RpcError as e:
                log.info("etcd's history is not compacted this time: %s", e)

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
