"""Floods of a live cluster: they ask whether they are answered or not, and end."""

import asyncio
import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from rayplane.control_plane.client.endpoints import Endpoints
from rayplane.control_plane.cluster.chaos import LiveInjector
from rayplane.control_plane.cluster.config import RAY
from rayplane.control_plane.cluster.flood import PAGE, WAITING_MAX, flood
from rayplane.control_plane.faults.vocabulary import Flood
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.simulation.loop import VirtualLoop
from rayplane.control_plane.tasks import cancel_and_wait
from tests.faults.test_injectors import Admin


class Servers:
    """A network whose servers answer calls as `answer` does."""

    def __init__(self, answer: Callable[[str, Any], Any]) -> None:
        self._answer = answer

    def channel(self, server: str) -> Any:
        return SimpleNamespace(unary=lambda method, request, timeout, metadata: self._answer(server, request))


async def test_of_two_equal_floods_the_older_ends_first() -> None:
    admin: Any = Admin(RAY)
    admin.network = Servers(lambda *_: asyncio.sleep(60))
    admin.api = SimpleNamespace(endpoints=Endpoints(["a:1"]))
    injector, fault, before = LiveInjector(admin, random.Random(1)), Flood(1, 60.0), asyncio.all_tasks()
    await injector.begin(fault)
    older = asyncio.all_tasks() - before
    await injector.begin(fault)
    newer = asyncio.all_tasks() - before - older
    await injector.end(fault, ())
    assert all(task.done() for task in older) and not any(task.done() for task in newer)
    await injector.end(fault, ())
    assert asyncio.all_tasks() == before


async def test_a_flood_is_over_when_it_is_ended() -> None:
    admin: Any = Admin(RAY)
    asked, many = [], asyncio.Event()

    async def refused(server: str, request: Any) -> None:
        asked.append((server, request.ref.resource, request.limit))
        if len(asked) == 5:
            many.set()
        raise RpcError(Code.RESOURCE_EXHAUSTED, "too many")

    admin.network = Servers(refused)
    admin.api = SimpleNamespace(endpoints=Endpoints(["a:1", "b:1"]))
    injector, long = LiveInjector(admin, random.Random(1)), Flood(1000, 60.0)
    before = asyncio.all_tasks()
    hit = await injector.begin(long)
    await many.wait()
    assert asked[:3] == [("a:1", "pods", PAGE), ("b:1", "pods", PAGE), ("a:1", "pods", PAGE)]
    await injector.end(long, hit)
    assert asyncio.all_tasks() == before
    await injector.end(long, hit)
    # Whoever began it may be gone when it is over.
    await injector.begin(Flood(1000, 0.01))
    async with asyncio.timeout(60):
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0.01)


def test_a_flood_that_nobody_answers_has_an_end() -> None:
    waiting: list[int] = []

    async def never(*_: Any) -> None:
        waiting.append(1)
        await asyncio.Event().wait()

    async def main() -> None:
        network: Any = Servers(never)
        task = asyncio.create_task(flood(network, lambda: ["a:1"], 1000))
        await asyncio.sleep(5.0)
        await cancel_and_wait(task)

    VirtualLoop().run(main())
    assert len(waiting) == WAITING_MAX
