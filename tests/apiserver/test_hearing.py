"""A server that no majority of etcd's members answers: what its clients are told, how soon, and until when."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import pytest

from rayplane.control_plane.api.errors import ApiError, ServiceUnavailable, Timeout
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.config import Limits, Timing
from rayplane.control_plane.apiserver.storage.encryption import Encryption
from rayplane.control_plane.apiserver.storage.hearing import Hearing
from rayplane.control_plane.apiserver.storage.store import Storage, Write
from rayplane.control_plane.apiserver.watch_cache.hub import WatchHub
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.simulation import VirtualLoop
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.apiserver.conftest import Stack, make_env
from tests.apiserver.fake_etcd import FakeEtcd

MAPS = builtin_registry().by_name("configmaps")
PATIENCE_S = 2.0
REFUSED_S = 0.1


class MuteEtcd(FakeEtcd):
    """An etcd that answers nothing while it is mute; its client waits as long as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.mute = False

    async def _answer(self, answer: Awaitable[Any], limit_s: float) -> Any:
        done = await answer
        if self.mute:
            await asyncio.sleep(limit_s)
            raise RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return done

    async def range(self, key: bytes, range_end: bytes = b"", *, timeout: float = 5.0, **options: Any) -> Any:
        return await self._answer(super().range(key, range_end, **options), timeout)

    async def txn(self, compare: Any, success: Any, failure: Any = (), *, timeout: float = 5.0) -> pb.TxnResponse:
        done: pb.TxnResponse = await self._answer(super().txn(compare, success, failure), timeout)
        return done


E = TypeVar("E", bound=MuteEtcd)


class RefusingEtcd(MuteEtcd):
    """An etcd whose watches take a moment to be refused while it has no leader."""

    def __init__(self) -> None:
        super().__init__()
        self.led = True
        self.refuses = asyncio.Event()

    async def watch(self, *key: Any, **options: Any) -> AsyncGenerator[pb.WatchResponse]:
        if not self.led:
            self.refuses.set()
            await asyncio.sleep(REFUSED_S)
            raise RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        async with contextlib.aclosing(super().watch(*key, **options)) as told:  # type: ignore[type-var]
            async for response in told:
                yield response


def config_map(name: str) -> Object:
    meta = {"name": name, "namespace": "d", "uid": f"uid-{name}"}
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": meta}


def in_storage(story: Callable[[E, Storage], Awaitable[None]], make: type[E] = MuteEtcd) -> None:  # type: ignore[assignment]
    async def main() -> None:
        etcd, hearing = make(), Hearing(PATIENCE_S)
        encryption = Encryption.parse(b"", lambda count: bytes(count))
        storage = Storage(etcd, hearing, server="s", update_attempts=32, encryption=encryption)  # type: ignore[arg-type]
        await story(etcd, storage)
        await storage.stop()

    VirtualLoop().run(main())


