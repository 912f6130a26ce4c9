"""The seam between components and connections of bytes.

What speaks gRPC goes through `Network`; this is for HTTP/1.1 and for what carries bytes without reading them. Protocols
are asyncio's (`asyncio.Protocol`); `streams` and `accepting` are for who prefers its readers and writers.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Protocol

#: A peer that has not shaken hands after so long is turned away.
HANDSHAKE_S = 10.0
BACKLOG = 1024
#: Of the machine's time: in it who has connected while a loop leaps can shake hands and say what it wants.
INTRODUCTION_S = 1.0
#: Bytes that wait for a stream's reader before its peer is held back.
STREAM_BYTES = 64 * 1024

#: What a near machine has not acknowledged for so long leaves a doubt whether it is there; and no doubt that it is not.
#: Its kernel answers, however busy it is, and a packet that is lost is sent again after 0.2 s, and 0.4 s after that.
DOUBTFUL_S = 0.4
UNHEARD_S = 1.2
# How often it was sent again, how much is not acknowledged, milliseconds since anything was (tcp_info of linux/tcp.h).
_TCP_INFO = struct.Struct("=2xB21xI28xI")

MakeProtocol = Callable[[], asyncio.BaseProtocol]
Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Listening(Protocol):
    """A port that takes connections."""

    address: str
    """host:port as bound."""

    async def close(self) -> None:
        """Take no more connections; those there are go on."""


class Sockets(Protocol):
    """Sockets of a component: where it listens and whom it connects to. Addresses are host:port."""

    async def listen(self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None) -> Listening:
        """Give each connection a protocol (port 0: any free one). OSError when the address cannot be had."""

    async def connect(
        self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """Connect. OSError when nobody answers there; how long that may take is the caller's to bound."""


class SystemSockets:
    """The operating system's (TCP)."""

    async def listen(self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None) -> Listening:
        host, _, port = address.rpartition(":")
        handshake_s = HANDSHAKE_S if tls is not None else None
        made = asyncio.get_running_loop().create_server(
            make, host, int(port), ssl=tls, backlog=BACKLOG, ssl_handshake_timeout=handshake_s, start_serving=False
        )
        return _Port(await serving(made))

    async def connect(
        self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        host, _, port = address.rpartition(":")
        loop = asyncio.get_running_loop()
        return await loop.create_connection(make, host, int(port), ssl=tls, server_hostname=server_name)


def tcp_socket(ip: str) -> socket.socket:
    """A socket that can be connected to this address."""
    return socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)


async def connected(end: socket.socket, address: str | tuple[str, int]) -> socket.socket:
    """`end`, not blocking, when it is connected. Raises OSError; it is closed then."""
    try:
        end.setblocking(False)
        if end.family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(end, address)
    except BaseException:
        end.close()
        raise
    return end


class _Port:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"

    async def close(self) -> None:
        await stop_listening(self._server)


async def serving(made: Awaitable[asyncio.Server]) -> asyncio.Server:
    """A server that asyncio makes with `start_serving=False`, and that serves now; closed where its start is cancelled.

    Started by asyncio itself it has its sockets a turn of the loop before anybody has it, who could close them.
    """
    server = await made
    try:
        await server.start_serving()
    except BaseException:
        server.close()
        raise
    return server


async def stop_listening(server: asyncio.Server) -> None:
    """A server's port takes no more connections, and loses none that it took.

    One that is accepted in this turn of the loop gets its transport in the next, and asyncio forgets it, open, when the
    server is closed by then.
    """
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening)
    try:
        await asyncio.sleep(0)
    finally:
        server.close()


def accepting(accept: Accept) -> MakeProtocol:
    """Protocols that call `accept` with each connection's reader and writer, in a task of its own."""

    def make() -> asyncio.BaseProtocol:
        loop = asyncio.get_running_loop()
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(STREAM_BYTES, loop), accept, loop=loop)

    return make


async def streams(
    sockets: Sockets, address: str, *, tls: ssl.SSLContext | None = None, server_name: str | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The reader and writer of a new connection. OSError, as `Sockets.connect`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(STREAM_BYTES, loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await sockets.connect(address, lambda: protocol, tls=tls, server_name=server_name)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def is_unheard(way: asyncio.BaseTransport | asyncio.StreamWriter, seconds: float = 0.0, *, again: int = 0) -> bool:
    """Whether something that was sent, `again` so often, waits for the peer's kernel, which has acknowledged nothing
    for so long.

    One that has no room for more says just that: what it did not take then is not counted as sent, or as sent again.
    Where the kernel does not tell (tcp(7), TCP_INFO) nothing is unheard.
    """
    end = way.get_extra_info("socket")
    if end is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:
        sent_again, unacknowledged, heard_ms = _TCP_INFO.unpack(
            end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except (OSError, struct.error):
        return False  # it has just ended, or is not TCP
    return bool(unacknowledged) and sent_again >= again and heard_ms >= seconds * 1000
