"""Real gRPC over TCP, with mutual TLS when credentials are given."""

import ssl
from collections.abc import Sequence

from control_plane.rpc.grpc_client import GrpcChannel
from control_plane.rpc.listener import GrpcListener
from control_plane.rpc.network import Channel, Server, WebHandler
from control_plane.rpc.service import Service
from control_plane.rpc.tls import Credentials


class GrpcNetwork:
    """Listens and calls over gRPC. One for each process; identity and trust come from `credentials`."""

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._server_tls: ssl.SSLContext | None = None
        self._web_tls: ssl.SSLContext | None = None
        self._client_tls: ssl.SSLContext | None = None
        if credentials is not None:
            self._server_tls, self._web_tls, self._client_tls = credentials.contexts()
        self._channels: dict[str, GrpcChannel] = {}

    async def serve(self, address: str, services: Sequence[Service], *, web: WebHandler | None = None) -> Server:
        listener = GrpcListener(services, web)
        await listener.start(address, self._server_tls if web is None else self._web_tls)
        return listener

    def channel(self, address: str) -> Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = GrpcChannel(address, self._client_tls)
        return channel

    def renew(self, credentials: Credentials) -> None:
        """Show this certificate from now on, to who connects and to whom we connect; calls under way go on."""
        for context in (self._server_tls, self._web_tls, self._client_tls):
            if context is not None:
                credentials.load(context)
        for channel in self._channels.values():
            channel.reconnect()

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()
        self._channels.clear()
