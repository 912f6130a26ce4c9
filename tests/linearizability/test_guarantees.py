"""The checks of what is no part of linearizability, on histories known good and known bad."""

import pytest

from rayplane.control_plane.invariants.kv_model import Delete, Get, Kv, Put, Request, Response
from rayplane.control_plane.invariants.linearizable import Operation
from rayplane.proto.etcd.kv_pb2 import Event, KeyValue
from tests.linearizability.guarantees import PastRead, check_answers, check_past_reads, check_revisions
from tests.linearizability.history import Truth, change_of
from tests.linearizability.leasing import LeaseStory, Renewal, check_leases
from tests.linearizability.watching import Batch, Progress, Segment, Wanted, check_watch


def event(key: bytes, revision: int, *, create: int = 0, version: int = 1, value: bytes = b"", lease: int = 0) -> Event:
    if not version:
        return Event(type=Event.DELETE, kv=KeyValue(key=key, mod_revision=revision))
    create = create or revision
    kv = KeyValue(key=key, value=value, create_revision=create, mod_revision=revision, version=version, lease=lease)
    return Event(kv=kv)


def with_prev(change: Event, prev: Event) -> Event:
    return Event(type=change.type, kv=change.kv, prev_kv=prev.kv)


A2 = event(b"a", 2, value=b"1")
A3, B3 = with_prev(event(b"a", 3, create=2, version=2, value=b"2"), A2), event(b"b", 3, value=b"2")
A4 = with_prev(event(b"a", 4, version=0), A3)
B5 = with_prev(event(b"b", 5, create=3, version=2, value=b"3"), B3)
EVENTS = {2: [A2], 3: [A3, B3], 4: [A4], 5: [B5]}


@pytest.fixture
def truth() -> Truth:
    known = Truth()
    for revision, events in EVENTS.items():
        known.add(revision, events, time=float(revision), moment=revision * 10)
    known.seal()
    return known


def test_members_that_apply_different_changes_are_found(truth: Truth) -> None:
    truth.add(2, [A2])
    truth.add(3, [A3])
    with pytest.raises(AssertionError, match="two members hold different revisions 3"):
        truth.seal()


@pytest.mark.parametrize(
    "events",
    [{3: [A2]}, {2: [A2], 3: [event(b"a", 3)]}, {2: [A4]}, {2: [A2, A2]}],
    ids=["a gap", "a version that does not count on", "a delete of nothing", "a key twice"],
)
def test_impossible_changes_are_found(events: dict[int, list[Event]]) -> None:
    truth = Truth()
    for revision, each in events.items():
        truth.add(revision, each)
    with pytest.raises(AssertionError):
        truth.seal()


# Revisions and answers

PUT, GET, DELETE = Request((Put(b"a", b"1"),)), Request((Get(b"a"),)), Request((Delete(b"a"),))


def op(called: float, returned: float, request: Request, revision: int, *results: Kv | int | None) -> Operation:
    return Operation("c", called, request, returned, Response(revision, results))


OTHER = Request((Put(b"z", b"1"),))


@pytest.mark.parametrize(
    "history",
    [
        [op(0, 5, PUT, 2, None), op(0, 5, OTHER, 3, None), op(6, 7, GET, 3, None), op(6, 7, GET, 4, None)],
        [op(0, 5, PUT, 3, None), op(5, 6, OTHER, 2, None)],
        [op(0, 1, PUT, 2, None), op(2, 3, Request((Delete(b"q"),)), 2, 0)],
    ],
    ids=["concurrent", "touching intervals", "a delete that found nothing"],
)
def test_revisions_in_order_are_accepted(history: list[Operation]) -> None:
    check_revisions(history)