async def told(asked: Awaitable[Any]) -> tuple[ApiError | None, float]:
    """The error of a request, and the seconds it took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await asked
    except ApiError as e:
        return e, loop.time() - began
    return None, loop.time() - began


def test_reads_end_when_patience_does_and_later_ones_are_not_even_sent() -> None:
    async def story(etcd: MuteEtcd, storage: Storage) -> None:
        etcd.mute = True
        error, took_s = await told(storage.get(MAPS, "d", "a"))
        assert isinstance(error, ServiceUnavailable) and error.retry_after
        assert "no majority of its members" in error.message
        assert PATIENCE_S <= took_s <= PATIENCE_S * 1.3
        calls = etcd.calls
        for later in (storage.get(MAPS, "d", "a"), storage.create(MAPS, Write(config_map("b")))):
            error, took_s = await told(later)
            assert isinstance(error, ServiceUnavailable) and took_s == 0.0
        assert etcd.calls == calls

    in_storage(story)


def test_a_write_under_way_is_never_told_to_be_undone() -> None:
    async def story(etcd: MuteEtcd, storage: Storage) -> None:
        etcd.mute = True
        error, took_s = await told(storage.create(MAPS, Write(config_map("a"))))
        assert isinstance(error, Timeout) and error.retry_after is None
        assert took_s <= 6.0
        assert b"/registry/configmaps/d/a" in etcd.live

    in_storage(story)


def test_whoever_is_answered_while_others_wait_is_heard() -> None:
    async def story(etcd: MuteEtcd, storage: Storage) -> None:
        etcd.hang = asyncio.Event()
        waiting = asyncio.create_task(told(storage.get(MAPS, "d", "a")))
        for number in range(5):
            await asyncio.sleep(1.0)
            await storage.create(MAPS, Write(config_map(f"c{number}")))
        assert not storage.hearing.deaf
        etcd.hang.set()
        assert await waiting == (None, 5.0)

    in_storage(story)


def in_hub(story: Callable[[E, Storage, WatchHub], Awaitable[None]], make: type[E] = MuteEtcd) -> None:  # type: ignore[assignment]
    async def followed(etcd: E, storage: Storage) -> None:
        hub = WatchHub(etcd, storage, env=make_env(), limits=Limits(), timing=Timing())  # type: ignore[arg-type]
        await hub.start()
        await story(etcd, storage, hub)
        await hub.stop()

    in_storage(followed, make)


def test_a_server_that_a_read_alone_found_deaf_hears_again() -> None:
    async def story(etcd: MuteEtcd, storage: Storage, hub: WatchHub) -> None:
        etcd.mute = True
        assert isinstance((await told(storage.get(MAPS, "d", "a")))[0], ServiceUnavailable)
        etcd.mute = False
        # As long as the question that was under way takes.
        await asyncio.sleep(6.0)
        assert await hub.etcd_answers()
        assert await told(storage.get(MAPS, "d", "a")) == (None, 0.0)

    in_hub(story)


def test_a_server_that_becomes_deaf_before_it_has_loaded_its_caches_loads_them_later() -> None:
    async def story(etcd: MuteEtcd, storage: Storage, hub: WatchHub) -> None:
        etcd.mute = True
        assert isinstance((await told(hub.cache(MAPS)))[0], ServiceUnavailable)
        etcd.mute = False
        await asyncio.sleep(6.0)
        assert (await hub.cache(MAPS)).ready

    in_hub(story)


def test_a_deaf_server_whose_question_fails_for_its_own_fault_asks_again() -> None:
    async def story(etcd: MuteEtcd, storage: Storage, hub: WatchHub) -> None:
        etcd.mute = True
        assert isinstance((await told(storage.get(MAPS, "d", "a")))[0], ServiceUnavailable)
        etcd.mute, etcd.down = False, ValueError("a bug")  # type: ignore[assignment]
        await asyncio.sleep(6.0)
        assert not await hub.etcd_answers()
        etcd.down = None
        await asyncio.sleep(1.0)
        assert await hub.etcd_answers()

    in_hub(story)


def test_a_reader_does_not_wait_for_the_next_try_of_a_stream_that_was_refused_while_a_majority_answered() -> None:
    async def story(etcd: RefusingEtcd, storage: Storage, hub: WatchHub) -> None:
        etcd.led = False
        etcd.break_streams()
        await asyncio.sleep(5.0)  # pauses between tries have grown
        await storage.create(MAPS, Write(config_map("a")))
        etcd.refuses.clear()
        await etcd.refuses.wait()
        etcd.led = True
        error, took_s = await told(hub.fresh())
        assert error is None and took_s <= REFUSED_S * 1.5

    in_hub(story, RefusingEtcd)


async def test_a_deaf_server_ends_watches_and_takes_none_until_it_hears(stack: Stack) -> None:
    client, hub = stack.client(), stack.servers[0].registry.hub
    made = await client.create("configmaps", {"metadata": {"name": "a", "namespace": "default"}})
    version = made["metadata"]["resourceVersion"]
    ended = asyncio.create_task(_count(client.watch("configmaps", resource_version=version)))
    while not any(cache.watcher_count for cache in hub.loaded()):
        await asyncio.sleep(0.01)
    stack.etcd.down = RpcError(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
    with pytest.raises(ServiceUnavailable):
        await client.get("configmaps", "a", "default")
    assert await ended == 0
    with pytest.raises(ServiceUnavailable):
        await _count(client.watch("configmaps", resource_version=version))
    assert not await hub.etcd_answers()
    stack.etcd.down = None
    while not await hub.etcd_answers():
        await asyncio.sleep(0.01)
    assert (await client.get("configmaps", "a", "default"))["metadata"]["resourceVersion"] == version


async def _count(groups: Any) -> int:
    return sum([len(events) async for events in groups])
