"""Clients that write down what they ask and what they are answered: key-values."""

import asyncio
import random
from collections.abc import Callable, Sequence

import grpc

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.client.endpoints import never_sent
from rayplane.control_plane.invariants.kv_model import Compare, Delete, Get, Kv, Op, Put, Request, Response
from rayplane.control_plane.invariants.linearizable import Operation
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.linearizability.guarantees import PastRead
from tests.linearizability.history import Recorder, kv_of

KV = pb.DESCRIPTOR.services_by_name["KV"]
#: Codes of answers that say: nothing was done.
REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


def had_no_effect(error: RpcError) -> bool:
    """Whether a call surely did nothing: it was refused, or never arrived."""
    return error.code in REFUSALS or never_sent(error)


async def carry_out(stub: Stub, request: Request, *, serializable: bool = False, timeout: float) -> Response:
    """By the plain calls where they can say it, else by Txn. Raises RpcError."""
    if not request.compare and len(request.ops) == 1:
        return await _plain(stub, request.ops[0], serializable, timeout)
    answer = await stub.Txn(
        pb.TxnRequest(
            compare=[_compare(c) for c in request.compare],
            success=[_op(op, serializable) for op in request.ops],
            failure=[_op(op, serializable) for op in request.otherwise],
        ),
        timeout=timeout,
    )
    ops = request.ops if answer.succeeded else request.otherwise
    results = tuple(_result(op, part) for op, part in zip(ops, answer.responses, strict=True))
    return Response(answer.header.revision, results, answer.succeeded)


async def _plain(stub: Stub, op: Op, serializable: bool, timeout: float) -> Response:
    if isinstance(op, Put):
        put = await stub.Put(pb.PutRequest(key=op.key, value=op.value, prev_kv=op.prev), timeout=timeout)
        return Response(put.header.revision, (kv_of(put.prev_kv) if put.HasField("prev_kv") else None,))
    if isinstance(op, Get):
        got = await stub.Range(pb.RangeRequest(key=op.key, serializable=serializable), timeout=timeout)
        return Response(got.header.revision, (kv_of(got.kvs[0]) if got.kvs else None,))
    gone = await stub.DeleteRange(pb.DeleteRangeRequest(key=op.key), timeout=timeout)
    return Response(gone.header.revision, (gone.deleted,))


def _op(op: Op, serializable: bool) -> pb.RequestOp:
    if isinstance(op, Put):
        return pb.RequestOp(request_put=pb.PutRequest(key=op.key, value=op.value, prev_kv=op.prev))
    if isinstance(op, Get):
        return pb.RequestOp(request_range=pb.RangeRequest(key=op.key, serializable=serializable))
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=op.key))


def _result(op: Op, part: pb.ResponseOp) -> Kv | int | None:
    if isinstance(op, Put):
        return kv_of(part.response_put.prev_kv) if part.response_put.HasField("prev_kv") else None
    if isinstance(op, Get):
        kvs = part.response_range.kvs
        return kv_of(kvs[0]) if kvs else None
    return part.response_delete_range.deleted


def _compare(compare: Compare) -> pb.Compare:
    kinds = {
        "value": pb.Compare.VALUE,
        "mod": pb.Compare.MOD,
        "create": pb.Compare.CREATE,
        "version": pb.Compare.VERSION,
    }
    field = compare.field if compare.field in ("value", "version") else f"{compare.field}_revision"
    return pb.Compare(
        key=compare.key,
        target=kinds[compare.field],
        result=pb.Compare.EQUAL,
        **{field: compare.target},  # type: ignore[arg-type]
    )


