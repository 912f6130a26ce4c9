"""The client's end of gRPC: a channel with one connection, made when it is needed and made anew when it is lost.

Calls wait while a connection is being made, unless the machine has not answered for a while: its kernel does, however
busy it is. After a failed attempt calls fail at once with UNAVAILABLE until it is time for the next one. So a caller
who has other replicas loses no time. It is `RpcError.refused` when nothing listens at the address.

Servers of other projects take offence at how often a silent one is pinged: tell that it is one (`Peer`).

Bounds: calls of a connection (what the server allows), unread bytes of a call (its window) and the message that they
belong to.
"""

import asyncio
import ipaddress
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import grpc
from google.protobuf.message import DecodeError, Message

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import grpc_wire as wire
from rayplane.control_plane.rpc.client_connection import Call, ClientConnection
from rayplane.control_plane.rpc.connection_io import OWN, Peer
from rayplane.control_plane.rpc.errors import RpcError, error_of, reason_of
from rayplane.control_plane.rpc.http2 import encode_headers
from rayplane.control_plane.rpc.line import Line
from rayplane.control_plane.rpc.service import Method
from rayplane.control_plane.rpc.sockets import DOUBTFUL_S, connected, tcp_socket
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME

log = logging.getLogger(__name__)

Code = grpc.StatusCode

CONNECT_TIMEOUT_S = 5.0
#: A killed peer is back within a second: look for it often. A refusal costs nothing, so even more often.
BACKOFF = Backoff(0.05, 1.0, factor=1.6)
BACKOFF_REFUSED = Backoff(0.05, 0.2, factor=1.6)
#: Different headers of requests that a channel keeps encoded.
HEADERS_KEPT = 256


async def _addresses(host: str, port: int) -> list[str]:
    """Every address that a name has. OSError when it has none."""
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(address[0]) for *_, address in found))


