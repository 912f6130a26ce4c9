"""The seam between components and the wire."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from rayplane.control_plane.rpc.service import Method, Service, methods_of

if TYPE_CHECKING:
    from aiohttp import web

# A unary call without a limit of its own ends after this long; no caller may wait for ever.
DEFAULT_TIMEOUT_S = 10.0

#: Answers HTTP/1.1 requests on a port that serves gRPC too.
WebHandler = Callable[["web.BaseRequest"], Awaitable["web.StreamResponse"]]


class Traffic:
    """Bytes of gRPC that a server has received and sent, TLS apart."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Server(Protocol):
    """A listening endpoint."""

    address: str  # host:port as bound
    traffic: Traffic  # nothing is counted where there are no sockets

    async def stop(self, grace_s: float = 0.0) -> None:
        """Close the port; give calls under way `grace_s` seconds, then cancel them."""


class Channel(Protocol):
    """A connection, made when first needed and made again when broken."""

    async def unary(
        self, method: Method, request: Message, timeout: float, metadata: Mapping[str, str] | None
    ) -> Message: ...

    def stream(
        self,
        method: Method,
        request: Message | AsyncIterable[Message],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]: ...


class Network(Protocol):
    """A component's network: where it listens and whom it can call. Channels live until the network is closed."""

    async def serve(
        self, address: str, services: Sequence[Service], *, web: WebHandler | None = None, strangers: bool = False
    ) -> Server:
        """Listen on host:port (port 0: any free one). Raises OSError when the address cannot be had.

        `web` answers what comes to the port as HTTP/1.1; a network without sockets has no use for it. `strangers`: who
        shows no certificate connects too, to `web` where that is given, else to the services: each judges its callers.
        """

    def channel(self, address: str) -> Channel: ...

    async def close(self) -> None: ...


class Stub:
    """A service of a peer: `await stub.Put(request)`, `async for r in stub.Watch(request_or_requests)`.

    Both take `timeout` (seconds; None lets a stream run on) and `metadata`. Failures raise RpcError. A stream is an
    async generator: close it (`contextlib.aclosing`) to end the call.
    """

    def __init__(self, channel: Channel, descriptor: ServiceDescriptor) -> None:
        for method in methods_of(descriptor):
            setattr(self, method.name, _bind(channel, method))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the service has no method {name}")


def _bind(channel: Channel, method: Method) -> Any:
    if method.server_streaming or method.client_streaming:

        def stream(
            request: Message | AsyncIterable[Message],
            *,
            timeout: float | None = None,
            metadata: Mapping[str, str] | None = None,
        ) -> AsyncIterator[Message]:
            return channel.stream(method, request, timeout, metadata)

        return stream

    async def unary(
        request: Message, *, timeout: float = DEFAULT_TIMEOUT_S, metadata: Mapping[str, str] | None = None
    ) -> Message:
        return await channel.unary(method, request, timeout, metadata)

    return unary
