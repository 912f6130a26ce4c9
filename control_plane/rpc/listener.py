"""A listening port that speaks gRPC, and HTTP/1.1 beside it where there is a handler for that.

Which of the two a connection speaks shows in its first bytes: HTTP/2 begins with "PRI ", which is no HTTP/1.1 method.

Bounds: the time a client has to say what it wants and to shake hands, connections that are silent (see
`connection_io`), the number of connections.
"""

import asyncio
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from rayplane.control_plane.rpc.callers import EVERYONE, each
from rayplane.control_plane.rpc.gate import GateLimits, fitting
from rayplane.control_plane.rpc.grpc_server import Registry, ServerConnection
from rayplane.control_plane.rpc.health import HealthService
from rayplane.control_plane.rpc.http2.frames import PREFACE
from rayplane.control_plane.rpc.network import WebHandler
from rayplane.control_plane.rpc.service import Service
from rayplane.control_plane.rpc.sockets import INTRODUCTION_S, serving, stop_listening
from rayplane.proto import pool
from rayplane.storage.env.leaps import keep_pace

if TYPE_CHECKING:
    from aiohttp import web

#: A client that has not said what it wants for so long after it has connected is turned away.
FIRST_BYTES_S = 20.0
HANDSHAKE_S = 10.0
#: HTTP/1.1 headers larger than this are aiohttp's to refuse.
FIRST_BYTES_MAX = 64 * 1024
#: Between two looks at which connections are silent; see `ConnectionIO.check_silence`.
SILENCE_CHECK_S = 10.0
#: What a web handler gets to end by itself; it is cancelled then.
STOP_WEB_S = 0.1
#: Between two looks at whether calls are still under way, when a server stops.
DRAIN_CHECK_S = 0.01
BACKLOG = 1024
#: Those of HTTP/1.1 have bounds of their own; see `http1`.
CONNECTIONS_MAX = GateLimits().connections

# Clients ask for their descriptions too.
for standard in (health_pb2, reflection_pb2):
    pool.add(standard.DESCRIPTOR.serialized_pb)


