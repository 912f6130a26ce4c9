"""Ports for what tests start: below those that the kernel gives to outgoing connections, and each given once.

One of the kernel's own choice, given back so that somebody else binds it, may be taken by a connection meanwhile.
"""

import contextlib
import random
import socket

# Clusters take theirs above.
_RANGE = range(10_000, 20_000)
_given: set[int] = set()


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
