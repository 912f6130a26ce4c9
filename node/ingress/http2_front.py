"""HTTP/2 in front of the ingress: each stream is a request, carried to its service as one of HTTP/1.1 is.

Bounds, besides those of `rpc.http2`: STREAMS_MAX requests at once of a connection. A body that comes slower than
BODY_BYTES_PER_S while somebody waits for it ends, as does an answer of which nothing is taken for long, and an idle
connection.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

from multidict import CIMultiDict

from rayplane.control_plane.rpc.connection_io import ConnectionIO
from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, Stream, encode_headers
from rayplane.control_plane.rpc.reverse_proxy import HOP_BY_HOP
from rayplane.control_plane.rpc.sockets import INTRODUCTION_S
from rayplane.storage.env.leaps import is_leaping, keep_pace

log = logging.getLogger(__name__)

STREAMS_MAX = 128
BODY_BYTES_PER_S = 64
CHECK_S = 10.0
IDLE_CHECKS = 9
"""As over HTTP/1.1: a minute and a half."""
UNTAKEN_CHECKS = 30
"""Five minutes, as over HTTP/1.1."""
_PSEUDO = (b":method", b":scheme", b":path", b":authority")


@dataclass(slots=True)
class Exchange:
    """A request of HTTP/2 and its answer: `body` gives what comes, `start` and `send` what goes.

    `target`: path and query as they were asked for; `size`: None for a body of unknown length.
    """

    method: str
    target: str
    host: str
    remote: str
    headers: CIMultiDict[str]
    size: int | None
    has_body: bool
    stream: Stream
    front: "FrontConnection"
    _pieces: deque[bytes] = field(default_factory=deque)
    _ended: bool = False
    _gone: bool = False
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    received: int = 0
    waits: bool = False
    sends: bool = False
    stuck: int = 0
    """Looks in a row at which nothing more of the answer had been taken."""
    started: bool = False

    @property
    def path(self) -> str:
        return unquote(self.target.partition("?")[0])

    def feed(self, data: bytes, end: bool) -> None:
        self.received += len(data)
        if data:
            self._pieces.append(data)
        self._ended = self._ended or end
        self._came.set()

    def leave(self) -> None:
        """The client is gone."""
        self._gone = True
        self._came.set()

    async def body(self) -> AsyncIterator[bytes]:
        """The request's body. Raises ConnectionError when the client is gone before its end."""
        while True:
            while self._pieces:
                piece = self._pieces.popleft()
                yield piece
                self.front.taken(self.stream, len(piece))
            if self._gone:
                raise ConnectionResetError("the client has left")
            if self._ended:
                return
            self._came.clear()
            self.waits = True
            await self._came.wait()
            self.waits = False

    def start(self, status: int, headers: list[tuple[str, str]], *, end: bool = False) -> None:
        """Begin the answer. Headers of a connection are left out."""
        self.started = True
        block = [(b":status", str(status).encode())]
        for name, value in headers:
            lower = name.lower()
            if lower not in HOP_BY_HOP and "\r" not in value and "\n" not in value:
                block.append((lower.encode(), value.encode("utf-8", "surrogateescape")))
        self.front.begin(self.stream, encode_headers(block), end=end)

    async def send(self, data: bytes) -> None:
        """Raises RpcError when nobody takes it any more."""
        self.sends = True
        await self.front.send(self.stream, data)
        self.sends, self.stuck = False, 0

    def end(self, trailers: list[tuple[bytes, bytes]] | None = None) -> None:
        self.front.finish(self.stream, trailers)

    def reset(self) -> None:
        self.front.give_up(self.stream)


Serve = Callable[[Exchange], Awaitable[None]]


