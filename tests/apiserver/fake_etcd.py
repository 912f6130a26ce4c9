"""An etcd in one process, behind the methods of EtcdClient: enough for tests of its users."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import grpc
from sortedcontainers import SortedDict

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.client.standings import Standings
from rayplane.control_plane.component_base.metrics import Histograms
from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.proto.etcd import kv_pb2
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2 as wire


class _Unknown:
    async def Ask(self, questions: AsyncIterator[wire.Question]) -> AsyncIterator[wire.Standing]:
        raise RpcError(grpc.StatusCode.UNIMPLEMENTED, "unknown service")
        yield wire.Standing()  # which makes it a generator


class FakeEtcd:
    """MVCC with full history; leases never expire by themselves (call `expire`)."""

    def __init__(self) -> None:
        self.endpoints = Endpoints(["fake:2379"])
        self.durations = Histograms(())
        self.revision = 1
        self.compacted = 0
        self.live: SortedDict = SortedDict()  # key -> KeyValue
        self.history: list[tuple[int, kv_pb2.Event]] = []
        self.leases: dict[int, set[bytes]] = {}
        self.down: RpcError | None = None
        self.lose_answers = 0
        """So many of the next transactions with writes are applied, but their answers are lost."""
        self.lost_error = RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        self.hang: asyncio.Event | None = None
        self.held = self.refused = 0
        """Reads that had to wait for `hang`, and calls that failed as `down`."""
        """Reads wait for it, when there is one."""
        self.frozen = False
        """Watches deliver nothing while set, as on a member that is cut off."""
        self._wake: list[asyncio.Event] = []
        self._breaks = 0
        self.calls = 0

    def header(self) -> pb.ResponseHeader:
        return pb.ResponseHeader(cluster_id=1, member_id=1, revision=self.revision, raft_term=1)

    def _check(self) -> None:
        self.calls += 1
        if self.down is not None:
            self.refused += 1
            raise self.down

    # --- KV ---
    def _at(self, revision: int) -> SortedDict:
        if not revision or revision == self.revision:
            return self.live
        if revision < self.compacted:
            raise RpcError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        if revision > self.revision:
            raise RpcError(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
        state: SortedDict = SortedDict()
        for at, event in self.history:
            if at > revision:
                break
            if event.type == kv_pb2.Event.PUT:
                state[event.kv.key] = event.kv
            else:
                state.pop(event.kv.key, None)
        return state

    def _select(self, state: SortedDict, key: bytes, end: bytes) -> list[kv_pb2.KeyValue]:
        if not end:
            return [state[key]] if key in state else []
        stop = None if end == b"\0" else end
        return [state[k] for k in state.irange(key, stop, inclusive=(True, False))]

    async def range(
        self, key: bytes, range_end: bytes = b"", *, timeout: float = 5, **options: Any
    ) -> pb.RangeResponse:
        await asyncio.sleep(0)
        if self.hang is not None:
            self.held += 1
            await self.hang.wait()
        self._check()
        return self._range(pb.RangeRequest(key=key, range_end=range_end, **options))

    def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        found = self._select(self._at(request.revision), request.key, request.range_end)
        count = len(found)
        if request.limit:
            found = found[: request.limit]
        return pb.RangeResponse(
            header=self.header(), kvs=[] if request.count_only else found, count=count, more=len(found) < count
        )

    async def txn(
        self,
        compare: Sequence[pb.Compare],
        success: Sequence[pb.RequestOp],
        failure: Sequence[pb.RequestOp] = (),
        *,
        timeout: float = 5,
    ) -> pb.TxnResponse:
        await asyncio.sleep(0)
        self._check()
        ok = all(self._compare(c) for c in compare)
        revision = self.revision + 1
        events: list[kv_pb2.Event] = []
        responses = []
        for op in success if ok else failure:
            kind = op.WhichOneof("request")
            if kind == "request_put":
                events.append(self._put(op.request_put, revision))
                responses.append(pb.ResponseOp(response_put=pb.PutResponse()))
            elif kind == "request_delete_range":
                gone = self._delete(op.request_delete_range, revision)
                events.extend(gone)
                responses.append(pb.ResponseOp(response_delete_range=pb.DeleteRangeResponse(deleted=len(gone))))
            else:
                responses.append(pb.ResponseOp(response_range=self._range(op.request_range)))
        self._commit(events, revision)
        if events and self.lose_answers:
            self.lose_answers -= 1
            raise self.lost_error
        return pb.TxnResponse(header=self.header(), succeeded=ok, responses=responses)

    def _compare(self, c: pb.Compare) -> bool:
        kv = self.live.get(c.key)
        target = pb.Compare.CompareTarget.Name(c.target)
        left: Any
        right: Any
        if target == "MOD":
            left, right = (kv.mod_revision if kv else 0), c.mod_revision
        elif target == "CREATE":
            left, right = (kv.create_revision if kv else 0), c.create_revision
        elif target == "VERSION":
            left, right = (kv.version if kv else 0), c.version
        elif target == "VALUE":
            if kv is None:
                return False
            left, right = kv.value, c.value
        else:
            left, right = (kv.lease if kv else 0), c.lease
        return {"EQUAL": left == right, "GREATER": left > right, "LESS": left < right, "NOT_EQUAL": left != right}[
            pb.Compare.CompareResult.Name(c.result)
        ]

    def _put(self, put: pb.PutRequest, revision: int) -> kv_pb2.Event:
        old = self.live.get(put.key)
        kv = kv_pb2.KeyValue(
            key=put.key,
            value=put.value,
            lease=put.lease,
            mod_revision=revision,
            create_revision=old.create_revision if old else revision,
            version=old.version + 1 if old else 1,
        )
        self.live[put.key] = kv
        if put.lease:
            self.leases[put.lease].add(put.key)
        return kv_pb2.Event(type=kv_pb2.Event.PUT, kv=kv)

    def _delete(self, request: pb.DeleteRangeRequest, revision: int) -> list[kv_pb2.Event]:
        gone = self._select(self.live, request.key, request.range_end)
        for kv in gone:
            del self.live[kv.key]
        return [
            kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=kv.key, mod_revision=revision)) for kv in gone
        ]

    def _commit(self, events: list[kv_pb2.Event], revision: int) -> None:
        if not events:
            return
        self.revision = revision
        self.history.extend((revision, e) for e in events)
        for wake in self._wake:
            wake.set()

    async def put(
        self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False, timeout: float = 5
    ) -> pb.PutResponse:
        await self.txn([], [pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))])
        return pb.PutResponse(header=self.header())

    async def delete(
        self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False, timeout: float = 5
    ) -> pb.DeleteRangeResponse:
        request = pb.DeleteRangeRequest(key=key, range_end=range_end)
        answer = await self.txn([], [pb.RequestOp(request_delete_range=request)])
        return pb.DeleteRangeResponse(header=self.header(), deleted=answer.responses[0].response_delete_range.deleted)

    async def compact(self, revision: int, *, physical: bool = False) -> pb.CompactionResponse:
        self._check()
        self.compacted = revision
        for wake in self._wake:
            wake.set()
        return pb.CompactionResponse(header=self.header())

    # --- watch ---
    async def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = False,
        progress_notify: bool = False,
        sticky: bool = False,
    ) -> AsyncIterator[pb.WatchResponse]:
        self._check()
        at = start_revision or self.revision + 1
        yield pb.WatchResponse(header=self.header(), created=True)
        if at < self.compacted:
            yield pb.WatchResponse(canceled=True, compact_revision=self.compacted)
            return
        wake = asyncio.Event()
        self._wake.append(wake)
        position, breaks = 0, self._breaks
        try:
            while True:
                wake.clear()
                if self._breaks != breaks:
                    raise RpcError(grpc.StatusCode.UNAVAILABLE, "the stream is broken")
                events = []
                while position < len(self.history) and not self.frozen:
                    revision, event = self.history[position]
                    position += 1
                    inside = (
                        event.kv.key == key
                        if not range_end
                        else key <= event.kv.key and (range_end == b"\0" or event.kv.key < range_end)
                    )
                    if revision >= at and inside:
                        events.append(event)
                if events and events[0].kv.mod_revision < self.compacted:
                    yield pb.WatchResponse(canceled=True, compact_revision=self.compacted)
                    return
                if events:
                    yield pb.WatchResponse(header=self.header(), events=events)
                if position == len(self.history) or self.frozen:
                    await wake.wait()
        finally:
            self._wake.remove(wake)

    def break_streams(self) -> None:
        """All watches end with an error; new ones can be opened."""
        self._breaks += 1
        for wake in self._wake:
            wake.set()

    # --- leases ---
    async def lease_grant(self, ttl_s: int, *, lease_id: int = 0) -> pb.LeaseGrantResponse:
        await asyncio.sleep(0)
        self._check()
        number = lease_id or len(self.leases) + 1000
        self.leases[number] = set()
        return pb.LeaseGrantResponse(header=self.header(), ID=number, TTL=ttl_s)

    async def lease_revoke(self, lease_id: int) -> None:
        await self.expire(lease_id)

    async def lease_keep_alive(self, lease_id: int) -> int:
        self._check()
        return 10 if lease_id in self.leases else 0

    async def expire(self, lease_id: int) -> None:
        for key in sorted(self.leases.pop(lease_id, ())):
            await self.delete(key)

    async def prefer_leader(self, *, again: bool = True) -> None:
        """There is one only."""

    def standings(self) -> Standings:
        """Members of real etcds know no such questions."""
        return Standings(self.endpoints, lambda _: cast(Stub, _Unknown()))

    async def member_list(self, *, linearizable: bool = True) -> pb.MemberListResponse:
        return pb.MemberListResponse(header=self.header())