class GrpcListener:
    """A started server; `address` is host:port as bound."""

    def __init__(self, services: Sequence[Service], web_handler: WebHandler | None) -> None:
        self.address = ""
        self._loop = asyncio.get_running_loop()
        served = [*services, *standard_services([s.name for s in services])]
        # Beside a web handler it is that which strangers come for.
        self._registry = Registry(served, certified_only=web_handler is not None)
        self._web_handler = web_handler
        self._web_calls = 0
        self.traffic = self._registry.traffic
        self._web: web.Server | None = None  # made when somebody speaks HTTP/1.1
        self._server: asyncio.Server | None = None
        self._stopping = False
        self._connections_max = fitting(GateLimits(CONNECTIONS_MAX)).connections
        self._checking: asyncio.TimerHandle | None = None
        self._newcomers: dict[_Newcomer, None] = {}

    def newcomer(self) -> asyncio.Protocol:
        """Who speaks to a connection until it is known what it wants."""
        return _Newcomer(self)

    async def start(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Raises OSError."""
        host, _, port = address.rpartition(":")
        try:
            made = self._loop.create_server(
                self.newcomer,
                host.strip("[]"),
                int(port),
                ssl=tls,
                backlog=BACKLOG,
                ssl_handshake_timeout=HANDSHAKE_S if tls is not None else None,
                start_serving=False,
            )
            self._server = await serving(made)
        except OSError as e:
            raise OSError(e.errno, f"cannot listen on {address}: is the port in use? ({e.strerror})") from e
        self.began(self._server, f"{host}:{self._server.sockets[0].getsockname()[1]}")

    def began(self, server: asyncio.Server, address: str) -> None:
        """The server listens there."""
        self._server, self.address = server, address
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)

    def _check(self) -> None:
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)
        for connection in list(self._registry.connections):
            connection.check_silence()

    async def _answer(self, request: "web.BaseRequest") -> "web.StreamResponse":
        assert self._web_handler is not None
        self._web_calls += 1
        try:
            return await self._web_handler(request)
        finally:
            self._web_calls -= 1

    def protocol_for(self, first: bytes) -> asyncio.Protocol | None:
        """Who speaks to a connection that began with these bytes; None while that cannot be told.

        A request is given to the web handler when its headers are complete: until then its time is limited.
        """
        if self._web_handler is None:
            return ServerConnection(self._registry)
        if first.startswith(b"PRI"):
            begun = PREFACE.startswith(first) and first != PREFACE
            return None if begun else ServerConnection(self._registry)
        complete = b"\r\n\r\n" in first or b"\n\n" in first or len(first) > FIRST_BYTES_MAX
        if not complete and first[:1].isalpha():
            return None
        if self._web is None:
            # A request whose client leaves ends, as a call does.
            self._web = _web_server(self._answer)
        return self._web()

    def admits(self, transport: asyncio.BaseTransport) -> bool:
        """Whether to listen to who is at the other end at all."""
        return True

    def arrived(self, newcomer: "_Newcomer") -> bool:
        """False when it comes too late, since the server stops, or when there is no room.

        Who has not said anything yet makes room for who comes.
        """
        if len(self._newcomers) + len(self._registry.connections) >= self._connections_max:
            if not self._newcomers:
                return False
            next(iter(self._newcomers)).turn_away()
        self._newcomers[newcomer] = None
        return not self._stopping

    def settled(self, newcomer: "_Newcomer") -> None:
        self._newcomers.pop(newcomer, None)

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; give calls under way `grace_s` seconds, then end them."""
        if self._server is None or self._stopping:
            return
        self._stopping = True
        if self._checking is not None:
            self._checking.cancel()
        for newcomer in list(self._newcomers):
            newcomer.turn_away()
        connections = list(self._registry.connections)
        for connection in connections:
            connection.connection.go_away()
            connection.flush_soon()
        if self._web is not None:
            self._web.pre_shutdown()
        await stop_listening(self._server)
        deadline = self._loop.time() + grace_s
        try:
            while self._busy() and self._loop.time() < deadline:
                await asyncio.sleep(DRAIN_CHECK_S)
        finally:
            for connection in connections:
                connection.end_calls()
                connection.close()
        tasks = [call.task for call in self._registry.calls if call.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._web is not None:
            await self._web.shutdown(STOP_WEB_S)
        if connections:
            await asyncio.wait([c.lost for c in connections])

    def _busy(self) -> bool:
        """Whether there are calls under way, or answers that have not been taken."""
        return self._web_calls > 0 or any(c.connection.streams for c in self._registry.connections)


class _Newcomer(asyncio.Protocol):
    """A connection that has not said what it speaks; made before it shakes hands."""

    def __init__(self, listener: GrpcListener) -> None:
        self._listener = listener
        self._leap_again = keep_pace(INTRODUCTION_S)
        self._first = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTES_S, self.turn_away)
        if not (self._listener.admits(transport) and self._listener.arrived(self)):
            self.turn_away()

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        self._first += data
        protocol = self._listener.protocol_for(self._first)
        if protocol is not None:
            transport = self._transport
            self._settle()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
            protocol.data_received(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()

    def turn_away(self) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._settle()

    def _settle(self) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._leap_again()
        self._listener.settled(self)


def standard_services(names: Sequence[str]) -> list[Service]:
    """Health and reflection of a server with these services. What a server can do is no secret."""
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    reflected = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    every = [*names, health.full_name, reflected.full_name]
    return [
        Service(health, HealthService(["", *names]), callers=each(EVERYONE, "Check", "Watch")),
        Service(reflected, ReflectionServicer(every, pool.POOL), callers=each(EVERYONE, "ServerReflectionInfo")),
    ]


def _web_server(handler: WebHandler) -> "web.Server":
    # Most processes are never asked over HTTP/1.1, and aiohttp takes them a sixth of a second and six megabytes.
    from rayplane.control_plane.rpc import http1

    return http1.server(handler)
