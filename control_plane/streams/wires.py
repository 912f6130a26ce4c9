"""Connections that have left HTTP: bytes both ways, in the messages of a WebSocket or bare after an upgrade.

A wire that is not read makes its client wait: what has come and is not taken is bounded by the transports.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, MutableMapping
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from rayplane.control_plane.api.errors import ApiError, BadRequest
from rayplane.control_plane.rpc.reverse_proxy import Starting

SPDY = "SPDY/3.1"
_MESSAGE_BYTES_MAX = 1 << 20
_HEARTBEAT_S = 30.0
_UNREAD_BYTES = 64 * 1024


class Wire(Protocol):
    """Bytes to a client and from it. Sending raises ConnectionError when the client is gone."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as they come, until the client closes the connection."""

    async def send(self, data: bytes) -> None: ...

    async def close(self, error: str = "") -> None:
        """End the connection; `error` says what the client did wrong, where the protocol has room for it."""


class WebSocketWire:
    """Each message is a piece, binary or text."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for message in self.socket:
            if message.type is WSMsgType.BINARY:
                yield message.data
            elif message.type is WSMsgType.TEXT:
                yield message.data.encode()

    async def send(self, data: bytes) -> None:
        await self.socket.send_bytes(data)

    async def close(self, error: str = "") -> None:
        with contextlib.suppress(ConnectionError):
            await self.socket.close(code=1002 if error else 1000, message=error.encode()[:120])


class UpgradedWire:
    """The connection's own bytes, after `101 Switching Protocols`."""

    def __init__(self, response: web.StreamResponse, unread: "Unread") -> None:
        self.response = response
        self._unread = unread

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._unread.take():
            yield data

    async def send(self, data: bytes) -> None:
        await self.response.write(data)

    async def close(self, error: str = "") -> None:
        """Nothing is to be said: the connection ends with its response."""


class Unread:
    """Bytes that have come in after an upgrade and are not taken yet; also the parser that aiohttp hands them to."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._data = bytearray()
        self._over = False
        self._changed = asyncio.Event()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._data += data
        self._changed.set()
        if len(self._data) > _UNREAD_BYTES:
            self._transport.pause_reading()
        return False, b""

    def feed_eof(self) -> None:
        self._over = True
        self._changed.set()

    async def take(self) -> bytes:
        """All of it, as soon as there is something; empty when the client has closed the connection."""
        while not self._data and not self._over:
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._data)
        self._data.clear()
        self._transport.resume_reading()
        return data


async def go_on(request: web.BaseRequest) -> None:
    """Tell a client to send its body, where it waits for that (RFC 9110, section 10.1.1). Raises ApiError."""
    expected = request.headers.get("Expect")
    if expected is None or request.content.is_eof():
        return
    if expected.lower() != "100-continue":
        raise ApiError(f"Expect: {expected} is not known here", reason="", code=417)
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0


def upgrade_of(request: web.BaseRequest) -> str:
    """The protocol that a client wants to switch to, whatever that is; empty: none."""
    wanted = [token.strip().lower() for token in request.headers.get("Connection", "").split(",")]
    return request.headers.get("Upgrade", "") if "upgrade" in wanted else ""


def wants_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def wants_spdy(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == SPDY.lower()


def _unheard(headers: MutableMapping[str, Any]) -> None:
    return


async def websocket(
    request: web.BaseRequest, protocols: tuple[str, ...], *, starting: Starting = _unheard
) -> WebSocketWire:
    """The WebSocket that is asked for, in the first of the client's protocols that is spoken here. BadRequest."""
    socket = web.WebSocketResponse(protocols=protocols, max_msg_size=_MESSAGE_BYTES_MAX, heartbeat=_HEARTBEAT_S)
    ready = socket.can_prepare(request)
    if not ready.ok:
        raise BadRequest("this is no WebSocket handshake (RFC 6455, section 4.2.1)")
    if ready.protocol is None and request.headers.get("Sec-WebSocket-Protocol"):
        raise BadRequest(f"none of the WebSocket's protocols is spoken here: use one of {', '.join(protocols)}")
    starting(socket.headers)
    await socket.prepare(request)
    return WebSocketWire(socket)


async def upgraded(
    request: web.BaseRequest, protocol: str, headers: Mapping[str, str], *, starting: Starting = _unheard
) -> UpgradedWire:
    """Switch the connection to `protocol`; `headers` stand in the answer beside those of the upgrade."""
    response = web.StreamResponse(status=101, headers={"Connection": "Upgrade", "Upgrade": protocol, **headers})
    response.force_close()
    # The parser of a connection is aiohttp's own way of handing it on, and what its WebSockets do.
    connection: Any = request.protocol
    if request.transport is None:
        raise ConnectionResetError("the client has left")
    unread = Unread(request.transport)
    starting(response.headers)
    await response.prepare(request)
    connection.set_parser(unread)
    connection.keep_alive(False)
    return UpgradedWire(response, unread)
