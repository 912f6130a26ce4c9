"""Users of leases: an honest store passes; one that ends leases early, or by halves, or not at all, is found."""

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from rayplane.control_plane.cluster.lease_users import LOOKS, OVER_S, LeaseUsers
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.etcd.kv_pb2 import KeyValue

TTL_S = 2


class Leases:
    """An etcd of one process with a clock that each call moves. `fails`: the part of calls without an answer."""

    def __init__(self, *, fails: float = 0.0) -> None:
        self.now_s = 0.0
        self.ends_s: dict[int, float] = {}
        self.keys: dict[bytes, int] = {}
        self.calls = 0
        self._fails, self._rng = fails, random.Random(3)

    async def _answered(self) -> None:
        await asyncio.sleep(0)
        if self._rng.random() < self._fails:
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "the connection was lost")

    def pass_time(self) -> None:
        self.calls += 1
        self.now_s += 0.12
        for id in [id for id, end_s in self.ends_s.items() if end_s <= self.now_s]:
            self.end(id)

    def end(self, id: int) -> bool:
        self.keys = {key: of for key, of in self.keys.items() if of != id}
        return self.ends_s.pop(id, None) is not None

    async def _found(self, found: bool) -> None:
        await self._answered()
        if not found:
            raise RpcError(grpc.StatusCode.NOT_FOUND, "lease not found")

    async def lease_grant(self, ttl_s: int, *, lease_id: int) -> pb.LeaseGrantResponse:
        self.pass_time()
        self.ends_s[lease_id] = self.now_s + TTL_S
        await self._answered()
        return pb.LeaseGrantResponse(TTL=TTL_S)

    async def lease_keep_alive(self, lease_id: int) -> int:
        self.pass_time()
        lives = lease_id in self.ends_s
        if lives:
            self.ends_s[lease_id] = self.now_s + TTL_S
        await self._answered()
        return TTL_S if lives else 0

    async def lease_revoke(self, lease_id: int) -> None:
        self.pass_time()
        await self._found(self.end(lease_id))

    async def txn(self, compare: Any, success: Any, failure: Any) -> None:
        self.pass_time()
        puts = [op.request_put for op in success]
        lives = puts[0].lease in self.ends_s
        if lives:
            self.keys |= {put.key: put.lease for put in puts}
        await self._found(lives)

    async def range(self, start: bytes, end: bytes) -> pb.RangeResponse:
        self.pass_time()
        kvs = [KeyValue(key=key, lease=lease) for key, lease in self.keys.items() if start <= key < end]
        await self._answered()
        return pb.RangeResponse(kvs=kvs)


def found_of(store: Any, leases: int = 30) -> list[str]:
    found: list[str] = []

    async def story() -> None:
        users = LeaseUsers(store, b"/leased/", found.append, lambda: store.now_s, first_id=7, pause_s=0.0)
        running = asyncio.create_task(users.run())
        while users.judged < leases:
            await asyncio.sleep(0)
        await cancel_and_wait(running)
        store.now_s += 2 * OVER_S
        await users.finish()

    VirtualLoop().run(story())
    return found


@pytest.mark.parametrize("fails", [0.0, 0.1])
def test_an_honest_store_passes(fails: float) -> None:
    assert found_of(Leases(fails=fails)) == []


def test_leases_that_new_leaders_keep_for_a_while_pass() -> None:
    class Elections(Leases):
        """In the end its leaders change: each gives leases their time anew."""

        finishing = 0

        async def range(self, start: bytes, end: bytes) -> pb.RangeResponse:
            if start == b"/leased/":
                self.finishing += 1
                if self.finishing < LOOKS:
                    self.keys[b"/leased/7/1a"] = 7
                else:
                    self.end(7)
            return await super().range(start, end)

    store = Elections()
    assert found_of(store) == [] and store.finishing == LOOKS


def test_leases_of_others_are_none_of_these() -> None:
    store = Leases()
    store.keys[b"/leased/3/1a"] = 3
    assert found_of(store) == []


async def test_stories_are_judged_beside_all_else_even_when_that_is_given_up() -> None:
    judging, go_on = asyncio.Event(), asyncio.Event()

    async def beside(search: Callable[[], str]) -> str:
        judging.set()
        await go_on.wait()
        return search()

    store, found = Leases(), list[str]()
    any_store: Any = store
    users = LeaseUsers(
        any_store, b"/leased/", found.append, lambda: store.now_s, first_id=7, pause_s=0.0, judge_in=beside
    )
    running = asyncio.create_task(users.run())
    await judging.wait()
    await cancel_and_wait(running)
    assert users.judged == 0
    go_on.set()
    await users.finish()
    assert (users.judged, found) == (1, [])


def test_a_lease_that_ends_before_its_time_is_found() -> None:
    class Hasty(Leases):
        def pass_time(self) -> None:
            super().pass_time()
            if self.calls % 17 == 0:
                for id in [*self.ends_s]:
                    self.end(id)

    assert any("before its time" in text for text in found_of(Hasty()))


def test_a_lease_whose_keys_go_one_by_one_is_found() -> None:
    class Piecemeal(Leases):
        def end(self, id: int) -> bool:
            kept = dict(itertools.islice(((key, of) for key, of in self.keys.items() if of == id), 1))
            ended = super().end(id)
            self.keys |= kept
            return ended

    found = found_of(Piecemeal())
    assert any("illegal" in text and "NOT PLACED" in text for text in found)
    assert any("never ran out" in text for text in found)


def test_a_lease_that_lives_again_is_found() -> None:
    class Undead(Leases):
        async def lease_keep_alive(self, lease_id: int) -> int:
            await super().lease_keep_alive(lease_id)
            return TTL_S

    assert any("illegal" in text for text in found_of(Undead()))
