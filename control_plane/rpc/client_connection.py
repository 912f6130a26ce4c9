"""A channel's connection: the calls on it, and the end of one whose server says nothing more.

A server's process may stand still, and its machine may be gone. Of both nothing comes. A machine that is there
acknowledges what is sent to it, however busy it is, so its loss is known soon: new calls are refused then, as others
may answer them, and a little later those under way end. Whoever stands still is pinged, and given more time.
"""

import asyncio
from collections import deque

import grpc

from rayplane.control_plane.rpc import grpc_wire as wire
from rayplane.control_plane.rpc.connection_io import ConnectionIO, Peer
from rayplane.control_plane.rpc.errors import RpcError, reason_of
from rayplane.control_plane.rpc.http2 import ErrorCode, HeaderBlock, Stream
from rayplane.control_plane.rpc.line import Line
from rayplane.control_plane.rpc.sockets import DOUBTFUL_S, UNHEARD_S, is_unheard

Code = grpc.StatusCode

#: Between two looks at a connection; see `ConnectionIO.check_silence`. Finds a stopped process or a lost machine.
SILENCE_CHECK_S = 2.0
#: A connection without calls is closed after so many of them.
IDLE_CHECKS = 30

#: What a reset means for the call ("HTTP2 Transport Mapping" of the protocol); all others are INTERNAL.
_RESETS = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


class Call:
    """A call under way: what came back, and who waits for it."""

    __slots__ = ("connection", "deframer", "ended", "error", "owed", "responses", "stream", "waiter")

    def __init__(self, connection: "ClientConnection", stream: Stream) -> None:
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


class ClientConnection(ConnectionIO):
    """One connection of a channel; `usable` until it is lost or the server takes no more calls."""

    def __init__(self, siblings: dict["ClientConnection", None], peer: Peer, line: Line | None) -> None:
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
        self._acknowledging: asyncio.TimerHandle | None = None  # while it is looked at what has arrived
        self._doubtful = False

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

    def _flush(self) -> None:
        super()._flush()
        if self._acknowledging is None and self.transport is not None:
            self._acknowledging = self._loop.call_later(DOUBTFUL_S / 2, self._look, self._loop.time())

    def _look(self, written_at: float) -> None:
        """See whether what was written has arrived at the server's machine, until it has."""
        self._acknowledging = None
        if self.transport is None or not is_unheard(self.transport):
            self._doubtful = False
            return
        since_s = self._loop.time() - written_at
        self._doubtful = since_s >= DOUBTFUL_S and is_unheard(self.transport, DOUBTFUL_S, again=1)
        if since_s >= UNHEARD_S and is_unheard(self.transport, UNHEARD_S, again=2):
            self.usable = False
            self.end_calls(RpcError(Code.UNAVAILABLE, "the connection was lost: the server's machine does not answer"))
            self.transport.abort()
        else:
            self._acknowledging = self._loop.call_later(DOUBTFUL_S / 2, self._look, written_at)

    def close(self) -> None:
        self.usable = False
        super().close()

    def call(self, headers: bytes) -> Call:
        """Begin a call. Raises RpcError when the connection was lost or there are too many calls already."""
        connection = self.connection
        if not self.usable:
            raise RpcError(Code.UNAVAILABLE, "the connection was lost")
        if self._doubtful:
            raise RpcError(Code.UNAVAILABLE, "the server's machine has not answered for a while", unsent=True)
        if len(connection.streams) >= connection.peer_streams_max:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"{len(connection.streams)} calls on one connection; wait for some")
        stream = connection.open()
        if connection.exhausted:
            self.usable = False
        self._asked = True
        call = stream.call = Call(self, stream)
        connection.send_headers(stream, headers)
        return call

    def on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result("")

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        call: Call | None = stream.call
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

    def _on_end(self, call: Call, trailers: HeaderBlock) -> None:
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
        call: Call | None = stream.call
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

    def give_back(self, call: Call) -> None:
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
        for timer in (self._checking, self._acknowledging):
            if timer is not None:
                timer.cancel()
        reason = f"the connection was lost: {reason_of(exc)}" if exc is not None else "the connection was closed"
        if not self.ready.done():
            self.ready.set_result(reason)
        self.end_calls(RpcError(Code.UNAVAILABLE, reason))

    def end_calls(self, error: RpcError) -> None:
        for stream in list(self.connection.streams.values()):
            if stream.call is not None:
                stream.call.finish(RpcError(error.code, error.message))
