"""The server's end of gRPC: calls of one connection, each a task that runs a handler of a `Service`."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from rayplane.control_plane.rpc import grpc_wire as wire
from rayplane.control_plane.rpc.callers import Callers, Identity
from rayplane.control_plane.rpc.connection_io import ConnectionIO
from rayplane.control_plane.rpc.errors import RpcError, error_of
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, Stream, encode_headers
from rayplane.control_plane.rpc.network import Traffic
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX, Context, Encoded, Method, Service
from rayplane.control_plane.rpc.tls import expiry, identity_of_transport
from rayplane.control_plane.rpc.untaken import Untaken
from rayplane.storage.env.leaps import is_leaping, machine_time

log = logging.getLogger(__name__)
_faults = FaultLog(log)

#: Of requests that are not complete or not read yet, of one connection together: two of the largest.
GATHERED_BYTES_MAX = 2 * MESSAGE_BYTES_MAX
#: Where TLS has not told who sends: of one request, of what all such senders have under way, and how long one request
#: may take to come.
STRANGERS_BYTES_MAX = 4 << 20
STRANGERS_GATHERED_BYTES_MAX = 64 << 20
STRANGERS_REQUEST_S = 30.0

_NOT_GRPC = encode_headers([(b":status", b"415")])
_NOT_POST = encode_headers([(b":status", b"405"), (b"allow", b"POST")])


class Route:
    """One method of a service, ready to be called."""

    __slots__ = ("callers", "function", "limit", "method", "parse")

    def __init__(self, method: Method, function: Callable[..., Any], callers: Callers, limit: int) -> None:
        self.method = method
        self.callers = callers
        self.limit = limit
        self.function = function
        self.parse = method.request_type.FromString


def routes_of(services: Sequence[Service]) -> dict[bytes, Route]:
    """By path."""
    return {
        path.encode(): Route(method, function, service.callers[path], service.request_bytes_max)
        for service in services
        for path, (method, function) in service.handlers.items()
    }


class Registry:
    """State that the connections of one server share. `certified_only`: who shows TLS no certificate is turned away."""

    def __init__(self, services: Sequence[Service], *, certified_only: bool = False) -> None:
        self.routes = routes_of(services)
        self.certified_only = certified_only
        self.traffic = Traffic()
        self.connections: dict[ServerConnection, None] = {}
        self.strangers_bytes = 0
        """Gathered of those whom TLS has not named."""
        self.calls: dict[_Call, None] = {}
        """Those whose handlers run."""


class _Plan:
    """The request that a header block makes. Calls whose headers are the same bytes share it."""

    __slots__ = ("context", "encoding", "error", "limit", "refusal", "route", "timeout_s")

    def __init__(
        self,
        headers: HeaderBlock,
        routes: Mapping[bytes, Route],
        identity: Identity | None,
        peer: str,
        *,
        limit: int = MESSAGE_BYTES_MAX,
    ):
        path = headers.get(b":path") or b""
        self.refusal: bytes | None = None  # the answer to what is no call of gRPC
        if not wire.is_grpc(headers.get(b"content-type")):
            self.refusal = _NOT_GRPC
        elif headers.get(b":method") != b"POST":
            self.refusal = _NOT_POST
        self.route = routes.get(path)
        self.encoding = headers.get(b"grpc-encoding")
        self.context = Context(wire.metadata_of(headers), identity, peer, path.decode("utf-8", "replace"))
        self.error: RpcError | None = None
        self.limit = limit  # of a request, in bytes
        self.timeout_s: float | None = None
        if self.route is None:
            service, _, name = path[1:].decode("utf-8", "replace").rpartition("/")
            known = any(p.startswith(f"/{service}/".encode()) for p in routes)
            text = f"unknown method {name} for service {service}" if known else f"unknown service {service}"
            self.error = RpcError(grpc.StatusCode.UNIMPLEMENTED, text)
        else:
            self.error = self.route.callers.refusal(identity, self.route.method.path)
            self.limit = min(limit, self.route.limit)
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            try:
                self.timeout_s = wire.decode_timeout(timeout)
            except RpcError as e:
                self.error = self.error or e


class _Call:
    """A call under way."""

    __slots__ = (
        "arrived_at",
        "begun",
        "deframer",
        "ended",
        "error",
        "gathered",
        "owed",
        "plan",
        "reader",
        "requests",
        "stream",
        "task",
        "timer",
    )

    def __init__(self, stream: Stream, plan: _Plan, now: float) -> None:
        self.stream = stream
        self.arrived_at = now
        self.plan = plan
        self.deframer: wire.Deframer | None = None
        self.gathered = 0  # bytes of requests that are not complete, or not read
        self.task: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        # Of client streams: messages nobody has read yet, the bytes they took from the window, who waits for one.
        self.requests: deque[bytes] = deque()
        self.owed = 0
        self.reader: asyncio.Future[None] | None = None
        self.ended = False
        self.error: RpcError | None = None
        self.begun = False  # whether the response's headers have been sent

    def wake_reader(self) -> None:
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)


class ServerConnection(ConnectionIO):
    """One client's connection."""

    def __init__(self, server: "Registry") -> None:
        super().__init__(client=False, traffic=server.traffic)
        self._server = server
        self._routes = server.routes
        self._calls = server.calls
        self._identity: Identity | None = None
        self._peer = ""
        self._gathered = 0
        self._stranger = False
        self._untaken = Untaken()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._identity = identity_of_transport(transport)
        tls = transport.get_extra_info("ssl_object")
        self._stranger = self._identity is None and tls is not None
        name = transport.get_extra_info("peername")
        if isinstance(name, tuple):
            self._peer = f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"
        self._server.connections[self] = None
        super().connection_made(transport)
        # Whose certificate names nobody is told so by each method, like whoever may not call it.
        if self._stranger and self._server.certified_only and tls.getpeercert(binary_form=True) is None:
            self.abort()

    # Who does not read its answers is not listened to: they would gather here.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def check_silence(self) -> None:
        super().check_silence()
        if is_leaping(self._loop):
            return
        for stream in self._untaken.look():
            self.connection.reset(stream, ErrorCode.CANCEL)
            self.flush_soon()
        now = machine_time(self._loop)
        for stream in list(self.connection.streams.values()) if self._stranger else ():
            call = stream.call
            if call is not None and call.task is None and now - call.arrived_at > STRANGERS_REQUEST_S:
                self._finish(call, RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "the request took too long to come"))

    def on_lost(self, exc: Exception | None) -> None:
        self._server.connections.pop(self, None)
        for stream in list(self.connection.streams.values()):
            if stream.call is not None:
                self._abandon(stream.call)

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        """A client that leaves closes the connection itself."""

    # Requests

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        if self._untaken.is_full():
            self.connection.reset(stream, ErrorCode.REFUSED_STREAM)
            return
        plan = headers.meaning
        if plan is None:
            limit = STRANGERS_BYTES_MAX if self._stranger else MESSAGE_BYTES_MAX
            plan = headers.meaning = _Plan(headers, self._routes, self._identity, self._peer, limit=limit)
        if plan.refusal is not None:
            self.connection.send_headers(stream, plan.refusal, end=True)
            self._part(stream)
            return
        call = stream.call = _Call(stream, plan, machine_time(self._loop))
        error = plan.error or expiry(self._identity)
        if error is not None:
            self._finish(call, error)
            return
        if plan.timeout_s is not None:
            call.timer = self._loop.call_later(plan.timeout_s, self._expire, call)
        if plan.route.method.client_streaming:
            call.deframer = wire.Deframer(plan.encoding, limit=plan.limit)
            self._start(call, self._run_stream(call, self._requests(call)))
        if end:
            self.on_data(stream, b"", True)

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        call: _Call | None = stream.call
        if call is None:  # refused already
            self.connection.consumed(stream, len(data))
            return
        route = call.plan.route
        assert route is not None  # a call without one is refused at its headers
        if route.method.client_streaming:
            self._feed(call, data, end)
            return
        self.connection.consumed(stream, len(data))
        if call.task is not None:
            return
        if call.deframer is None:
            if wire.is_whole(data, call.plan.limit):
                self._start_with(call, data[wire.PREFIX_BYTES :])
                return
            call.deframer = wire.Deframer(call.plan.encoding, limit=call.plan.limit)
        messages = call.deframer.feed(data)
        self._gather(call, len(data))
        if messages:
            self._gather(call, -call.gathered)
            call.deframer = None  # what follows is not read
            self._start_with(call, messages[0])
        elif call.deframer.error is not None:
            self._finish(call, call.deframer.error)
        elif end:
            self._finish(call, RpcError(grpc.StatusCode.INTERNAL, "the request has no complete message"))
        elif self._is_full():
            self._finish(call, _full())

    def _gather(self, call: _Call, size: int) -> None:
        call.gathered += size
        self._gathered += size
        if self._stranger:
            self._server.strangers_bytes += size

    def _is_full(self) -> bool:
        """Whether too much has been sent that nobody has taken."""
        strangers = self._stranger and self._server.strangers_bytes > STRANGERS_GATHERED_BYTES_MAX
        return strangers or self._gathered > GATHERED_BYTES_MAX

    def _feed(self, call: _Call, data: bytes, end: bool) -> None:
        assert call.deframer is not None
        call.owed += len(data)
        self._gather(call, len(data))
        call.requests.extend(call.deframer.feed(data))
        call.error = call.deframer.error
        if end and call.error is None and not call.deframer.complete:
            call.error = RpcError(grpc.StatusCode.INTERNAL, "the request ended within a message")
        call.ended = call.ended or end
        if not call.requests:
            self._give_back(call)
        if self._is_full():
            self._finish(call, _full())
            self._abandon(call)
        else:
            call.wake_reader()

    def _give_back(self, call: _Call) -> None:
        """The reader has nothing more to read: the client may send on."""
        if call.owed:
            self.connection.consumed(call.stream, call.owed)
            call.owed = 0
            if self.connection.has_output:
                self.flush_soon()
        if call.stream.call is not None and call.deframer is not None:
            self._gather(call, call.deframer.held - call.gathered)

    async def _requests(self, call: _Call) -> AsyncIterator[Message]:
        """What a client streams, as it comes. Raises RpcError when it breaks off."""
        assert call.plan.route is not None
        parse = call.plan.route.parse
        while True:
            while call.requests:
                yield _parsed(parse, call.requests.popleft())
            self._give_back(call)
            if call.error is not None:
                raise _Unreadable(call.error.code, call.error.message)
            if call.ended:
                return
            call.reader = self._loop.create_future()
            await call.reader

    # Calls

    def _start_with(self, call: _Call, data: bytes) -> None:
        assert call.plan.route is not None
        if call.plan.route.method.server_streaming:
            self._start(call, self._run_stream(call, data))
        else:
            self._start(call, self._run(call, data))

    def _start(self, call: _Call, work: Any) -> None:
        self._calls[call] = None
        call.task = self._loop.create_task(work)

    async def _run(self, call: _Call, data: bytes) -> None:
        """One request, one response."""
        plan = call.plan
        try:
            response = await plan.route.function(_parsed(plan.route.parse, data), plan.context)  # type: ignore[union-attr]
            self._answer(call, _bytes_of(response))
        except Exception as e:
            self._finish(call, _told(e))
        except asyncio.CancelledError:
            self._finish(call, _cancelled())
            raise
        finally:
            self._calls.pop(call, None)

    async def _run_stream(self, call: _Call, data: bytes | AsyncIterator[Message]) -> None:
        plan = call.plan
        assert plan.route is not None
        try:
            request = _parsed(plan.route.parse, data) if isinstance(data, bytes) else data
            answer = plan.route.function(request, plan.context)
            if not plan.route.method.server_streaming:
                self._answer(call, _bytes_of(await answer))
                return
            async with contextlib.aclosing(answer) as responses:
                async for response in responses:
                    self._begin(call)
                    await self.send(call.stream, wire.frame(_bytes_of(response)))
            self._finish(call, None)
        except Exception as e:
            self._finish(call, _told(e))
        except asyncio.CancelledError:
            self._finish(call, _cancelled())
            raise
        finally:
            self._calls.pop(call, None)

    def _answer(self, call: _Call, response: bytes) -> None:
        """The one response and the status."""
        stream = call.stream
        if stream.call is not None:
            self.connection.send_message(stream, wire.RESPONSE_HEADERS, wire.frame(response), wire.OK_TRAILERS)
            self._untaken.add(stream)
            self._ended(call)

    def _begin(self, call: _Call) -> None:
        if not call.begun:
            call.begun = True
            self.connection.send_headers(call.stream, wire.RESPONSE_HEADERS)

    def _finish(self, call: _Call, error: RpcError | None) -> None:
        """Send the status, unless the call has ended by itself."""
        stream = call.stream
        if stream.call is None:
            return
        if error is None:
            self._begin(call)
            self.connection.send_headers(stream, wire.OK_TRAILERS, end=True)
        else:
            fields = wire.status_fields(error, self.connection.peer_headers_max)
            self.connection.send_headers(
                stream, encode_headers(fields if call.begun else [*_ANSWER, *fields]), end=True
            )
        self._ended(call)

    def _ended(self, call: _Call) -> None:
        call.stream.call = None
        self._gather(call, -call.gathered)
        if call.timer is not None:
            call.timer.cancel()
        if not call.stream.remote_closed:
            self._part(call.stream)
        self.flush_soon()

    def _part(self, stream: Stream) -> None:
        """After the answer nobody reads the rest of a request."""
        if not stream.remote_closed and stream.local_closed:
            self.connection.reset(stream, ErrorCode.NO_ERROR)

    def _expire(self, call: _Call) -> None:
        if call.stream.blocked:
            # The caller gave up, too, and does not take what waits for it.
            self.connection.reset(call.stream, ErrorCode.CANCEL)
            self.flush_soon()
        else:
            self._finish(call, RpcError(grpc.StatusCode.DEADLINE_EXCEEDED, "context deadline exceeded"))
        self._abandon(call)

    def on_reset(self, stream: Stream, code: int) -> None:
        if stream.call is not None:
            self._abandon(stream.call)

    def _abandon(self, call: _Call) -> None:
        """Nobody waits for the answer any more."""
        call.stream.call = None
        self._gather(call, -call.gathered)
        if call.timer is not None:
            call.timer.cancel()
        if call.task is not None:
            call.task.cancel()
            # A task that had not begun does not get to its `finally`.
            call.task.add_done_callback(lambda _: self._calls.pop(call, None))

    def end_calls(self) -> None:
        """The server stops: tell the callers, end the handlers."""
        for stream in list(self.connection.streams.values()):
            if stream.call is not None:
                call = stream.call
                self._finish(call, RpcError(grpc.StatusCode.UNAVAILABLE, "the server is stopping"))
                self._abandon(call)


def _full() -> RpcError:
    return RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much waits here of requests that nobody has read")


def _cancelled() -> RpcError:
    """For a handler that was not cancelled by its caller, who still waits."""
    return RpcError(grpc.StatusCode.UNAVAILABLE, "the call was cancelled by the server")


_ANSWER = ((b":status", b"200"), (b"content-type", wire.CONTENT_TYPE))


def _bytes_of(response: Message | Encoded) -> bytes:
    return response.data if type(response) is Encoded else response.SerializeToString()  # type: ignore[union-attr]


class _Unreadable(RpcError):
    """The client sent what is no message of the call's type; mostly INTERNAL, as gRPC says it everywhere."""


def _parsed(parse: Callable[[bytes], Message], data: bytes) -> Message:
    try:
        return parse(data)
    except DecodeError as e:
        raise _Unreadable(grpc.StatusCode.INTERNAL, f"cannot read the request: {e}") from e


def _told(exception: Exception) -> RpcError:
    error = error_of(exception)
    if error.code is grpc.StatusCode.INTERNAL and not isinstance(error, _Unreadable):
        _faults.tell("a call failed", exception)
    return error
