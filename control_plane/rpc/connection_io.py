"""An HTTP/2 connection on an asyncio transport: what servers and channels have in common.

Everything that one turn of the loop has to say is written at once: with TLS a write is a record and a system call.
"""

import abc
import asyncio
import logging
from dataclasses import dataclass
from typing import cast

import grpc

from rayplane.control_plane.rpc.errors import RpcError
from rayplane.control_plane.rpc.faults import FaultLog
from rayplane.control_plane.rpc.http2 import Connection, HeaderBlock, ProtocolError, Stream
from rayplane.control_plane.rpc.line import Line
from rayplane.control_plane.rpc.network import Traffic
from rayplane.control_plane.rpc.service import MESSAGE_BYTES_MAX
from rayplane.storage.env.leaps import is_leaping

log = logging.getLogger(__name__)
_faults = FaultLog(log)

#: Output that waits in the transport before streams are held back.
WRITE_BUFFER_BYTES = 1 << 20
#: What streams may send in one turn of the loop, each message counted a little larger than it is, before others get
#: their turn.
TURN_BYTES = 1 << 16
_MESSAGE_COST = 256
#: Looks at a connection after which its peer must have sent its first settings.
GREETING_CHECKS = 3
#: Looks in which a peer is silent until it is asked if it is there, and how many are borne. Clients look every 2 s:
#: who is patient waits for the answer as long as gRPC's do (keepalive timeout, 20 s).
SILENT_CHECKS = 2
SILENT_CHECKS_PATIENT = SILENT_CHECKS + 10
#: A peer that does not take the end of a connection in this time is cut off.
CLOSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Peer:
    """The server that a client connects to, where it is not one of this project's at its own address."""

    name: str = ""
    """What it is called by in its calls; empty: its address."""
    pinged: bool = True
    """Whether it is asked if it is still there, when it is silent."""
    silent_checks: int = SILENT_CHECKS
    """Looks in which it may be silent until it is given up."""
    answer_bytes_max: int = MESSAGE_BYTES_MAX
    """Of one message of its answers."""
    server_name: str = ""
    """What it is called by in TLS, where it has no certificate of this project's."""


OWN = Peer()


class ConnectionIO(asyncio.Protocol, abc.ABC):
    """Base of both ends. It is the connection's `http2.Handler`."""

    def __init__(self, *, client: bool, traffic: Traffic | None = None, line: Line | None = None) -> None:
        """`line`: what is sent and what comes travels as that says."""
        self.connection = Connection(self, client=client)
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is gone."""
        self._silent_checks = self._checks = 0
        self._borne = SILENT_CHECKS
        self._unwritten = 0  # in the transport at the last check, while it was full
        self._traffic = traffic or Traffic()
        self._ways = (line.out(self._write), line.back(self._arrived)) if line is not None else None
        self._flushing = False
        self._paused = False
        self._turn = 0
        self._cut_off: asyncio.TimerHandle | None = None  # while it is being closed
        self._waiters: dict[int, asyncio.Future[None]] = {}  # senders, by stream

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.flush_soon()

    def data_received(self, data: bytes) -> None:
        if self._ways is None:
            self._arrived(data)
        else:
            self._ways[1].carry(data)

    def _arrived(self, data: bytes) -> None:
        if self._cut_off is not None:
            return
        self._silent_checks = 0
        self._traffic.received += len(data)
        try:
            self.connection.receive(data)
        except ProtocolError as e:
            _faults.tell(f"closing a connection: {e}", level=logging.INFO)
            self.close()
            return
        if self.connection.has_output:
            self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._cut_off is not None:
            self._cut_off.cancel()
        for way in self._ways or ():
            way.close()
        self._release()
        self.on_lost(exc)
        if not self.lost.done():
            self.lost.set_result(None)

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
        self._turn = 0
        transport = self.transport
        if transport is None or self._cut_off is not None or transport.is_closing():
            return
        if self.connection.has_output:
            data = self.connection.take()
            self._traffic.sent += len(data)
            if self._ways is None:
                transport.write(data)
            else:
                self._ways[0].carry(data)

    def _write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Write what there is, then close."""
        transport = self.transport
        if transport is None or self._cut_off is not None or transport.is_closing():
            return
        self._flush()
        self._cut_off = self._loop.call_later(CLOSE_S, self.abort)
        if transport.can_write_eof():
            # The peer closes when it has read all. Closing here while it sends would reset the connection before.
            try:
                transport.write_eof()
            except OSError:  # the peer has gone before, and the transport does not know yet
                transport.abort()
        else:
            transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    async def send(self, stream: Stream, data: bytes) -> None:
        """One message of a stream, when the peer and the transport have taken those before; one sender per stream.

        Raises RpcError when nobody takes it any more.
        """
        while (self._paused or stream.blocked) and not stream.local_closed and self.transport is not None:
            waiter = self._waiters[stream.id] = self._loop.create_future()
            try:
                await waiter
            finally:
                del self._waiters[stream.id]
        if stream.local_closed or self.transport is None:
            raise RpcError(grpc.StatusCode.CANCELLED, "the call is over")
        self.connection.send_data(stream, data)
        self._turn += len(data) + _MESSAGE_COST
        if self._turn < TURN_BYTES:
            self.flush_soon()
        else:
            self._flush()
            await asyncio.sleep(0)

    def _release(self) -> None:
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_result(None)

    def check_silence(self) -> None:
        """Called at intervals: a peer that was silent in the last two is pinged, in more than are borne given up.

        One that takes what was written to it, however slowly, is not silent.
        """
        transport = self.transport
        if transport is None or is_leaping(self._loop):
            return
        self._checks += 1
        if self._checks > GREETING_CHECKS and not self.connection.greeted:
            transport.abort()  # it drips
            return
        self.connection.forgive()
        if self._paused:
            before, self._unwritten = self._unwritten, transport.get_write_buffer_size()
            if before != self._unwritten:
                self._silent_checks = 0
                return
        self._silent_checks += 1
        if self._silent_checks == SILENT_CHECKS:
            self.connection.ping()
            self.flush_soon()
        elif self._silent_checks > self._borne:
            transport.abort()

    # http2.Handler

    def on_ready(self) -> None:
        """The peer speaks HTTP/2."""

    def on_writable(self, stream: Stream) -> None:
        waiter = self._waiters.get(stream.id)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

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
    def on_lost(self, exc: Exception | None) -> None:
        """The connection is gone, with all its streams. `exc`: why, when it was not closed in order."""
