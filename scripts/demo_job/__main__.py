"""python -m scripts.demo_job: see the package."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

from rich.console import Console

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.rpc import RpcError
from scripts.demo_job.commands import Cluster, CommandFailed, leftovers
from scripts.demo_job.job import Job, JobFailed

EXIT_OK, EXIT_LOST, EXIT_INTERRUPTED = 0, 1, 130


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    logging.disable(logging.WARNING)
    began = time.monotonic()
    try:
        asyncio.run(_until_interrupted(_job(console)))
    except KeyboardInterrupt:
        console.print("[red]interrupted; everything was taken down[/red]")
        return EXIT_INTERRUPTED
    except (JobFailed, CommandFailed, ClusterError, ApiError, RpcError, OSError, TimeoutError) as e:
        console.print("FAILED:", style="red", end=" ")
        console.print(str(e) or type(e).__name__, markup=False)
        return EXIT_LOST
    console.print(f"[green]nothing acknowledged was lost[/green]; {time.monotonic() - began:.0f} s in all")
    return EXIT_OK


async def _until_interrupted(work: Coroutine[object, object, None]) -> None:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _job(console: Console) -> None:
    async with _clusters(console) as (first, second):
        await Job(console, first, second).run()


@contextlib.asynccontextmanager
async def _clusters(console: Console) -> AsyncIterator[tuple[Cluster, Cluster]]:
    """Names and places for two clusters; whatever becomes of them, they are gone afterwards."""
    place = Path(tempfile.mkdtemp(prefix="rayplane-demo-"))
    clusters = tuple(Cluster(f"{n}-{os.getpid()}", StateDir(place / n)) for n in ("demo", "restored"))
    try:
        yield clusters[0], clusters[1]
    finally:
        places = [str(place), *_ray_directories(clusters)]
        with console.status("taking everything down"):
            for cluster in clusters:
                if cluster.state.path.exists():
                    await cluster.rayplane("down", "--purge")
        shutil.rmtree(place, ignore_errors=True)
        left = leftovers(places)
        if left:
            raise JobFailed(f"`rayplane down` left {len(left)} processes: {'; '.join(left[:5])}")
        console.print("taken down: no process of either cluster is left")


def _ray_directories(clusters: tuple[Cluster, ...]) -> list[str]:
    found = []
    for cluster in clusters:
        state = cluster.state.read()
        if state is not None and state.host.get("dir"):
            found.append(str(state.host["dir"]))
    return found


if __name__ == "__main__":
    sys.exit(main())
