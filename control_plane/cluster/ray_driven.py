"""A driver of Ray in a process of its own, as commands use it; see `ray_driver` for what it does there."""

import asyncio
import contextlib
import math
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from rayplane.control_plane.cluster import ray_cluster
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.patience import Patience, slowdown
from rayplane.control_plane.cluster.state import StateDir

# Until a Ray that is not ours has let a driver in; longer than the driver itself tries.
CONNECT_TIMEOUT_S = 90.0
POLL_S = 0.05


async def while_ray_lives(host: dict[str, Any], work: Coroutine[Any, Any, str], within_s: float = math.inf) -> str:
    """What the driver says. ClusterError as soon as the Ray that is ours has ended: the driver may wait for minutes.

    One that is not ours may be out of reach, which Ray does not always find: it has so much fair time.
    """
    task = asyncio.ensure_future(work)
    patience = Patience(within_s, time.monotonic())
    try:
        while not (await asyncio.wait([task], timeout=POLL_S))[0]:
            if host["owned"] and not ray_cluster.is_alive(host):
                raise ClusterError("Ray ended while the cluster was starting; see logs/ray.log")
            patience.passed(time.monotonic(), slowdown())
            if not host["owned"] and patience.over:
                text = f"Ray at {host['address']} does not answer: make it reachable and try again; if it is gone,"
                raise ClusterError(f"{text} so are its actors: delete the state directory")
        return task.result()
    finally:
        task.cancel()


class Driver:
    """The other end of `ray_driver`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """Its next line. ClusterError with what it says when it fails instead."""
        assert self._process.stdout is not None and self._process.stderr is not None
        line = await self._process.stdout.readline()
        if not line:
            said = (await self._process.stderr.read()).decode().strip().splitlines()
            raise ClusterError(said[-1] if said else "the process that talks to Ray ended; see logs/ray.log")
        return line.decode()

    async def ended(self) -> None:
        """Return when it has done its work. ClusterError when it could not."""
        assert self._process.stderr is not None
        said = (await self._process.stderr.read()).decode().strip().splitlines()
        if await self._process.wait() != 0:
            raise ClusterError(said[-1] if said else "the process that talks to Ray failed")

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")


@contextlib.asynccontextmanager
async def ray_driver(directory: StateDir, command: str) -> AsyncIterator[Driver]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rayplane.control_plane.cluster.ray_driver", str(directory.path.resolve()), command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Ctrl-C is for the command that waits for this process.
        start_new_session=True,
    )
    try:
        yield Driver(process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
