"""One connection: frames, streams and windows (RFC 9113). See the package for how it is driven.

Rules: the peer's error ends the connection (ProtocolError, after which only `take` may be called); what concerns a
stream that is over already is ignored, since frames cross on the wire (section 5.1, "closed").
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from control_plane.rpc.http2.errors import ErrorCode, ProtocolError
from control_plane.rpc.http2.headers import HEADERS_BYTES_MAX, HeaderBlock, HeaderDecoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Largest frame payload accepted: fewer, larger frames make large messages cheaper.
FRAME_BYTES_MAX = 256 * 1024
#: Bytes that a peer may send on a stream, or on all together, before somebody takes them.
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 16 << 20
STREAMS_MAX = 4096
CONTROL_FRAMES_MAX = 4096
RESETS_MAX = 4096

_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _HAS_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_SET_PUSH, _SET_STREAMS, _SET_WINDOW, _SET_FRAME, _SET_HEADERS = 2, 3, 4, 5, 6

_WINDOW_DEFAULT = 65_535
_WINDOW_MAX = 2**31 - 1
_FRAME_DEFAULT = 16_384
_HEAD = struct.Struct(">BHBBI")
_HEAD_BYTES = 9
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")
_pack_head, _unpack_head = _HEAD.pack, _HEAD.unpack_from


class Stream:
    """One request and its response. `call` is the handler's own."""

    __slots__ = (
        "_credit",
        "_ends",
        "_queue",
        "_trailers",
        "call",
        "id",
        "local_closed",
        "receive_window",
        "remote_closed",
        "send_window",
    )

    def __init__(self, number: int, send_window: int) -> None:
        self.id = number
        self.call: Any = None
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.local_closed = False
        self.remote_closed = False
        self._credit = 0
        self._queue: deque[memoryview] | None = None  # what the windows hold back
        self._trailers: bytes | None = None  # to follow the queue
        self._ends = False  # whether the stream ends with the queue

    @property
    def blocked(self) -> bool:
        """Whether data wait for the peer to open a window."""
        return self._queue is not None


class Handler(Protocol):
    """What the owner of a connection is told, in the order it was received."""

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        """Server: a new request. Client: a response's headers or trailers."""

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """Take bytes; give them back to the window with `Connection.consumed`."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer has given the stream up; it is gone."""

    def on_writable(self, stream: Stream) -> None:
        """All that was held back has been sent."""

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        """The peer takes no more streams; it has not looked at any above `last_stream`."""

    def on_pong(self) -> None: ...


