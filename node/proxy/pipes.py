"""Byte streams with half-close, and moving bytes between two of them."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from rayplane.control_plane.rpc import RpcError, Stub
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.proto.rayplane.v1 import node_pb2 as pb

CHUNK = 64 * 1024
QUEUE_MAX = 16


class Pipe(Protocol):
    """One connection. `read` gives b"" when the peer has closed its side; OSError when the connection broke."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def close_write(self) -> None:
        """Tell the peer that nothing more will come; reading goes on."""

    async def close(self, *, broken: bool) -> None:
        """End the connection; `broken`: tell the peer that something is missing."""


class TcpPipe:
    """A TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @staticmethod
    async def connect(network: PodNetwork, ip: str, port: int, *, timeout: float) -> "TcpPipe":
        """Open a connection. Raises OSError, also when it takes longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                sock = await network.connect(ip, port)
                return TcpPipe(*await asyncio.open_connection(sock=sock, limit=CHUNK))
        except TimeoutError as e:
            raise OSError(f"{ip}:{port} did not answer within {timeout:g} s") from e

    async def read(self) -> bytes:
        return await self._reader.read(CHUNK)

    async def write(self, data: bytes) -> None:
        if self._writer.is_closing():
            raise ConnectionResetError("the connection is closed")  # uvloop's transports raise RuntimeError
        self._writer.write(data)
        await self._writer.drain()

    async def close_write(self) -> None:
        # The peer may be gone already: then there is nobody to tell.
        with contextlib.suppress(OSError):
            self._writer.write_eof()

    async def close(self, *, broken: bool) -> None:
        if broken:
            self._writer.transport.abort()
        else:
            self._writer.close()


class ForwardPipe:
    """A connection to a pod of another machine, through its node host (rayplane.v1.Node/PortForward)."""

    def __init__(self, stub: Stub, ref: pb.ContainerRef, port: int) -> None:
        self._outgoing: asyncio.Queue[pb.PortForwardRequest] = asyncio.Queue(QUEUE_MAX)
        self._outgoing.put_nowait(pb.PortForwardRequest(ref=ref, port=port))
        self._answers: AsyncGenerator[Any, None] = stub.PortForward(self._requests())

    async def open(self, *, timeout: float) -> None:
        """Return when the pod has taken the connection. Raises OSError."""
        try:
            async with asyncio.timeout(timeout):
                await self.read()
        except TimeoutError as e:
            raise OSError(f"the pod's node host did not answer within {timeout:g} s") from e

    async def _requests(self) -> AsyncIterator[pb.PortForwardRequest]:
        while True:
            request = await self._outgoing.get()
            yield request
            if request.closed:
                return

    async def read(self) -> bytes:
        try:
            answer = await anext(self._answers, None)
        except RpcError as e:
            raise OSError(str(e)) from e
        return b"" if answer is None or answer.closed else bytes(answer.data)

    async def write(self, data: bytes) -> None:
        await self._outgoing.put(pb.PortForwardRequest(data=data))

    async def close_write(self) -> None:
        await self._outgoing.put(pb.PortForwardRequest(closed=True))

    async def close(self, *, broken: bool) -> None:
        await self._answers.aclose()


async def splice(a: Pipe, b: Pipe) -> None:
    """Move bytes both ways until both sides have closed, or one broke: then the other is broken too."""
    broken = True
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pump(a, b))
            group.create_task(_pump(b, a))
        broken = False
    except* OSError:
        pass  # either side may break at any time; `close` tells the other
    finally:
        await a.close(broken=broken)
        await b.close(broken=broken)


async def _pump(source: Pipe, target: Pipe) -> None:
    while data := await source.read():
        await target.write(data)
    await target.close_write()
