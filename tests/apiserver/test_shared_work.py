"""Where one task works for others: who is cancelled or fails leaves the others their answer."""

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from rayplane.control_plane.api.errors import ApiError, Conflict, ServiceUnavailable
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.apiserver.config import Limits, Timing
from rayplane.control_plane.apiserver.requests import SYSTEM, DeleteOptions, ListOptions
from rayplane.control_plane.apiserver.storage.convoys import HOLD_S, ConvoyedTxns
from rayplane.control_plane.apiserver.storage.grouping import GROUP_BYTES_MAX, GroupedTxns
from rayplane.control_plane.apiserver.storage.hearing import Hearing
from rayplane.control_plane.apiserver.storage.store import absent, put_op
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.client import ops
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.fake_etcd import FakeEtcd

PODS = builtin_registry().by_name("pods")


def write(group: GroupedTxns, key: str, value: bytes = b"v") -> Awaitable[pb.TxnResponse]:
    return group.txn([absent(key)], [put_op(key, value)], [])


@pytest.mark.parametrize("cancelled", range(3))
@pytest.mark.parametrize("turns", range(4))
async def test_a_cancelled_write_leaves_its_group_and_all_later_ones_their_answers(cancelled: int, turns: int) -> None:
    group = GroupedTxns(ConvoyedTxns(FakeEtcd()))  # type: ignore[arg-type]
    writes = [asyncio.ensure_future(write(group, f"/k{n}")) for n in range(3)]
    for _ in range(turns):
        await asyncio.sleep(0)
    writes[cancelled].cancel()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*writes, return_exceptions=True)
        assert all(isinstance(a, pb.TxnResponse) for n, a in enumerate(answers) if n != cancelled)
        assert (await write(group, "/later")).succeeded


async def test_a_write_that_is_refused_does_not_fail_its_group() -> None:
    class Strict(FakeEtcd):
        async def txn(self, compare, success, failure=(), *, timeout=5):  # type: ignore[no-untyped-def]
            if any(len(op.request_put.value) > 100 for op in success):
                raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large")
            return await super().txn(compare, success, failure, timeout=timeout)

    group = GroupedTxns(ConvoyedTxns(Strict()))  # type: ignore[arg-type]
    answers = await asyncio.gather(
        write(group, "/a"), write(group, "/b", b"x" * 200), write(group, "/c"), return_exceptions=True
    )
    assert [isinstance(a, RpcError) for a in answers] == [False, True, False]


async def test_no_group_is_larger_than_etcd_takes() -> None:
    sizes: list[int] = []

    class Measured(FakeEtcd):
        async def txn(self, compare, success, failure=(), *, timeout=5):  # type: ignore[no-untyped-def]
            sizes.append(sum(len(op.request_put.value) for op in success))
            if sizes[-1] > 1 << 21:  # what gRPC takes for a request of etcd's
                raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max")
            return await super().txn(compare, success, failure, timeout=timeout)

    group = GroupedTxns(ConvoyedTxns(Measured()))  # type: ignore[arg-type]
    answers = await asyncio.gather(*(write(group, f"/{n}", b"x" * 100_000) for n in range(40)))
    assert all(a.succeeded for a in answers)
    assert max(sizes) <= GROUP_BYTES_MAX and len(sizes) < 10


async def test_a_group_that_stops_tells_all_who_wait() -> None:
    class Stuck(FakeEtcd):
        async def txn(self, *args, **options):  # type: ignore[no-untyped-def]
            await asyncio.get_running_loop().create_future()

    group = GroupedTxns(ConvoyedTxns(Stuck()))  # type: ignore[arg-type]
    first = asyncio.ensure_future(write(group, "/a"))
    await asyncio.sleep(0.01)
    second = asyncio.ensure_future(write(group, "/b"))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await group.stop()
        for waiting in (first, second, asyncio.ensure_future(write(group, "/c"))):
            with pytest.raises(RpcError):
                await waiting


class Slow(FakeEtcd):
    """An etcd whose transactions end when they may; it keeps when each of them came, by the loop's time."""

    def __init__(self) -> None:
        super().__init__()
        self.came: dict[bytes, float] = {}
        self.may_end = asyncio.Event()

    async def txn(self, compare, success, failure=(), *, timeout=5):  # type: ignore[no-untyped-def]
        self.came[compare[0].key] = asyncio.get_running_loop().time()
        await self.may_end.wait()
        return await super().txn(compare, success, failure, timeout=timeout)


