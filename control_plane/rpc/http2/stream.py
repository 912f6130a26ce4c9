"""One request and its response, and whom a connection tells about them."""

from collections import deque
from typing import Any, Protocol

from rayplane.control_plane.rpc.http2.frames import STREAM_WINDOW
from rayplane.control_plane.rpc.http2.headers import HeaderBlock


class Stream:
    """One request and its response. `call` is the handler's own; all else is the connection's."""

    __slots__ = (
        "answered",
        "call",
        "credit",
        "ends",
        "id",
        "local_closed",
        "queue",
        "receive_window",
        "remote_closed",
        "send_window",
        "trailers",
    )

    def __init__(self, number: int, send_window: int) -> None:
        self.id = number
        self.call: Any = None
        self.send_window = send_window
        self.receive_window = STREAM_WINDOW
        self.local_closed = False
        self.remote_closed = False
        self.answered = False  # whether headers have been sent
        self.credit = 0  # bytes taken that the peer has not been told of
        self.queue: deque[memoryview] | None = None  # what the windows hold back
        self.trailers: bytes | None = None  # to follow the queue
        self.ends = False  # whether the stream ends with the queue

    @property
    def blocked(self) -> bool:
        """Whether data wait for the peer to open a window."""
        return self.queue is not None

    @property
    def held(self) -> int:
        """Bytes that wait for it."""
        return sum(map(len, self.queue or ()))


class Handler(Protocol):
    """Events of a connection for its owner, in the order they were received."""

    def on_ready(self) -> None:
        """The peer's first settings are known: it does speak HTTP/2."""

    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None:
        """Server: a new request. Client: a response's headers or trailers."""

    def on_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """Take bytes; give them back to the window with `Connection.consumed`."""

    def on_reset(self, stream: Stream, code: int) -> None:
        """The peer has given the stream up, or broken it; it is gone."""

    def on_writable(self, stream: Stream) -> None:
        """All that was held back has been sent."""

    def on_goaway(self, last_stream: int, code: int, message: str) -> None:
        """The peer takes no more streams; it has not looked at any above `last_stream`."""

    def on_pong(self) -> None: ...
