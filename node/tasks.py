"""Tasks of a node host that must end before it does."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)


class Tasks:
    """Work in tasks of its own, as many as pods and connections ask for; `cancel` ends all of them."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], None] = {}

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._done)
        return task

    async def cancel(self) -> None:
        await cancel_and_wait(*self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("%s failed", task.get_name(), exc_info=task.exception())
