"""Connections to backends, in the network that each is in."""

import asyncio
import functools
import ssl

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace

from rayplane.node.runtime.pod_network import PodNetwork

_OF_BACKEND_MAX = 256


@functools.cache
def trusting(*protocols: str) -> ssl.SSLContext:
    """Who is behind a Service is known by its address, not by a name that a certificate could have."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([*protocols])
    return context


class NetworkConnector(aiohttp.BaseConnector):
    """A connector of requests to addresses of one network."""

    def __init__(self, network: PodNetwork) -> None:
        super().__init__(limit=0, limit_per_host=_OF_BACKEND_MAX)
        self._network = network

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        loop = asyncio.get_running_loop()
        ip, port = req.url.host or "", req.url.port or 0
        context, name = (trusting("http/1.1"), ip) if req.is_ssl() else (None, None)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await self._network.connect(ip, port)
                _, handler = await loop.create_connection(
                    lambda: ResponseHandler(loop), sock=sock, ssl=context, server_hostname=name
                )
        except TimeoutError:
            raise
        except OSError as e:
            raise aiohttp.ClientConnectorError(req.connection_key, e) from e
        return handler
