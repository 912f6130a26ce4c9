"""The health check of services whose traffic stays on the node: whether a node has endpoints of one.

Answers whatever is asked as kube-proxy does: 200 where there is an endpoint, else 503, and how many as JSON.
Source: Kubernetes documentation, "Virtual IPs and Service Proxies".
"""

import asyncio
import json
from functools import partial

from rayplane.control_plane.api.meta import split_key
from rayplane.control_plane.rpc.sockets import serving, stop_listening
from rayplane.control_plane.tasks import end_each
from rayplane.node.proxy.listeners import Places, opened
from rayplane.node.proxy.rules import Target
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.node.tasks import Tasks

HEAD_MAX = 8 * 1024
PATIENCE_S = 5.0
CONNECTIONS_MAX = 64
BACKLOG = 64


class HealthListener:
    """A listener that tells `target.health`."""

    def __init__(self, places: Places, target: Target, tasks: Tasks) -> None:
        self.places, self.closed = places, places
        self.target = target
        self._tasks = tasks
        self._servers: list[asyncio.Server] = []
        self._connections = 0

    async def open(self) -> OSError | None:
        async def begin(network: PodNetwork, ip: str, port: int) -> None:
            sock = await network.listen(ip, port)
            made = asyncio.start_server(self._accept, sock=sock, backlog=BACKLOG, limit=HEAD_MAX, start_serving=False)
            self._servers.append(await serving(made))

        return await opened(self, begin)

    async def close(self) -> None:
        servers, self._servers = self._servers, []
        await end_each(*(partial(stop_listening, one) for one in servers))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections += 1
        self._tasks.spawn(self._serve(reader, writer), "health check")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(self.target))
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._connections -= 1
            writer.close()


def answer(target: Target) -> bytes:
    """The whole response."""
    namespace, name = split_key(target.service)
    count = target.health or 0
    told = {"service": {"namespace": namespace, "name": name}, "localEndpoints": count, "serviceProxyHealthy": True}
    body = json.dumps(told).encode()
    head = (
        f"HTTP/1.1 {'200 OK' if count else '503 Service Unavailable'}\r\n"
        "Content-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n"
        f"X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
