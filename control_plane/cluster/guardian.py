"""A process that takes a cluster down when whoever wanted it is gone, however that ended.

    python -m rayplane.control_plane.cluster.guardian STATE_DIR [--purge] [--parent PID]

Its standard input is a pipe that only the program writes to which brings the cluster up: DOWN says that the cluster is
down already, UP that from now on it is wanted for as long as the process PID lives; the end of all writing that there
is no program any more. A cluster that was handed over is known by its mark, the file TEST_ENV: it may crash, go down
and up again or be upgraded, and still ends with PID; where the mark is gone, so is the cluster. A command that has the
cluster's state then is waited for. It costs little while it waits: what ends clusters is imported then.
"""

import argparse
import asyncio
import contextlib
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from rayplane.control_plane.cluster.ours import TEST_ENV

DOWN, UP = b".", b"+"
_LOOK_S = 1.0
_BUSY_S = 3600.0
"""As long as a command may have the state: an upgrade of a large cluster takes many minutes."""


def guard(place: Path, *, purge: bool, parent: int = 0) -> "subprocess.Popen[bytes]":
    """A process that ends the cluster when this one is gone; what ends this one's group leaves it alone.

    `parent`: whom the cluster is handed to by UP; 0: nobody.
    """
    command = [sys.executable, "-m", "rayplane.control_plane.cluster.guardian", str(place)]
    return subprocess.Popen(
        command + ["--purge"] * purge + [f"--parent={parent}"] * bool(parent),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def main() -> None:
    """Wait for what comes first."""
    parser = argparse.ArgumentParser()
    parser.add_argument("place", type=Path)
    parser.add_argument("--purge", action="store_true")
    parser.add_argument("--parent", type=int, default=0)
    told = parser.parse_args()
    parent = _handles(told.parent)
    word = sys.stdin.buffer.read(1)
    if word == DOWN:
        return
    mark = told.place / TEST_ENV
    if word == UP and not _outlives(mark, parent):
        return
    asyncio.run(_end(told.place, purge=told.purge, is_ours=lambda: word != UP or mark.exists()))


async def _end(place: Path, *, purge: bool, is_ours: Callable[[], bool]) -> None:
    """Take the cluster down, after whatever command has its state, which may take it down, too, or bring it up.

    `is_ours`: whether it still is the one that was handed over. Raises ClusterError.
    """
    from rayplane.control_plane.cluster import launch
    from rayplane.control_plane.cluster.errors import Busy
    from rayplane.control_plane.cluster.state import StateDir

    loop = asyncio.get_running_loop()
    until = loop.time() + _BUSY_S
    while is_ours():
        try:
            await launch.down(StateDir(place), lambda _: None, purge=purge)
            return
        except Busy:
            if loop.time() >= until:
                raise
        await asyncio.sleep(_LOOK_S)


def _outlives(mark: Path, parent: list[int]) -> bool:
    """Wait for the end of the process, or of the mark; whether the mark is still there."""
    while parent and mark.exists() and not select.select(parent, [], [], _LOOK_S)[0]:
        pass
    return mark.exists()


def _handles(pid: int) -> list[int]:
    """What can be read from when the process has ended; nothing where there is none."""
    with contextlib.suppress(ProcessLookupError):
        return [os.pidfd_open(pid)] if pid else []
    return []


if __name__ == "__main__":
    main()
