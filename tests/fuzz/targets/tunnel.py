"""Port-forwarding's SPDY frames, as a client may send them through its WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

from rayplane.control_plane.streams import spdy
from rayplane.control_plane.streams.portforward import _Tunnel
from rayplane.proto.rayplane.v1 import node_pb2
from tests.apiserver.test_tunnel_bounds import Socket
from tests.fuzz import mutate

CASES = 200
CASES_PER_WORLD = 2000

Case = list[bytes]
"""The messages of the WebSocket."""


class Echo:
    """A pod that sends back what it gets, and closes after a while."""

    async def PortForward(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        count = 0
        async for request in requests:
            count += 1
            if request.closed or count > 5:
                yield node_pb2.PortForwardResponse(closed=True)
                return
            yield node_pb2.PortForwardResponse(data=request.data)


def make(rng: random.Random) -> Case:
    encoder = spdy.Encoder()
    said: list[bytes] = []
    for number in range(rng.randrange(1, 4)):
        first = 4 * number + 1
        for kind, stream in (("error", first), ("data", first + 2)):
            headers = {"streamtype": kind, "port": "80", "requestid": str(number)}
            if rng.random() < 0.2:
                headers[rng.choice(list(headers))] = rng.choice(("", "0", "²", "99999", "other"))
            said.append(encoder.open(stream, headers))
        said += [
            encoder.data(first + 2, rng.randbytes(rng.choice((0, 5, 3000)))) for _ in range(rng.choice((1, 3, 90)))
        ]
        said.append(
            rng.choice((encoder.data(first + 2, b"", last=True), encoder.reset(first), encoder.reset(first + 2)))
        )
        said.append(encoder.ping(rng.randbytes(4)))
    said = mutate.of_list(rng, said, lambda one: mutate.of_bytes(rng, one, said))
    step = rng.choice((1, 1, 3, len(said) or 1))
    return [b"".join(said[at : at + step]) for at in range(0, len(said), step)]


class Tunnels:
    async def run(self, case: Case) -> None:
        tunnel = _Tunnel(Socket(), Echo(), node_pb2.ContainerRef())  # type: ignore[arg-type]
        with contextlib.suppress(spdy.SpdyError):
            for message in case:
                await tunnel.receive(message)
                await asyncio.sleep(0)
        await tunnel.close()
        assert tunnel._waiting >= 0, f"{tunnel._waiting} bytes wait"

    async def good(self) -> None:
        socket, encoder = Socket(), spdy.Encoder()
        tunnel = _Tunnel(socket, Echo(), node_pb2.ContainerRef())  # type: ignore[arg-type]
        for kind, stream in (("error", 1), ("data", 3)):
            await tunnel.receive(encoder.open(stream, {"streamtype": kind, "port": "80", "requestid": "1"}))
        await tunnel.receive(encoder.data(3, b"hello"))
        while not any(frame.data == b"hello" for frame in socket.frames):
            await asyncio.sleep(0)
        await tunnel.close()

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Tunnels]:
    yield Tunnels()
