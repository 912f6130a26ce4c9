"""What tests of HTTP/2 share: a handler that writes down what it is told, the `h2` library at the other end, frames."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

from rayplane.control_plane.rpc.http2 import Connection, HeaderBlock, Stream, encode_headers
from rayplane.control_plane.rpc.http2 import frames as f

REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s/m"),
    (b":authority", b"a:1"),
    (b"content-type", b"application/grpc"),
]
RESPONSE = [(b":status", b"200"), (b"content-type", b"application/grpc")]
TRAILERS = [(b"grpc-status", b"0")]


class Recorder:
    """A handler that takes data at once."""

    def __init__(self, *, client: bool = False, takes: bool = True) -> None:
        self.connection = Connection(self, client=client)
        self.takes = takes
        self.events: list[tuple[Any, ...]] = []
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.ended: list[int] = []

    def on_ready(self) -> None:
        self.events.append(("ready",))

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        self.events.append(("headers", stream.id, headers.fields))
        self._end(stream, end)

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        self.data[stream.id] += data
        if self.takes:
            self.connection.consumed(stream, len(data))
        self._end(stream, end)

    def _end(self, stream: Stream, end: bool) -> None:
        if end:
            self.ended.append(stream.id)

    def on_reset(self, stream: Stream, code: int) -> None:
        self.events.append(("reset", stream.id, code))

    def on_writable(self, stream: Stream) -> None:
        self.events.append(("writable", stream.id))

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        self.events.append(("goaway", last_stream, code, message))

    def on_pong(self) -> None:
        self.events.append(("pong",))

    def seen(self, kind: str) -> list[tuple[Any, ...]]:
        return [e[1:] for e in self.events if e[0] == kind]


class H2Peer:
    """The other end by the `h2` library; it sends what the windows allow and opens its own as data comes."""

    def __init__(self, *, client: bool, window: int = f.WINDOW_DEFAULT, frame: int = f.FRAME_DEFAULT) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        self.h2.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window,
                h2.settings.SettingCodes.MAX_FRAME_SIZE: frame,
            },
        )
        self.h2.max_inbound_frame_size = frame
        # The library takes the first warning for the end of the connection.
        self.h2._frame_dispatch_table[hyperframe.frame.GoAwayFrame] = self._on_goaway
        self.h2.initiate_connection()
        self.data: dict[int, bytes] = defaultdict(bytes)
        self.headers: dict[int, list[list[tuple[bytes, bytes]]]] = defaultdict(list)
        self.ended: list[int] = []
        self.resets: list[tuple[int, int]] = []
        self.goaways: list[tuple[int, int]] = []
        self.pings = 0
        self.unsent: dict[int, bytes] = {}

    def _on_goaway(self, frame: Any) -> tuple[list[Any], list[Any]]:
        self.goaways.append((frame.last_stream_id, frame.error_code))
        return [], []

    def send(self, stream: int, data: bytes) -> None:
        """And end the stream."""
        self.unsent[stream] = data

    def receive(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.DataReceived():
                    self.data[event.stream_id] += event.data
                    size = event.flow_controlled_length
                    if size:
                        self.h2.increment_flow_control_window(size)
                        with contextlib.suppress(h2.exceptions.StreamClosedError):
                            self.h2.increment_flow_control_window(size, event.stream_id)
                case h2.events.RequestReceived() | h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    self.headers[event.stream_id].append([(bytes(n), bytes(v)) for n, v in event.headers])
                case h2.events.StreamEnded():
                    self.ended.append(event.stream_id)
                case h2.events.StreamReset():
                    self.resets.append((event.stream_id, int(event.error_code)))
                case h2.events.PingAckReceived():
                    self.pings += 1

    def take(self) -> bytes:
        for stream, data in list(self.unsent.items()):
            while True:
                size = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(data))
                if not size and data:
                    break
                self.h2.send_data(stream, data[:size], end_stream=size == len(data))
                data = data[size:]
                if not data:
                    del self.unsent[stream]
                    break
                self.unsent[stream] = data
        return self.h2.data_to_send()


def exchange(ours: Recorder, peer: H2Peer, sizes: Iterator[int] | None = None) -> None:
    """Carry bytes both ways, in pieces of these sizes, until nobody has anything to say."""
    while True:
        there, back = ours.connection.take(), peer.take()
        if not there and not back:
            return
        for piece in _pieces(there, sizes):
            peer.receive(piece)
        for piece in _pieces(back, sizes):
            ours.connection.receive(piece)


def _pieces(data: bytes, sizes: Iterator[int] | None) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = next(sizes) if sizes is not None else len(data)
        yield data[at : at + size]
        at += size


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return f.HEAD.pack(len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def settings(**values: int) -> bytes:
    names = {"push": f.SET_PUSH, "streams": f.SET_STREAMS, "window": f.SET_WINDOW, "frame": f.SET_FRAME}
    return frame(f.SETTINGS, 0, 0, b"".join(f.SETTING.pack(names[k], v) for k, v in values.items()))


def request(stream: int = 1, *, end: bool = False) -> bytes:
    flags = f.END_HEADERS | (f.END_STREAM if end else 0)
    return frame(f.HEADERS, flags, stream, encode_headers(REQUEST))


def window_update(stream: int, size: int) -> bytes:
    return frame(f.WINDOW_UPDATE, 0, stream, f.U32.pack(size))


def frames_in(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of each."""
    found, at = [], 0
    while at < len(data):
        high, low, kind, flags, stream = f.HEAD.unpack_from(data, at)
        at += f.HEAD_BYTES
        length = high << 16 | low
        found.append((kind, flags, stream, data[at : at + length]))
        at += length
    return found


def server(**opened: int) -> Recorder:
    """One that has greeted and been greeted; its greeting is taken already."""
    ours = Recorder()
    ours.connection.receive(f.PREFACE + settings(**opened))
    ours.connection.take()
    return ours


def client(**opened: int) -> Recorder:
    ours = Recorder(client=True)
    ours.connection.receive(settings(**opened))
    ours.connection.take()
    return ours


def opened(ours: Recorder, count: int = 1) -> None:
    """Requests that have ended."""
    ours.connection.receive(b"".join(request(1 + 2 * n, end=True) for n in range(count)))
