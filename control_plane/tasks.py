"""Asyncio tasks among others: how whoever started them brings them to their end, and how they share the loop."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")

log = logging.getLogger(__name__)

#: A task that goes on so long after it was cancelled is named in the log and cancelled again. What a task does at its
#: end (give back a Lease, close connections) takes less.
CANCEL_AGAIN_S = 10.0
#: Who renews a Lease, or answers, is heard after about so long.
TURN_S = 0.01


class Turn:
    """A turn at the event loop that many tasks take together, and give up together when it has been long.

    For tasks whose steps mostly wait for nothing: a hundred thousand of them would let nobody else be heard.
    """

    def __init__(self) -> None:
        self._since = 0.0

    async def give(self) -> None:
        """Let others go first if it is time; call between two steps."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._since >= TURN_S:
            await asyncio.sleep(0)
            self._since = loop.time()


async def finished(work: Awaitable[T]) -> T:
    """Await what must not be left half done, as a thread that goes on: who is cancelled waits for it first, once."""
    doing = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(doing)
    except asyncio.CancelledError:
        await asyncio.gather(doing, return_exceptions=True)  # why it failed is no news to who wants it no more
        raise


async def each_of(items: Sequence[S], work: Callable[[S], Awaitable[T]], *, at_once: int) -> list[T]:
    """The results of `work` in the order of the items, of which no more than `at_once` are under way.

    Raises what the first that failed has raised; it and its own cancellation end what is under way.
    """
    results: dict[int, T] = {}
    left = iter(enumerate(items))

    async def one_after_the_other() -> None:
        for at, item in left:
            results[at] = await work(item)

    working = [asyncio.ensure_future(one_after_the_other()) for _ in range(min(at_once, len(items)))]
    try:
        await asyncio.gather(*working)
    finally:
        await cancel_and_wait(*(one for one in working if not one.done()))
    return [results[at] for at in range(len(items))]


async def cancel_and_wait(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel what still runs, and return when all of it has ended.

    None stands for a task that was never started; whoever calls may be among the tasks and is left out. What a task
    failed with is logged, not raised: the others are ended all the same. One that swallows its cancellation is
    cancelled again. A caller that is cancelled meanwhile still waits for them, lest they outlive what they
    use, and is told then.
    """
    current = asyncio.current_task()
    ending = [task for task in tasks if task is not None and task is not current]
    for task in ending:
        task.cancel()
    interrupted: asyncio.CancelledError | None = None
    while pending := [task for task in ending if not task.done()]:
        try:
            await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        except asyncio.CancelledError as e:
            interrupted = e
            continue
        for task in pending:
            if not task.done():
                log.warning("%s goes on after it was cancelled: it is cancelled again", _name(task))
                task.cancel()
    for task in ending:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("%s had failed: %s: %s", _name(task), type(error).__name__, error)
            log.debug("the failure of %s", _name(task), exc_info=error)
    if interrupted is not None:
        raise interrupted


async def end_each(*ends: Callable[[], Awaitable[object]]) -> None:
    """Call these in turn, each of them even where one before has failed or whoever calls is cancelled.

    Raises what the last that failed has raised. A component that does not end in time is cancelled, and its ports must
    be closed all the same.
    """
    async with AsyncExitStack() as stack:
        for end in reversed(ends):
            stack.push_async_callback(end)


def _name(task: asyncio.Future[Any]) -> str:
    return f"task {task.get_name()!r}" if isinstance(task, asyncio.Task) else repr(task)
