"""The client's end of gRPC: a channel with one connection, made when it is needed and made anew when it is lost.

Calls wait while a connection is being made. After a failed attempt calls fail at once with UNAVAILABLE until it is
time for the next one, so that a caller who has other replicas loses no time. It is `RpcError.refused` when nothing
listens at the address.

Servers of other projects take offence at how often a silent one is pinged: tell that it is one (`Peer`).

Bounds: calls of a connection (what the server allows), unread bytes of a call (its window) and the message that they
belong to.
"""

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from functools import partial

import grpc
from google.protobuf.message import DecodeError, Message

from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.rpc import grpc_wire as wire
from rayplane.control_plane.rpc.connection_io import OWN, ConnectionIO, Peer
from rayplane.control_plane.rpc.errors import RpcError, error_of, reason_of
from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, Stream, encode_headers
from rayplane.control_plane.rpc.line import Line
from rayplane.control_plane.rpc.service import Method
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME

log = logging.getLogger(__name__)

Code = grpc.StatusCode

CONNECT_TIMEOUT_S = 5.0
#: A killed peer is back within a second: look for it often. A refusal costs nothing, so even more often.
BACKOFF = Backoff(0.05, 1.0, factor=1.6)
BACKOFF_REFUSED = Backoff(0.05, 0.2, factor=1.6)
#: Between two looks at a connection; see `ConnectionIO.check_silence`. Finds a stopped process or a lost machine.
SILENCE_CHECK_S = 2.0
#: A connection without calls is closed after so many of them.
IDLE_CHECKS = 30
#: Different headers of requests that a channel keeps encoded.
HEADERS_KEPT = 256

#: What a reset means for the call ("HTTP2 Transport Mapping" of the protocol); all others are INTERNAL.
_RESETS = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class _Call:
    """A call under way: what came back, and who waits for it."""

    __slots__ = ("connection", "deframer", "ended", "error", "owed", "responses", "stream", "waiter")

    def __init__(self, connection: "_ClientConnection", stream: Stream) -> None:
        self.connection = connection
        self.stream = stream
        self.responses: deque[bytes] = deque()
        self.owed = 0  # bytes that nobody has taken yet
        self.deframer: wire.Deframer | None = None
        self.ended = False
        self.error: RpcError | None = None
        self.waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def finish(self, error: RpcError | None) -> None:
        if not self.ended:
            self.ended, self.error = True, error
            self.stream.call = None
            self.wake()

    def give_up(self, error: RpcError | None) -> None:
        """This side wants no more of it."""
        self.finish(error)
        connection = self.connection
        if self.stream.id in connection.connection.streams:
            connection.connection.reset(self.stream, ErrorCode.CANCEL)
            connection.flush_soon()

    def expire(self) -> None:
        self.give_up(RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))


