"""Ports for what tests start: none that the kernel gives to outgoing connections, and each given once.

One of the kernel's own choice, given back so that somebody else binds it, may be taken by a connection meanwhile.
Workers that run tests beside each other have ports of their own.
"""

import contextlib
import os
import random
import socket
from pathlib import Path

# Clusters take theirs above.
_FIRST, _END = 10_000, 20_000
_WORKERS_MAX = 16
_CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def ports_of(worker: str, connections: str) -> range:
    """The ports of a worker (`gw3`; empty: there is only one), beside those that connections have: `32768  60999`."""
    first, last = map(int, connections.split())
    # The larger part of what is left of ours; where connections have it all, nothing is safer than another.
    parts = [range(_FIRST, min(first, _END)), range(max(last + 1, _FIRST), _END)]
    free = max(parts, key=len)
    if len(free) < _WORKERS_MAX:
        free = range(_FIRST, _END)
    # By itself, a run has what none of the others takes.
    number = int(worker.removeprefix("gw") or _WORKERS_MAX - 1) % _WORKERS_MAX
    return free[number::_WORKERS_MAX]


_RANGE = ports_of(os.environ.get("PYTEST_XDIST_WORKER", ""), _CONNECTIONS.read_text())


def free_port(host: str = "127.0.0.1") -> int:
    """A port at which a server could listen."""
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
            if port not in _given:
                _given.add(port)
                return port
