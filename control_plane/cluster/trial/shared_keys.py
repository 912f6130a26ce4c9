"""Clients of etcd that share keys, and whose answers together must be those of one store: linearizable.

They write, read and compare keys of one epoch; then of the next. An epoch that is over is judged as soon as nobody
waits for an answer of it any more, and is forgotten: memory and the judge's work have bounds, however long a trial is.
A thread judges: what other clients of the trial wait for must not be its work.
"""

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from rayplane.control_plane.client import EtcdClient
from rayplane.control_plane.invariants.kv_model import Compare, Get, Kv, KvModel, Put, Request, Response
from rayplane.control_plane.invariants.linearizable import Operation, found_wrong
from rayplane.control_plane.rpc import RpcError
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import KeyValue

CLIENTS = 4
KEYS = 2
PAUSE_S = 0.5
EPOCH = 60
"""Calls of one epoch."""
BUDGET_STEPS = 200_000
_UNCHANGED = 0
"""The revision of a key that is not there."""


@dataclass(eq=False)
class _Epoch:
    """The history of some keys."""

    keys: tuple[bytes, ...]
    begun: int = 0
    waiting: int = 0
    history: list[Operation] = field(default_factory=list)
    seen: dict[bytes, int] = field(default_factory=dict)
    """The newest revision of each key that somebody was told."""


class SharedKeys:
    """Clients of keys under `prefix`. `tell` hears of every epoch that is not linearizable."""

    def __init__(self, etcd: EtcdClient, prefix: bytes, tell: Callable[[str], None]) -> None:
        self._etcd = etcd
        self._prefix = prefix
        self._tell = tell
        # Which call comes next changes nothing of a trial's plan.
        self._rng = random.Random(0)
        self._ticks = itertools.count(1)
        self._epochs = itertools.count(1)
        self.judged = 0
        """Epochs that were, with any call."""
        self._open: list[_Epoch] = []
        self._now = self._next()

    def _next(self) -> _Epoch:
        number = next(self._epochs)
        epoch = _Epoch(tuple(self._prefix + f"{number:06}-{key}".encode() for key in range(KEYS)))
        self._open.append(epoch)
        return epoch

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(self._client(f"client {number}"))

    async def _client(self, name: str) -> None:
        while True:
            if self._now.begun >= EPOCH:
                self._now = self._next()
            epoch = self._now
            epoch.begun += 1
            epoch.waiting += 1
            try:
                await self._call(name, epoch)
            finally:
                epoch.waiting -= 1
            # Whoever began the next one may have left this one without anybody who waits.
            for over in [one for one in self._open if one is not self._now and not one.waiting]:
                await self._judge(over)
            await asyncio.sleep(self._rng.uniform(0.0, PAUSE_S))

    async def _call(self, name: str, epoch: _Epoch) -> None:
        """One call; of a write without an answer nobody knows whether it was done."""
        request, called = self._request(name, epoch), next(self._ticks)
        number = len(epoch.history)
        if request.writes:
            epoch.history.append(Operation(name, called, request))
        try:
            response = await self._ask(request)
        except RpcError:
            return
        done = Operation(name, called, request, next(self._ticks), response)
        if request.writes:
            epoch.history[number] = done
        else:
            epoch.history.append(done)
        if request.writes and response.succeeded:
            epoch.seen[request.keys[0]] = response.revision

    def _request(self, name: str, epoch: _Epoch) -> Request:
        key, what = self._rng.choice(epoch.keys), self._rng.random()
        value = f"{name} {next(self._ticks)}".encode()
        if what < 0.4:
            return Request((Get(key),))
        if what < 0.7:
            return Request((Put(key, value, True),))
        compare = Compare(key, "mod", epoch.seen.get(key, _UNCHANGED))
        return Request((Put(key, value),), (compare,), (Get(key),))

    async def _ask(self, request: Request) -> Response:
        op = request.ops[0]
        if isinstance(op, Get):
            read = await self._etcd.range(op.key)
            return Response(read.header.revision, (_kv(read.kvs[0]) if read.kvs else None,))
        assert isinstance(op, Put)
        if not request.compare:
            put = await self._etcd.put(op.key, op.value, prev_kv=True)
            return Response(put.header.revision, (_kv(put.prev_kv) if put.HasField("prev_kv") else None,))
        [compare] = request.compare
        answer = await self._etcd.txn(
            [pb.Compare(key=op.key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=int(compare.target))],
            [pb.RequestOp(request_put=pb.PutRequest(key=op.key, value=op.value))],
            [pb.RequestOp(request_range=pb.RangeRequest(key=op.key))],
        )
        if answer.succeeded:
            return Response(answer.header.revision, (None,))
        kvs = answer.responses[0].response_range.kvs
        return Response(answer.header.revision, (_kv(kvs[0]) if kvs else None,), False)

    async def _judge(self, epoch: _Epoch) -> None:
        if epoch not in self._open:
            return
        self._open.remove(epoch)
        try:
            wrong = await asyncio.to_thread(found_wrong, KvModel(), epoch.history, budget=BUDGET_STEPS)
        except asyncio.CancelledError:
            self._open.append(epoch)
            raise
        self.judged += bool(epoch.history)
        if wrong:
            self._tell(wrong)

    async def finish(self) -> None:
        """Judge all that is not yet; nobody must run any more."""
        for epoch in [*self._open]:
            await self._judge(epoch)


def _kv(kv: KeyValue) -> Kv:
    return Kv(kv.value, kv.create_revision, kv.mod_revision, kv.version)
