"""Requests to backends that speak HTTP/2 themselves, gRPC above all: trailers and streams in both directions.

A request has a connection of its own: calls are as long as conversations, and nobody's is held up by another's. What
the backend sends waits in its stream's window until the client has taken what came before.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from multidict import CIMultiDict

from rayplane.control_plane.rpc.connection_io import ConnectionIO
from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, Stream, encode_headers
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.ingress.connector import trusting
from rayplane.node.ingress.http2_front import Exchange
from rayplane.node.runtime.pod_network import PodNetwork

_Part = HeaderBlock | bytes


class UpstreamBroken(Exception):
    """The backend has ended the request, or does not speak HTTP/2."""


class Upstream(ConnectionIO):
    """A connection to a backend, for one request."""

    def __init__(self) -> None:
        super().__init__(client=True)
        self._parts: deque[_Part] = deque()
        self._ended = False
        self._broken = False
        self._came = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Tells that all of the answer has been given."""
        return self._ended and not self._parts

    async def parts(self, stream: Stream, silence_s: float) -> AsyncIterator[_Part]:
        """Headers, data and trailers as they come. Raises UpstreamBroken, TimeoutError after a silence."""
        while True:
            while self._parts:
                part = self._parts.popleft()
                yield part
                if isinstance(part, bytes):
                    self.connection.consumed(stream, len(part))
                    self.flush_soon()
            if self._ended:
                return
            if self._broken:
                raise UpstreamBroken("the backend has ended the request")
            self._came.clear()
            async with asyncio.timeout(silence_s):
                await self._came.wait()

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        self._take(headers, end)

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        self._take(data, end)

    def _take(self, part: _Part, end: bool) -> None:
        self._parts.append(part)
        self._ended = self._ended or end
        self._came.set()

    def on_reset(self, stream: Stream, code: int) -> None:
        self._break()

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        """What was begun before may still be answered."""

    def on_lost(self, exc: Exception | None) -> None:
        self._break()

    def _break(self) -> None:
        self._broken = True
        self._came.set()


async def carry(
    exchange: Exchange,
    body: AsyncIterator[bytes],
    address: tuple[str, int],
    network: PodNetwork,
    *,
    target: str,
    headers: CIMultiDict[str],
    tls: bool,
    connect_s: float,
    silence_s: float,
) -> None:
    """Carry a request to a backend and its answer back.

    Raises OSError and TimeoutError before anything was sent, UpstreamBroken and TimeoutError after.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(connect_s):
        sock = await network.connect(*address)
        context = trusting("h2") if tls else None
        name = address[0] if tls else None
        _, upstream = await loop.create_connection(Upstream, sock=sock, ssl=context, server_hostname=name)
    stream = upstream.connection.open()
    feeding: asyncio.Task[None] | None = None
    try:
        block = _block(exchange, target, headers, tls=tls)
        upstream.connection.send_headers(stream, block, end=not exchange.has_body)
        upstream.flush_soon()
        if exchange.has_body:
            feeding = loop.create_task(_feed(upstream, stream, body), name="ingress body")
        trailers: list[tuple[bytes, bytes]] = []
        async for part in upstream.parts(stream, silence_s):
            trailers = await _hand_on(exchange, part, last=upstream.is_over)
        exchange.end(trailers)
    finally:
        await cancel_and_wait(feeding)
        upstream.connection.reset(stream, ErrorCode.CANCEL)
        upstream.close()


async def _hand_on(exchange: Exchange, part: _Part, *, last: bool) -> list[tuple[bytes, bytes]]:
    """Send a part of the answer to the client, or give what ends it."""
    if isinstance(part, bytes):
        if part:
            await exchange.send(part)
        return []
    fields = [(name, value) for name, value in part.fields if not name.startswith(b":")]
    if exchange.started:
        return fields
    status = (part.get(b":status") or b"").decode("latin-1")
    if not status.isdecimal() or len(status) != 3 or status[0] == "1":
        raise UpstreamBroken(f"the backend answered {status!r}")
    # An answer of headers alone says how the call ended in them.
    headers = [(name.decode(), value.decode("utf-8", "replace")) for name, value in fields]
    exchange.start(int(status), headers, end=last)
    return []


async def _feed(upstream: Upstream, stream: Stream, body: AsyncIterator[bytes]) -> None:
    async for piece in body:
        await upstream.send(stream, piece)
    upstream.connection.send_data(stream, b"", end=True)
    upstream.flush_soon()


def _block(exchange: Exchange, target: str, headers: CIMultiDict[str], *, tls: bool) -> bytes:
    fields = [
        (b":method", exchange.method.encode()),
        (b":scheme", b"https" if tls else b"http"),
        (b":path", target.encode()),
        (b":authority", exchange.host.encode()),
    ]
    fields += [(name.lower().encode(), value.encode()) for name, value in headers.items() if name.lower() != "host"]
    return encode_headers([*fields, (b"te", b"trailers")])
