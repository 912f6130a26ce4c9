"""Connections to pods, through the hosts of their nodes, as in port-forwarding.

A socket pair stands between aiohttp's client and the stream, so that TLS and WebSockets work as over any connection.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import node_pb2

_CHUNK = 64 * 1024


class PodConnector(aiohttp.BaseConnector):
    """aiohttp's connections, each a stream to a port of one pod.

    `tls`: None for plain HTTP; `server_name`: whom the pod's certificate must name where that is checked; `options`:
    aiohttp's, of its BaseConnector.
    """

    def __init__(
        self,
        stub: Stub,
        ref: node_pb2.ContainerRef,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        server_name: str = "",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.host = f"{ref.pod}:{port}"
        self._stub = stub
        self._opening = node_pb2.PortForwardRequest(ref=ref, port=port)
        self._tls = tls
        self._server_name = server_name or self.host
        self._bridges: set[asyncio.Task[None]] = set()

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=theirs)
        stands: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        bridge = asyncio.create_task(self._bridge(reader, writer, stands), name="proxy to a pod")
        self._bridges.add(bridge)
        bridge.add_done_callback(self._bridges.discard)
        try:
            await stands
            name = self._server_name if self._tls is not None else None
            loop = asyncio.get_running_loop()
            _, protocol = await loop.create_connection(self._factory, sock=ours, ssl=self._tls, server_hostname=name)
        except (OSError, RpcError) as e:
            ours.close()
            error = e if isinstance(e, OSError) else OSError(e.message)
            raise aiohttp.ClientConnectorError(req.connection_key, error) from e
        return protocol

    async def _bridge(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stands: "asyncio.Future[None]"
    ) -> None:
        bridge = asyncio.current_task()
        assert bridge is not None

        async def requests() -> AsyncIterator[node_pb2.PortForwardRequest]:
            yield self._opening
            while data := await reader.read(_CHUNK):
                yield node_pb2.PortForwardRequest(data=data)
            # HTTP closes no half of a connection: nobody waits for what still comes.
            bridge.cancel()

        try:
            async with contextlib.aclosing(self._stub.PortForward(requests())) as answers:
                async for answer in answers:
                    if not stands.done():
                        stands.set_result(None)
                    writer.write(answer.data)
                    await writer.drain()
                    if answer.closed:
                        break
        except RpcError as e:
            if not stands.done():
                stands.set_exception(e)
        except ConnectionError:
            pass  # the client's side of the pair has been closed
        finally:
            writer.close()
            if not stands.done():
                stands.set_exception(ConnectionResetError("the pod closed the connection"))

    async def end(self) -> None:
        """End what is left of the streams."""
        await cancel_and_wait(*self._bridges)
