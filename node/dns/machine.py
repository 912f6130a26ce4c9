"""The address of this machine at which whoever has a network of his own reaches it."""

import os
import socket
from pathlib import Path

from rayplane.node.dns.server import PORT

_FIRST_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
#: Of documentation (RFC 5737): nothing is sent there, only the way is looked up.
_SOMEWHERE = "192.0.2.1"


def machine_address() -> str:
    """The address that packets to elsewhere leave from; empty where there is none, or no server of DNS may listen."""
    try:
        may = os.geteuid() == 0 or int(Path(_FIRST_PORT).read_text()) <= PORT
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect((_SOMEWHERE, PORT))
            address: str = one.getsockname()[0]
    except (OSError, ValueError):
        return ""
    return address if may and not address.startswith("127.") else ""
