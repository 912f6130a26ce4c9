"""Room for images: what they may take of a file system, so that others who use it have some left."""

import os
from dataclasses import dataclass
from pathlib import Path

from rayplane.node.images.errors import TooLarge

LEFT = 0.02
"""The part of a file system that images leave free,"""
LEFT_MIN, LEFT_MAX = 256 * 1024**2, 1024**3
"""and so many bytes of it at least, below which nodes would evict pods, and at most."""
_PART = 256 * 1024


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes and files that may still come."""

    bytes: int
    files: int


def room_at(place: str | Path) -> Room:
    """Raises OSError."""
    found = os.statvfs(place)
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    # Some file systems do not count files.
    files = found.f_favail - int(LEFT * found.f_files) if found.f_files else 1 << 62
    kept = max(LEFT_MIN, min(int(LEFT * size), LEFT_MAX))
    return Room(max(0, free - kept), max(0, files))


def read_bounded(path: Path, most: int, what: str) -> bytes:
    """A whole file of at most so many bytes, which may be a device without end. Raises TooLarge, OSError."""
    data = bytearray()
    with path.open("rb", buffering=0) as file:
        while part := file.read(_PART):
            data += part
            if len(data) > most:
                raise TooLarge(f"{what} has at most {most} bytes, and {path} has more")
    return bytes(data)