class FrontConnection(ConnectionIO):
    """One client's connection. `serve` answers an exchange, in a task of its own."""

    def __init__(self, serve: Serve, connections: dict["FrontConnection", None]) -> None:
        super().__init__(client=False)
        self._serve = serve
        self._connections = connections
        self._exchanges: dict[int, Exchange] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._remote = ""
        self._idle = 0
        self._seen: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self._remote = str(peer[0]) if isinstance(peer, tuple) else ""
        self._connections[self] = None
        super().connection_made(transport)

    # Who does not read its answers is not listened to.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def on_lost(self, exc: Exception | None) -> None:
        self._connections.pop(self, None)
        for exchange in self._exchanges.values():
            exchange.leave()
        for task in [*self._tasks]:
            task.cancel()

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        """A client that leaves closes the connection itself."""

    def check(self) -> None:
        """Called every CHECK_S: end what its client does not do its part of."""
        self.check_silence()
        if is_leaping(self._loop):
            return
        self._idle = 0 if self._exchanges else self._idle + 1
        if self._idle > IDLE_CHECKS:
            self.connection.go_away()
            self.close()
            return
        seen, self._seen = self._seen, {}
        for number, exchange in [*self._exchanges.items()]:
            came = exchange.received - seen.get(number, 0)
            exchange.stuck += exchange.sends
            is_slow = exchange.waits and number in seen and came < BODY_BYTES_PER_S * CHECK_S
            if is_slow or exchange.stuck > UNTAKEN_CHECKS:
                exchange.reset()
            else:
                self._seen[number] = exchange.received

    # --- requests ---------------------------------------------------------------------------------

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        if len(self._exchanges) >= STREAMS_MAX:
            self.connection.reset(stream, ErrorCode.REFUSED_STREAM)
            self.flush_soon()
            return
        exchange = self._exchange(stream, headers, end)
        if exchange is None:
            self.connection.reset(stream, ErrorCode.PROTOCOL_ERROR)
            self.flush_soon()
            return
        self._exchanges[stream.id] = exchange
        task = self._loop.create_task(self._run(exchange), name="ingress request")
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _exchange(self, stream: Stream, block: HeaderBlock, end: bool) -> Exchange | None:
        """None for what is no request that can be carried on."""
        try:
            return self._read(stream, block, end)
        except UnicodeDecodeError:
            return None

    def _read(self, stream: Stream, block: HeaderBlock, end: bool) -> Exchange | None:
        pseudo = {name: value for name, value in block.fields if name in _PSEUDO}
        headers: CIMultiDict[str] = CIMultiDict()
        cookies: list[str] = []
        for name, value in block.fields:
            if name == b"cookie":
                cookies.append(value.decode())
            elif not name.startswith(b":"):
                headers.add(name.decode(), value.decode())
        if cookies:
            headers["Cookie"] = "; ".join(cookies)
        host = pseudo.get(b":authority") or (headers.get("Host") or "").encode()
        lengths = headers.getall("Content-Length", [])
        method, target, name_of_host = (text.decode("ascii") for text in (pseudo[b":method"], pseudo[b":path"], host))
        hosts = headers.getall("Host", [name_of_host])
        sound = method.isalpha() and method.isupper() and method != "CONNECT" and " " not in target
        if not sound or hosts != [name_of_host] or len(lengths) > 1 or (lengths and not lengths[0].isdecimal()):
            return None
        size = int(lengths[0][:18]) if lengths else (0 if end else None)
        headers["Host"] = name_of_host
        made = Exchange(method, target, name_of_host, self._remote, headers, size, not end, stream, self)
        if end:
            made.feed(b"", True)
        return made

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        exchange = self._exchanges.get(stream.id)
        if exchange is None:  # answered already
            self.connection.consumed(stream, len(data))
            return
        exchange.feed(data, end)
        size = exchange.size
        if size is not None and (exchange.received > size or (end and exchange.received < size)):
            exchange.reset()

    def on_reset(self, stream: Stream, code: int) -> None:
        self._forget(stream)

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self._serve(exchange)
        except (RpcError, ConnectionError):
            exchange.reset()
        except Exception:
            log.exception("a request over HTTP/2 failed")
            exchange.reset()
        finally:
            self._exchanges.pop(exchange.stream.id, None)

    # --- answers ----------------------------------------------------------------------------------

    def taken(self, stream: Stream, size: int) -> None:
        self.connection.consumed(stream, size)
        self.flush_soon()

    def begin(self, stream: Stream, block: bytes, *, end: bool) -> None:
        self.connection.send_headers(stream, block, end=end)
        self.flush_soon()

    def finish(self, stream: Stream, trailers: list[tuple[bytes, bytes]] | None) -> None:
        if trailers:
            self.connection.send_headers(stream, encode_headers(trailers), end=True)
        else:
            self.connection.send_data(stream, b"", end=True)
        self.flush_soon()

    def give_up(self, stream: Stream) -> None:
        self.connection.reset(stream, ErrorCode.CANCEL)
        self._forget(stream)
        self.flush_soon()

    def _forget(self, stream: Stream) -> None:
        exchange = self._exchanges.pop(stream.id, None)
        if exchange is not None:
            exchange.leave()
        waiter = self._waiters.get(stream.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class ByProtocol(asyncio.Protocol):
    """A connection that shakes hands: then who speaks HTTP/2 gets one protocol, who does not the other."""

    def __init__(self, http2: Callable[[], asyncio.Protocol | None], http1: Callable[[], asyncio.Protocol]) -> None:
        """`http2` gives None where there is no room."""
        self._http2 = http2
        self._http1 = http1
        self._leap_again = keep_pace(INTRODUCTION_S)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._leap_again()
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = self._http2() if chosen == "h2" else self._http1()
        # uvloop's transports are of no class of asyncio's.
        carrier = cast(asyncio.Transport, transport)
        if protocol is None:
            carrier.abort()
            return
        carrier.set_protocol(protocol)
        protocol.connection_made(transport)
