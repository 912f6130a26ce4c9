"""Work that is done while somebody wants its outcome, once for all who do."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from rayplane.control_plane.tasks import cancel_and_wait

Keep = Callable[[Callable[[], None]], Awaitable[None]]
"""Works until it is cancelled, and calls what it is given whenever there is news."""


class Shared:
    """A source of news with any number of listeners; it rests while there is none."""

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._listeners: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_news = False

    @property
    def rests(self) -> bool:
        """Whether nobody listens."""
        return self._task is None

    async def turns(self, pause_s: float) -> AsyncGenerator[None, None]:
        """A turn for what is known, and one after each news, `pause_s` apart at least. Raises what the work raised."""
        news = asyncio.Event()
        self._listeners.add(news)
        if self._task is None or self._task.done():
            self._has_news = False
            self._task = asyncio.ensure_future(self._work())
        if self._has_news:
            news.set()
        mine = self._task
        try:
            while True:
                await news.wait()
                news.clear()
                if mine.cancelled():
                    return
                if mine.done():  # also where another has begun it anew: what this one knows is of before
                    await mine
                    return
                yield
                await asyncio.sleep(pause_s)
        finally:
            self._listeners.discard(news)
            if not self._listeners:
                await self.stop()

    async def stop(self) -> None:
        """End the work; listeners get no further turn."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_and_wait(task)

    async def _work(self) -> None:
        try:
            await self._keep(self._tell)
        finally:
            self._tell()

    def _tell(self) -> None:
        self._has_news = True
        for news in self._listeners:
            news.set()
