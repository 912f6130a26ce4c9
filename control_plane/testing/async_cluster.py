"""Clusters for programs of asyncio."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

from rayplane.control_plane.client.api import ApiClient
from rayplane.control_plane.cluster.access import access
from rayplane.control_plane.cluster.config import PROCESS
from rayplane.control_plane.testing.awaited import Awaited, in_thread
from rayplane.control_plane.testing.chaos import AsyncChaos
from rayplane.control_plane.testing.cluster import Cluster, Options
from rayplane.control_plane.testing.commands import NOW


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
            await in_thread(start)
        except asyncio.CancelledError:
            await in_thread(self._cluster.stop)
            raise

    async def down(self) -> None:
        """End every process of the cluster. Nothing is done when it was never started."""
        await in_thread(self._cluster.stop)

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
        return AsyncChaos(self._cluster.chaos)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ApiClient]:
        """A client of its API, with an administrator's certificate."""
        async with access(self._cluster.directory) as admin:
            yield admin.api

    @property
    def blocking(self) -> Cluster:
        """The same cluster with methods that block."""
        return self._cluster

    async def fork(
        self, at: str | int = NOW, *, name: str = "", state_dir: str | os.PathLike[str] | None = None
    ) -> "AsyncCluster":
        """A second cluster, up already, that goes on from what this one was at an instant, or is now."""
        made = AsyncCluster(name=name, state_dir=state_dir)
        await made._started(partial(made._cluster.start_as_fork, self._cluster, at))
        return made

    status = Awaited(Cluster.status)
    advance = Awaited(Cluster.advance)
    snapshot = Awaited(Cluster.snapshot)
    run = Awaited(Cluster.run)
    kubectl = Awaited(Cluster.kubectl)

    get = Awaited(Cluster.get)
    diff = Awaited(Cluster.diff)
    rewind = Awaited(Cluster.rewind)
    describe = Awaited(Cluster.describe)
    why = Awaited(Cluster.why)
    explain = Awaited(Cluster.explain)
    plan = Awaited(Cluster.plan)
    trace = Awaited(Cluster.trace)
    ports = Awaited(Cluster.ports)
    add = Awaited(Cluster.add)
    remove = Awaited(Cluster.remove)
    drain = Awaited(Cluster.drain)
    undrain = Awaited(Cluster.undrain)
    logs_of = Awaited(Cluster.logs_of)
    upgrade = Awaited(Cluster.upgrade)
    restore = Awaited(Cluster.restore)
    trial = Awaited(Cluster.trial)
    images = Awaited(Cluster.images)
    load_image = Awaited(Cluster.load_image)
    save_image = Awaited(Cluster.save_image)
    build_image = Awaited(Cluster.build_image)
    map_image = Awaited(Cluster.map_image)
    tag_image = Awaited(Cluster.tag_image)
    remove_images = Awaited(Cluster.remove_images)
    prune_images = Awaited(Cluster.prune_images)
    create_token = Awaited(Cluster.create_token)
    tokens = Awaited(Cluster.tokens)
    delete_token = Awaited(Cluster.delete_token)
