"""A directory for Unix sockets: their addresses are short, and TMPDIR need not be."""

import os
import tempfile

#: Of a path in a socket's address (sockaddr_un).
ADDRESS_BYTES_MAX = 107


def short_directory(room: int) -> str:
    """The temporary directory, or /tmp where paths below it that take `room` bytes would be too long."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) + len("/") + room <= ADDRESS_BYTES_MAX else "/tmp"
