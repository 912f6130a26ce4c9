"""Clusters for programs of asyncio."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack

from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.testing.chaos import AsyncChaos
from rayplane.control_plane.testing.cluster import NOW, Cluster, Options

P = ParamSpec("P")
T = TypeVar("T")


class AsyncCluster:
    """A Cluster with methods to be awaited. Use it in an `async with` block.

    A cluster whose start was cancelled is taken down first.
    """

    def __init__(
        self,
        *,
        name: str = "",
        host: str = PROCESS,
        state_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        self._cluster = Cluster(name=name, host=host, state_dir=state_dir, **options)

    @classmethod
    async def up(
        cls,
        *,
        name: str = "",
        host: str = PROCESS,
        state_dir: str | os.PathLike[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """A cluster that is up already; `down` ends it, as does the end of this program."""
        made = cls(name=name, host=host, state_dir=state_dir, **options)
        await made.start()
        return made

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.down()

    async def start(self) -> None:
        """Bring everything up and wait until it is ready."""
        await self._started(self._cluster.start)

    async def _started(self, start: Callable[[], None]) -> None:
        try:
            await _in_thread(start)
        except asyncio.CancelledError:
            await _in_thread(self._cluster.stop)
            raise

    async def down(self) -> None:
        """End every process of the cluster. Nothing is done when it was never started."""
        await _in_thread(self._cluster.stop)

    @property
    def name(self) -> str:
        return self._cluster.name

    @property
    def kubeconfig(self) -> Path:
        return self._cluster.kubeconfig

    @property
    def endpoints(self) -> dict[str, Any]:
        return self._cluster.endpoints

    @property
    def chaos(self) -> AsyncChaos:
        """What breaks it on purpose: `await cluster.chaos.kill("leader")`."""
        return AsyncChaos(lambda: self._cluster.directory)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        """A client of its API, with an administrator's certificate."""
        async with access(self._cluster.directory) as admin:
            yield admin.api

    async def status(self) -> dict[str, Any]:
        """What `rayplane status -o json` prints."""
        return await _in_thread(self._cluster.status)

    async def snapshot(self, file: str | os.PathLike[str]) -> Path:
        """Write its state to a file, whole or not at all."""
        return await _in_thread(self._cluster.snapshot, file)

    async def fork(
        self, at: str | int = NOW, *, name: str = "", state_dir: str | os.PathLike[str] | None = None
    ) -> "AsyncCluster":
        """A second cluster, up already, that goes on from what this one was at an instant, or is now."""
        made = AsyncCluster(name=name, state_dir=state_dir)
        await made._started(partial(made._cluster.start_as_fork, self._cluster, at))
        return made

    async def diff(self, since: str | int, to: str | int = NOW) -> list[dict[str, Any]]:
        """What became of objects between two instants."""
        return await _in_thread(self._cluster.diff, since, to)

    async def rewind(self, to: str | int) -> str:
        """Write objects again as they were at an instant; what was written."""
        return await _in_thread(self._cluster.rewind, to)

    async def run(self, *arguments: str, stdin: str = "") -> str:
        """Run a rayplane command against this cluster; its standard output."""
        return await _in_thread(self._cluster.run, *arguments, stdin=stdin)

    async def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl against this cluster; its standard output."""
        return await _in_thread(self._cluster.kubectl, *arguments, stdin=stdin)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What it returns. However often cancelled, this ends when the work has: nothing goes on behind a caller's back."""
    # No task: what ends all tasks of a loop would end it while the thread goes on.
    doing = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))
    interrupted: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError as e:
            interrupted = e
    if interrupted is not None:
        doing.exception()  # why it failed is no news to who wants it no more
        raise interrupted
    return doing.result()
