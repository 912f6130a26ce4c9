"""Port-forwarding: a SPDY connection on one side, gRPC streams to the node host on the other.

The connection is bare, or travels in the messages of a WebSocket. The client opens two SPDY streams for each forwarded
connection, `error` first and then `data`, with the port and a request id in their headers. Each pair becomes one
PortForward call. Bytes towards the node wait in a bounded queue per connection, and all queues together hold so many
bytes: a full one stops the reading of the whole wire, as the client shares it among its connections anyway.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from rayplane.control_plane.api.machinery.names import is_number_of_port
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.streams import spdy
from rayplane.control_plane.streams.calls import Calls
from rayplane.control_plane.streams.wires import Wire
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import node_pb2

_QUEUE_MAX = 64
_CONNECTIONS_MAX = 256
_WAITING_BYTES_MAX = 8 << 20
_CHUNK = 32 * 1024


@dataclass(slots=True)
class _Connection:
    """One forwarded connection: its streams by kind, and what the client has sent."""

    port: int
    error: int = 0
    data: int = 0
    inbox: "asyncio.Queue[bytes | None]" = field(default_factory=lambda: asyncio.Queue(maxsize=_QUEUE_MAX))
    task: "asyncio.Task[None] | None" = None
    over: bool = False
    """Whether nobody reads the inbox any more."""


async def serve_tunnel(wire: Wire, stub: Calls, ref: node_pb2.ContainerRef) -> None:
    """Serve a tunnel until the client goes away."""
    tunnel = _Tunnel(wire, stub, ref)
    try:
        async for data in wire:
            await tunnel.receive(data)
    except spdy.SpdyError as e:
        await wire.close(str(e))
    finally:
        await tunnel.close()


class _Tunnel:
    def __init__(self, wire: Wire, stub: Calls, ref: node_pb2.ContainerRef) -> None:
        self._wire = wire
        self._stub = stub
        self._ref = ref
        self._decoder = spdy.Decoder()
        self._encoder = spdy.Encoder()
        self._connections: dict[str, _Connection] = {}
        self._by_stream: dict[int, _Connection] = {}
        self._waiting = 0  # bytes in all inboxes
        self._room = asyncio.Event()

    async def receive(self, data: bytes) -> None:
        for frame in self._decoder.feed(data):
            await self._handle(frame)

    async def close(self) -> None:
        tasks = [c.task for c in self._connections.values() if c.task is not None]
        await cancel_and_wait(*tasks)

    async def _handle(self, frame: spdy.Frame) -> None:
        if frame.type == spdy.SYN_STREAM:
            await self._open(frame)
        elif frame.type == spdy.PING:
            await self._send(self._encoder.ping(frame.data))
        elif frame.type == spdy.RST_STREAM:
            self._reset(frame.stream)
        elif frame.type == 0:
            await self._data(frame)

    def _reset(self, stream: int) -> None:
        connection = self._by_stream.pop(stream, None)
        if connection is None:
            return
        if connection.task is None:
            # It never became a pair.
            self._connections = {k: c for k, c in self._connections.items() if c is not connection}
        elif connection.data == stream:
            connection.task.cancel()

    async def _open(self, frame: spdy.Frame) -> None:
        headers = frame.headers
        kind, port = headers.get("streamtype", ""), headers.get("port", "")
        if kind not in ("error", "data") or not (is_number_of_port(port) and 0 < int(port) < 65536):
            await self._send(self._encoder.reset(frame.stream))
            return
        key = headers.get("requestid") or f"{port}-{frame.stream // 4}"
        connection = self._connections.get(key)
        taken = connection is not None and getattr(connection, kind)
        if taken or (connection is None and len(self._connections) >= _CONNECTIONS_MAX):
            await self._send(self._encoder.reset(frame.stream, 7))
            return
        if connection is None:
            connection = self._connections[key] = _Connection(int(port))
        setattr(connection, kind, frame.stream)
        self._by_stream[frame.stream] = connection
        await self._send(self._encoder.reply(frame.stream))
        if connection.data and connection.error:
            loop = asyncio.get_running_loop()
            connection.task = loop.create_task(self._forward(key, connection))

    async def _data(self, frame: spdy.Frame) -> None:
        connection = self._by_stream.get(frame.stream)
        if connection is None or frame.stream != connection.data or connection.task is None:
            return
        if connection.over:
            return
        if frame.data:
            while self._waiting > _WAITING_BYTES_MAX:
                self._room.clear()
                await self._room.wait()
            self._waiting += len(frame.data)
            await self._put(connection, frame.data)
            # The window is kept open: the queue is what holds the client back.
            await self._send(self._encoder.window(frame.stream, len(frame.data)))
            await self._send(self._encoder.window(0, len(frame.data)))
        if frame.last:
            await self._put(connection, None)

    async def _put(self, connection: _Connection, data: bytes | None) -> None:
        await connection.inbox.put(data)
        if connection.over:  # while it waited for room
            self._drain(connection)

    async def _forward(self, key: str, connection: _Connection) -> None:
        """One connection, until the pod has closed it."""
        failure = b""
        try:
            requests = self._requests(connection)
            async with contextlib.aclosing(self._stub.PortForward(requests)) as answers:
                async for answer in answers:
                    for at in range(0, len(answer.data), _CHUNK):
                        await self._send(self._encoder.data(connection.data, answer.data[at : at + _CHUNK]))
                    if answer.closed:
                        break
        except RpcError as e:
            failure = f"an error occurred forwarding {connection.port}: {e.message}".encode()
        finally:
            self._connections.pop(key, None)
            connection.over = True
            self._drain(connection)
        with contextlib.suppress(ConnectionError):
            if failure:
                await self._send(self._encoder.data(connection.error, failure))
            await self._send(self._encoder.data(connection.error, b"", last=True))
            await self._send(self._encoder.data(connection.data, b"", last=True))
        self._by_stream.pop(connection.data, None)
        self._by_stream.pop(connection.error, None)

    def _drain(self, connection: _Connection) -> None:
        """Nobody reads the queue any more: let whoever waits to put something go on."""
        while not connection.inbox.empty():
            self._taken(connection.inbox.get_nowait())

    def _taken(self, data: bytes | None) -> None:
        self._waiting -= len(data or b"")
        self._room.set()

    async def _requests(self, connection: _Connection) -> AsyncIterator[Any]:
        yield node_pb2.PortForwardRequest(ref=self._ref, port=connection.port)
        while (data := await connection.inbox.get()) is not None:
            self._taken(data)
            yield node_pb2.PortForwardRequest(data=data)
        yield node_pb2.PortForwardRequest(closed=True)
        await asyncio.get_running_loop().create_future()

    async def _send(self, data: bytes) -> None:
        await self._wire.send(data)