def convoyed(convoys: ConvoyedTxns, *keys: str) -> "list[asyncio.Future[pb.TxnResponse]]":
    return [asyncio.ensure_future(convoys.txn([absent(k)], [put_op(k, b"v")], [])) for k in keys]


def test_writes_that_come_together_set_out_together_and_later_ones_when_those_are_back() -> None:
    async def main() -> None:
        etcd = Slow()
        convoys = ConvoyedTxns(etcd)  # type: ignore[arg-type]
        first = convoyed(convoys, "/a", "/b")
        await asyncio.sleep(HOLD_S / 4)
        assert set(etcd.came) == {b"/a", b"/b"}
        second = convoyed(convoys, "/c")
        await asyncio.sleep(HOLD_S / 4)
        second += convoyed(convoys, "/d")
        await asyncio.sleep(HOLD_S / 4)
        assert set(etcd.came) == {b"/a", b"/b"}
        etcd.may_end.set()
        assert all(answer.succeeded for answer in await asyncio.gather(*first, *second))
        assert etcd.came[b"/c"] == etcd.came[b"/d"] > etcd.came[b"/a"]

    VirtualLoop().run(main())


def test_groups_of_small_writes_set_out_with_the_others() -> None:
    async def main() -> None:
        etcd = Slow()
        convoys = ConvoyedTxns(etcd)  # type: ignore[arg-type]
        first = convoyed(convoys, "/a")
        await asyncio.sleep(HOLD_S / 4)
        small = asyncio.ensure_future(write(GroupedTxns(convoys), "/event"))
        await asyncio.sleep(HOLD_S / 4)
        assert set(etcd.came) == {b"/a"}
        etcd.may_end.set()
        await asyncio.gather(*first, small)

    VirtualLoop().run(main())


def test_no_write_waits_for_others_for_longer_than_a_moment_and_one_that_is_given_up_stops_none() -> None:
    async def main() -> None:
        etcd, loop = Slow(), asyncio.get_running_loop()
        convoys = ConvoyedTxns(etcd)  # type: ignore[arg-type]
        first = convoyed(convoys, "/a")
        await asyncio.sleep(HOLD_S / 4)
        began = loop.time()
        given_up, waiting = convoyed(convoys, "/b", "/c")
        await asyncio.sleep(HOLD_S / 4)
        given_up.cancel()
        await asyncio.sleep(HOLD_S)
        assert set(etcd.came) == {b"/a", b"/c"}
        assert etcd.came[b"/c"] == pytest.approx(began + HOLD_S)
        etcd.may_end.set()
        await asyncio.gather(*first, waiting)

    VirtualLoop().run(main())


