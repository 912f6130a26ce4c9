"""Real gRPC over TCP, with mutual TLS when credentials are given."""

import functools
import logging
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from control_plane.rpc.errors import RpcError, error_of
from control_plane.rpc.network import Channel, Server
from control_plane.rpc.service import Context, Identity, Method, Service
from control_plane.rpc.tls import INTERNAL_SERVER_NAME, Credentials, identity_of

log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
DETAILS_KEY = "rayplane-status-bin"

_SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # Two servers on one port would split the calls between them: refuse, as a user expects of an occupied port.
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    # A killed peer is back within a second: look for it often.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A stopped process or a lost machine sends no reset: pings find it.
    ("grpc.keepalive_time_ms", 3000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
    # Nobody calls where a replaced component was any more: stop trying to connect there.
    ("grpc.client_idle_timeout_ms", 60_000),
    # A proxy set in the environment is for the outside world, not for the cluster's own sockets.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


class GrpcNetwork:
    """Listens and calls over gRPC. One for each process; identity and trust come from `credentials`."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._channels: dict[str, GrpcChannel] = {}

    async def serve(self, address: str, services: Sequence[Service]) -> Server:
        server = grpc.aio.server(options=_SERVER_OPTIONS)
        for service in services:
            server.add_generic_rpc_handlers((_generic_handler(service),))
        health = HealthServicer()
        for name in ("", *(s.name for s in services)):
            await health.set(name, health_pb2.HealthCheckResponse.SERVING)
        add_HealthServicer_to_server(health, server)
        names = [s.name for s in services] + [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        reflection.enable_server_reflection([*names, reflection.SERVICE_NAME], server)
        try:
            if self._credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self._credentials.grpc_server())
        except RuntimeError as e:
            raise OSError(f"cannot listen on {address}: is the port in use?") from e
        await server.start()
        return GrpcServer(server, f"{address.rpartition(':')[0]}:{port}")

    def channel(self, address: str) -> Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = GrpcChannel(self._connect(address))
        return channel

    def _connect(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        name = (("grpc.ssl_target_name_override", INTERNAL_SERVER_NAME),)
        return grpc.aio.secure_channel(address, self._credentials.grpc_channel(), options=_CHANNEL_OPTIONS + name)

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()


class GrpcServer:
    """A started grpc.aio server."""

    def __init__(self, server: grpc.aio.Server, address: str) -> None:
        self._server = server
        self.address = address

    async def stop(self, grace: float = 0.0) -> None:
        await self._server.stop(grace)


class GrpcChannel:
    """A grpc.aio channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._calls: dict[str, Any] = {}

    async def unary(
        self, method: Method, request: Message, timeout: float, metadata: Mapping[str, str] | None
    ) -> Message:
        try:
            response: Message = await self._call(method)(request, timeout=timeout, metadata=_pairs(metadata))
        except grpc.aio.AioRpcError as e:
            raise _rpc_error(e) from None
        return response

    async def stream(
        self,
        method: Method,
        request: Message | AsyncIterable[Message],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]:
        call = self._call(method)(request, timeout=timeout, metadata=_pairs(metadata))
        try:
            if method.server_streaming:
                async for response in call:
                    yield response
            else:
                yield await call
        except grpc.aio.AioRpcError as e:
            raise _rpc_error(e) from None
        finally:
            call.cancel()

    def _call(self, method: Method) -> Any:
        call = self._calls.get(method.path)
        if call is None:
            kind = ("stream" if method.client_streaming else "unary") + (
                "_stream" if method.server_streaming else "_unary"
            )
            call = self._calls[method.path] = getattr(self._channel, kind)(
                method.path,
                request_serializer=method.request_type.SerializeToString,
                response_deserializer=method.response_type.FromString,
            )
        return call

    async def close(self) -> None:
        await self._channel.close()


def _pairs(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    return tuple(metadata.items()) if metadata else None


def _rpc_error(error: grpc.aio.AioRpcError) -> RpcError:
    details = b""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            details = value if isinstance(value, bytes) else value.encode()
    return RpcError(error.code(), error.details() or "", details)


def _generic_handler(service: Service) -> grpc.GenericRpcHandler:
    handlers = {}
    for method, function in service.handlers.values():
        kind = ("stream" if method.client_streaming else "unary") + ("_stream" if method.server_streaming else "_unary")
        wrap = _streaming(function) if method.server_streaming else _unary(function)
        handlers[method.name] = getattr(grpc, f"{kind}_rpc_method_handler")(
            wrap,
            request_deserializer=method.request_type.FromString,
            response_serializer=method.response_type.SerializeToString,
        )
    return grpc.method_handlers_generic_handler(service.name, handlers)


def _unary(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, grpc_context: Any) -> Any:
        try:
            return await function(request, _context(grpc_context))
        except Exception as e:
            await _abort(grpc_context, e)

    return call


def _streaming(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(request: Any, grpc_context: Any) -> AsyncIterator[Any]:
        try:
            async for response in function(request, _context(grpc_context)):
                yield response
        except Exception as e:
            await _abort(grpc_context, e)

    return call


async def _abort(grpc_context: Any, exception: Exception) -> None:
    if isinstance(exception, grpc.aio.AbortError):
        raise exception
    error = error_of(exception)
    if error.code is grpc.StatusCode.INTERNAL:
        log.error("a call failed: %s", error, exc_info=exception)
    trailing = ((DETAILS_KEY, error.details),) if error.details else ()
    await grpc_context.abort(error.code, error.message, trailing)


def _context(call: Any) -> Context:
    """All at once, although it costs a tenth of a small call: asked after the call has ended, gRPC's core crashes."""
    certificate = call.auth_context().get("x509_pem_cert")
    return Context(
        metadata={key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)},
        identity=_cached_identity(certificate[0]) if certificate else None,
        peer=call.peer(),
    )


@functools.lru_cache(maxsize=1024)
def _cached_identity(pem: bytes) -> Identity:
    return identity_of(pem)
