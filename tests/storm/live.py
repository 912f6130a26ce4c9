"""A cluster of a storm's own: a home in a temporary directory, and nothing left of it in the end."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from rayplane.control_plane.cluster import launch, processes
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.config import PROCESS, ClusterConfig
from rayplane.control_plane.cluster.state import ClusterState, StateDir
from tests.e2e.harness import Cluster, Traces, processes_of
from tests.storm.plan import Plan

LEFT_S = 20.0
POLL_S = 0.1


@dataclass
class Place:
    """Where a cluster is, whether it runs or not."""

    config: ClusterConfig
    cluster: Cluster
    say: Callable[[str], None]

    @property
    def directory(self) -> StateDir:
        return StateDir(self.cluster.directory)

    async def up(self) -> ClusterState:
        return await launch.up(self.config, self.directory, lambda text: None)

    async def kill_everything(self) -> int:
        """SIGKILL to every process of the cluster at once, those that Ray makes anew meanwhile too; how many."""
        killed: set[int] = set()
        # Dead ones that nobody has looked at yet have no command any more.
        while found := {pid for pid, command in processes_of(self.cluster).items() if command}:
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= found
            await asyncio.sleep(POLL_S)
        return len(killed)

    async def down(self) -> list[str]:
        """Take it down and delete it; what is left of it."""
        traces = Traces.of(self.cluster)
        await launch.down(self.directory, lambda text: None)
        left = await self._left(traces)
        await launch.down(self.directory, lambda text: None, purge=True)
        return left + [f"file {p}" for p in self.cluster.directory.rglob("*")]

    async def _left(self, traces: Traces) -> list[str]:
        """What was told to end may take a moment for it."""
        async with asyncio.timeout(LEFT_S):
            while await asyncio.to_thread(traces.left):
                await asyncio.sleep(POLL_S)
        return []


@contextlib.asynccontextmanager
async def place(plan: Plan, say: Callable[[str], None]) -> AsyncIterator[Place]:
    """A name and a home for a cluster. However the body ends, nothing runs afterwards; logs stay after a failure."""
    home = Path(tempfile.mkdtemp(prefix="rp-storm-"))
    config = ClusterConfig(
        name=f"storm-{random.SystemRandom().getrandbits(32):x}",
        host=plan.host,
        runtime=plan.runtime,
        members=plan.members,
        apiservers=plan.apiservers,
        schedulers=plan.schedulers,
        controllers=plan.controllers,
        nodes=plan.nodes,
    )
    found = Place(config, Cluster(config.name, home), say)
    try:
        yield found
    except BaseException:
        say(f"data and logs are in {home}")
        await _end(found)
        raise
    await _end(found)
    shutil.rmtree(home)


async def _end(place: Place) -> None:
    # What a storm has stopped would not hear that it shall end.
    with contextlib.suppress(KeyError):
        for pid in processes_of(place.cluster):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    await launch.down(place.directory, lambda text: None)


def process_of(admin: Access, name: str) -> int:
    """The process of an actor; 0 when it is not known."""
    if admin.state.config.host == PROCESS:
        return int(admin.state.host["pid"])
    return processes.read(admin.directory.path / "data" / name)
