"""One connection: frames, streams and windows (RFC 9113). See the package for how it is driven.

Rules: the peer's error ends the connection (ProtocolError, after which only `take` does anything); a malformed
message ends its stream; what concerns a stream that is over already is ignored, since frames cross on the wire
(section 5.1, "closed").
"""

from collections import OrderedDict, deque
from collections.abc import Callable

from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.http2.errors import ErrorCode, ProtocolError
from rayplane.control_plane.rpc.http2.headers import HEADERS_BYTES_MAX, HeaderBlock, HeaderDecoder, Kind
from rayplane.control_plane.rpc.http2.stream import Handler, Stream

#: What a part of a header block counts at least: many empty ones cost nothing to send.
_PART_BYTES_MIN = 64
#: A change of the window concerns each stream: what so many of them cost counts as one more answer.
_STREAMS_PER_ANSWER = 16

_pack_head, _unpack_head, _HEAD_BYTES = f.HEAD.pack, f.HEAD.unpack_from, f.HEAD_BYTES


class Connection:
    """One end of an HTTP/2 connection, see the module. Everything to send gathers until `take`."""

    def __init__(self, handler: Handler, *, client: bool) -> None:
        self.streams: dict[int, Stream] = {}
        self.peer_streams_max = f.STREAMS_MAX if client else 0
        self._handler = handler
        self._client = client
        self._decoder = HeaderDecoder()
        self._partial = b""
        self._out: list[bytes] = []
        self._controls = 0
        self._resets = 0
        self._greeted = client  # whether the peer's preface was seen
        self.greeted = False  # whether its first SETTINGS were
        self._broken = False
        self._next_stream = 1
        self._last_stream = 0
        self._going_away = False
        self._send_window = f.WINDOW_DEFAULT
        self._receive_window = f.CONNECTION_WINDOW
        self._peer_window = f.WINDOW_DEFAULT
        self._peer_frame = f.FRAME_DEFAULT
        self.peer_headers_max = HEADERS_BYTES_MAX  # of one message, as far as it has said so
        # Headers that are to be continued: stream, flags, parts, bytes.
        self._continued: tuple[int, int, list[bytes], int] | None = None
        # Streams that could send if the connection's window were open, in turn.
        self._blocked: OrderedDict[int, Stream] = OrderedDict()
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            f.DATA: self._on_data,
            f.HEADERS: self._on_headers,
            f.PRIORITY: self._on_priority,
            f.RST_STREAM: self._on_reset,
            f.SETTINGS: self._on_settings,
            f.PUSH_PROMISE: self._on_push,
            f.PING: self._on_ping,
            f.GOAWAY: self._on_goaway,
            f.WINDOW_UPDATE: self._on_window_update,
            f.CONTINUATION: self._on_continuation,
        }
        self._greet()

    def _greet(self) -> None:
        settings = {f.SET_WINDOW: f.STREAM_WINDOW, f.SET_FRAME: f.FRAME_BYTES_MAX, f.SET_HEADERS: HEADERS_BYTES_MAX}
        settings |= {f.SET_PUSH: 0} if self._client else {f.SET_STREAMS: f.STREAMS_MAX}
        if self._client:
            self._out.append(f.PREFACE)
        self._frame(f.SETTINGS, 0, 0, b"".join([f.SETTING.pack(k, v) for k, v in sorted(settings.items())]))
        self._frame(f.WINDOW_UPDATE, 0, 0, f.U32.pack(f.CONNECTION_WINDOW - f.WINDOW_DEFAULT))

    # Sending

    def take(self) -> bytes:
        """Everything there is to send now."""
        out, self._out, self._controls = self._out, [], 0
        return b"".join(out)

    @property
    def has_output(self) -> bool:
        return bool(self._out)

    @property
    def exhausted(self) -> bool:
        """Client: whether there are no more stream numbers; another connection must take over."""
        return self._next_stream > f.STREAM_ID_MAX

    def open(self) -> Stream:
        """Client: a new stream, to be begun with `send_headers`."""
        stream = self.streams[self._next_stream] = Stream(self._next_stream, self._peer_window)
        self._next_stream += 2
        return stream

    def send_headers(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """Headers, or trailers that follow all data sent before."""
        if stream.local_closed:
            return
        if stream.queue is not None:
            stream.trailers, stream.ends = block, True
            return
        stream.answered = True
        flags = f.END_STREAM if end else 0
        if len(block) <= self._peer_frame:
            self._frame(f.HEADERS, flags | f.END_HEADERS, stream.id, block)
        else:
            size = self._peer_frame
            parts = [block[at : at + size] for at in range(0, len(block), size)]
            self._frame(f.HEADERS, flags, stream.id, parts[0])
            for part in parts[1:-1]:
                self._frame(f.CONTINUATION, 0, stream.id, part)
            self._frame(f.CONTINUATION, f.END_HEADERS, stream.id, parts[-1])
        if end:
            self._close_local(stream)

    def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> None:
        """Data, now or as soon as the peer's windows allow it (then `on_writable` tells)."""
        size = len(data)
        if stream.local_closed or stream.trailers is not None:
            return
        if (
            stream.queue is None
            and size <= self._peer_frame
            and size <= stream.send_window
            and size <= self._send_window
        ):
            stream.send_window -= size
            self._send_window -= size
            self._out.append(_pack_head(size >> 16, size & 0xFFFF, f.DATA, f.END_STREAM if end else 0, stream.id))
            self._out.append(data)
            if end:
                self._close_local(stream)
            return
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(memoryview(data))
        stream.ends = stream.ends or end
        self._pump(stream)

    def send_message(self, stream: Stream, headers: bytes, data: bytes, trailers: bytes) -> None:
        """Headers, data and trailers: all of an answer."""
        size = len(data)
        room = self._peer_frame
        if (
            stream.queue is not None
            or stream.local_closed
            or stream.send_window < size
            or self._send_window < size
            or max(size, len(headers), len(trailers)) > room
        ):
            self.send_headers(stream, headers)
            self.send_data(stream, data)
            self.send_headers(stream, trailers, end=True)
            return
        number = stream.id
        stream.send_window -= size
        self._send_window -= size
        stream.answered = True
        self._out += (
            _pack_head(0, len(headers), f.HEADERS, f.END_HEADERS, number),
            headers,
            _pack_head(size >> 16, size & 0xFFFF, f.DATA, 0, number),
            data,
            _pack_head(0, len(trailers), f.HEADERS, f.END_HEADERS | f.END_STREAM, number),
            trailers,
        )
        self._close_local(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Give a stream up."""
        if self.streams.pop(stream.id, None) is not None:
            self._frame(f.RST_STREAM, 0, stream.id, f.U32.pack(code))
        self._drop(stream)

    def consumed(self, stream: Stream, size: int) -> None:
        """The handler has taken so many bytes: the peer may send as many more."""
        stream.credit += size
        if stream.credit >= f.STREAM_WINDOW // 2 and not stream.remote_closed:
            self._frame(f.WINDOW_UPDATE, 0, stream.id, f.U32.pack(stream.credit))
            stream.receive_window += stream.credit
            stream.credit = 0

    def ping(self) -> None:
        """Ask for a `on_pong`."""
        self._frame(f.PING, 0, 0, bytes(8))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = "") -> None:
        """Take no more streams."""
        self._going_away = True
        self._frame(f.GOAWAY, 0, 0, f.U32.pack(self._last_stream) + f.U32.pack(code) + message.encode()[:1024])

    def forgive(self) -> None:
        """To be called now and then: what the peer did before no longer counts against it."""
        self._resets = 0

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._out.append(_pack_head(size >> 16, size & 0xFFFF, kind, flags, stream))
        self._out.append(payload)

    def _control(self, kind: int, stream: int, payload: bytes, flags: int = 0, *, cost: int = 1) -> None:
        """What a peer's frame made us say: there are limits to that."""
        self._controls += cost
        if self._controls > f.CONTROL_FRAMES_MAX:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")
        self._frame(kind, flags, stream, payload)

    def _pump(self, stream: Stream) -> None:
        """Send of the queue what the windows allow."""
        queue = stream.queue
        assert queue is not None
        while queue:
            part = queue[0]
            size = min(len(part), stream.send_window, self._send_window, self._peer_frame)
            if size <= 0 and len(part):
                if stream.send_window > 0:
                    self._blocked[stream.id] = stream
                return
            size = max(size, 0)
            if size < len(part):
                queue[0] = part[size:]
            else:
                queue.popleft()
            stream.send_window -= size
            self._send_window -= size
            end = stream.ends and not queue and stream.trailers is None
            self._frame(f.DATA, f.END_STREAM if end else 0, stream.id, bytes(part[:size]))
        stream.queue = None
        self._blocked.pop(stream.id, None)
        if stream.trailers is not None:
            trailers, stream.trailers = stream.trailers, None
            self.send_headers(stream, trailers, end=True)
        elif stream.ends:
            self._close_local(stream)
        else:
            self._handler.on_writable(stream)

    def _close_local(self, stream: Stream) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self.streams.pop(stream.id, None)

    def _close_remote(self, stream: Stream) -> None:
        stream.remote_closed = True
        if stream.local_closed:
            self.streams.pop(stream.id, None)

    def _drop(self, stream: Stream) -> None:
        stream.local_closed = stream.remote_closed = True
        stream.queue = None
        self._blocked.pop(stream.id, None)

    # Receiving

    def receive(self, data: bytes) -> None:
        """Bytes from the peer. Raises ProtocolError, having made the GOAWAY that tells it."""
        if self._broken:
            return
        try:
            self._receive(data)
        except ProtocolError as e:
            self._broken = True
            self.go_away(e.code, str(e))
            raise

    def _receive(self, data: bytes) -> None:
        if self._partial:
            data = self._partial + data
        size, at = len(data), 0
        if not self._greeted:
            if data[: len(f.PREFACE)] != f.PREFACE[:size]:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "this port speaks HTTP/2")
            if size < len(f.PREFACE):
                self._partial = data
                return
            self._greeted, at = True, len(f.PREFACE)
        handlers = self._handlers
        while size - at >= _HEAD_BYTES:
            high, low, kind, flags, stream = _unpack_head(data, at)
            length = high << 16 | low
            if not self.greeted and (kind != f.SETTINGS or flags & f.ACK):
                text = "the first frame must be SETTINGS"
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "not HTTP/2" if data.startswith(b"HTTP/") else text)
            if length > f.FRAME_BYTES_MAX:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            begin = at + _HEAD_BYTES
            if size - begin < length:
                break
            at = begin + length
            if self._continued is not None and kind != f.CONTINUATION:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "headers must be continued first")
            handler = handlers.get(kind)
            if handler is not None:  # frames of unknown types are ignored (section 4.1)
                handler(flags, stream & f.WINDOW_MAX, data[begin:at])
        self._partial = data[at:] if at else data

    def _on_data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if self._receive_window < f.CONNECTION_WINDOW // 2:
            # Streams hold back what nobody takes: all together may always send.
            self._control(f.WINDOW_UPDATE, 0, f.U32.pack(f.CONNECTION_WINDOW - self._receive_window))
            self._receive_window = f.CONNECTION_WINDOW
        stream = self.streams.get(number)
        if stream is None or stream.remote_closed:
            self._check_begun(number)
            if stream is not None:
                self._break(stream, ErrorCode.STREAM_CLOSED)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"more data than the window of stream {number}")
        if flags & f.PADDED:
            payload = f.unpadded(payload)
            self.consumed(stream, size - len(payload))
        end = bool(flags & f.END_STREAM)
        if end:
            self._close_remote(stream)
        self._handler.on_data(stream, payload, end)

    def _break(self, stream: Stream, code: ErrorCode) -> None:
        """The peer did what ends a stream (section 5.4.2)."""
        self._count_reset(stream)
        self.reset(stream, code)
        self._handler.on_reset(stream, code)

    def _on_headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & f.PADDED:
            payload = f.unpadded(payload)
        if flags & f.HAS_PRIORITY:
            if len(payload) < 5:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a priority of less than 5 bytes")
            payload = payload[5:]
        if flags & f.END_HEADERS:
            self._headers(flags, number, payload)
        else:
            self._continued = (number, flags, [payload], len(payload))

    def _on_continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._continued is None or self._continued[0] != number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a continuation of nothing")
        _, first_flags, parts, size = self._continued
        parts.append(payload)
        size += max(len(payload), _PART_BYTES_MIN)
        if size > HEADERS_BYTES_MAX:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {HEADERS_BYTES_MAX} bytes")
        if flags & f.END_HEADERS:
            self._continued = None
            self._headers(first_flags, number, b"".join(parts))
        else:
            self._continued = (number, first_flags, parts, size)

    def _headers(self, flags: int, number: int, block: bytes) -> None:
        headers = self._decoder.decode(block)  # always: the table must stay in step
        end = bool(flags & f.END_STREAM)
        stream = self.streams.get(number)
        if stream is None:
            if self._client or number <= self._last_stream:
                self._check_begun(number)
                return
            stream = self._accept(number, headers)
            if stream is None:
                return
        elif stream.remote_closed:
            self._break(stream, ErrorCode.STREAM_CLOSED)
            return
        elif not self._client:
            # Trailers of a request: gRPC has none, what matters is that they end it.
            if not end or headers.kind is not Kind.TRAILERS:
                self._break(stream, ErrorCode.PROTOCOL_ERROR)
                return
            self._close_remote(stream)
            self._handler.on_data(stream, b"", True)
            return
        elif headers.kind is not Kind.RESPONSE and headers.kind is not Kind.TRAILERS:
            self._break(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if end:
            self._close_remote(stream)
        self._handler.on_headers(stream, headers, end)

    def _accept(self, number: int, headers: HeaderBlock) -> Stream | None:
        if not number % 2:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {number} of a client must be odd")
        self._last_stream = number
        if self._going_away or len(self.streams) >= f.STREAMS_MAX:
            self._control(f.RST_STREAM, number, f.U32.pack(ErrorCode.REFUSED_STREAM))
            return None
        if headers.kind is not Kind.REQUEST:
            self._control(f.RST_STREAM, number, f.U32.pack(ErrorCode.PROTOCOL_ERROR))
            return None
        stream = self.streams[number] = Stream(number, self._peer_window)
        return stream

    def _on_priority(self, flags: int, number: int, payload: bytes) -> None:
        if not number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the priority of no stream")
        if len(payload) != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PRIORITY frame")

    def _on_push(self, flags: int, number: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "push is not enabled")

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        self._check_begun(number)
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong RST_STREAM frame")
        stream = self.streams.pop(number, None)
        if stream is None:
            return
        self._count_reset(stream)
        self._drop(stream)
        self._handler.on_reset(stream, f.U32.unpack(payload)[0])

    def _count_reset(self, stream: Stream) -> None:
        """A call that is begun only to be reset costs the server more than the client."""
        if not self._client and not stream.answered:
            self._resets += 1
            if self._resets > f.RESETS_MAX:
                raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many calls are begun and reset")

    def _on_settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the settings of a stream")
        if len(payload) % 6 or (flags & f.ACK and payload):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong SETTINGS frame")
        if flags & f.ACK:
            return
        settings = f.parse_settings(payload)
        self._peer_frame = min(settings.get(f.SET_FRAME, self._peer_frame), f.FRAME_BYTES_MAX)
        self.peer_streams_max = settings.get(f.SET_STREAMS, self.peer_streams_max)
        self.peer_headers_max = min(settings.get(f.SET_HEADERS, self.peer_headers_max), HEADERS_BYTES_MAX)
        self._control(f.SETTINGS, 0, b"", f.ACK, cost=1 + len(self.streams) // _STREAMS_PER_ANSWER)
        self._resize(settings.get(f.SET_WINDOW, self._peer_window))
        if not self.greeted:
            self.greeted = True
            self._handler.on_ready()

    def _resize(self, window: int) -> None:
        """Another initial window changes that of every stream, by as much (section 6.9.2)."""
        delta, self._peer_window = window - self._peer_window, window
        if not delta:
            return
        for stream in list(self.streams.values()):
            stream.send_window += delta
            if stream.send_window > f.WINDOW_MAX:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {stream.id} is too large")
            if stream.queue is not None:
                self._blocked.pop(stream.id, None)
                self._pump(stream)

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a ping of a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong PING frame")
        if flags & f.ACK:
            self._handler.on_pong()
        else:
            self._control(f.PING, 0, payload, f.ACK)

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream cannot go away")
        if len(payload) < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong GOAWAY frame")
        last, code = f.U32.unpack_from(payload)[0], f.U32.unpack_from(payload, 4)[0]
        self._handler.on_goaway(last & f.WINDOW_MAX, code, payload[8:1032].decode(errors="replace"))

    def _on_window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "a wrong WINDOW_UPDATE frame")
        increment = f.U32.unpack(payload)[0] & f.WINDOW_MAX
        if not increment:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a window update of nothing")
        if not number:
            self._send_window += increment
            if self._send_window > f.WINDOW_MAX:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            while self._blocked and self._send_window > 0:
                self._pump(self._blocked.popitem(last=False)[1])
            return
        stream = self.streams.get(number)
        if stream is None:
            self._check_begun(number)
            return
        stream.send_window += increment
        if stream.send_window > f.WINDOW_MAX:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {number} is too large")
        if stream.queue is not None:
            self._pump(stream)

    def _check_begun(self, number: int) -> None:
        """Frames of streams that are over are ignored, those of streams that never were are an error."""
        begun = number < self._next_stream if self._client else number <= self._last_stream
        if not number % 2 or not begun:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"stream {number} was never begun")
