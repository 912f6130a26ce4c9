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
_JOINED = "joined-"


def hold(slot: int, joined: str = "") -> socket.socket:
    """A sign, until the socket is closed.

    `joined`: of a node that has joined, the `key_hash` of its cluster's authority. It outlives what `down` ends.
    """
    sign = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sign.bind(f"\0{_prefix(slot, joined)}{os.getpid()}-{secrets.token_hex(4)}")
        sign.shutdown(socket.SHUT_RDWR)
    except BaseException:
        sign.close()
        raise
    return sign


def is_held(slot: int, by: str = "") -> bool:
    """Whether any process here has a sign of that slot, but for nodes that joined cluster `by` (`key_hash`)."""
    held = (name for name in _names() if name.startswith(f"@{_prefix(slot)}"))
    return any(not by or not name.startswith(f"@{_prefix(slot, by)}") for name in held)


def is_of_joined(slot: int) -> bool:
    """Whether all signs of that slot here are of nodes that have joined a cluster."""
    own = [name for name in _names() if name.startswith(f"@{_prefix(slot)}")]
    return bool(own) and all(name.startswith(f"@{_prefix(slot)}{_JOINED}") for name in own)


def _names() -> list[str]:
    return [line.rpartition(" ")[2] for line in _NAMES.read_text(errors="replace").splitlines()]


def _prefix(slot: int, joined: str = "") -> str:
    """A name has room for 107 bytes (unix(7))."""
    return f"rayplane-slot-{slot}-" + (f"{_JOINED}{joined[-16:]}-" if joined else "")
