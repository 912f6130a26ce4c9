"""Faults of the Ray that `rayplane up` has started for a cluster: its own processes stand still, or are killed.

Such a Ray lives and dies whole: without its head's GCS, or its raylet, every actor ends within seconds. What they had
acknowledged is on their disks, and the cluster is brought up again from there.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from signal import Signals

from rayplane.control_plane.cluster import processes, ray_cluster
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.config import ClusterConfig
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from rayplane.control_plane.tasks import finished

log = logging.getLogger(__name__)

ENDS_S = 15.0
"""What is left of a Ray that lost a part of itself ends by itself until then; it is ended after that."""
POLL_S = 0.1

BringUp = Callable[[ClusterConfig, StateDir], Awaitable[ClusterState]]


async def _up(config: ClusterConfig, directory: StateDir) -> ClusterState:
    # With it comes all that an `up` needs, which few commands do.
    from rayplane.control_plane.cluster.launch import up

    return await up(config, directory, lambda text: log.info("%s", text))


class OwnRay:
    """The Ray of a cluster, if that has one of its own on this machine. `bring_up`: as `rayplane up`."""

    def __init__(self, admin: Access, bring_up: BringUp = _up) -> None:
        self._admin = admin
        self._bring_up = bring_up
        self._again: ClusterState | None = None
        """The cluster as it was brought up again last."""

    @property
    def is_here(self) -> bool:
        return bool(self._state.host.get("owned"))

    @property
    def _state(self) -> ClusterState:
        return self._again or self._admin.state

    async def signal(self, name: str, signal: str) -> int:
        """The process that got it. After a KILL the cluster is up again. Raises ClusterError."""
        host = self._state.host
        try:
            pid = await asyncio.to_thread(ray_cluster.process, host, name)
        except ClusterError:
            if signal == "CONT":
                return 0  # what has ended stands still no more
            raise
        processes.send(pid, Signals[f"SIG{signal}"])
        if signal == "KILL":
            await finished(self._come_back(name))
        return pid

    async def _come_back(self, name: str) -> None:
        host, loop = self._state.host, asyncio.get_running_loop()
        until = loop.time() + ENDS_S
        while await asyncio.to_thread(ray_cluster.processes_of, host) and loop.time() < until:
            await asyncio.sleep(POLL_S)
        await asyncio.to_thread(ray_cluster.stop, host)
        try:
            self._again = await self._bring_up(self._state.config, self._admin.directory)
        except ClusterError as e:
            left = f"every actor ended with Ray's {name}; `rayplane up` goes on from their data"
            raise ClusterError(f"{left}: {e}") from e
