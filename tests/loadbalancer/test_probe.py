"""A probe keeps its connection, and learns of a server's end as fast as one that makes a new one each time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from rayplane.control_plane.loadbalancer.probe import BODY_BYTES_MAX, LIFE_S, Probe
from rayplane.control_plane.rpc.memory_sockets import MemorySockets, Wires
from rayplane.control_plane.rpc.sockets import Listening, accepting
from rayplane.control_plane.simulation import VirtualLoop

ADDRESS = "10.0.0.1:6443"


def answer(status: str, body: bytes = b"ok") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


class Server:
    """A server at ADDRESS that gives `says` to each request."""

    def __init__(self, wires: Wires) -> None:
        self.says = answer("200 OK")
        self.connections = 0
        self.open: dict[asyncio.StreamWriter, None] = {}
        self._wires = wires
        self._listening: Listening | None = None

    async def start(self) -> None:
        self._listening = await MemorySockets(self._wires, "server").listen(ADDRESS, accepting(self._serve))

    async def refuse(self) -> None:
        """Take no new connections."""
        assert self._listening is not None
        await self._listening.close()

    def cut(self) -> None:
        for writer in self.open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open[writer] = None
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.says)
                await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()
            del self.open[writer]


def play(scene: Callable[[Server, Probe], Coroutine[Any, Any, None]]) -> int:
    """How many connections the server was asked for."""

    async def main() -> int:
        wires = Wires()
        server = Server(wires)
        await server.start()
        probe = Probe(MemorySockets(wires, "balancer"), ADDRESS, None)
        await scene(server, probe)
        probe.close()
        await asyncio.sleep(1.0)
        assert not server.open
        return server.connections

    return VirtualLoop().run(main())


def test_one_connection_carries_many_checks_and_each_says_how_it_is_now() -> None:
    async def scene(server: Server, probe: Probe) -> None:
        assert await probe.is_ready()
        server.says = answer("500 Internal Server Error", b"[-]etcd failed\n")
        assert not await probe.is_ready()
        server.says = answer("200 OK", b"")
        assert await probe.is_ready()

    assert play(scene) == 1


def test_a_server_that_died_is_refused_at_the_next_check() -> None:
    async def scene(server: Server, probe: Probe) -> None:
        assert await probe.is_ready()
        await server.refuse()
        server.cut()
        with pytest.raises(OSError):
            await probe.is_ready()

    play(scene)


def test_one_that_came_in_its_place_is_asked_by_the_same_check() -> None:
    async def scene(server: Server, probe: Probe) -> None:
        assert await probe.is_ready()
        await server.refuse()
        server.cut()
        await server.start()
        server.says = answer("500 Internal Server Error")
        assert not await probe.is_ready()

    assert play(scene) == 2


def test_a_server_that_takes_no_new_connections_is_found_though_it_keeps_this_one() -> None:
    async def scene(server: Server, probe: Probe) -> None:
        assert await probe.is_ready()
        await server.refuse()
        assert await probe.is_ready()
        await asyncio.sleep(LIFE_S)
        with pytest.raises(OSError):
            await probe.is_ready()

    play(scene)


def test_a_check_that_is_given_up_leaves_no_connection() -> None:
    async def scene(server: Server, probe: Probe) -> None:
        assert await probe.is_ready()
        server.says = b""
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(probe.is_ready(), 1.0)
        await asyncio.sleep(1.0)
        assert not server.open

    play(scene)


@pytest.mark.parametrize(
    "says", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1)]
)
def test_an_answer_of_unknown_or_great_length_is_not_read_on(says: bytes) -> None:
    async def scene(server: Server, probe: Probe) -> None:
        server.says = says
        for _ in range(3):
            assert await probe.is_ready()

    assert play(scene) == 3
