"""Key-value requests over the MVCC store: checks, ranges, transactions. Pure but for the store they are given.

The same request on the same store gives the same answer and the same change on every member. Response headers hold
the revision only; the service fills in the rest. A request that is refused changes nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.state_machine.lessor import Lessor
from rayplane.proto.etcd.kv_pb2 import KeyValue
from rayplane.proto.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    TxnRequest,
    TxnResponse,
)
from rayplane.storage.mvcc import (
    CompactedError,
    FutureRevisionError,
    KeyIndex,
    MvccError,
    RangeResult,
    Store,
    WriteTxn,
)

_SORT_FIELDS: dict[int, Callable[[KeyValue], int | bytes]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}
_COMPARE_FIELDS: dict[int, Callable[[KeyValue], int | bytes]] = {
    Compare.VERSION: lambda kv: kv.version,
    Compare.CREATE: lambda kv: kv.create_revision,
    Compare.MOD: lambda kv: kv.mod_revision,
    Compare.VALUE: lambda kv: kv.value,
    Compare.LEASE: lambda kv: kv.lease,
}
_COMPARE_WITH: dict[int, Callable[[Compare], int | bytes]] = {
    Compare.VERSION: lambda c: c.version,
    Compare.CREATE: lambda c: c.create_revision,
    Compare.MOD: lambda c: c.mod_revision,
    Compare.VALUE: lambda c: c.value,
    Compare.LEASE: lambda c: c.lease,
}
_MISSING = KeyValue()
# What the key index knows of a key, as `KeyIndex.written` tells it.
_WRITTEN: dict[int, int] = {Compare.CREATE: 0, Compare.MOD: 1, Compare.VERSION: 2}


def from_store(error: MvccError) -> Exception:
    """The API's error for one of the MVCC store; others as they are."""
    if isinstance(error, CompactedError):
        return errors.Compacted()
    if isinstance(error, FutureRevisionError):
        return errors.FutureRevision()
    return error


