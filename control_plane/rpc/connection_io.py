"""An HTTP/2 connection on an asyncio transport: what servers and channels have in common.

Everything that one turn of the loop has to say is written at once: with TLS a write is a record and a system call.
"""

import abc
import asyncio
import logging
from typing import cast

from control_plane.rpc.http2 import Connection, HeaderBlock, ProtocolError, Stream

log = logging.getLogger(__name__)

#: Output that waits in the transport before streams are held back.
WRITE_BUFFER_BYTES = 1 << 20


class ConnectionIO(asyncio.Protocol, abc.ABC):
    """Base of both ends. It is the connection's `http2.Handler`."""

    def __init__(self, *, client: bool) -> None:
        self.connection = Connection(self, client=client)
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._silent_checks = 0
        self._flushing = False
        self._paused = False
        self._waiters: dict[asyncio.Future[None], None] = {}

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.flush_soon()

    def data_received(self, data: bytes) -> None:
        self._silent_checks = 0
        try:
            self.connection.receive(data)
        except ProtocolError as e:
            log.warning("closing a connection: %s", e)
            self.close()
            return
        if self.connection.has_output:
            self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._release()
        self.on_lost()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._release()

    # Output

    def flush_soon(self) -> None:
        """Write what there is at the end of this turn of the loop."""
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.transport is not None and self.connection.has_output:
            self.transport.write(self.connection.take())

    def close(self) -> None:
        """Write what there is, then close."""
        if self.transport is not None:
            self._flush()
            self.transport.close()

    async def send(self, stream: Stream, data: bytes) -> None:
        """One message of a stream, when the peer and the transport have taken those before."""
        while (self._paused or stream.blocked) and self.transport is not None and not stream.local_closed:
            waiter = self._loop.create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                del self._waiters[waiter]
        self.connection.send_data(stream, data)
        self.flush_soon()

    def _release(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def check_silence(self) -> None:
        """Called at intervals: a peer that was silent in the last two is pinged, in the last three given up."""
        self._silent_checks += 1
        if self._silent_checks == 2:
            self.connection.ping()
            self.flush_soon()
        elif self._silent_checks > 2 and self.transport is not None:
            self.transport.abort()

    # http2.Handler

    def on_writable(self, stream: Stream) -> None:
        self._release()

    def on_pong(self) -> None:
        """That it was heard is enough."""

    @abc.abstractmethod
    def on_headers(self, stream: Stream, headers: HeaderBlock, end: bool) -> None: ...

    @abc.abstractmethod
    def on_data(self, stream: Stream, data: bytes, end: bool) -> None: ...

    @abc.abstractmethod
    def on_reset(self, stream: Stream, code: int) -> None: ...

    @abc.abstractmethod
    def on_goaway(self, last_stream: int, code: int, message: str) -> None: ...

    @abc.abstractmethod
    def on_lost(self) -> None:
        """The connection is gone, with all its streams."""