class _ClientConnection(ConnectionIO):
    """One connection of a channel; `usable` until it is lost or the server takes no more calls."""

    def __init__(self, siblings: dict["_ClientConnection", None], peer: Peer, line: Line | None) -> None:
        super().__init__(client=True, line=line)
        self._peer = peer
        self._borne = peer.silent_checks
        self.usable = True
        self.ready: asyncio.Future[str] = self._loop.create_future()
        """Done when the server has greeted ("") or is gone (why)."""
        self._siblings = siblings
        self._idle_checks = 0
        self._asked = False  # whether there was a call since the last check
        self._checking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._siblings[self] = None
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)
        super().connection_made(transport)

    def _check(self) -> None:
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)
        if self.connection.streams or self._asked or self._silent_checks:
            self._idle_checks = 0
            self._asked = False
            if self._peer.pinged:
                self.check_silence()
            return
        self._idle_checks += 1
        if self._idle_checks >= IDLE_CHECKS or not self.usable:
            self.close()

    def close(self) -> None:
        self.usable = False
        super().close()

    def call(self, headers: bytes) -> _Call:
        """Begin a call. Raises RpcError when the connection was lost or there are too many calls already."""
        connection = self.connection
        if not self.usable:
            raise RpcError(Code.UNAVAILABLE, "the connection was lost")
        if len(connection.streams) >= connection.peer_streams_max:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{len(connection.streams)} calls on one connection; wait for some")
        stream = connection.open()
        if connection.exhausted:
            self.usable = False
        self._asked = True
        call = stream.call = _Call(self, stream)
        connection.send_headers(stream, headers)
        return call

    def on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result("")

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        call: _Call | None = stream.call
        if call is None:
            return
        if end:
            self._on_end(call, headers)
            return
        status = headers.get(b":status")
        if call.deframer is not None or status is None:
            call.give_up(RpcError(Code.INTERNAL, "the answer has headers in its middle"))
        elif status.startswith(b"1"):
            return  # informational (RFC 9110 section 15.2): the answer follows
        elif status != b"200" or not wire.is_grpc(headers.get(b"content-type")):
            call.give_up(wire.error_in(headers) or RpcError(Code.UNKNOWN, "the answer is not gRPC"))
        else:
            call.deframer = wire.Deframer(headers.get(b"grpc-encoding"), limit=self._peer.answer_bytes_max)

    def _on_end(self, call: _Call, trailers: HeaderBlock) -> None:
        error = trailers.meaning
        if error is None:
            error = trailers.meaning = wire.error_in(trailers) or "ok"
        if error != "ok":
            call.finish(RpcError(error.code, error.message, error.details, google_status=error.google_status))
        elif call.deframer is not None and not call.deframer.complete:
            call.finish(RpcError(Code.INTERNAL, "the answer ended within a message"))
        else:
            call.finish(None)

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        call: _Call | None = stream.call
        if call is None:
            self.connection.consumed(stream, len(data))
            return
        if call.deframer is None:
            call.give_up(RpcError(Code.INTERNAL, "the answer has data before its headers"))
            return
        call.owed += len(data)
        call.responses.extend(call.deframer.feed(data))
        if call.deframer.error is not None:
            call.give_up(call.deframer.error)
            return
        if call.responses:
            call.wake()
        else:
            self.give_back(call)
        if end:
            call.finish(RpcError(Code.INTERNAL, "the answer has no trailers"))

    def give_back(self, call: _Call) -> None:
        """All that came was taken: the server may send on."""
        if call.owed:
            self.connection.consumed(call.stream, call.owed)
            call.owed = 0
            if self.connection.has_output:
                self.flush_soon()

    def on_reset(self, stream: Stream, code: int) -> None:
        if stream.call is not None:
            status = _RESETS.get(code, Code.INTERNAL)  # type: ignore[call-overload]
            unsent = code == ErrorCode.REFUSED_STREAM  # RFC 9113 section 8.7
            stream.call.finish(RpcError(status, f"the server reset the call (HTTP/2 error {code})", unsent=unsent))

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        self.usable = False
        for stream in list(self.connection.streams.values()):
            if stream.id > last_stream and stream.call is not None:
                text = f"the server takes no more calls {message}".rstrip()
                stream.call.give_up(RpcError(Code.UNAVAILABLE, text, unsent=True))

    def on_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._siblings.pop(self, None)
        if self._checking is not None:
            self._checking.cancel()
        reason = f"the connection was lost: {reason_of(exc)}" if exc is not None else "the connection was closed"
        if not self.ready.done():
            self.ready.set_result(reason)
        self.end_calls(RpcError(Code.UNAVAILABLE, reason))

    def end_calls(self, error: RpcError) -> None:
        for stream in list(self.connection.streams.values()):
            if stream.call is not None:
                stream.call.finish(RpcError(error.code, error.message))


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
        self._connection: _ClientConnection | None = None
        self._connections: dict[_ClientConnection, None] = {}  # also those that only end their calls
        self._connecting: asyncio.Task[_ClientConnection | RpcError] | None = None
        self._failure: RpcError | None = None
        self._retry_at = 0.0
        self._pause_s = 0.0  # after the failures so far
        self._headers: dict[tuple[str, bytes], bytes] = {}
        self._closed = False

    # Connection

    async def _connected(self) -> _ClientConnection:
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
        await asyncio.wait([attempt])
        if attempt.cancelled():
            raise _closed()
        outcome = attempt.result()
        if isinstance(outcome, RpcError):
            raise _again(outcome)
        return outcome

    async def _connect(self) -> "_ClientConnection | RpcError":
        connection: _ClientConnection | None = None
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
            self._connecting = None
        if lost:
            return self._failed(lost, refused=False)
        self._connection, self._failure, self._pause_s = connection, None, 0.0
        return connection

    async def _open(self) -> _ClientConnection:
        """A connection to the first address that takes it. ConnectionRefusedError when nothing listens at any.

        Each is tried by itself: of several the event loop tells what failed only in words.
        """
        host, _, port = self._address.rpartition(":")
        name = (self._peer.server_name or INTERNAL_SERVER_NAME) if self._tls is not None else None
        make = partial(_ClientConnection, self._connections, self._peer, self._line)
        loop = asyncio.get_running_loop()
        if self._connect_socket is not None:
            sock = await self._connect_socket()
            return (await loop.create_connection(make, sock=sock, ssl=self._tls, server_hostname=name))[1]
        failed: list[OSError] = []
        for address in await _addresses(host.strip("[]"), int(port)):
            try:
                return (await loop.create_connection(make, address, int(port), ssl=self._tls, server_hostname=name))[1]
            except OSError as e:
                failed.append(e)
        raise next((e for e in failed if not isinstance(e, ConnectionRefusedError)), failed[0])

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

    async def _within(self, timeout: float | None) -> _ClientConnection:
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


async def _responses(connection: _ClientConnection, call: _Call) -> AsyncIterator[bytes]:
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


async def _send_all(connection: _ClientConnection, call: _Call, requests: AsyncIterable[Message]) -> None:
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
