"""Ends of pipes and terminals as streams of the event loop."""

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator, Sequence
from typing import BinaryIO

from rayplane.control_plane.tasks import cancel_and_wait

CHUNK = 32 * 1024
QUEUE_MAX = 16
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
    transport, _ = await loop.connect_read_pipe(lambda: _Output(reader), pipe)
    return reader, transport


class _Output(asyncio.StreamReaderProtocol):
    """A terminal whose last user is gone answers with an error instead of an end: what came before is still read."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(None if isinstance(exc, OSError) else exc)


async def chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes, until it ends."""
    while data := await reader.read(CHUNK):
        yield data


async def merged(readers: Sequence[asyncio.StreamReader]) -> AsyncIterator[tuple[bytes, bytes]]:
    """What comes from the first and from the second reader, if there is one, as it comes, until both end."""
    queue: asyncio.Queue[tuple[bytes, bytes] | None] = asyncio.Queue(QUEUE_MAX)

    async def pump(index: int, reader: asyncio.StreamReader) -> None:
        async for data in chunks(reader):
            await queue.put((b"", data) if index else (data, b""))
        await queue.put(None)

    pumps = [asyncio.create_task(pump(i, r)) for i, r in enumerate(readers)]
    try:
        open_streams = len(pumps)
        while open_streams:
            chunk = await queue.get()
            if chunk is None:
                open_streams -= 1
            else:
                yield chunk
    finally:
        await cancel_and_wait(*pumps)


def set_size(terminal: int, width: int, height: int) -> None:
    """Tell a terminal's processes how many columns and rows it has."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", min(height, _SIDE_MAX), min(width, _SIDE_MAX), 0, 0))
