"""Work of a program without asyncio: done on an event loop in a thread of its owner's own, and waited for."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, TypeVar

from rayplane.control_plane.tasks import cancel_and_wait

T = TypeVar("T")
_END = object()
_CLOSED = "the client is closed: open another one"


class OnThread:
    """An owner of a loop that runs in a thread until it is closed. For use in a `with` block, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self._loop = loop
        self._thread = threading.Thread(target=self._loop.run_forever, name="rayplane client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what is under way, and the connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        """What the coroutine returns. A KeyboardInterrupt ends it. RuntimeError: the client is closed."""
        with self._lock:
            if self._closed:
                work.close()
                raise RuntimeError(_CLOSED)
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as e:
            raise RuntimeError(_CLOSED) from e
        except BaseException:
            future.cancel()
            raise

    def _each(self, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """The items of a stream, which ends with the iterator."""

        async def following() -> Any:
            return await anext(source, _END)

        try:
            while (item := self._do(following())) is not _END:
                yield item
        finally:
            if not self._closed:
                self._do(source.aclose())

    async def _end(self) -> None:
        """What is under way, on the loop."""
        await cancel_and_wait(*(task for task in asyncio.all_tasks() if task is not asyncio.current_task()))
        await self._loop.shutdown_asyncgens()
