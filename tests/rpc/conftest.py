"""Calls are tested on both event loops, and nothing may be left behind."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvloop

from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from tests.rpc.grpc_peers import Handler, services


def _debugging() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 10.0
    return loop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": _debugging, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def nothing_leaks() -> AsyncIterator[None]:
    """No task is left when a test has closed what it opened, and no exception went unnoticed."""
    loop = asyncio.get_running_loop()
    problems: list[dict[str, Any]] = []
    # The poller of the gRPC project's library is noisy when several loops use it.
    loop.set_exception_handler(lambda _, c: None if "PollerCompletionQueue" in c["message"] else problems.append(c))
    yield
    for _ in range(100):
        if not _tasks():
            break
        await asyncio.sleep(0.01)
    gc.collect(1)
    assert not _tasks()
    assert not problems


def _tasks() -> list[Any]:
    return [t.get_coro() for t in asyncio.all_tasks() if t is not asyncio.current_task()]


@pytest.fixture
async def network() -> AsyncIterator[GrpcNetwork]:
    network = GrpcNetwork()
    yield network
    await network.close()


@pytest.fixture
async def ours() -> AsyncIterator[tuple[Handler, Any]]:
    handler = Handler()
    server = await GrpcNetwork().serve("127.0.0.1:0", services(handler))
    yield handler, server
    await server.stop()