@pytest.mark.parametrize(
    "history",
    [
        [op(0, 5, PUT, 2, None), op(0, 5, OTHER, 2, None)],
        [op(0, 1, PUT, 3, None), op(2, 3, OTHER, 2, None)],
        [op(0, 1, OTHER, 3, None), op(2, 3, GET, 2, None)],
        [op(0, 1, GET, 3, None), op(2, 3, OTHER, 3, None)],
        [op(0, 1, GET, 3, None), op(2, 3, GET, 2, None)],
    ],
    ids=["one revision for two", "backwards", "a stale read of another key", "seen before it began", "reads backwards"],
)
def test_revisions_out_of_order_are_found(history: list[Operation]) -> None:
    with pytest.raises(AssertionError):
        check_revisions(history)


def test_answers_fit_the_changes(truth: Truth) -> None:
    good = [op(0, 1, PUT, 2, None), op(0, 1, DELETE, 4, 1), op(0, 1, GET, 5, None), op(0, 1, DELETE, 5, 0)]
    check_answers(good, truth)
    for bad in (
        op(0, 1, OTHER, 3, None),
        op(0, 1, GET, 4, Kv(b"2", 2, 3, 2)),
        op(0, 1, OTHER, 9, None),
        op(0, 1, DELETE, 5, 1),
    ):
        with pytest.raises(AssertionError):
            check_answers([bad], truth)


def test_past_reads_are_states_that_were(truth: Truth) -> None:
    both = Request((Get(b"a"), Get(b"b")))
    three = PastRead(both, Response(3, (Kv(b"2", 2, 3, 2), Kv(b"2", 3, 3, 1))), 0, "m")
    old = PastRead(GET, Response(5, (Kv(b"1", 2, 2, 1),)), revision=2)
    four = PastRead(both, Response(4, (None, Kv(b"2", 3, 3, 1))), 0, "m")
    check_past_reads([three, old, four, three._replace(member="after a restart")], truth)
    torn = PastRead(both, Response(3, (Kv(b"1", 2, 2, 1), Kv(b"2", 3, 3, 1))))
    for bad in ([torn], [four, three], [old._replace(revision=3)]):
        with pytest.raises(AssertionError):
            check_past_reads(bad, truth)


# Watches

ALL = Wanted(b"a", b"c")


def batch(*events: Event, header: int = 5, fragment: bool = False, prev: bool = False) -> Batch:
    changes = [(e.kv.mod_revision, change_of(e)) for e in events]
    return Batch(header, tuple((r, c if prev else c._replace(prev=None)) for r, c in changes), fragment)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(ALL, 1, [batch(A2, header=2), batch(A3, B3, A4), Progress(4), batch(B5)], complete=True),
        Segment(ALL, 3, [Progress(2), batch(A3, B3), Progress(3)]),
        Segment(ALL, 1, [batch(A2), batch(A3, fragment=True), batch(B3), batch(A4, B5)], complete=True),
        Segment(Wanted(b"b", prev_kv=True), 1, [batch(B3, B5, prev=True)], complete=True),
        Segment(Wanted(b"a", no_put=True), 1, [batch(A4)], complete=True),
        Segment(Wanted(b"a", no_delete=True), 1, [batch(A2, A3), Progress(9)], complete=True),
        Segment(Wanted(b"q"), 1, [Progress(5)], complete=True),
    ],
    ids=["all", "from the middle", "fragments", "previous values", "no puts", "no deletes", "nothing"],
)
def test_a_good_watch(segment: Segment, truth: Truth) -> None:
    check_watch(segment, truth)