class View(Protocol):
    """A source of reads: a store, or a write transaction in it."""

    @property
    def revision(self) -> int: ...

    @property
    def index(self) -> KeyIndex: ...

    def value(self, key: bytes) -> bytes | None:
        """What a key held before any write of this transaction, None if it was not there."""

    def range(
        self, key: bytes, end: bytes = b"", *, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> RangeResult: ...


# Checks before a request is proposed


def check_range(request: RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise errors.EmptyKey
    if request.sort_order not in (0, 1, 2) or request.sort_target not in _SORT_FIELDS:
        raise errors.InvalidSortOption


def check_put(request: PutRequest) -> None:
    """Raises EmptyKey, ValueProvided, LeaseProvided."""
    if not request.key:
        raise errors.EmptyKey
    if request.ignore_value and request.value:
        raise errors.ValueProvided
    if request.ignore_lease and request.lease:
        raise errors.LeaseProvided


def check_delete(request: DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey


class TxnNature(NamedTuple):
    """The nature of a transaction: what it may do, whichever branch it takes."""

    writes: bool
    puts: bool
    """Whether it needs space."""


_PUTS, _DELETES, _NESTS = 1, 2, 4
"""What operations do: bits of one number, as they are looked at for each transaction."""


def check_txn(request: TxnRequest, max_ops: int) -> TxnNature:
    """Raises TooManyOps, DuplicateKey, KeyNotFound and what the single operations raise."""
    does = _check_ops(request, max_ops)
    for ops in (request.success, request.failure):
        if len(ops) > 1 or does & _NESTS:
            _writes(ops) if does & (_DELETES | _NESTS) else _check_distinct(ops)
    return TxnNature(bool(does & (_PUTS | _DELETES)), bool(does & _PUTS))


def _check_ops(request: TxnRequest, max_ops: int) -> int:
    compares, success, failure = request.compare, request.success, request.failure
    count = max(len(compares), len(success), len(failure))
    if count > max_ops:
        raise errors.TooManyOps
    for compare in compares:
        if not compare.key:
            raise errors.EmptyKey
    does = 0
    for op in (*success, *failure):
        kind = op.WhichOneof("request")
        if kind == "request_range":
            check_range(op.request_range)
        elif kind == "request_put":
            check_put(op.request_put)
            does |= _PUTS
        elif kind == "request_delete_range":
            check_delete(op.request_delete_range)
            does |= _DELETES
        elif kind == "request_txn":
            # What is nested counts towards the whole, but not each nested one towards the next.
            does |= _check_ops(op.request_txn, max_ops - count) | _NESTS
        else:
            raise errors.KeyNotFound
    return does


def _check_distinct(ops: Sequence[RequestOp]) -> None:
    """As `_writes`, where there are only puts and reads: as nearly always."""
    keys = [op.request_put.key for op in ops if op.HasField("request_put")]
    if len(set(keys)) < len(keys):
        raise errors.DuplicateKey


Intervals = list[tuple[bytes, bytes]]


def _writes(ops: Sequence[RequestOp]) -> tuple[set[bytes], Intervals]:
    """Keys put and ranges deleted by one branch; DuplicateKey where two of them meet.

    The branches of a nested transaction exclude each other, so they may write the same keys.
    """
    puts: set[bytes] = set()
    deletes: Intervals = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.WhichOneof("request") == "request_delete_range"
    ]
    for op in ops:
        if op.WhichOneof("request") != "request_txn":
            continue
        branches = (_writes(op.request_txn.success), _writes(op.request_txn.failure))
        for nested_puts, _ in branches:
            if not puts.isdisjoint(nested_puts) or any(_covered(k, deletes) for k in nested_puts):
                raise errors.DuplicateKey
        for nested_puts, nested_deletes in branches:
            # Puts of transactions nested before are not held against these deletes: so it is in etcd.
            puts |= nested_puts
            deletes += nested_deletes
    for op in ops:
        if op.WhichOneof("request") == "request_put":
            key = op.request_put.key
            if key in puts or _covered(key, deletes):
                raise errors.DuplicateKey
            puts.add(key)
    return puts, deletes


def _covered(key: bytes, intervals: Intervals) -> bool:
    """As etcd looks at it: a delete of everything from a key on (end "\\0") meets no put."""
    return any(start <= key < end if end else key == start for start, end in intervals)


def puts_anything(request: TxnRequest) -> bool:
    """Whether some branch needs space."""
    return any(
        op.WhichOneof("request") == "request_put"
        or (op.WhichOneof("request") == "request_txn" and puts_anything(op.request_txn))
        for op in (*request.success, *request.failure)
    )


def is_serializable(request: TxnRequest) -> bool:
    """Whether all its reads (of a read-only one) may be stale."""
    return all(
        op.request_range.serializable
        if op.WhichOneof("request") == "request_range"
        else is_serializable(op.request_txn)
        for op in (*request.success, *request.failure)
    )


# Execution


class RangePlan:
    """The options of a range besides keys and revision: where to cut, what to choose, in which order."""

    __slots__ = ("_request", "cut", "descends", "filters", "limit", "sort_value", "sorts")

    def __init__(self, request: RangeRequest) -> None:
        self._request = request
        target, order = request.sort_target, request.sort_order
        self.filters = bool(
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        )
        self.limit = max(0, request.limit)
        # Without an order, etcd cuts by key before it sorts, one key beyond the limit.
        by_key = order == RangeRequest.NONE or (order == RangeRequest.ASCEND and target == RangeRequest.KEY)
        self.cut = self.limit + 1 if self.limit and by_key and not self.filters else 0
        self.descends = order == RangeRequest.DESCEND
        self.sorts = target != RangeRequest.KEY or self.descends
        self.sort_value = _SORT_FIELDS[target]

    @property
    def selects(self) -> bool:
        """Whether the records themselves must be looked at."""
        return self.filters or self.sorts

    def passes(self, kv: KeyValue) -> bool:
        return not self.filters or _passes(self._request, kv)


def run_range(view: View, request: RangeRequest) -> RangeResponse:
    """Raises CompactedError, FutureRevisionError of the store."""
    plan = RangePlan(request)
    result = view.range(
        request.key, request.range_end, revision=request.revision, limit=plan.cut, count_only=request.count_only
    )
    kvs, limit, more = result.kvs, plan.limit, False
    if plan.filters:
        kvs = [kv for kv in kvs if _passes(request, kv)]
    if plan.sorts:
        kvs = sorted(kvs, key=plan.sort_value, reverse=plan.descends)
    if 0 < limit < len(kvs):
        kvs, more = kvs[:limit], True
    response = RangeResponse(header=ResponseHeader(revision=view.revision), more=more, count=result.count)
    if request.keys_only:
        kvs = [_without_value(kv) for kv in kvs]
    response.kvs.extend(kvs)
    return response


def _passes(request: RangeRequest, kv: KeyValue) -> bool:
    return (
        kv.mod_revision >= request.min_mod_revision
        and (not request.max_mod_revision or kv.mod_revision <= request.max_mod_revision)
        and kv.create_revision >= request.min_create_revision
        and (not request.max_create_revision or kv.create_revision <= request.max_create_revision)
    )


def _without_value(kv: KeyValue) -> KeyValue:
    return KeyValue(
        key=kv.key,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def run_put(txn: WriteTxn, request: PutRequest, lessor: Lessor, response: PutResponse) -> None:
    """Carry out, and fill in the answer. Raises LeaseNotFound, KeyNotFound."""
    value, lease = _put_content(txn, request, lessor)
    previous = txn.put(request.key, value, lease, prev_kv=request.prev_kv)
    response.header.revision = txn.revision
    if previous is not None:
        response.prev_kv.CopyFrom(previous)


def _put_content(txn: WriteTxn, request: PutRequest, lessor: Lessor) -> tuple[bytes, int]:
    """The value and the lease to write. Raises LeaseNotFound, KeyNotFound."""
    value, lease = request.value, request.lease
    if lease and not lessor.exists(lease):
        raise errors.LeaseNotFound
    if request.ignore_value or request.ignore_lease:
        held = txn.range(request.key).kvs
        if not held:
            raise errors.KeyNotFound
        if request.ignore_value:
            value = held[0].value
        if request.ignore_lease:
            lease = held[0].lease
    return value, lease


def run_delete(txn: WriteTxn, request: DeleteRangeRequest) -> DeleteRangeResponse:
    deleted = txn.delete_range(request.key, request.range_end, prev_kv=request.prev_kv)
    return DeleteRangeResponse(
        header=ResponseHeader(revision=txn.revision),
        deleted=len(deleted),
        prev_kvs=deleted if request.prev_kv else (),
    )


def run_read_only_txn(store: Store, request: TxnRequest) -> TxnResponse:
    """A transaction without writes, on the store as it is. Raises CompactedError, FutureRevisionError."""
    decision = _decide(store, request)
    for op in _chosen(decision):
        _check_read(store, op.request_range.revision)
    response = TxnResponse()
    _branch(response, store, decision, None, None)
    response.header.revision = store.revision
    return response


def run_txn(
    txn: WriteTxn, store: Store, request: TxnRequest, lessor: Lessor, *, told: bool = True
) -> TxnResponse | None:
    """All compares, nested ones too, and all checks see the state before any write of the transaction.

    `told` False: nobody waits for the answer, nothing is read for it. Raises LeaseNotFound, KeyNotFound,
    CompactedError, FutureRevisionError.
    """
    decision = _decide(txn, request)
    chosen = list(_chosen(decision)) if decision.nested else decision.ops
    _check(txn, store, chosen, lessor)
    if not told:
        _write(txn, chosen, lessor)
        return None
    response = TxnResponse()
    _branch(response, txn, decision, txn, lessor)
    response.header.revision = txn.revision
    return response


def _write(txn: WriteTxn, ops: Sequence[RequestOp], lessor: Lessor) -> None:
    """What `_branch` does to the store."""
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            put = op.request_put
            txn.put(put.key, *_put_content(txn, put, lessor), prev_kv=False)
        elif kind == "request_delete_range":
            txn.delete_range(op.request_delete_range.key, op.request_delete_range.range_end, prev_kv=False)


class _Decision:
    """The branch that a transaction takes, and the decisions of those nested in it, in order."""

    __slots__ = ("nested", "ops", "succeeded")

    def __init__(self, succeeded: bool, ops: Sequence[RequestOp], nested: list["_Decision"]) -> None:
        self.succeeded = succeeded
        self.ops = ops
        self.nested = nested


def _decide(view: View, request: TxnRequest) -> _Decision:
    succeeded = True
    for compare in request.compare:
        if not _holds(view, compare):
            succeeded = False
            break
    ops = request.success if succeeded else request.failure
    nested = [_decide(view, op.request_txn) for op in ops if op.HasField("request_txn")]
    return _Decision(succeeded, ops, nested)


def _chosen(decision: _Decision) -> Iterator[RequestOp]:
    """The operations that will be carried out, in order, without the transactions around them."""
    nested = iter(decision.nested)
    for op in decision.ops:
        if op.HasField("request_txn"):
            yield from _chosen(next(nested))
        else:
            yield op


def _check(view: View, store: Store, ops: Sequence[RequestOp], lessor: Lessor) -> None:
    """Puts first. Raises KeyNotFound, LeaseNotFound, FutureRevisionError, CompactedError."""
    reads = []
    for op in ops:
        kind = op.WhichOneof("request")
        if kind == "request_put":
            put = op.request_put
            if (put.ignore_value or put.ignore_lease) and not view.range(put.key, count_only=True).count:
                raise errors.KeyNotFound
            if put.lease and not lessor.exists(put.lease):
                raise errors.LeaseNotFound
        elif kind == "request_range":
            reads.append(op.request_range.revision)
    for revision in reads:
        _check_read(store, revision)


def _check_read(store: Store, revision: int) -> None:
    if revision > store.revision:
        raise FutureRevisionError(revision, store.revision)
    if revision and revision < store.compacted_revision:
        raise CompactedError(revision, store.compacted_revision)


def _holds(view: View, compare: Compare) -> bool:
    place = _WRITTEN.get(compare.target)
    if place is not None and not compare.range_end:
        # As nearly always: nothing has to be read.
        have = view.index.written(compare.key)[place]
        return _compares(compare.result, have, _COMPARE_WITH[compare.target](compare))
    if compare.target == Compare.VALUE and not compare.range_end:
        value = view.value(compare.key)
        return value is not None and _compares(compare.result, value, compare.value)
    kvs: Sequence[KeyValue] = view.range(compare.key, compare.range_end).kvs
    if not kvs:
        # Nothing there: every number is 0, and a value compares with nothing.
        if compare.target == Compare.VALUE:
            return False
        kvs = (_MISSING,)
    if compare.target not in _COMPARE_FIELDS:
        # An unknown field is equal to anything, as in etcd.
        return _compares(compare.result, 0, 0)
    field, wanted = _COMPARE_FIELDS[compare.target], _COMPARE_WITH[compare.target](compare)
    return all(_compares(compare.result, field(kv), wanted) for kv in kvs)


def _compares(result: int, have: int | bytes, wanted: int | bytes) -> bool:
    if result == Compare.EQUAL:
        return have == wanted
    if result == Compare.NOT_EQUAL:
        return have != wanted
    if result == Compare.GREATER:
        return have > wanted  # type: ignore[operator]
    if result == Compare.LESS:
        return have < wanted  # type: ignore[operator]
    return True  # an unknown relation holds, as in etcd


def _branch(
    response: TxnResponse, view: View, decision: _Decision, txn: WriteTxn | None, lessor: Lessor | None
) -> None:
    """Carry out the operations, and fill in the answer: parts that are made in their place are not copied there."""
    response.header.SetInParent()
    response.succeeded = decision.succeeded
    nested, add = iter(decision.nested), response.responses.add
    for op in decision.ops:
        kind, answer = op.WhichOneof("request"), add()
        if kind == "request_range":
            answer.response_range.CopyFrom(run_range(view, op.request_range))
        elif kind == "request_txn":
            _branch(answer.response_txn, view, next(nested), txn, lessor)
        elif kind == "request_put":
            assert txn is not None and lessor is not None
            run_put(txn, op.request_put, lessor, answer.response_put)
        else:
            assert txn is not None
            answer.response_delete_range.CopyFrom(run_delete(txn, op.request_delete_range))
