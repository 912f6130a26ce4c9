"""A probe of one server: it asks whether the server is ready, over a connection that it keeps.

A kept connection spares both sides a TLS handshake at each check. What it cannot tell is asked of a new one at once:
whether a server that has ended it is gone, and every now and then whether the server still takes new ones at all.
"""

import asyncio
import re
import ssl

from rayplane.control_plane.rpc.sockets import Sockets, streams
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME

#: How long a connection is kept.
LIFE_S = 10.0
#: Whose answer is longer is asked over a new connection the next time.
BODY_BYTES_MAX = 16 << 10

_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)

_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Probe:
    """A probe of the server at `address` (host:port), with TLS or in plain HTTP. One caller at a time."""

    def __init__(self, sockets: Sockets, address: str, tls: ssl.SSLContext | None) -> None:
        self._sockets = sockets
        self._address = address
        self._tls = tls
        self._kept: _Ends | None = None
        self._until = 0.0

    @property
    def connected(self) -> bool:
        """Whether the kept connection is open, as far as is known: it ends with the server's process."""
        if self._kept is None:
            return False
        reader, writer = self._kept
        return not (reader.at_eof() or writer.is_closing())

    async def is_ready(self) -> bool:
        """Whether the server says so. OSError, EOFError or LimitOverrunError when a new connection gets no answer."""
        now = asyncio.get_running_loop().time()
        kept, self._kept = self._kept, None
        if kept is not None and now < self._until:
            try:
                return await self._ask(kept)
            except (OSError, EOFError):
                # It may have ended what was idle, or be another one by now.
                pass
        elif kept is not None:
            kept[1].transport.abort()
        name = INTERNAL_SERVER_NAME if self._tls is not None else None
        made = await streams(self._sockets, self._address, tls=self._tls, server_name=name)
        self._until = now + LIFE_S
        return await self._ask(made)

    def close(self) -> None:
        """Give the connection back."""
        if self._kept is not None:
            self._kept[1].transport.abort()
            self._kept = None

    async def _ask(self, ends: _Ends) -> bool:
        """Keeps the connection if it can be asked again; otherwise, however this ends, it is gone."""
        reader, writer = ends
        try:
            writer.write(_REQUEST)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            if length is not None and int(length[1]) <= BODY_BYTES_MAX:
                await reader.readexactly(int(length[1]))
                self._kept = ends
        finally:
            if self._kept is not ends:
                writer.transport.abort()
        return head.split(b" ", 2)[1:2] == [b"200"]