async def test_one_flight_for_all_and_each_waiter_for_itself() -> None:
    began, go = 0, asyncio.Event()

    async def work() -> int:
        nonlocal began
        began += 1
        await go.wait()
        return began

    flight: SingleFlight[int] = SingleFlight(lambda: ServiceUnavailable("stopped"))
    waiters = [asyncio.ensure_future(flight.run("key", work)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    await asyncio.sleep(0)
    go.set()
    assert (await asyncio.gather(*waiters, return_exceptions=True))[1:] == [1, 1]
    assert await flight.run("key", work) == 2
    go.clear()
    last = asyncio.ensure_future(flight.run("key", work))
    await asyncio.sleep(0)
    await flight.stop()
    with pytest.raises(ServiceUnavailable):
        await last
    with pytest.raises(ServiceUnavailable):
        await flight.run("key", work)


async def test_requests_are_told_when_a_server_stops_while_a_cache_is_loaded(stack: Stack) -> None:
    hub = stack.servers[0].registry.hub
    hub.forget(PODS.storage_prefix)
    stack.etcd.hang = asyncio.Event()
    waiting = [asyncio.ensure_future(hub.cache(PODS)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    await hub.stop()
    with pytest.raises(ServiceUnavailable):
        await waiting[1]


async def test_a_hundred_events_at_once_ask_for_one_lease(stack: Stack) -> None:
    def event(n: int) -> dict:
        about = {"kind": "Pod", "name": "p", "namespace": "default"}
        return {"metadata": {"name": f"e{n}", "namespace": "default"}, "involvedObject": about}

    before = len(stack.etcd.leases)
    await asyncio.gather(*(stack.client().create("events", event(n)) for n in range(100)))
    assert len(stack.etcd.leases) == before + 1


async def test_an_operation_that_fails_oddly_does_not_fail_its_batch(stack: Stack, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    registry, client = stack.servers[0].registry, stack.client()
    await client.create("configmaps", {"metadata": {"name": "good", "namespace": "default"}})
    get = registry.get

    async def odd(user, target, version=""):  # type: ignore[no-untyped-def]
        if target.name == "bad":
            raise RuntimeError("a fault of ours")
        return await get(user, target, version)

    monkeypatch.setattr(registry, "get", odd)
    answers = await client.batch([ops.get("configmaps", name, "default") for name in ("good", "bad", "good")])
    assert [isinstance(a, ApiError) for a in answers] == [False, True, False]


async def test_writes_of_who_may_not_write_are_not_even_sent(stack: Stack) -> None:
    may = [True]
    client = stack.client().fenced(lambda: may[0])
    await client.create("configmaps", {"metadata": {"name": "first", "namespace": "default"}})
    may[0] = False
    before = stack.etcd.revision
    with pytest.raises(ServiceUnavailable):
        await client.create("configmaps", {"metadata": {"name": "second", "namespace": "default"}})
    with pytest.raises(ServiceUnavailable):
        await client.batch([ops.delete("configmaps", "first", "default")])
    assert await client.get("configmaps", "first", "default")
    assert stack.etcd.revision == before


async def test_a_collection_with_one_that_cannot_go_is_answered_with_its_error(stack: Stack, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    registry = stack.servers[0].registry
    for n in range(3):
        await stack.client().create("configmaps", {"metadata": {"name": f"c{n}", "namespace": "default"}})
    delete = registry.writer.delete

    async def odd(user, target, options):  # type: ignore[no-untyped-def]
        if target.name == "c1":
            raise Conflict("changed meanwhile")
        return await delete(user, target, options)

    monkeypatch.setattr(registry.writer, "delete", odd)
    target = await registry.target("", "v1", "configmaps", namespace="default")
    with pytest.raises(Conflict):
        await registry.delete_collection(SYSTEM, target, ListOptions(), DeleteOptions())


def test_a_good_answer_of_etcd_is_kept_for_a_second_and_a_bad_one_until_etcd_answers_again() -> None:
    etcd = FakeEtcd()

    async def main() -> list[tuple[bool, int]]:
        storage: Any = SimpleNamespace(hearing=Hearing(2.0))  # nothing is loaded
        hub = WatchHub(etcd, storage, env=make_env(), limits=Limits(), timing=Timing())  # type: ignore[arg-type]
        await hub.start()
        found: list[tuple[bool, int]] = []

        async def ask(after_s: float) -> None:
            await asyncio.sleep(after_s)
            before = etcd.calls
            found.append((await hub.etcd_answers(), etcd.calls - before))

        await ask(5.0)
        await ask(0.9)
        await ask(0.2)
        etcd.down = RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        await ask(0.9)
        began = asyncio.get_running_loop().time()
        with pytest.raises(ServiceUnavailable, match="rayplane status"):
            await hub.current_revision()
        assert 2.0 <= asyncio.get_running_loop().time() - began <= 2.5
        await ask(0.0)
        etcd.down = None
        await ask(0.5)
        await hub.stop()
        return found

    good, kept, bad = (True, 1), (True, 0), (False, 0)
    assert VirtualLoop().run(main()) == [good, kept, good, kept, bad, kept]


def test_many_checks_at_once_ask_etcd_together() -> None:
    etcd = FakeEtcd()

    async def main() -> int:
        storage: Any = SimpleNamespace(hearing=Hearing(2.0))
        hub = WatchHub(etcd, storage, env=make_env(), limits=Limits(), timing=Timing())  # type: ignore[arg-type]
        await hub.start()
        await asyncio.sleep(5.0)
        before = etcd.calls
        assert all(await asyncio.gather(*(hub.etcd_answers() for _ in range(50))))
        asked = etcd.calls - before
        await hub.stop()
        return asked

    assert VirtualLoop().run(main()) == 1
