"""Port-forwarding in channels of a WebSocket, as clients in Python and Java ask for it: older than tunnels.

The ports stand in the query. The n-th of them has the channels 2n for data and 2n+1 for errors, which both begin with
the port in two bytes, and is one connection.

Source: k8s.io/kubelet/pkg/cri/streaming/portforward.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.streams.calls import Calls
from rayplane.control_plane.streams.channels import Channels
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.proto.rayplane.v1 import node_pb2

PROTOCOLS = ("v4.channel.k8s.io", "v4.base64.channel.k8s.io")
PORTS_MAX = 64
"""Channels have numbers of one byte."""
_QUEUE_MAX = 64

_Inbox = asyncio.Queue[bytes]


async def serve_channels(channels: Channels, stub: Calls, ref: node_pb2.ContainerRef, ports: Sequence[int]) -> None:
    """Serve a connection to each port until all of them have ended, or the client goes away."""
    inboxes = [_Inbox(_QUEUE_MAX) for _ in ports]
    over: set[int] = set()
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await channels.send(channel, port.to_bytes(2, "little"))

    async def receive() -> None:
        async for channel, data in channels:
            index, is_error = divmod(channel, 2)
            if 0 <= index < len(inboxes) and index not in over and not is_error:
                await inboxes[index].put(data)

    async def forward(index: int) -> None:
        inbox = inboxes[index]
        try:
            await _forward(channels, stub, ref, index, ports[index], inbox)
        finally:
            over.add(index)
            while not inbox.empty():  # who waits for room goes on
                inbox.get_nowait()

    loop = asyncio.get_running_loop()
    receiving = loop.create_task(receive(), name="port-forward input")
    forwarding = [loop.create_task(forward(i), name="port-forward") for i in range(len(ports))]
    try:
        # A client that has gone sends nothing more, and is sent nothing more.
        ended = asyncio.gather(*forwarding, return_exceptions=True)
        await asyncio.wait((receiving, ended), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(receiving, *forwarding)
    await channels.close()


async def _forward(
    channels: Channels, stub: Calls, ref: node_pb2.ContainerRef, index: int, port: int, inbox: _Inbox
) -> None:
    """One connection, until the pod has closed it."""

    async def requests() -> AsyncIterator[node_pb2.PortForwardRequest]:
        yield node_pb2.PortForwardRequest(ref=ref, port=port)
        while True:
            yield node_pb2.PortForwardRequest(data=await inbox.get())

    with contextlib.suppress(ConnectionError):
        try:
            async with contextlib.aclosing(stub.PortForward(requests())) as answers:
                async for answer in answers:
                    if answer.data:
                        await channels.send(2 * index, answer.data)
                    if answer.closed:
                        break
        except RpcError as e:
            await channels.send(2 * index + 1, f"an error occurred forwarding {port}: {e.message}".encode())
