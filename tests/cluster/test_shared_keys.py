"""Clients that share keys of etcd: an honest store passes, one that answers from the past does not."""

import asyncio
import random
from typing import Any

import grpc
import pytest

from rayplane.control_plane.cluster.trial.shared_keys import CLIENTS, EPOCH, SharedKeys
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import KeyValue

PREFIX = b"/shared/"


class Store:
    """An etcd of one process. `lies`: the part of reads that tell what was there before."""

    def __init__(self, *, lies: float = 0.0, fails: float = 0.0) -> None:
        self.revision = 1
        self.there: dict[bytes, KeyValue] = {}
        self.before: dict[bytes, KeyValue] = {}
        self.asked = 0
        self.asked_of: set[bytes] = set()
        self._lies, self._fails, self._rng = lies, fails, random.Random(1)

    async def _answered(self) -> pb.ResponseHeader:
        """Some calls have their effect and get no answer."""
        self.asked += 1
        revision = self.revision
        await asyncio.sleep(0)
        if self._rng.random() < self._fails:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the connection was lost")
        return pb.ResponseHeader(revision=revision)

    def _put(self, key: bytes, value: bytes) -> KeyValue | None:
        self.asked_of.add(key)
        old = self.there.get(key)
        self.revision += 1
        created, version = (old.create_revision, old.version) if old is not None else (self.revision, 0)
        self.there[key] = KeyValue(
            key=key, value=value, create_revision=created, mod_revision=self.revision, version=version + 1
        )
        if old is not None:
            self.before[key] = old
        return old

    async def put(self, key: bytes, value: bytes, *, prev_kv: bool) -> pb.PutResponse:
        old = self._put(key, value)
        return pb.PutResponse(header=await self._answered(), prev_kv=old)

    async def range(self, key: bytes) -> pb.RangeResponse:
        self.asked_of.add(key)
        old = self._rng.random() < self._lies and key in self.before
        found = self.before[key] if old else self.there.get(key)
        return pb.RangeResponse(header=await self._answered(), kvs=[found] if found is not None else [])

    async def txn(self, compare: Any, success: Any, failure: Any) -> pb.TxnResponse:
        put = success[0].request_put
        self.asked_of.add(put.key)
        found = self.there.get(put.key)
        if compare[0].mod_revision == (found.mod_revision if found is not None else 0):
            self._put(put.key, put.value)
            return pb.TxnResponse(header=await self._answered(), succeeded=True, responses=[pb.ResponseOp()])
        read = pb.RangeResponse(kvs=[found] if found is not None else [])
        responses = [pb.ResponseOp(response_range=read)]
        return pb.TxnResponse(header=await self._answered(), succeeded=False, responses=responses)


async def found_of(store: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("rayplane.control_plane.cluster.trial.shared_keys.PAUSE_S", 0.0)
    found: list[str] = []
    keys = SharedKeys(store, PREFIX, found.append)
    running = asyncio.create_task(keys.run())
    async with asyncio.timeout(60):
        while store.asked < 3 * EPOCH:
            await asyncio.sleep(0)
    await cancel_and_wait(running)
    await keys.finish()
    return found


@pytest.mark.parametrize("fails", [0.0, 0.1])
async def test_an_honest_store_is_linearizable(fails: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await found_of(Store(fails=fails), monkeypatch) == []


async def test_a_store_that_reads_the_past_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    found = await found_of(Store(lies=0.3), monkeypatch)
    assert found and "illegal" in found[0] and "NOT PLACED" in found[0]


async def test_every_epoch_is_judged_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # With pauses the last answer of an epoch comes before the next one begins.
    monkeypatch.setattr("rayplane.control_plane.cluster.trial.shared_keys.PAUSE_S", 0.002)
    store, found = Store(), list[str]()
    keys: Any = SharedKeys(store, PREFIX, found.append)  # type: ignore[arg-type]
    running = asyncio.create_task(keys.run())
    async with asyncio.timeout(60):
        while store.asked < 10 * EPOCH:
            await asyncio.sleep(0)
    await cancel_and_wait(running)
    begun = {key.partition(b"-")[0] for key in store.asked_of}
    assert keys.judged >= len(begun) - 1 - CLIENTS
    await keys.finish()
    # Of the last epoch nothing may be known but that somebody was cut off reading.
    assert keys.judged in (len(begun) - 1, len(begun)) and found == []
