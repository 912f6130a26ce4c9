"""Ends of pipes and terminals as streams of the event loop."""

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator
from typing import BinaryIO

CHUNK = 32 * 1024
#: Rows or columns of a terminal.
_SIDE_MAX = 65_535


async def connect_input(fd: int) -> asyncio.StreamWriter:
    """A writer over the descriptor, which is the writer's from now on."""
    loop = asyncio.get_running_loop()
    pipe: BinaryIO = os.fdopen(fd, "wb", 0)  # type: ignore[assignment]
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)


async def connect_output(fd: int) -> tuple[asyncio.StreamReader, asyncio.ReadTransport]:
    """A reader over the descriptor, which is the transport's from now on."""
    reader = asyncio.StreamReader(limit=CHUNK)
    pipe: BinaryIO = os.fdopen(fd, "rb", 0)  # type: ignore[assignment]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader, transport


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes, until it ends. A terminal whose last user is gone answers with an error instead of an end."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            yield data


def set_size(terminal: int, width: int, height: int) -> None:
    """Tell a terminal's processes how many columns and rows it has."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", min(height, _SIDE_MAX), min(width, _SIDE_MAX), 0, 0))