class GrpcChannel:
    """Calls to one address. `connect`: how to come there, where it is not on this machine's own network; `line`: the
    weather on the way.
    """

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext | None,
        *,
        connect: Callable[[], Awaitable[socket.socket]] | None = None,
        peer: Peer = OWN,
        line: Line | None = None,
    ) -> None:
        self._address, self._peer, self._tls, self._line = address, peer, tls, line
        self._connect_socket = connect
        self._connection: ClientConnection | None = None
        self._connections: dict[ClientConnection, None] = {}  # also those that only end their calls
        self._connecting: asyncio.Task[ClientConnection | RpcError] | None = None
        self._doubtful_from = math.inf  # when nobody waits for it any more, while no machine has answered
        self._failure: RpcError | None = None
        self._retry_at = 0.0
        self._pause_s = 0.0  # after the failures so far
        self._headers: dict[tuple[str, bytes], bytes] = {}
        self._closed = False

    # Connection

    async def _connected(self) -> ClientConnection:
        if self._closed:
            raise _closed()
        if self._connection is not None and self._connection.usable:
            return self._connection
        if self._connecting is None:
            if self._failure is not None and asyncio.get_running_loop().time() < self._retry_at:
                raise _again(self._failure)
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        attempt = self._connecting
        # Others may wait for it, too: one that gives up leaves it to them.
        while not attempt.done():
            left = self._doubtful_from - asyncio.get_running_loop().time()
            if left <= 0:
                text = f"cannot connect to {self._address}: the machine has not answered for a while"
                raise RpcError(Code.UNAVAILABLE, text, unsent=True)
            await asyncio.wait([attempt], timeout=min(left, DOUBTFUL_S))
        if attempt.cancelled():
            raise _closed()
        outcome = attempt.result()
        if isinstance(outcome, RpcError):
            raise _again(outcome)
        return outcome

    async def _connect(self) -> "ClientConnection | RpcError":
        connection: ClientConnection | None = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                connection = await self._open()
                # Until then it may be no server of HTTP/2, or one that does not want us.
                lost = await connection.ready
        except (OSError, TimeoutError, ValueError) as e:
            if connection is not None:
                connection.close()
            return self._failed(reason_of(e), refused=isinstance(e, ConnectionRefusedError))
        finally:
            self._connecting, self._doubtful_from = None, math.inf
        if lost:
            return self._failed(lost, refused=False)
        self._connection, self._failure, self._pause_s = connection, None, 0.0
        return connection

    async def _open(self) -> ClientConnection:
        """A connection to the first address that takes it. ConnectionRefusedError when nothing listens at any.

        Each is tried by itself: of several the event loop tells what failed only in words.
        """
        if self._connect_socket is not None:
            return await self._greet(await self._connect_socket())
        host, _, port = self._address.rpartition(":")
        failed: list[OSError] = []
        for address in await _addresses(host.strip("[]"), int(port)):
            self._doubtful_from = asyncio.get_running_loop().time() + DOUBTFUL_S
            try:
                reached = await connected(tcp_socket(address), (address, int(port)))
                self._doubtful_from = math.inf
                return await self._greet(reached)
            except OSError as e:
                failed.append(e)
        raise next((e for e in failed if not isinstance(e, ConnectionRefusedError)), failed[0])

    async def _greet(self, end: socket.socket) -> ClientConnection:
        name = (self._peer.server_name or INTERNAL_SERVER_NAME) if self._tls is not None else None
        make = partial(ClientConnection, self._connections, self._peer, self._line)
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(make, sock=end, ssl=self._tls, server_hostname=name))[1]

    def _failed(self, reason: str, *, refused: bool) -> RpcError:
        text = f"cannot connect to {self._address}: {reason}"
        self._failure = RpcError(Code.UNAVAILABLE, text, refused=refused, unsent=True)
        self._pause_s = (BACKOFF_REFUSED if refused else BACKOFF).after_s(self._pause_s)
        self._retry_at = asyncio.get_running_loop().time() + self._pause_s
        return self._failure

    @property
    def idle(self) -> bool:
        """Whether it has no connection and makes none."""
        return not self._connections and self._connecting is None

    def reconnect(self) -> None:
        """Begin new calls on a new connection, with the certificate that TLS shows now; those under way go on."""
        if self._connection is not None:
            self._connection.usable = False

    def sever(self) -> None:
        """Break all its connections, in the midst of what is on its way."""
        for connection in list(self._connections):
            connection.abort()

    async def close(self) -> None:
        """End all calls, with CANCELLED."""
        self._closed = True
        if self._connecting is not None:
            attempt = self._connecting
            attempt.cancel()
            await asyncio.wait([attempt])
        connections = list(self._connections)
        for connection in connections:
            connection.end_calls(_closed())
            connection.close()
        if connections:
            await asyncio.wait([c.lost for c in connections])

    # Calls

    def _request_headers(self, method: Method, timeout: float | None, metadata: Mapping[str, str] | None) -> bytes:
        limit = wire.encode_timeout(timeout) if timeout is not None else b""
        key = (method.path, limit)
        block = self._headers.get(key) if not metadata else None
        if block is None:
            fields = [
                (b":method", b"POST"),
                (b":scheme", b"http" if self._tls is None else b"https"),
                (b":path", method.path.encode()),
                (b":authority", (self._peer.name or self._address).encode()),
                (b"te", b"trailers"),
                (b"content-type", wire.CONTENT_TYPE),
                *([(b"grpc-timeout", limit)] if limit else ()),
                *wire.metadata_fields(metadata),
            ]
            block = encode_headers(fields)
            if not metadata:
                if len(self._headers) >= HEADERS_KEPT:
                    self._headers.clear()
                self._headers[key] = block
        return block

    async def unary(
        self, method: Method, request: Message, timeout: float, metadata: Mapping[str, str] | None
    ) -> Message:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        data = wire.frame(request.SerializeToString())
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._within(timeout)
            timeout = deadline - loop.time()
        call = connection.call(self._request_headers(method, timeout, metadata))
        connection.connection.send_data(call.stream, data, end=True)
        connection.flush_soon()
        timer = loop.call_at(deadline, call.expire)
        try:
            while not call.ended:
                call.waiter = loop.create_future()
                await call.waiter
                connection.give_back(call)
                if len(call.responses) > 1:
                    break
        finally:
            timer.cancel()
            call.give_up(None)
        if call.error is not None:
            raise call.error
        if len(call.responses) != 1:
            raise RpcError(Code.INTERNAL, f"the answer has {len(call.responses)} messages instead of one")
        return _parsed(method, call.responses[0])

    async def _within(self, timeout: float | None) -> ClientConnection:
        try:
            async with asyncio.timeout(timeout):
                return await self._connected()
        except TimeoutError:
            text = f"Deadline Exceeded while connecting to {self._address}"
            raise RpcError(Code.DEADLINE_EXCEEDED, text, unsent=True) from None

    async def stream(
        self,
        method: Method,
        request: Message | AsyncIterable[Message],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout if timeout is not None else None
        data = wire.frame(request.SerializeToString()) if isinstance(request, Message) else b""
        connection = await self._within(timeout)
        left = deadline - loop.time() if deadline is not None else None
        call = connection.call(self._request_headers(method, left, metadata))
        timer = loop.call_at(deadline, call.expire) if deadline is not None else None
        sender: asyncio.Task[None] | None = None
        if isinstance(request, Message):
            connection.connection.send_data(call.stream, data, end=True)
        else:
            sender = loop.create_task(_send_all(connection, call, request))
        connection.flush_soon()
        try:
            async for response in _responses(connection, call):
                yield _parsed(method, response)
        finally:
            if timer is not None:
                timer.cancel()
            call.give_up(None)
            if sender is not None:
                sender.cancel()
                await asyncio.wait([sender])


async def _responses(connection: ClientConnection, call: Call) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    while True:
        while call.responses:
            yield call.responses.popleft()
        if call.ended:
            if call.error is not None:
                raise call.error
            return
        connection.give_back(call)
        call.waiter = loop.create_future()
        await call.waiter


async def _send_all(connection: ClientConnection, call: Call, requests: AsyncIterable[Message]) -> None:
    try:
        async for request in requests:
            if call.ended:
                return
            await connection.send(call.stream, wire.frame(request.SerializeToString()))
    except Exception as e:
        call.give_up(RpcError(Code.CANCELLED, f"the caller's requests failed: {error_of(e)}"))
        return
    connection.connection.send_data(call.stream, b"", end=True)
    connection.flush_soon()


def _closed() -> RpcError:
    return RpcError(Code.CANCELLED, "the channel is closed")


def _again(error: RpcError) -> RpcError:
    """One of its own for each caller: raising adds to it."""
    return RpcError(error.code, error.message, refused=error.refused, unsent=error.unsent)


def _parsed(method: Method, data: bytes) -> Message:
    try:
        return method.response_type.FromString(data)
    except DecodeError as e:
        raise RpcError(Code.INTERNAL, f"cannot read the answer: {e}") from e
