"""A tunnel's frames: no header block, frame or repeated stream makes the server hold more than it should."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane.streams import spdy
from rayplane.control_plane.streams.portforward import _Tunnel
from rayplane.proto.rayplane.v1 import node_pb2


def syn(block: bytes) -> bytes:
    body = struct.pack(">IIH", 1, 0, 0) + block
    return struct.pack(">I", 1 << 31 | 3 << 16 | spdy.SYN_STREAM) + b"\0" + len(body).to_bytes(3, "big") + body


def deflated(data: bytes) -> bytes:
    deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
    return deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (syn(deflated(bytes(100 << 20))), "headers of more than"),
        (syn(deflated(struct.pack(">I", 1 << 31))), "too many"),
        (struct.pack(">I", 1) + b"\0\xff\xff\xff", "too large"),
        (syn(deflated(struct.pack(">II", 1, 0xFFFFFFFF))), "malformed"),
        (syn(b"no deflate"), "cannot be decompressed"),
    ],
)
def test_frames_that_would_grow_are_refused(frame: bytes, message: str) -> None:
    with pytest.raises(spdy.SpdyError, match=message):
        spdy.Decoder().feed(frame)


class Socket:
    def __init__(self) -> None:
        self.frames: list[spdy.Frame] = []
        self._decoder = spdy.Decoder()

    async def send(self, data: bytes) -> None:
        self.frames += self._decoder.feed(data)


class Node:
    """A node that takes connections and reads none of them."""

    def __init__(self) -> None:
        self.open = 0

    async def PortForward(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        self.open += 1
        await anext(requests)
        await asyncio.get_running_loop().create_future()
        yield None  # pragma: no cover


async def test_a_stream_that_is_opened_again_and_again_opens_nothing() -> None:
    socket, node, encoder = Socket(), Node(), spdy.Encoder()
    tunnel = _Tunnel(socket, node, node_pb2.ContainerRef())  # type: ignore[arg-type]
    for stream in range(1, 2001, 2):
        kind = "error" if stream % 4 == 1 else "data"
        await tunnel.receive(encoder.open(stream, {"streamtype": kind, "port": "80", "requestid": "1"}))
    await asyncio.sleep(0)
    assert node.open == 1
    assert sum(frame.type == spdy.RST_STREAM for frame in socket.frames) == 998
    for port in ("0", "70000", "²", "9" * 100_000, "-1"):
        await tunnel.receive(encoder.open(9001, {"streamtype": "data", "port": port[:1000]}))
        assert socket.frames[-1].type == spdy.RST_STREAM
    await tunnel.close()


async def test_half_pairs_that_are_reset_leave_nothing() -> None:
    socket, encoder = Socket(), spdy.Encoder()
    tunnel = _Tunnel(socket, Node(), node_pb2.ContainerRef())  # type: ignore[arg-type]
    for stream in range(1, 2001, 2):
        await tunnel.receive(encoder.open(stream, {"streamtype": "error", "port": "80", "requestid": str(stream)}))
        await tunnel.receive(encoder.reset(stream))
    assert all(frame.type == spdy.SYN_REPLY for frame in socket.frames)


async def test_all_connections_together_hold_so_many_bytes() -> None:
    socket, encoder = Socket(), spdy.Encoder()
    tunnel = _Tunnel(socket, Node(), node_pb2.ContainerRef())  # type: ignore[arg-type]
    for n in range(100):
        for kind, stream in (("error", 4 * n + 1), ("data", 4 * n + 3)):
            await tunnel.receive(encoder.open(stream, {"streamtype": kind, "port": "80", "requestid": str(n)}))

    async def flood() -> None:
        for n in range(100):
            await tunnel.receive(encoder.data(4 * n + 3, bytes(1 << 20)))

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await flood()
    assert tunnel._waiting <= 10 << 20
    await tunnel.close()


class Closing(Node):
    """A node that closes a connection when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.closing = asyncio.Event()

    async def PortForward(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        await anext(requests)
        await self.closing.wait()
        yield node_pb2.PortForwardResponse(closed=True)


async def test_what_is_sent_to_a_connection_that_ends_is_not_counted_for_ever() -> None:
    socket, node, encoder = Socket(), Closing(), spdy.Encoder()
    tunnel = _Tunnel(socket, node, node_pb2.ContainerRef())  # type: ignore[arg-type]
    for kind, stream in (("error", 1), ("data", 3)):
        await tunnel.receive(encoder.open(stream, {"streamtype": kind, "port": "80", "requestid": "1"}))
    await asyncio.sleep(0)

    async def upload() -> None:
        for _ in range(300):
            await tunnel.receive(encoder.data(3, bytes(1000)))

    uploading = asyncio.create_task(upload())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not uploading.done()  # the inbox is full
    node.closing.set()
    async with asyncio.timeout(20):
        await uploading
    assert tunnel._waiting == 0
    await tunnel.close()
