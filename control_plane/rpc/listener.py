"""A listening port that speaks gRPC, and HTTP/1.1 beside it where there is a handler for that.

Which of the two a connection speaks shows in its first bytes: HTTP/2 begins with "PRI ", which is no HTTP/1.1 method.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence

from aiohttp import web
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from control_plane.rpc.grpc_server import Registry, ServerConnection
from control_plane.rpc.health import HealthService
from control_plane.rpc.network import WebHandler
from control_plane.rpc.service import Service

#: A client that says nothing for so long after it has connected is turned away.
FIRST_BYTES_S = 20.0
#: Between two looks at which connections are silent; see `ConnectionIO.check_silence`.
SILENCE_CHECK_S = 10.0
STOP_WEB_S = 1.0
BACKLOG = 1024


class GrpcListener:
    """A started server; `address` is host:port as bound."""

    def __init__(self, services: Sequence[Service], web_handler: WebHandler | None) -> None:
        self.address = ""
        self._registry = Registry([*services, *standard_services([s.name for s in services])])
        # A request whose client leaves ends, as a call does.
        self._web = web.Server(web_handler, handler_cancellation=True, access_log=None) if web_handler else None
        self._server: asyncio.Server | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._newcomers: dict[_Newcomer, None] = {}

    async def start(self, address: str, tls: ssl.SSLContext | None) -> None:
        """Raises OSError."""
        host, _, port = address.rpartition(":")
        self._loop = asyncio.get_running_loop()
        try:
            self._server = await self._loop.create_server(
                lambda: _Newcomer(self), host.strip("[]"), int(port), ssl=tls, backlog=BACKLOG
            )
        except OSError as e:
            raise OSError(e.errno, f"cannot listen on {address}: is the port in use? ({e.strerror})") from e
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)

    def _check(self) -> None:
        self._checking = self._loop.call_later(SILENCE_CHECK_S, self._check)
        for connection in list(self._registry.connections):
            connection.check_silence()

    def protocol_for(self, first: bytes) -> asyncio.Protocol | None:
        """Who speaks to a connection that began with these bytes; None while that cannot be told."""
        if self._web is None or first.startswith(b"PRI"):
            return ServerConnection(self._registry)
        return None if b"PRI".startswith(first) else self._web()

    def arrived(self, newcomer: "_Newcomer") -> None:
        self._newcomers[newcomer] = None

    def settled(self, newcomer: "_Newcomer") -> None:
        self._newcomers.pop(newcomer, None)

    async def stop(self, grace: float = 0.0) -> None:
        """Close the port; give calls under way `grace` seconds, then end them."""
        if self._server is None:
            return
        self._server.close()
        if self._checking is not None:
            self._checking.cancel()
        for newcomer in list(self._newcomers):
            newcomer.turn_away()
        registry = self._registry
        for connection in registry.connections:
            connection.connection.go_away()
            connection.flush_soon()
        tasks = [call.task for call in registry.calls if call.task is not None]
        if tasks and grace > 0:
            await asyncio.wait(tasks, timeout=grace)
        for connection in list(registry.connections):
            connection.end_calls()
            connection.close()
        await asyncio.gather(*(c.task for c in list(registry.calls) if c.task is not None), return_exceptions=True)
        if self._web is not None:
            with contextlib.suppress(TimeoutError):
                await self._web.shutdown(STOP_WEB_S)
        self._server = None


class _Newcomer(asyncio.Protocol):
    """A connection that has not said what it speaks."""

    def __init__(self, listener: GrpcListener) -> None:
        self._listener = listener
        self._first = b""
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._listener.arrived(self)
        self._timer = asyncio.get_running_loop().call_later(FIRST_BYTES_S, self.turn_away)

    def data_received(self, data: bytes) -> None:
        self._first += data
        protocol = self._listener.protocol_for(self._first)
        if protocol is not None and self._transport is not None:
            self._settle()
            self._transport.set_protocol(protocol)
            protocol.connection_made(self._transport)
            protocol.data_received(self._first)

    def connection_lost(self, exc: Exception | None) -> None:
        self._settle()

    def turn_away(self) -> None:
        self._settle()
        if self._transport is not None:
            self._transport.close()

    def _settle(self) -> None:
        self._timer.cancel()
        self._listener.settled(self)


def standard_services(names: Sequence[str]) -> list[Service]:
    """Health and reflection of a server with these services."""
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]
    reflected = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    every = [*names, health.full_name, reflected.full_name]
    return [Service(health, HealthService(["", *names])), Service(reflected, ReflectionServicer(every))]
