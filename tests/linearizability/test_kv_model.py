"""The model of a key space: it says what a real store does, and nothing else."""

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayplane.control_plane.invariants.kv_model import Compare, Delete, Get, Kv, KvModel, Op, Put, Request, Response
from rayplane.control_plane.invariants.linearizable import NotLinearizable, Operation, Verdict, assert_linearizable
from rayplane.storage.keyvalue import MemoryBackend
from rayplane.storage.mvcc import BUCKETS, Store
from tests.linearizability.brute_force import check
from tests.linearizability.history import Truth, kv_of, resolved

KEYS = [b"a", b"b"]


def on_store(store: Store, request: Request, truth: Truth | None = None) -> Response:
    """What a store answers."""

    def field(compare: Compare) -> int | bytes | None:
        kv = store.get(compare.key)
        if kv is None:
            return None if compare.field == "value" else 0
        return getattr(kv_of(kv), compare.field)

    succeeded = all(field(c) == c.target for c in request.compare)
    results: list[Kv | int | None] = []
    with store.write() as txn:
        for op in request.ops if succeeded else request.otherwise:
            if isinstance(op, Put):
                previous = txn.put(op.key, op.value)
                results.append(kv_of(previous) if op.prev and previous is not None else None)
            elif isinstance(op, Get):
                kvs = txn.range(op.key).kvs
                results.append(kv_of(kvs[0]) if kvs else None)
            else:
                results.append(len(txn.delete_range(op.key)))
        revision, events = txn.revision, [change.message(prev_kv=True) for change in txn.events]
    if truth is not None and events:
        truth.add(revision, events)
    return Response(revision, tuple(results), succeeded)


def requests(values: list[bytes]) -> st.SearchStrategy[Request]:
    def ops(key: bytes) -> st.SearchStrategy[Op]:
        return st.one_of(
            st.builds(Put, st.just(key), st.sampled_from(values), st.booleans()),
            st.just(Get(key)),
            st.just(Delete(key)),
        )

    lists = st.sampled_from(KEYS).flatmap(lambda key: st.tuples(ops(key)))
    pairs = st.tuples(ops(KEYS[0]), ops(KEYS[1]))
    compares = st.one_of(
        st.builds(Compare, st.sampled_from(KEYS), st.sampled_from(["mod", "create", "version"]), st.integers(0, 6)),
        st.builds(Compare, st.sampled_from(KEYS), st.just("value"), st.sampled_from(values)),
    )
    return st.builds(Request, lists | pairs, st.lists(compares, max_size=2).map(tuple), lists | st.just(()))


@given(st.lists(requests([b"1", b"2"]), max_size=12))
@settings(max_examples=150, deadline=None)
def test_accepts_what_a_store_answers_and_no_other_number(asked: list[Request]) -> None:
    store, model, state = Store(MemoryBackend(BUCKETS)), KvModel(), KvModel().init()
    for request in asked:
        response = on_store(store, request)
        for wrong in _wrong(response):
            changed = model.step(state, request, wrong)
            # A higher revision alone may be due to others' writes.
            assert not changed or wrong.revision > response.revision, f"{wrong} instead of {response} after {state}"
        after = model.step(state, request, response)
        assert len(after) == 1, f"{request} {response} after {state}"
        state = after[0]
    held = {key: kv_of(kv) for key in KEYS if (kv := store.get(key)) is not None}
    assert dict(state.keys) == held and state.revision == store.revision


def _wrong(response: Response) -> list[Response]:
    wrong = [response._replace(revision=response.revision - 1)]
    assert response.results is not None
    for n, result in enumerate(response.results):
        others: list[Kv | int | None] = []
        if isinstance(result, Kv):
            others = [None, *(result._replace(**{f: getattr(result, f) + 1}) for f in ("create", "mod", "version"))]
            others.append(result._replace(value=b"other"))
        elif isinstance(result, int):
            others = [1 - result]
        wrong += [response._replace(results=(*response.results[:n], o, *response.results[n + 1 :])) for o in others]
    return wrong


@given(st.lists(requests([b"1"]), min_size=1, max_size=9), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=150, deadline=None)
def test_accepts_overlaps_and_unknown_outcomes(asked: list[Request], rng: random.Random, tell: bool) -> None:
    store, truth, history = Store(MemoryBackend(BUCKETS)), Truth(), []
    for moment, request in enumerate(asked):
        # Every put has a value of its own.
        ops = tuple(op._replace(value=b"%d" % moment) if isinstance(op, Put) else op for op in request.ops)
        request = request._replace(ops=ops, otherwise=tuple(op for op in request.otherwise if isinstance(op, Get)))
        called, returned = moment - rng.random() * 3, moment + rng.random() * 3
        if rng.random() < 0.3:
            if rng.random() < 0.5:
                on_store(store, request, truth)
            history.append(Operation("c", called, request))
        else:
            history.append(Operation("c", called, request, returned, on_store(store, request, truth)))
    truth.seal()
    assert_linearizable(KvModel(), resolved(history, truth) if tell else history)


