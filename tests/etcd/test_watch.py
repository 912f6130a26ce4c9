"""Watch semantics as an etcd client sees them, and the bounds of the watchable store."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane.etcd.server import config
from rayplane.control_plane.etcd.server.state_machine import watchable_store
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import Event
from tests.etcd.harness import EtcdCluster, etcd_cluster


class Client:
    """One watch stream."""

    def __init__(self, cluster: EtcdCluster, endpoint: int = 0) -> None:
        self._requests: asyncio.Queue[pb.WatchRequest | None] = asyncio.Queue()
        self.responses: Any = cluster.stub("Watch", endpoint).Watch(self._send())

    async def _send(self) -> AsyncIterator[pb.WatchRequest]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def create(self, key: bytes, **options: Any) -> pb.WatchResponse:
        request = pb.WatchCreateRequest(key=key, **options)
        self._requests.put_nowait(pb.WatchRequest(create_request=request))
        return await self.next()

    def cancel(self, watch_id: int) -> None:
        self._requests.put_nowait(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self._requests.put_nowait(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))

    async def next(self) -> pb.WatchResponse:
        async with asyncio.timeout(10):
            return await anext(self.responses)

    async def events(self, count: int) -> list[Event]:
        """The next `count` events, of whatever watch."""
        found: list[Event] = []
        while len(found) < count:
            found.extend((await self.next()).events)
        assert len(found) == count
        return found


@contextlib.asynccontextmanager
async def watching(cluster: EtcdCluster, endpoint: int = 0) -> AsyncIterator[Client]:
    client = Client(cluster, endpoint)
    async with contextlib.aclosing(client.responses):
        yield client


async def test_events_of_a_revision_come_together_in_order_on_every_member() -> None:
    async with etcd_cluster(3) as cluster, watching(cluster, 0) as one, watching(cluster, 2) as other:
        for client in (one, other):
            created = await client.create(b"a", range_end=b"c")
            assert (created.created, created.watch_id) == (True, 0)
        ops = [pb.RequestOp(request_put=pb.PutRequest(key=k, value=b"v")) for k in (b"a", b"b", b"x")]
        await cluster.stub("KV").Txn(pb.TxnRequest(success=ops))
        await cluster.stub("KV").DeleteRange(pb.DeleteRangeRequest(key=b"a"))
        for client in (one, other):
            events = await client.events(3)
            assert [(e.type, e.kv.key) for e in events] == [(0, b"a"), (0, b"b"), (1, b"a")]
            assert events[0].kv.mod_revision == events[1].kv.mod_revision == events[2].kv.mod_revision - 1


async def test_the_past_then_the_present_without_a_gap() -> None:
    async with etcd_cluster(1) as cluster:
        for number in range(2_000):
            await cluster.put(b"k%d" % (number % 7), b"%d" % number)
        async with watching(cluster) as client:
            await client.create(b"k", range_end=b"l", start_revision=2)
            writer = asyncio.create_task(_write(cluster, 500))
            events = await client.events(2_500)
            await writer
        assert [e.kv.mod_revision for e in events] == list(range(2, 2_502))


async def _write(cluster: EtcdCluster, count: int) -> None:
    for number in range(count):
        await cluster.put(b"k", b"%d" % number)


async def test_a_start_in_the_future_waits_for_its_revision() -> None:
    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        await client.create(b"k", start_revision=4)
        for number in range(4):
            await cluster.put(b"k", b"%d" % number)
        assert [e.kv.mod_revision for e in await client.events(2)] == [4, 5]


async def test_a_compacted_start_is_cancelled_with_the_compacted_revision() -> None:
    async with etcd_cluster(1) as cluster:
        for number in range(5):
            await cluster.put(b"k", b"%d" % number)
        await cluster.stub("KV").Compact(pb.CompactionRequest(revision=4))
        async with watching(cluster) as client:
            assert (await client.create(b"k", start_revision=2)).created
            cancelled = await client.next()
            assert (cancelled.canceled, cancelled.compact_revision, cancelled.header.revision) == (True, 4, 0)


async def test_prev_kv_and_filters() -> None:
    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        await client.create(b"k", prev_kv=True, filters=[pb.WatchCreateRequest.NOPUT])
        await client.create(b"k", prev_kv=True, filters=[pb.WatchCreateRequest.NODELETE])
        await client.create(b"k")
        await cluster.put(b"k", b"1")
        await cluster.put(b"k", b"2")
        await cluster.stub("KV").DeleteRange(pb.DeleteRangeRequest(key=b"k"))
        got: dict[int, list[Event]] = {0: [], 1: [], 2: []}
        while sum(map(len, got.values())) < 6:
            response = await client.next()
            got[response.watch_id].extend(response.events)
        assert [(e.type, e.prev_kv.value) for e in got[0]] == [(1, b"2")]
        assert [(e.type, e.prev_kv.value) for e in got[1]] == [(0, b""), (0, b"1")]
        assert not any(e.HasField("prev_kv") for e in got[2])


async def test_cancel_and_bad_requests() -> None:
    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        assert (await client.create(b"k", watch_id=5)).watch_id == 5
        duplicate = await client.create(b"k", watch_id=5)
        assert (duplicate.watch_id, duplicate.created, duplicate.canceled) == (-1, True, True)
        assert "duplicate watch ID" in duplicate.cancel_reason
        empty = await client.create(b"k", range_end=b"a")
        assert (empty.canceled, bool(empty.cancel_reason)) == (True, True)
        negative = await client.create(b"k", start_revision=-1)
        assert (negative.watch_id, negative.created, negative.canceled) == (-1, True, True)
        assert negative.cancel_reason == "etcdserver: mvcc: required revision has been compacted"
        client.cancel(5)
        cancelled = await client.next()
        assert (cancelled.watch_id, cancelled.canceled) == (5, True)
        await client.create(b"other")
        await cluster.put(b"k", b"unseen")
        await cluster.put(b"other", b"seen")
        assert [e.kv.key for e in await client.events(1)] == [b"other"]


async def test_progress_comes_after_everything_before_it() -> None:
    async with etcd_cluster(1) as cluster:
        for number in range(3_000):
            await cluster.put(b"k", b"%d" % number)
        async with watching(cluster) as client:
            await client.create(b"k", start_revision=2)
            client.ask_progress()
            seen = 0
            while (response := await client.next()).watch_id != -1:
                seen += len(response.events)
            assert (seen, response.header.revision) == (3_000, 3_001)


async def test_a_quiet_watch_gets_progress_notes() -> None:
    async with etcd_cluster(1, progress_notify_interval_s=0.1) as cluster, watching(cluster) as client:
        await client.create(b"k", progress_notify=True)
        await cluster.put(b"elsewhere", b"")
        note = await client.next()
        while note.header.revision < 2:
            note = await client.next()
        assert (note.watch_id, len(note.events), note.header.revision) == (0, 0, 2)


async def test_fragments_split_a_large_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OVERHEAD_BYTES", 0)
    async with etcd_cluster(1, max_request_bytes=10_000) as cluster, watching(cluster) as client:
        await client.create(b"k", range_end=b"l", fragment=True)
        for number in range(8):
            await cluster.put(b"k%d" % number, bytes(4_000))
        await cluster.stub("KV").DeleteRange(pb.DeleteRangeRequest(key=b"k", range_end=b"l"))
        await client.create(b"k", range_end=b"l", fragment=True, prev_kv=True, start_revision=10)
        parts: list[pb.WatchResponse] = []
        while not parts or parts[-1].fragment:
            response = await client.next()
            if response.watch_id == 1 and response.events:
                parts.append(response)
        assert len(parts) > 1
        assert sum(len(p.events) for p in parts) == 8
        assert all(p.ByteSize() < 11_000 for p in parts)


async def test_a_slow_client_costs_a_bounded_buffer_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchable_store, "EVENTS_BUFFERED_MAX", 10)
    async with etcd_cluster(1) as cluster:
        watches = cluster.members[0].watches
        stream = watches.open()
        stream.create(pb.WatchCreateRequest(key=b"k"))
        for number in range(100):
            await cluster.put(b"k", b"%d" % number)
            assert stream.buffered <= 10
        got: list[int] = []
        while len(got) < 100:
            for response in await stream.next():
                got.extend(e.kv.mod_revision for e in response.events)
        assert got == list(range(2, 102))
        await cluster.put(b"k", b"and on")
        assert [e.kv.value for r in await stream.next() for e in r.events] == [b"and on"]
        stream.close()


async def test_a_slow_client_costs_bounded_bytes_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchable_store, "BYTES_BUFFERED_MAX", 100_000)
    monkeypatch.setattr(watchable_store, "ANSWER_BYTES_MAX", 30_000)
    async with etcd_cluster(1) as cluster:
        stream = cluster.members[0].watches.open()
        stream.create(pb.WatchCreateRequest(key=b"k", prev_kv=True))
        largest = 0
        for number in range(60):
            await cluster.put(b"k", bytes(4_000 + number))
            largest = max(largest, stream.buffered_bytes)
        assert 80_000 < largest <= 100_000
        got: list[int] = []
        while len(got) < 60:
            for response in await stream.next():
                assert response.ByteSize() <= 80_000  # twice what was looked at, for the values before
                got.extend(len(e.kv.value) - 4_000 for e in response.events)
        assert got == list(range(60))
        assert (stream.buffered, stream.buffered_bytes) == (0, 0)
        stream.close()


async def test_a_removed_watch_says_no_more_of_what_it_had_buffered() -> None:
    async with etcd_cluster(1) as cluster:
        stream = cluster.members[0].watches.open()
        for watch_id in (1, 2):
            stream.create(pb.WatchCreateRequest(key=b"k", watch_id=watch_id))
        await cluster.put(b"k", b"v")
        stream.cancel(1)
        seen = [r for _ in range(4) for r in await stream.next()]
        assert [(r.watch_id, r.canceled, len(r.events)) for r in seen[2:]] == [(2, False, 1), (1, True, 0)]
        assert stream.buffered == 0
        stream.close()


async def test_the_index_finds_what_comparing_every_range_finds() -> None:
    ranges = [(b"a", b""), (b"a", b"b"), (b"a/", b"a0"), (b"", b"\0"), (b"b", b"\0"), (b"a", b"c"), (b"\xff", b"\0")]
    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        for key, end in ranges:
            await client.create(key, range_end=end)
        for key in (b"a", b"a/x", b"a0", b"b", b"\xffz", b"c"):
            revision = (await cluster.put(key, b"")).header.revision
            client.ask_progress()
            hit = set()
            while (response := await client.next()).watch_id != -1:
                assert [e.kv.mod_revision for e in response.events] == [revision]
                hit.add(response.watch_id)
            expected = {
                i
                for i, (start, end) in enumerate(ranges)
                if (key == start if not end else (start or b"\0") <= key and (end == b"\0" or key < end))
            }
            assert hit == expected, key


async def test_a_stream_that_demands_a_leader_ends_without_one() -> None:
    async with etcd_cluster(3) as cluster:
        leader = await cluster.wait_leader()
        names = [n for n in cluster.nodes if n != leader.config.name]
        survivor = cluster.endpoints.index(cluster.nodes[names[0]].alive.client_address)
        stub = cluster.stub("Watch", survivor)

        async def requests() -> AsyncIterator[pb.WatchRequest]:
            yield pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k"))
            await asyncio.Event().wait()

        responses = stub.Watch(requests(), metadata={"hasleader": "true"})
        assert (await anext(responses)).created
        await cluster.kill(leader.config.name)
        await cluster.kill(names[1])
        with pytest.raises(RpcError, match="no leader"):
            async with asyncio.timeout(10):
                await anext(responses)


async def test_progress_notes_do_not_pile_up_for_a_client_that_does_not_read() -> None:
    async with etcd_cluster(1) as cluster:
        watches = cluster.members[0].watches
        stream = watches.open()
        stream.create(pb.WatchCreateRequest(key=b"k", progress_notify=True))
        await stream.next()
        for _ in range(10):
            watches.note_progress()
        assert len(await stream.next()) == 1
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await stream.next()
        stream.close()


async def test_a_stream_on_which_a_request_meets_a_fault_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took no more requests otherwise, and looked as if it did."""

    def fault(*_: object) -> None:
        raise KeyError("a bug")

    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        await client.create(b"k")
        monkeypatch.setattr(watchable_store.WatchStream, "cancel", fault)
        client.cancel(0)
        with pytest.raises(RpcError, match="watch canceled"):
            await client.next()


