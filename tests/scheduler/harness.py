"""A scheduler beside an API in memory, and waits for what it does there."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, cast

from rayplane.control_plane.api import meta
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.scheduler import Scheduler, SchedulerConfig
from rayplane.storage.env import Env, SystemClock
from tests.fakes import FakeClient


def make(api: FakeClient, **config: Any) -> Scheduler:
    settings = {"backoff": Backoff(0.01, 0.02), **config}
    env = Env(SystemClock(), random.Random(1), cast(Any, None))
    return Scheduler(SchedulerConfig(identity="s0", **settings), env, cast(Any, None), client=cast(ApiClient, api))


async def until(holds: Callable[[], Any]) -> None:
    """Let the loop run until something holds; the suite's timeout bounds it."""
    while not holds():
        await asyncio.sleep(0.001)


async def quiet(api: FakeClient) -> None:
    """Let the loop run until no more writes come for a while of turns."""
    seen = -1
    while seen != api.version:
        seen = api.version
        for _ in range(200):
            await asyncio.sleep(0)


def node_of(api: FakeClient, name: str) -> str:
    return meta.node_name(api.pod(name))


def is_binding(operations: Any) -> bool:
    """Whether a call assigns pods to nodes."""
    first = operations[0]
    return first.WhichOneof("op") == "create" and first.create.ref.subresource == "binding"