PUT, GET = Request((Put(b"a", b"1"),)), Request((Get(b"a"),))
ONE = Kv(b"1", 2, 2, 1)


def op(called: float, returned: float, request: Request, revision: int, *results: object, ok: bool = True) -> Operation:
    return Operation("c", called, request, returned, Response(revision, results, ok))  # type: ignore[arg-type]


def unknown(called: float, request: Request) -> Operation:
    return Operation("c", called, request, inf, None)


def pair(value: bytes) -> Request:
    return Request((Put(b"a", value), Put(b"b", value)))


BOTH = Request((Get(b"a"), Get(b"b")))
IF_NEW = Request((Put(b"a", b"2"),), (Compare(b"a", "create", 0),), (Get(b"a"),))
GOOD = {
    "an unknown put's revision is what the first read says": [
        unknown(0, PUT), op(2, 3, GET, 9, ONE._replace(create=7, mod=7)),
    ],
    "an unknown put before a put": [
        unknown(0, PUT), op(2, 3, Request((Put(b"a", b"2"),)), 5, None), op(4, 5, GET, 5, Kv(b"2", 4, 5, 2)),
    ],
    "an unknown put that won a compare": [unknown(0, IF_NEW), op(2, 3, GET, 2, Kv(b"2", 2, 2, 1))],
    "a compare with an unknown revision": [
        unknown(0, PUT),
        op(2, 3, Request((Delete(b"a"),), (Compare(b"a", "mod", 4),)), 6, 1),
        op(4, 5, GET, 6, None),
    ],
    "two reads of one state with different revisions of the store": [op(0, 9, GET, 5, None), op(0, 9, GET, 3, None)],
}  # fmt: skip
BAD = {
    "a dirty read of a put that was refused": [op(0, 1, GET, 2, ONE)],
    "a stale read with a new revision": [op(0, 1, PUT, 2, None), op(2, 3, GET, 2, None)],
    "a stale read with its old revision": [op(0, 1, PUT, 2, None), op(2, 3, GET, 1, None)],
    "a write acknowledged with the revision of another": [op(0, 5, PUT, 2, None), op(0, 5, IF_NEW, 2, None)],
    "half of a transaction": [
        op(0, 1, pair(b"1"), 2, None, None), op(2, 9, pair(b"2"), 3, None, None),
        op(3, 4, BOTH, 3, Kv(b"2", 2, 3, 2), Kv(b"1", 2, 2, 1)),
    ],
    "a compare that two win": [op(0, 5, IF_NEW, 2, None), op(0, 5, IF_NEW, 3, None)],
    "a compare lost against nobody": [op(0, 1, IF_NEW, 1, None, ok=False)],
    "a version that skips one": [op(0, 1, PUT, 2, None), op(2, 3, GET, 2, ONE._replace(version=2, create=1))],
    "a put applied twice": [op(0, 1, PUT, 2, None), op(2, 3, GET, 3, Kv(b"1", 2, 3, 2))],
    "a deleted key still there": [
        op(0, 1, PUT, 2, None), op(2, 3, Request((Delete(b"a"),)), 3, 1), op(4, 5, GET, 3, ONE),
    ],
    "a delete of what is not there": [op(0, 1, Request((Delete(b"a"),)), 2, 1)],
    "an unknown put seen with two revisions": [
        unknown(0, PUT), op(2, 3, GET, 9, ONE), op(4, 5, GET, 9, ONE._replace(create=3, mod=3)),
    ],
    "an unknown put below a revision that was known before": [
        op(0, 1, GET, 5, None), unknown(2, PUT), op(3, 4, GET, 9, ONE._replace(create=4, mod=4)),
    ],
    "a read that tells of a later revision than its own": [unknown(0, PUT), op(2, 3, GET, 1, ONE)],
    "write order flipped": [
        op(0, 1, PUT, 3, None), op(2, 3, Request((Put(b"a", b"2"),)), 2, None), op(4, 5, GET, 3, Kv(b"1", 2, 3, 2)),
    ],
    "the wrong previous value": [op(0, 1, PUT, 2, None), op(2, 3, Request((Put(b"a", b"2", True),)), 3, None)],
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_accepts(name: str) -> None:
    assert_linearizable(KvModel(), GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_rejects(name: str) -> None:
    assert check(KvModel(), BAD[name]) is Verdict.ILLEGAL
    with pytest.raises(NotLinearizable, match="NOT PLACED"):
        assert_linearizable(KvModel(), BAD[name])


def test_keys_that_never_meet_are_parts_of_their_own() -> None:
    keys = [(b"a",), (b"b", b"c"), (b"c", b"d"), (b"e",), (b"a",)]
    history = [Operation("c", n, Request(tuple(map(Get, names)))) for n, names in enumerate(keys)]
    assert [[each.called for each in part] for part in KvModel().partition(history)] == [[0, 4], [1, 2], [3]]