async def test_a_client_that_asks_on_without_reading_loses_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchable_store, "ANSWERS_WAITING_MAX", 10)
    async with etcd_cluster(1) as cluster, watching(cluster) as client:
        await client.create(b"k")
        for number in range(1_000):
            client.cancel(number)
            client._requests.put_nowait(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"k")))
        await asyncio.sleep(1)
        with pytest.raises(RpcError, match="too many requests"):
            while True:
                await client.next()


async def test_watchers_that_want_the_same_share_it_and_each_hear_it_once() -> None:
    """Streams of watchers that come, go, lag and start in the past, all on one prefix."""
    rng = random.Random(2)
    async with etcd_cluster(1) as cluster:
        watches = cluster.members[0].watches
        streams = [watches.open() for _ in range(3)]
        since: dict[tuple[int, int], int] = {}
        got: dict[tuple[int, int], list[int]] = {}
        for step in range(300):
            number = rng.randrange(len(streams))
            kind = rng.random()
            if kind < 0.2:
                watch_id = 100 + step
                start = rng.choice((0, 0, 2, watches.store.revision + 3))
                streams[number].create(
                    pb.WatchCreateRequest(
                        key=b"k",
                        range_end=b"l",
                        watch_id=watch_id,
                        start_revision=start,
                        prev_kv=rng.random() < 0.3,
                    )
                )
                since[number, watch_id] = start or watches.store.revision + 1
                got[number, watch_id] = []
            elif kind < 0.9:
                await cluster.put(b"k%d" % rng.randrange(3), b"%d" % step)
            else:
                await _collect(streams[number], number, got)
        await cluster.put(b"k0", b"last")
        last = watches.store.revision
        for number, stream in enumerate(streams):
            while any(n == number and since[n, i] <= last and got[n, i][-1:] != [last] for n, i in got):
                await _collect(stream, number, got)
            stream.close()
        assert len(got) > 30
        for name, revisions in got.items():
            assert revisions == list(range(since[name], last + 1)), name