class KvClient:
    """One caller, one call at a time, at any of the endpoints."""

    def __init__(
        self,
        name: str,
        network: Network,
        endpoints: Callable[[], Sequence[str]],
        recorder: Recorder,
        rng: random.Random,
        *,
        life_of: Callable[[str], str] = lambda endpoint: "",
        pause_max_s: float = 0.05,
        timeouts_s: Sequence[float] = (0.5, 1.5, 4.0),
    ) -> None:
        """`life_of` names what answers at an endpoint, "" when nobody can tell."""
        self.name = name
        self.past_reads: list[PastRead] = []
        self._network, self._endpoints, self._recorder, self._rng = network, endpoints, recorder, rng
        self._life_of = life_of
        self._pause_max_s, self._timeouts_s = pause_max_s, timeouts_s
        self._count = 0
        self._seen: dict[bytes, Kv | None] = {}
        self._revision = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.once()
            await asyncio.sleep(self._rng.uniform(0.0, self._pause_max_s))

    async def once(self) -> None:
        what = self._rng.random()
        if what < 0.12:
            await self._past_read()
        else:
            await self.ask(self._request(what))

    async def ask(self, request: Request, *, endpoint: str = "") -> Response | None:
        """One recorded call; None when it failed."""
        rng = self._rng
        stub = Stub(self._network.channel(endpoint or rng.choice(self._endpoints())), KV)
        number = self._recorder.begin(self.name, request)
        try:
            response = await carry_out(stub, request, timeout=rng.choice(self._timeouts_s))
        except RpcError as e:
            # A read that failed is no part of history; a write may have had its effect, or have it later.
            if had_no_effect(e) or not request.writes:
                self._recorder.refuse(number)
            return None
        self._recorder.end(number, response)
        self._learn(request, response)
        return response

    def _learn(self, request: Request, response: Response) -> None:
        self._revision = max(self._revision, response.revision)
        ops = request.ops if response.succeeded else request.otherwise
        for op, result in zip(ops, response.told, strict=True):
            if isinstance(op, Get):
                self._seen[op.key] = result if isinstance(result, Kv) else None

    def _value(self) -> bytes:
        self._count += 1
        return f"{self.name}-{self._count}".encode()

    def _request(self, what: float) -> Request:
        rng = self._rng
        key = b"k%d" % rng.randrange(4)
        if what < 0.35:
            return Request((Get(key),))
        if what < 0.60:
            return Request((Put(key, self._value(), rng.random() < 0.3),))
        if what < 0.66:
            return Request((Delete(key),))
        if what < 0.80:
            return Request((Put(key, self._value()),), (self._guess(key),), (Get(key),))
        if what < 0.86:
            return Request((Delete(key),), (self._guess(key),))
        pair = (b"p0", b"p1")
        if what < 0.93:
            return Request(tuple(map(Get, pair)))
        value = self._value()
        writes: tuple[Op, ...] = tuple(Put(k, value, True) for k in pair)
        return (
            Request(writes) if rng.random() < 0.7 else Request(writes, (self._guess(pair[0]),), tuple(map(Get, pair)))
        )

    def _guess(self, key: bytes) -> Compare:
        seen = self._seen.get(key)
        if seen is None:
            return Compare(key, self._rng.choice(["mod", "create", "version"]), 0)
        field = self._rng.choice(["mod", "mod", "value", "create", "version"])
        return Compare(key, field, getattr(seen, field))

    async def _past_read(self) -> None:
        rng = self._rng
        endpoint = rng.choice(self._endpoints())
        stub = Stub(self._network.channel(endpoint), KV)
        request = Request((Get(b"k%d" % rng.randrange(4)),) if rng.random() < 0.5 else (Get(b"p0"), Get(b"p1")))
        life = self._life_of(endpoint)
        timeout = rng.choice(self._timeouts_s)
        try:
            if rng.random() < 0.7 or self._revision < 2:
                response = await carry_out(stub, request, serializable=True, timeout=timeout)
                member = f"{self.name} at {life}" if life and life == self._life_of(endpoint) else ""
                self.past_reads.append(PastRead(request, response, 0, member))
                return
            revision = rng.randint(max(2, self._revision - rng.choice([3, 20, 100])), self._revision)
            key, end = request.ops[0].key, b"p2" if len(request.ops) > 1 else b""
            asked = pb.RangeRequest(key=key, range_end=end, revision=revision, serializable=rng.random() < 0.5)
            got = await stub.Range(asked, timeout=timeout)
        except RpcError:
            return
        found = {kv.key: kv_of(kv) for kv in got.kvs}
        results = tuple(found.get(op.key) for op in request.ops)
        self.past_reads.append(PastRead(request, Response(got.header.revision, results), revision))


class RevisionClient:
    """One caller that asks a majority for the revision, as API servers do, and follows the leader as they do."""

    def __init__(
        self,
        name: str,
        network: Network,
        endpoints: Callable[[], Sequence[str]],
        recorder: Recorder,
        rng: random.Random,
    ) -> None:
        self.told: list[Operation] = []
        self._name, self._endpoints, self._recorder, self._rng = name, endpoints, recorder, rng
        self._etcd = EtcdClient(network, endpoints())

    async def run(self) -> None:
        """Until cancelled."""
        standings = self._etcd.standings()
        try:
            while True:
                self._etcd.endpoints.replace(self._endpoints())
                if self._rng.random() < 0.1:
                    await self._etcd.prefer_leader()
                called = self._recorder.tick()
                revision = await standings.revision()
                if revision:
                    returned, answer = self._recorder.tick(), Response(revision, ())
                    self.told.append(Operation(self._name, called, Request(()), returned, answer))
                await asyncio.sleep(self._rng.uniform(0.0, 0.2))
        finally:
            await standings.stop()
