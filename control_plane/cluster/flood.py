"""A flood of requests to API servers, as of an agent on every node that was just rolled out everywhere."""

import asyncio
import contextlib

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.tasks import cancel_and_wait

WAITING_MAX = 1000
"""Who asks waits, once so many wait for answers."""
BEHIND_MAX_S = 1.0
"""Requests that could not be made in time are made up for, of the last so long."""
_PODS = "pods"


async def flood(api: ApiClient, rate: int) -> None:
    """Requests for all pods, so many a second whether they are answered or not, until cancelled."""
    loop = asyncio.get_running_loop()
    waiting: dict[asyncio.Task[None], None] = {}
    next_s = loop.time()
    try:
        while True:
            if len(waiting) < WAITING_MAX:
                task = loop.create_task(_ask(api))
                waiting[task] = None
                task.add_done_callback(waiting.pop)
            next_s = max(next_s + 1 / rate, loop.time() - BEHIND_MAX_S)
            await asyncio.sleep(max(0.0, next_s - loop.time()))
    finally:
        await cancel_and_wait(*waiting)


async def _ask(api: ApiClient) -> None:
    with contextlib.suppress(ApiError):
        await api.list(_PODS)
