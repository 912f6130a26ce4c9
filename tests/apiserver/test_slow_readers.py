"""What a client that reads slowly, or nothing at all, may hold of a server: little, however much it has asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tracemalloc
from typing import Any

import pytest

from rayplane.control_plane.apiserver.requests import SYSTEM, ListOptions, Target
from rayplane.control_plane.apiserver.watch_cache import watchers
from rayplane.control_plane.apiserver.watch_cache.cache import ResourceCache
from rayplane.control_plane.apiserver.watch_cache.watchers import Selection
from rayplane.control_plane.rpc.gate import HttpLimits
from tests.apiserver.conftest import Stack
from tests.apiserver.test_watch_cache import PODS, everything, pod_bytes

LARGE = 20_000
A_LITTLE = 128 * 1024


def _size(pieces: Any) -> int:
    return sum(entry.size for _, entry, _ in pieces)


async def test_a_watcher_takes_what_waits_for_it_a_little_at_a_time() -> None:
    cache = ResourceCache(PODS, events_max=1000, watcher_events_max=1000)
    cache.install([], 1)
    one, other, ended = (cache.watch(Selection(), 1) for _ in range(3))
    large = pod_bytes("a", "x" * LARGE, "n1")
    for revision in range(2, 22):
        cache.apply("/registry/pods/d/a", large, revision)
        if revision == 3:
            ended.end()
    late = cache.watch(Selection(), 1)
    for watcher in (one, late):
        told = []
        while taken := await watcher.take(0):
            assert _size(taken) < A_LITTLE
            told += [entry.revision for _, entry, _ in taken]
        assert told == list(range(2, 22))
    # What is known of others' pieces leads nobody past its own end.
    assert [entry.revision for _, entry, _ in await everything(ended)] == [2, 3]
    assert await ended.take(0) is None
    cache.apply("/registry/pods/d/a", large, 22)
    assert [entry.revision for _, entry, _ in await everything(other)] == list(range(2, 23))


async def test_watchers_that_lag_share_their_pieces() -> None:
    cache = ResourceCache(PODS, events_max=1000, watcher_events_max=1000)
    cache.install([], 1)
    one, other = (cache.watch(Selection(), 1) for _ in range(2))
    large = pod_bytes("a", "x" * LARGE, "n1")
    for revision in range(2, 22):
        cache.apply("/registry/pods/d/a", large, revision)
    first = await one.take(0)
    cache.apply("/registry/pods/d/a", large, 22)
    assert await other.take(0) is first


async def test_who_comes_late_is_told_at_once_what_the_others_were_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "_MOMENT_S", 0.0)
    monkeypatch.setattr(watchers, "_REST", 1e9)
    monkeypatch.setattr(watchers, "_REST_MAX_S", 3600.0)
    cache = ResourceCache(PODS, events_max=1000, watcher_events_max=1000)
    cache.install([], 1)
    one, late = (cache.watch(Selection(), 1) for _ in range(2))
    waiting = asyncio.ensure_future(one.take(60))
    await asyncio.sleep(0)
    cache.apply("/registry/pods/d/a", pod_bytes("a", "x", "n1"), 2)
    assert len(await waiting or ()) == 1
    assert one.group.resting
    async with asyncio.timeout(10):
        assert len(await late.take(60) or ()) == 1


async def test_changes_that_the_watcher_knew_before_the_cache_are_no_pause_in_the_others() -> None:
    cache = ResourceCache(PODS, events_max=1000, watcher_events_max=1000)
    cache.install([], 1)
    ahead = cache.watch(Selection(), 12)
    for revision in range(2, 22):
        cache.apply("/registry/pods/d/a", pod_bytes("a", "x" * LARGE, "n1"), revision)
    assert next(entry.revision for _, entry, _ in await ahead.take(0) or ()) == 13


@pytest.mark.parametrize("marked", [True, None])
async def test_the_objects_that_a_watch_begins_with_come_a_little_at_a_time(stack: Stack, marked: bool | None) -> None:
    for n in range(30):
        body = {"metadata": {"name": f"c{n}", "namespace": "default"}, "data": {"a": "x" * LARGE}}
        await stack.client().create("configmaps", body)
    registry = stack.servers[0].registry
    target = Target(registry.kinds.named("configmaps"), "default")
    match = "NotOlderThan" if marked else ""
    options = ListOptions(
        send_initial_events=marked, resource_version_match=match, allow_bookmarks=True, timeout_s=60.0
    )
    names: list[str] = []
    async with asyncio.timeout(10), contextlib.aclosing(registry.watch(SYSTEM, target, options)) as groups:
        async for items in groups:
            assert sum(len(i.json) for i in items) < A_LITTLE
            names += [i.entry.name for i in items if i.entry is not None]
            if items[-1].type == "BOOKMARK" or (len(names) == 30 and not marked):
                break
    assert sorted(names) == sorted(f"c{n}" for n in range(30))


async def test_reads_that_wait_for_a_version_leave_nothing_when_their_clients_leave(stack: Stack) -> None:
    registry = stack.servers[0].registry
    target = Target(registry.kinds.named("configmaps"), "default")
    options = ListOptions(resource_version=str((1 << 63) - 1))
    for _ in range(50):
        reads = [asyncio.ensure_future(registry.list(SYSTEM, target, options)) for _ in range(4)]
        while not registry.hub._waiting:
            await asyncio.sleep(0)
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)
    assert not registry.hub._waiting
    assert registry.fairness.in_flight == {"readOnly": 0, "mutating": 0}


async def _large_list(limits: HttpLimits) -> Stack:
    """A server with 4 MB of ConfigMaps."""
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0", http=limits)
    for n in range(200):
        body = {"metadata": {"name": f"c{n}", "namespace": "default"}, "data": {"a": "x" * LARGE}}
        await stack.client().create("configmaps", body)
    return stack


async def _readers(stack: Stack, count: int) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Clients that ask for the list and have read the first bytes of it."""
    host, _, port = stack.servers[0].https_address.rpartition(":")
    found = []
    for _ in range(count):
        # Its kernel, too, holds little of what it has not read.
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, (host, int(port)))
        found.append(await asyncio.open_connection(sock=end, limit=1024))
    for reader, writer in found:
        writer.write(b"GET /api/v1/configmaps HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(20):
            assert (await reader.readexactly(15)).endswith(b"200 OK")
    return found


async def test_who_reads_a_large_list_slowly_holds_a_piece_of_it() -> None:
    stack = await _large_list(HttpLimits())
    try:
        tracemalloc.start()
        found = await _readers(stack, 10)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # A copy for each would be 40 MB. The rest of each list comes when it is read.
        assert held < 15 << 20
        reader, writer = found[0]
        length = int((await reader.readuntil(b"\r\n\r\n")).lower().partition(b"content-length: ")[2].split()[0])
        async with asyncio.timeout(20):
            assert len(json.loads(await reader.readexactly(length))["items"]) >= 200
        for _, writer in found:
            writer.transport.abort()
    finally:
        await stack.stop()


async def test_who_does_not_take_an_answer_in_its_time_is_cut_off() -> None:
    stack = await _large_list(HttpLimits(answer_s=0.1, check_s=0.02))
    try:
        [(reader, writer)] = await _readers(stack, 1)
        server = stack.http_server()
        async with asyncio.timeout(20):
            while server.connections:
                # A byte now and then is not enough.
                await reader.read(1)
                await asyncio.sleep(0.01)
        writer.transport.abort()
    finally:
        await stack.stop()
