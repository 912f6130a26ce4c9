"""Signs that a slot of 127/8 is in use: each process of its cluster has one, for as long as it lives.

What is being restarted listens nowhere, but it is never all of a cluster. A sign is the name of a Unix socket without a
file (unix(7), "abstract"), which the kernel forgets with the last process that has it and shows to all of the machine's
network. Nothing can be sent there, and whoever looks is in nobody's way.
"""

import os
import secrets
import socket
from pathlib import Path

_NAMES = Path("/proc/net/unix")


def hold(slot: int) -> socket.socket:
    """A sign, until the socket is closed."""
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sign.bind(f"\0{_prefix(slot)}{os.getpid()}-{secrets.token_hex(4)}")
        sign.shutdown(socket.SHUT_RDWR)
    except BaseException:
        sign.close()
        raise
    return sign


def is_held(slot: int) -> bool:
    """Whether any process here has a sign of that slot."""
    begins = f"@{_prefix(slot)}"
    return any(line.rpartition(" ")[2].startswith(begins) for line in _NAMES.read_text(errors="replace").splitlines())


def _prefix(slot: int) -> str:
    return f"rayplane-slot-{slot}-"
