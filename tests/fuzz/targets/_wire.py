"""gRPC servers and callers in this process, joined without sockets but for every byte of HTTP/2."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from rayplane.control_plane.rpc import Identity, Service
from rayplane.control_plane.rpc.grpc_server import Registry, ServerConnection
from rayplane.control_plane.rpc.grpc_wire import frame
from rayplane.control_plane.rpc.http2 import Stream, encode_headers
from rayplane.control_plane.rpc.listener import standard_services
from rayplane.control_plane.rpc.memory import MemoryNetwork, MemoryServer
from rayplane.control_plane.rpc.network import Server, WebHandler
from tests.rpc.grpc_peers import Transport
from tests.rpc.http2_peer import REQUEST, Recorder

#: A wait that a call may have asked for (a lock, a watch) ends then.
CALL_LIMIT = b"30m"


class RecordingNetwork(MemoryNetwork):
    """A network that remembers what is served where."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.served: dict[str, Sequence[Service]] = {}
        self.web: WebHandler | None = None

    async def serve(
        self, address: str, services: Sequence[Service], *, web: WebHandler | None = None, strangers: bool = False
    ) -> Server:
        self.web = web or self.web
        return await super().serve(address, services, web=web, strangers=strangers)

    def register(self, address: str, services: Sequence[Service]) -> MemoryServer:
        server = super().register(address, services)
        self.served[server.address] = services
        return server


def registry_of(services: Sequence[Service]) -> Registry:
    return Registry([*services, *standard_services([s.name for s in services])])


class Pipe(Transport):
    """What the server writes goes to `peer`."""

    def __init__(self, server: ServerConnection, peer: Any) -> None:
        super().__init__()
        self.server, self.peer = server, peer
        self.bytes = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else default

    def write(self, data: Any) -> None:
        self.bytes += len(data)
        self.peer(bytes(data))

    def is_closing(self) -> bool:
        return self.aborted or self.ended

    def write_eof(self) -> None:
        self.ended = True
        self._lose()

    def abort(self) -> None:
        self.aborted = True
        self._lose()

    close = abort

    def _lose(self) -> None:
        asyncio.get_running_loop().call_soon(self.lose)

    def lose(self) -> None:
        """The connection is gone, whoever ended it."""
        self.ended = True
        if self.server.transport is not None:
            self.server.connection_lost(None)


def joined(registry: Registry, identity: Identity | None, peer: Any) -> Pipe:
    """A new connection of this caller."""
    server = ServerConnection(registry)
    pipe = Pipe(server, peer)
    server.connection_made(pipe)
    server._identity = identity
    return pipe


class Caller(Recorder):
    """A client that says just what it is told to."""

    def __init__(self, registry: Registry, identity: Identity | None) -> None:
        super().__init__(client=True)
        self._pipe = joined(registry, identity, self._read)
        self._waiting: asyncio.Event = asyncio.Event()
        self.metadata: dict[bytes, bytes] = {}

    def _read(self, data: bytes) -> None:
        self.connection.receive(data)
        self._waiting.set()
        asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        data = self.connection.take()
        if data and not self._pipe.is_closing():
            self._pipe.server.data_received(data)

    async def call(self, path: str, bodies: Sequence[bytes], *, limit: bytes = CALL_LIMIT, framed: bool = True) -> str:
        """The status that the call ends with, as "code message"."""
        fields = {n: path.encode() if n == b":path" else v for n, v in REQUEST} | {b"grpc-timeout": limit}
        fields |= self.metadata
        stream: Stream = self.connection.open()
        self.connection.send_headers(stream, encode_headers(list(fields.items())))
        sent = b"".join(frame(b) if framed else b for b in bodies)
        self.connection.send_data(stream, sent, end=True)
        while stream.id not in self.ended and not self._reset(stream.id):
            self._waiting.clear()
            self._write()
            await self._waiting.wait()
        found = {n: v for number, fields in self.seen("headers") if number == stream.id for n, v in fields}
        status = found.get(b"grpc-status", b"-1").decode()
        return f"{status} {found.get(b'grpc-message', b'').decode()}"

    def _reset(self, stream: int) -> bool:
        return any(number == stream for number, _ in self.seen("reset"))

    def close(self) -> None:
        self._pipe.lose()


@contextlib.asynccontextmanager
async def calling(registry: Registry, identity: Identity | None) -> AsyncIterator[Caller]:
    caller = Caller(registry, identity)
    try:
        yield caller
    finally:
        caller.close()


def sizes_of(registry: Registry) -> dict[str, int]:
    return {"connections": len(registry.connections), "calls": len(registry.calls)}