@pytest.mark.parametrize(
    "segment",
    [
        Segment(ALL, 1, [batch(A3, B3)]),
        Segment(ALL, 1, [batch(A2), batch(A4)]),
        Segment(ALL, 1, [batch(A2), batch(A2)]),
        Segment(ALL, 1, [batch(A2), batch(B3), batch(A3)]),
        Segment(ALL, 1, [batch(A2), batch(A3), batch(B3)]),
        Segment(ALL, 1, [batch(A2), batch(A3, fragment=True)]),
        Segment(ALL, 1, [batch(A2), batch(A3, B3), batch(A4)], complete=True),
        Segment(ALL, 1, [batch(A2), Progress(3), batch(A3, B3)]),
        Segment(ALL, 1, [batch(A2), Progress(4)]),
        Segment(ALL, 1, [batch(A2, header=1)]),
        Segment(ALL, 3, [batch(A2)]),
        Segment(ALL, 1, [batch(event(b"a", 2, value=b"other"))]),
        Segment(ALL, 1, [batch(event(b"a", 2, value=b"1", lease=7))]),
        Segment(ALL, 1, [batch(A2), batch(A3, B3, prev=True)]),
        Segment(Wanted(b"a", prev_kv=True), 1, [batch(A2), batch(A3)]),
        Segment(Wanted(b"a", prev_kv=True), 1, [batch(A2), batch(with_prev(A3, B3), prev=True)]),
        Segment(Wanted(b"a", no_put=True), 1, [batch(A2)]),
        Segment(ALL, 1, [batch(A2, A3, B3, A4, B5), batch(event(b"a", 6))]),
    ],
    ids=[
        "the first is missing", "one is missing", "one comes twice", "wrong order", "a revision in pieces",
        "the rest of a fragment is missing", "the last is missing", "an event after its bookmark",
        "a bookmark before its event", "an event newer than its header", "an event from before the start",
        "another value", "another lease", "a previous value unasked", "no previous value", "another previous value",
        "a filtered event", "an event that never was",
    ],
)  # fmt: skip
def test_a_bad_watch(segment: Segment, truth: Truth) -> None:
    with pytest.raises(AssertionError):
        check_watch(segment, truth)


def test_previous_values_may_be_missing_where_history_was_compacted(truth: Truth) -> None:
    segment = Segment(Wanted(b"a", prev_kv=True), 3, [batch(A3)])
    check_watch(segment, truth, compacted=2)
    with pytest.raises(AssertionError, match="previous value is missing"):
        check_watch(segment, truth, compacted=1)


def test_a_watch_resumes_after_what_it_knows() -> None:
    segment = Segment(ALL, 3)
    assert segment.resume_at == 3
    segment.seen += [batch(A3, B3), Progress(9)]
    assert segment.resume_at == 10


# Leases


def lease_truth(*deletions: int, time: float = 10.0, keys: bytes = b"xy") -> Truth:
    truth = Truth()
    truth.add(2, [event(b"%c" % key, 2, lease=1) for key in keys], time=1.0, moment=10)
    for n, revision in enumerate(deletions):
        gone = keys if len(deletions) == 1 else keys[n : n + 1]
        truth.add(revision, [event(b"%c" % key, revision, version=0) for key in gone], time=time, moment=100)
    truth.seal()
    return truth


def story(*renewals: tuple[float, float, int], ended: bool = False) -> LeaseStory:
    return LeaseStory(1, (b"x", b"y"), [Renewal(*each) for each in renewals], ended)


def test_a_lease_that_ran_out_in_time() -> None:
    check_leases([story((1.0, 5, 5), (5.0, 20, 5), (12.0, 120, 0))], lease_truth(3))
    check_leases([story((8.0, 20, 5), ended=True)], lease_truth(3))


@pytest.mark.parametrize(
    ("told", "happened"),
    [
        (story((1.0, 5, 5), (6.0, 20, 5)), lease_truth(3)),
        (story((1.0, 5, 5), (12.0, 120, 5)), lease_truth(3)),
        (story((1.0, 5, 5)), lease_truth(3, 4)),
        (story((1.0, 5, 5)), lease_truth()),
    ],
    ids=["too early", "renewed when it was gone", "keys in two revisions", "never"],
)
def test_a_lease_gone_wrong(told: LeaseStory, happened: Truth) -> None:
    with pytest.raises(AssertionError):
        check_leases([told], happened)
