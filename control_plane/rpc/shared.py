"""Components that share a process: sockets for the world outside, memory between themselves."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from functools import partial

from google.protobuf.message import Message

from rayplane.control_plane.rpc.callers import Identity
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork, MemoryServer
from rayplane.control_plane.rpc.network import Channel, Server, WebHandler
from rayplane.control_plane.rpc.service import Method, Service
from rayplane.control_plane.rpc.tls import Credentials, identity_of
from rayplane.control_plane.tasks import end_each


class SharedNetwork:
    """A network that listens on a real port and in the process's fabric; calls through the fabric whatever listens in
    it.
    """

    def __init__(self, grpc: GrpcNetwork, fabric: Fabric, host: str, identity: Identity) -> None:
        self._grpc = grpc
        self._memory = MemoryNetwork(fabric, host, identity)

    async def serve(
        self, address: str, services: Sequence[Service], *, web: WebHandler | None = None, strangers: bool = False
    ) -> Server:
        outside = await self._grpc.serve(address, services, web=web, strangers=strangers)
        return _SharedServer(outside, self._memory.register(outside.address, services))

    def channel(self, address: str) -> Channel:
        return _SharedChannel(self._memory, self._grpc, address)

    def renew(self, credentials: Credentials) -> None:
        """Show this certificate from now on."""
        self._grpc.renew(credentials)
        self._memory.identity = identity_of(credentials.cert)

    def detach(self) -> None:
        """Close the fabric's ports at once, as a killed process would."""
        self._memory.detach()

    async def close(self) -> None:
        await end_each(self._memory.close, self._grpc.close)


class _SharedServer:
    def __init__(self, outside: Server, inside: MemoryServer) -> None:
        self._outside = outside
        self._inside = inside
        self.address = outside.address
        self.traffic = outside.traffic

    async def stop(self, grace_s: float = 0.0) -> None:
        await end_each(partial(self._inside.stop, grace_s), partial(self._outside.stop, grace_s))


class _SharedChannel:
    """A channel that decides at each call: a component may start, stop and move while a channel to it is held."""

    def __init__(self, memory: MemoryNetwork, grpc: GrpcNetwork, address: str) -> None:
        self._memory = memory
        self._grpc = grpc
        self._address = address
        self._inside = memory.channel(address)

    def _channel(self) -> Channel:
        inside = self._memory.is_closed or self._memory.reaches(self._address)
        return self._inside if inside else self._grpc.channel(self._address)

    async def unary(
        self, method: Method, request: Message, timeout: float, metadata: Mapping[str, str] | None
    ) -> Message:
        return await self._channel().unary(method, request, timeout, metadata)

    def stream(
        self,
        method: Method,
        request: Message | AsyncIterable[Message],
        timeout: float | None,
        metadata: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]:
        return self._channel().stream(method, request, timeout, metadata)