class Connection:
    """See the module. Everything to send gathers until `take`."""

    def __init__(self, handler: Handler, *, client: bool) -> None:
        self.streams: dict[int, Stream] = {}
        self.peer_streams_max = STREAMS_MAX if client else 0
        self._handler = handler
        self._client = client
        self._decoder = HeaderDecoder()
        self._partial = b""
        self._out: list[bytes] = []
        self._controls = 0
        self._resets = 0
        self._greeted = client  # whether the peer's preface was seen
        self._settled = False  # whether its first SETTINGS were
        self._next_stream = 1
        self._last_stream = 0
        self._going_away = False
        self._send_window = _WINDOW_DEFAULT
        self._receive_window = CONNECTION_WINDOW
        self._peer_window = _WINDOW_DEFAULT
        self._peer_frame = _FRAME_DEFAULT
        self._continued: tuple[int, int, list[bytes]] | None = None
        self._blocked: dict[int, Stream] = {}
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            _DATA: self._on_data,
            _HEADERS: self._on_headers,
            _PRIORITY: self._on_priority,
            _RST_STREAM: self._on_reset,
            _SETTINGS: self._on_settings,
            _PUSH_PROMISE: self._on_push,
            _PING: self._on_ping,
            _GOAWAY: self._on_goaway,
            _WINDOW_UPDATE: self._on_window_update,
            _CONTINUATION: self._on_continuation,
        }
        self._greet()

    def _greet(self) -> None:
        settings = {_SET_WINDOW: STREAM_WINDOW, _SET_FRAME: FRAME_BYTES_MAX, _SET_HEADERS: HEADERS_BYTES_MAX}
        settings |= {_SET_PUSH: 0} if self._client else {_SET_STREAMS: STREAMS_MAX}
        if self._client:
            self._out.append(PREFACE)
        self._frame(_SETTINGS, 0, 0, b"".join([_SETTING.pack(k, v) for k, v in sorted(settings.items())]))
        self._frame(_WINDOW_UPDATE, 0, 0, _U32.pack(CONNECTION_WINDOW - _WINDOW_DEFAULT))

    # Sending

    def take(self) -> bytes:
        """Everything there is to send now."""
        out, self._out, self._controls = self._out, [], 0
        return b"".join(out)

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    def open(self) -> Stream:
        """Client: a new stream, to be begun with `send_headers`."""
        stream = self.streams[self._next_stream] = Stream(self._next_stream, self._peer_window)
        self._next_stream += 2
        return stream

    def send_headers(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """Headers, or trailers that follow all data sent before."""
        if stream.local_closed:
            return
        if stream._queue is not None:
            stream._trailers, stream._ends = block, True
            return
        flags = _END_STREAM if end else 0
        if len(block) <= self._peer_frame:
            self._frame(_HEADERS, flags | _END_HEADERS, stream.id, block)
        else:
            size = self._peer_frame
            parts = [block[at : at + size] for at in range(0, len(block), size)]
            self._frame(_HEADERS, flags, stream.id, parts[0])
            for part in parts[1:-1]:
                self._frame(_CONTINUATION, 0, stream.id, part)
            self._frame(_CONTINUATION, _END_HEADERS, stream.id, parts[-1])
        if end:
            self._close_local(stream)

    def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Data, now or as soon as the peer's windows allow it (then `on_writable` tells)."""
        size = len(data)
        if stream.local_closed:
            return
        if (
            stream._queue is None
            and size <= self._peer_frame
            and size <= stream.send_window
            and size <= self._send_window
        ):
            stream.send_window -= size
            self._send_window -= size
            self._out.append(_pack_head(size >> 16, size & 0xFFFF, _DATA, _END_STREAM if end else 0, stream.id))
            self._out.append(data)
            if end:
                self._close_local(stream)
            return
        if stream._queue is None:
            stream._queue = deque()
            self._blocked[stream.id] = stream
        stream._queue.append(memoryview(data))
        stream._ends = stream._ends or end
        self._pump(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give a stream up."""
        if self.streams.pop(stream.id, None) is not None:
            self._blocked.pop(stream.id, None)
            self._frame(_RST_STREAM, 0, stream.id, _U32.pack(code))
        stream.local_closed = stream.remote_closed = True
        stream._queue = None

    def consumed(self, stream: Stream, size: int) -> None:
        """The handler has taken so many bytes: the peer may send as many more."""
        stream._credit += size
        if stream._credit >= STREAM_WINDOW // 2 and not stream.remote_closed:
            self._frame(_WINDOW_UPDATE, 0, stream.id, _U32.pack(stream._credit))
            stream.receive_window += stream._credit
            stream._credit = 0

    def ping(self) -> None:
        """Ask for a `on_pong`."""
        self._frame(_PING, 0, 0, bytes(8))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = "") -> None:
        """Take no more streams."""
        self._going_away = True
        self._frame(_GOAWAY, 0, 0, _U32.pack(self._last_stream) + _U32.pack(code) + message.encode()[:1024])

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._out.append(_pack_head(size >> 16, size & 0xFFFF, kind, flags, stream))
        self._out.append(payload)

    def _control(self, kind: int, stream: int, payload: bytes, flags: int = 0) -> None:
        """What a peer's frame made us say: it must read it, too."""
        self._controls += 1
        if self._controls > CONTROL_FRAMES_MAX:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "control frames are not read")
        self._frame(kind, flags, stream, payload)

    def _pump(self, stream: Stream) -> None:
        """Send of the queue what the windows allow."""
        queue = stream._queue
        assert queue is not None
        while queue:
            part = queue[0]
            size = min(len(part), stream.send_window, self._send_window, self._peer_frame)
            if size <= 0 and len(part):
                return
            rest = part[size:]
            if rest:
                queue[0] = rest
            else:
                queue.popleft()
            stream.send_window -= size
            self._send_window -= size
            end = stream._ends and not queue and stream._trailers is None
            self._frame(_DATA, _END_STREAM if end else 0, stream.id, bytes(part[:size]))
        stream._queue = None
        del self._blocked[stream.id]
        if stream._trailers is not None:
            trailers, stream._trailers = stream._trailers, None
            self.send_headers(stream, trailers, end=True)
        elif stream._ends:
            self._close_local(stream)
        else:
            self._handler.on_writable(stream)

    def _pump_all(self) -> None:
        for stream in list(self._blocked.values()):
            if self._send_window <= 0:
                return
            # The next time it is the turn of those that did not get anything.
            self._blocked[stream.id] = self._blocked.pop(stream.id)
            self._pump(stream)

    def _close_local(self, stream: Stream) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self._finished(stream)

    def _close_remote(self, stream: Stream) -> None:
        stream.remote_closed = True
        if stream.local_closed:
            self._finished(stream)

    def _finished(self, stream: Stream) -> None:
        if self.streams.pop(stream.id, None) is not None and self._resets:
            self._resets -= 1

    # Receiving

    def receive(self, data: bytes) -> None:
        """Bytes from the peer. Raises ProtocolError, having made the GOAWAY that tells it."""
        try:
            self._receive(data)
        except ProtocolError as e:
            self.go_away(e.code, str(e))
            raise

    def _receive(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        size, at = len(data), 0
        if not self._greeted:
            if data[: len(PREFACE)] != PREFACE[:size]:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if size < len(PREFACE):
                self._partial = data
                return
            self._greeted, at = True, len(PREFACE)
        handlers = self._handlers
        while size - at >= _HEAD_BYTES:
            high, low, kind, flags, stream = _unpack_head(data, at)
            length = high << 16 | low
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + _HEAD_BYTES
            if size - begin < length:
                break
            at = begin + length
            if self._continued is not None and kind != _CONTINUATION:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "headers must be continued first")
            if not self._settled and kind != _SETTINGS:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
            handler = handlers.get(kind)
            if handler is not None:  # frames of unknown types are ignored (section 4.1)
                handler(flags, stream & _WINDOW_MAX, data[begin:at])
        self._partial = data[at:] if at else data

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._receive_window < CONNECTION_WINDOW // 2:
            # Streams hold back what nobody takes: all together may always send.
            self._control(_WINDOW_UPDATE, 0, _U32.pack(CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None or stream.remote_closed:
            self._check_begun(number)
            if stream is not None:
                self.reset(stream, ErrorCode.STREAM_CLOSED)
                self._handler.on_reset(stream, ErrorCode.STREAM_CLOSED)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"more data than the window of stream {number}")
        if flags & _PADDED:
            payload = _unpadded(payload)
            self.consumed(stream, size - len(payload))
        end = bool(flags & _END_STREAM)
        if end:
            self._close_remote(stream)
        self._handler.on_data(stream, payload, end)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & _PADDED:
            payload = _unpadded(payload)
        if flags & _HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a priority of less than 5 bytes")
            payload = payload[5:]
        if flags & _END_HEADERS:
            self._headers(flags, number, payload)
        else:
            self._continued = (number, flags, [payload])

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._continued is None or self._continued[0] != number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, parts = self._continued
        parts.append(payload)
        # An empty part costs nothing to send: count it.
        if sum(map(len, parts)) + len(parts) > HEADERS_BYTES_MAX:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {HEADERS_BYTES_MAX} bytes")
        if flags & _END_HEADERS:
            self._continued = None
            self._headers(first_flags, number, b"".join(parts))

    def _headers(self, flags: int, number: int, block: bytes) -> None:
        headers = self._decoder.decode(block)  # always: the table must stay in step
        end = bool(flags & _END_STREAM)
        stream = self.streams.get(number)
        if stream is None:
            if self._client or number <= self._last_stream:
                self._check_begun(number)
                return
            stream = self._accept(number)
            if stream is None:
                return
        elif not self._client:
            # Trailers of a request: gRPC has none, what matters is that they end it.
            if not end or stream.remote_closed:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"headers in the middle of stream {number}")
            self._close_remote(stream)
            self._handler.on_data(stream, b"", True)
            return
        if end:
            self._close_remote(stream)
        self._handler.on_headers(stream, headers, end)

    def _accept(self, number: int) -> Stream | None:
        if not number % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {number} of a client must be odd")
        if self._going_away or len(self.streams) >= STREAMS_MAX:
            self._last_stream = number
            self._control(_RST_STREAM, number, _U32.pack(ErrorCode.REFUSED_STREAM))
            return None
        self._last_stream = number
        stream = self.streams[number] = Stream(number, self._peer_window)
        return stream

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 5 or not number:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PRIORITY frame")

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "push is not enabled")

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong RST_STREAM frame")
        self._check_begun(number)
        stream = self.streams.pop(number, None)
        if stream is None:
            return
        self._blocked.pop(number, None)
        stream.local_closed = stream.remote_closed = True
        stream._queue = None
        if not self._client:
            self._resets += 1
            if self._resets > RESETS_MAX:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "most streams are reset")
        self._handler.on_reset(stream, _U32.unpack(payload)[0])

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & _ACK and payload):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong SETTINGS frame")
        self._settled = True
        if flags & _ACK:
            return
        for name, value in _SETTING.iter_unpack(payload):
            if name == _SET_WINDOW:
                if value > _WINDOW_MAX:
                    raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"a window of {value} bytes")
                delta, self._peer_window = value - self._peer_window, value
                for stream in self.streams.values():
                    stream.send_window += delta
            elif name == _SET_FRAME:
                if not _FRAME_DEFAULT <= value < 1 << 24:
                    raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"frames of {value} bytes")
                self._peer_frame = min(value, FRAME_BYTES_MAX)
            elif name == _SET_STREAMS:
                self.peer_streams_max = value
        self._control(_SETTINGS, 0, b"", _ACK)
        self._pump_all()

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PING frame")
        if flags & _ACK:
            self._handler.on_pong()
        else:
            self._control(_PING, 0, payload, _ACK)

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong GOAWAY frame")
        last, code = struct.unpack_from(">II", payload)
        self._handler.on_goaway(last & _WINDOW_MAX, code, payload[8:].decode(errors="replace"))

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong WINDOW_UPDATE frame")
        increment = _U32.unpack(payload)[0] & _WINDOW_MAX
        if not increment:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
        if not number:
            self._send_window += increment
            if self._send_window > _WINDOW_MAX:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            if self._blocked:
                self._pump_all()
            return
        stream = self.streams.get(number)
        if stream is None:
            self._check_begun(number)
            return
        stream.send_window += increment
        if stream.send_window > _WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {number} is too large")
        if stream._queue is not None:
            self._pump(stream)

    def _check_begun(self, number: int) -> None:
        """Frames of streams that are over are ignored, those of streams that never were are an error."""
        begun = number < self._next_stream and number % 2 if self._client else number <= self._last_stream
        if not number or not begun:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {number} was never begun")


def _unpadded(payload: bytes) -> bytes:
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
