"""One piece of work for all who ask for it at the same time (as Go's `x/sync/singleflight`).

The work is a task of the object's own, never of one of those who wait: each of them may be cancelled, and the others
get their answer. What fails is told to all who wait for it, and the next who asks begins anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from rayplane.control_plane.tasks import cancel_and_wait

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Work by key. At most one task for each; `stop` ends them."""

    def __init__(self, stopped: Callable[[], Exception]) -> None:
        """`stopped` makes what waiters are told when the work was ended by `stop`."""
        self._stopped = stopped
        self._flying: dict[str, asyncio.Task[T]] = {}
        self._closed = False

    async def run(self, key: str, work: Callable[[], Awaitable[T]]) -> T:
        """The outcome of the work under way for `key`, which begins with `work` when there is none."""
        if self._closed:
            raise self._stopped()
        task = self._flying.get(key)
        if task is None:
            task = self._flying[key] = asyncio.ensure_future(_run(work))
            task.add_done_callback(lambda done: self._landed(key, done))
        # Not awaited itself: that would cancel it together with whoever waits.
        await asyncio.wait([task])
        if task.cancelled():
            raise self._stopped()
        return task.result()

    def under_way(self, key: str) -> bool:
        """Whether somebody has asked already: what comes of it may be older than who asks now."""
        return key in self._flying

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        if self._flying.get(key) is task:
            del self._flying[key]
        if not task.cancelled():
            # When nobody waits any more, a failure is of no interest.
            task.exception()

    async def stop(self) -> None:
        """End what is under way; nothing begins any more."""
        self._closed = True
        tasks = list(self._flying.values())
        await cancel_and_wait(*tasks)


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
