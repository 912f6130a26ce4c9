"""A process that takes a cluster down when the program that brought it up is gone, however that ended.

    python -m rayplane.control_plane.testing.guardian STATE_DIR [--purge]

Its standard input is a pipe that only the program writes to: a byte says that the cluster is down already, the end of
all writing that there is no program any more. It costs little while it waits: what ends clusters is imported then.
"""

import asyncio
import sys
from pathlib import Path


def main() -> None:
    """Wait for what comes first."""
    if sys.stdin.buffer.read(1):
        return
    from rayplane.control_plane.cluster import launch
    from rayplane.control_plane.cluster.state import StateDir

    purge = "--purge" in sys.argv
    asyncio.run(launch.down(StateDir(Path(sys.argv[1])), lambda _: None, purge=purge))


if __name__ == "__main__":
    main()
