"""Watches over gRPC whose callers do not read."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from rayplane.control_plane.apiserver.config import Limits
from rayplane.control_plane.rpc import passages
from tests.apiserver.conftest import Stack


async def test_who_does_not_read_is_ended_and_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server holds so many changes for it and no more; it watches again from the last that it has read."""
    monkeypatch.setattr(passages, "STREAM_BUFFER_MESSAGES", 4)
    stack = Stack()
    server = await stack.add_server(limits=replace(Limits(), watcher_events=8))
    cache = await server.registry.hub.cache(server.registry.kinds.named("configmaps"))
    client, before = stack.client(), cache.watcher_count
    start = (await client.list("configmaps", "default")).resource_version
    async with contextlib.aclosing(client.watch("configmaps", "default", resource_version=start)) as events:
        await client.create("configmaps", {"metadata": {"name": "first", "namespace": "default"}})
        seen = [e.object["metadata"]["name"] for e in await anext(events)]
        assert seen == ["first"]
        for number in range(40):
            await client.create("configmaps", {"metadata": {"name": f"a{number}", "namespace": "default"}})
        async with asyncio.timeout(10):
            while cache.watcher_count > before:
                await asyncio.sleep(0.01)
        async for group in events:
            seen += [e.object["metadata"]["name"] for e in group]
            start = group[-1].object["metadata"]["resourceVersion"]
    assert len(seen) < 40
    async with contextlib.aclosing(client.watch("configmaps", "default", resource_version=start)) as events:
        while len(seen) < 41:
            seen += [e.object["metadata"]["name"] for e in await anext(events)]
    assert seen == ["first", *(f"a{number}" for number in range(40))]
    await stack.stop()
