"""Threads for those methods of plug-ins in Python that may take long and are not `async`: they hold up nobody.

A thread that does not end keeps its place: each plug-in has so many, and who finds none waits for one. They do not
keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

from rayplane.storage.env.leaps import at_machine_pace

THREADS_MAX: Final = 16


class PluginThreads:
    """The threads of one plug-in in one replica."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(THREADS_MAX)

    @at_machine_pace
    async def run(self, call: Callable[[], Any]) -> Any:
        """What the call answers, or raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        await self._free.acquire()

        def done(result: Any, error: BaseException | None) -> None:
            self._free.release()
            if answer.done():
                return  # nobody waits any more
            if error is None:
                answer.set_result(result)
            else:
                answer.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = call()
            except Exception as e:
                error = e
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(done, result, error)

        threading.Thread(target=work, name="scheduler plug-in", daemon=True).start()
        return await answer
