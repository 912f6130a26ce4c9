"""What tests of gRPC share: a service, and peers that speak HTTP/2 as a test tells them to."""

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc

from rayplane.control_plane.rpc import Context, RpcError, Service, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.grpc_wire import frame
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.etcd import kv_pb2
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.http2_peer import REQUEST, H2Peer
from tests.rpc.open_service import open_service

SERVICES = pb.DESCRIPTOR.services_by_name
RANGE = "/etcdserverpb.KV/Range"
SNAPSHOT = "/etcdserverpb.Maintenance/Snapshot"
WATCH = "/etcdserverpb.Watch/Watch"
ANSWER = frame(pb.RangeResponse(count=7).SerializeToString())


class Handler:
    """A handler that answers by what the request asks for."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.let_go = asyncio.Event()
        self.sent = 0

    async def Range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse:
        self.contexts.append(context)
        match request.key:
            case b"refuse":
                raise RpcError(grpc.StatusCode.NOT_FOUND, "no such thing: 100 % ünknown\n", b"\0details\xff")
            case b"wait":
                await self._inside(self.let_go.wait())
            case b"cancelled inside":
                task = asyncio.ensure_future(asyncio.sleep(60))
                task.cancel()
                await task
            case b"no answer":
                return None  # type: ignore[return-value]
        return pb.RangeResponse(count=len(request.key), kvs=[kv_pb2.KeyValue(value=bytes(request.limit))])

    async def _inside(self, work: Awaitable[Any]) -> None:
        self.entered.set()
        try:
            await work
        finally:
            self.left.set()

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotResponse]:
        """Never waits, never ends."""
        self.entered.set()
        try:
            while True:
                self.sent += 1
                yield pb.SnapshotResponse(remaining_bytes=self.sent, blob=bytes(10_000))
        finally:
            self.left.set()

    async def Watch(
        self, requests: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        self.contexts.append(context)
        async for request in requests:
            key = request.create_request.key
            if key == b"refuse":
                raise RpcError(grpc.StatusCode.OUT_OF_RANGE, "compacted", b"why")
            if key == b"wait":
                await self._inside(self.let_go.wait())
            yield pb.WatchResponse(watch_id=len(key))


def services(handler: object) -> list[Service]:
    return [open_service(SERVICES[name], handler) for name in ("KV", "Maintenance", "Watch")]


def watch(key: bytes) -> pb.WatchRequest:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key))


class Theirs:
    """Stubs of the gRPC project's library."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        range_response, snapshot_response = pb.RangeResponse.FromString, pb.SnapshotResponse.FromString
        self.Range = channel.unary_unary(RANGE, pb.RangeRequest.SerializeToString, range_response)
        self.Snapshot = channel.unary_stream(SNAPSHOT, pb.SnapshotRequest.SerializeToString, snapshot_response)
        self.Watch = channel.stream_stream(WATCH, pb.WatchRequest.SerializeToString, pb.WatchResponse.FromString)


class Wire:
    """An HTTP/2 peer on a socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: H2Peer) -> None:
        self.reader, self.writer, self.peer = reader, writer, peer
        self.h2 = peer.h2

    @staticmethod
    async def connect(address: str, **options: Any) -> "Wire":
        host, _, port = address.rpartition(":")
        wire = Wire(*await asyncio.open_connection(host, int(port)), H2Peer(client=True, **options))
        wire.flush()
        return wire

    def flush(self) -> None:
        self.writer.write(self.peer.take())

    async def until(self, condition: Callable[[], object]) -> None:
        """Read until it holds. Raises EOFError."""
        while not condition():
            data = await self.reader.read(1 << 20)
            if not data:
                raise EOFError
            self.peer.receive(data)
            self.flush()

    def call(self, path: str, *headers: tuple[bytes, bytes], message: bytes | None = None, end: bool = True) -> int:
        """Begin one: its stream."""
        stream = self.h2.get_next_available_stream_id()
        fields = {n: path.encode() if n == b":path" else v for n, v in REQUEST} | dict(headers)
        self.h2.send_headers(stream, list(fields.items()), end_stream=message is None and end)
        if message is not None:
            self.h2.send_data(stream, message, end_stream=end)
        self.flush()
        return stream

    async def status(self, stream: int) -> dict[bytes, bytes]:
        """All headers and trailers of an answer."""
        await self.until(lambda: stream in self.peer.ended or any(s == stream for s, _ in self.peer.resets))
        return {n: v for block in self.peer.headers[stream] for n, v in block}

    async def ask(self, path: str, *headers: tuple[bytes, bytes], message: bytes | None = None) -> dict[bytes, bytes]:
        return await self.status(self.call(path, *headers, message=message))

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class ScriptedServer:
    """A server that greets each client and then does what the script says with it."""

    def __init__(self, script: Callable[[Wire], Awaitable[None]]) -> None:
        self._script = script
        self._tasks: list[asyncio.Task[None]] = []
        self.connections = 0

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await cancel_and_wait(*self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.append(task)
        self.connections += 1
        wire = Wire(reader, writer, H2Peer(client=False))
        try:
            await self._script(wire)
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass  # the streams of asyncio do not expect a cancelled task
        finally:
            writer.close()


def drop_all(end: socket.socket) -> None:
    """Have the kernel drop what comes for a socket, before it acknowledges anything (socket(7), SO_ATTACH_FILTER)."""
    program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))
    end.setsockopt(socket.SOL_SOCKET, 26, struct.pack("@HP", 1, ctypes.addressof(program)))


async def answer_calls(wire: Wire, *parts: Sequence[tuple[bytes, bytes]] | bytes) -> None:
    """Answer every call with these headers and data; the last one ends it."""
    answered: set[int] = set()
    wire.flush()
    while True:
        await wire.until(lambda: set(wire.peer.ended) - answered)
        for stream in sorted(set(wire.peer.ended) - answered):
            answered.add(stream)
            for n, part in enumerate(parts, 1):
                if isinstance(part, bytes):
                    wire.h2.send_data(stream, part, end_stream=n == len(parts))
                else:
                    wire.h2.send_headers(stream, list(part), end_stream=n == len(parts))
        wire.flush()


def message(**fields: Any) -> bytes:
    """A RangeRequest on the wire."""
    return frame(pb.RangeRequest(**fields).SerializeToString())


class Transport(asyncio.Transport):
    """A transport that writes down what is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.buffered = 0
        self.aborted = False
        self.ended = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.aborted = True


def stub_of(network: GrpcNetwork, address: str, service: str = "KV") -> Any:
    return Stub(network.channel(address), SERVICES[service])


async def outcome(network: GrpcNetwork, script: Callable[[Wire], Awaitable[None]], **options: Any) -> Any:
    """What a call to such a server comes to."""
    async with ScriptedServer(script) as server:
        try:
            return await stub_of(network, server.address).Range(pb.RangeRequest(key=b"k"), **options)
        except RpcError as e:
            return e
        finally:
            await network.close()