async def _collect(stream: watchable_store.WatchStream, number: int, got: dict[tuple[int, int], list[int]]) -> None:
    """What waits on a stream."""
    while stream.buffered or stream.counts()[1]:
        for answer in await stream.next_encoded():
            response = pb.WatchResponse.FromString(answer.data)
            got[number, response.watch_id] += [e.kv.mod_revision for e in response.events]


async def test_what_many_watchers_get_is_what_one_gets() -> None:
    async with etcd_cluster(1) as cluster:
        watches = cluster.members[0].watches
        stream = watches.open()
        for watch_id in (3, -7):
            stream.create(pb.WatchCreateRequest(key=b"k", watch_id=watch_id, prev_kv=True))
        for value in (b"1", b"2"):
            await cluster.put(b"k", value)
        await cluster.stub("KV").DeleteRange(pb.DeleteRangeRequest(key=b"k"))
        answers = [pb.WatchResponse.FromString(a.data) for _ in range(3) for a in await stream.next_encoded()][2:]
        assert [a.watch_id for a in answers] == [3, -7]
        for answer in answers:
            assert [(e.type, e.kv.value, e.prev_kv.value) for e in answer.events] == [
                (0, b"1", b""),
                (0, b"2", b"1"),
                (1, b"", b"2"),
            ]
            assert answer.header.revision == 4
        assert answers[0].events == answers[1].events
        stream.close()
