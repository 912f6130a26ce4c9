"""What may not happen, whatever comes in."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import sys
import time
import traceback
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.engine import World

#: A case that has not ended by then hangs; no case needs a tenth of it.
HANG_S = 60.0
#: So much of the loop's CPU for one case means that a server would have stood still.
STALL_CPU_S = 8.0
#: How long what a case has opened may take to go away.
SETTLE_S = 60.0
_OUR_ERRORS = ("asyncio", "rayplane", "aiohttp")


class Judge(logging.Handler):
    """A judge that listens to the log and the loop, and knows what was there before."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world
        self._heard: list[str] = []
        self._before: dict[str, int] = {}
        self._armed_at = 0.0

    def __enter__(self) -> Judge:
        logging.getLogger().addHandler(self)
        asyncio.get_running_loop().set_exception_handler(self._on_exception)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        faulthandler.cancel_dump_traceback_later()
        logging.getLogger().removeHandler(self)
        asyncio.get_running_loop().set_exception_handler(None)

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_OUR_ERRORS) and (record.levelno >= logging.ERROR or record.exc_info):
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
            self._heard.append(f"the log says: {text}")

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self._heard.append(f"the loop says: {context.get('message')} {context.get('task', '')}\n{trace}")

    async def settle(self) -> None:
        """From here on nothing may be left over."""
        await asyncio.sleep(0.02)
        self._heard.clear()
        self._before = self._now()

    async def watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Raises TimeoutError for what hangs; a loop that stands still ends the process, and shows where."""
        if time.monotonic() - self._armed_at > HANG_S / 6:  # its thread is dear
            self._armed_at = time.monotonic()
            assert sys.__stderr__ is not None
            faulthandler.dump_traceback_later(HANG_S * 2, exit=True, file=sys.__stderr__)
        begun = time.thread_time()
        async with asyncio.timeout(HANG_S):
            await work
        spent = time.thread_time() - begun
        if spent > STALL_CPU_S:
            raise AssertionError(f"the loop worked for seconds: {spent:.1f}")

    async def nothing_is_left(self) -> None:
        """Wait until what the case opened is gone; AssertionError when it stays."""
        deadline = time.monotonic() + SETTLE_S
        pause = 0.0
        while grown := self._grown():
            if time.monotonic() > deadline:
                tasks = sorted(str(t.get_coro())[:150] for t in asyncio.all_tasks())
                raise AssertionError(f"left over: {grown}\n" + "\n".join([*tasks, *sorted(_files())]))
            await asyncio.sleep(pause)
            pause = min(0.05, pause + 0.002)

    def _grown(self) -> str:
        now = self._now()
        return ", ".join(
            f"{k}: {v}, was {self._before.get(k, 0)}" for k, v in now.items() if v > self._before.get(k, 0)
        )

    def _now(self) -> dict[str, int]:
        return {"tasks": len(asyncio.all_tasks()), "files": len(_files()), **self._world.sizes()}

    def heard_at_last(self) -> str:
        """What is only told when all that was forgotten is freed."""
        gc.collect()
        return self.heard()

    def heard(self) -> str:
        return self._heard[0] if self._heard else ""

    def said(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"[:3000]
        trace = "" if isinstance(error, AssertionError) else "".join(traceback.format_exception(error))
        return "\n".join([text, trace, *self._heard[:1]])


def _files() -> list[str]:
    """What the open files are."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found
