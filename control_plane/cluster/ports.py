"""Ports that stay an actor's own, so that it comes back at the same address.

They lie below the range from which the kernel gives ports to outgoing connections, or one of those could take an
actor's port while it is being restarted.
"""

import asyncio
import random
import socket
from collections.abc import Collection

from rayplane.control_plane.cluster.errors import ClusterError

RANGE = range(20_100, 29_900)
TRIES = 2000


def free_port(host: str, taken: Collection[int], rng: random.Random) -> int:
    """A port of `RANGE` that nothing uses on this machine and that is not in `taken`."""
    for _ in range(TRIES):
        port = rng.choice(RANGE)
        if port not in taken and can_bind(host, port):
            return port
    raise ClusterError(f"found no free port from {RANGE.start} to {RANGE.stop} on {host}; close some servers")


async def claim(host: str, port: int) -> asyncio.Server:
    """Listen, and hang up on whoever calls: that somebody listens is all that it says."""
    return await asyncio.start_server(_hang_up, host, port)


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now. A foreign address cannot be tried and counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as e:
            return e.errno == 99  # EADDRNOTAVAIL: not an address of this machine
    return True
