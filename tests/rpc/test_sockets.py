"""Connections of bytes: the operating system's and those in memory keep one contract."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from rayplane.control_plane.cluster.ports import can_bind
from rayplane.control_plane.rpc.memory_sockets import MemorySockets, Wires
from rayplane.control_plane.rpc.sockets import Listening, Sockets, SystemSockets, accepting, streams
from rayplane.control_plane.simulation import VirtualLoop
from tests.ports import free_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pair:
    """A listener, and both ends of each connection to it."""

    def __init__(self, sockets: Sockets, client: Sockets) -> None:
        self.sockets = sockets
        self.client = client
        self.listening: Listening
        self._accepted: asyncio.Queue[Streams] = asyncio.Queue()

    async def listen(self, address: str = "127.0.0.1:0") -> "Pair":
        self.listening = await self.sockets.listen(address, accepting(self._accept))
        return self

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._accepted.put((reader, writer))

    async def connect(self) -> tuple[Streams, Streams]:
        mine = await streams(self.client, self.listening.address)
        return mine, await self._accepted.get()


@pytest_asyncio.fixture(params=["system", "memory"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    wires = Wires()
    memory = request.param == "memory"
    made = await Pair(
        MemorySockets(wires, "server") if memory else SystemSockets(),
        MemorySockets(wires, "client") if memory else SystemSockets(),
    ).listen()
    yield made
    await made.listening.close()


async def test_bytes_arrive_in_order_and_whole(pair: Pair) -> None:
    (reader, writer), (their_reader, their_writer) = await pair.connect()
    sent = random.Random(1).randbytes(3_000_000)

    async def send() -> None:
        for at in range(0, len(sent), 70_001):
            writer.write(sent[at : at + 70_001])
            await writer.drain()
        writer.write_eof()

    task = asyncio.create_task(send())
    assert await asyncio.wait_for(their_reader.read(), 30) == sent
    await task
    # The other direction is open still.
    their_writer.write(b"well received")
    their_writer.close()
    assert await asyncio.wait_for(reader.read(), 10) == b"well received"
    writer.close()


async def test_nobody_answers_where_nobody_listens(pair: Pair) -> None:
    await pair.listening.close()
    with pytest.raises(ConnectionRefusedError):
        await streams(pair.client, pair.listening.address)


async def test_who_is_accepted_in_the_turn_in_which_the_port_is_closed_is_not_left_hanging() -> None:
    ended: list[str] = []

    class Served(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            ended.append("served")

    listening = await SystemSockets().listen("127.0.0.1:0", Served)
    host, port = listening.address.split(":")
    # In the first turn after the connection the loop sees it and accepts it, in the second this goes on before asyncio.
    with socket.create_connection((host, int(port))) as client:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await listening.close()
        client.setblocking(False)
        async with asyncio.timeout(60):
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
    assert ended == ["served"]


async def test_a_port_whose_opening_is_cancelled_at_any_turn_is_free_again() -> None:
    port = free_port()
    for turns in range(20):
        opening = asyncio.ensure_future(SystemSockets().listen(f"127.0.0.1:{port}", asyncio.Protocol))
        for _ in range(turns):
            await asyncio.sleep(0)
        if opening.done():
            await opening.result().close()
            return
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert can_bind("127.0.0.1", port), f"it is still open after {turns} turns"


async def test_an_address_is_had_once(pair: Pair) -> None:
    with pytest.raises(OSError, match=r"in use"):
        await Pair(pair.sockets, pair.client).listen(pair.listening.address)


async def test_connections_outlive_the_port(pair: Pair) -> None:
    (_, writer), (their_reader, their_writer) = await pair.connect()
    await pair.listening.close()
    writer.write(b"still here")
    writer.close()
    assert await asyncio.wait_for(their_reader.read(), 10) == b"still here"
    their_writer.close()


async def test_who_does_not_read_holds_the_writer_back(pair: Pair) -> None:
    (_, writer), (their_reader, their_writer) = await pair.connect()
    their_writer.transport.pause_reading()  # type: ignore[attr-defined]
    chunk, written = b"x" * 500_000, 0

    async def fill() -> None:
        nonlocal written
        for _ in range(100):
            writer.write(chunk)
            written += len(chunk)
            await writer.drain()

    task = asyncio.create_task(fill())
    await asyncio.wait([task], timeout=0.3)
    assert not task.done()
    their_writer.transport.resume_reading()  # type: ignore[attr-defined]
    await asyncio.wait_for(their_reader.readexactly(100 * len(chunk)), 30)
    await task
    writer.close()
    their_writer.close()


async def test_what_is_sent_to_an_end_that_is_gone_is_reset(pair: Pair) -> None:
    (_reader, writer), (_, their_writer) = await pair.connect()
    their_writer.transport.abort()
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(60):
            while True:
                writer.write(b"are you there?")
                await writer.drain()
                await asyncio.sleep(0)
    writer.close()


# In memory only: what the network and the death of a machine do.


class Cut:
    """A link with a delay, which can be cut."""

    def __init__(self) -> None:
        self.cut = False

    def delay(self, source: str, target: str) -> float | None:
        return None if self.cut else 0.01


def in_virtual_time(main: Callable[[Cut, MemorySockets, Pair], Awaitable[None]]) -> float:
    """Runs it; the virtual seconds it took."""

    async def run() -> None:
        link = Cut()
        wires = Wires(link)
        server = MemorySockets(wires, "server")
        await main(link, server, await Pair(server, MemorySockets(wires, "client")).listen())

    loop = VirtualLoop()
    loop.run(run())
    assert loop.faults == []
    return loop.time()


def test_what_is_sent_while_nothing_passes_arrives_later() -> None:
    async def main(link: Cut, server: MemorySockets, pair: Pair) -> None:
        (_, writer), (their_reader, their_writer) = await pair.connect()
        link.cut = True
        writer.write(b"one ")
        asyncio.get_running_loop().call_later(3, setattr, link, "cut", False)
        await asyncio.sleep(2.9)
        writer.write(b"two")
        writer.write_eof()
        assert await their_reader.read() == b"one two"
        writer.close()
        their_writer.close()

    assert 3 < in_virtual_time(main) < 3.5


def test_a_peer_that_stays_silent_is_given_up() -> None:
    async def main(link: Cut, server: MemorySockets, pair: Pair) -> None:
        (reader, writer), (_, their_writer) = await pair.connect()
        link.cut = True
        writer.write(b"lost")
        with pytest.raises(TimeoutError):
            await reader.read()
        with pytest.raises(TimeoutError):
            await streams(pair.client, pair.listening.address)
        for end in (writer, their_writer):
            end.transport.abort()

    assert in_virtual_time(main) > 10


def test_a_killed_process_resets_its_connections_and_frees_its_ports() -> None:
    async def main(link: Cut, server: MemorySockets, pair: Pair) -> None:
        (reader, writer), (_, their_writer) = await pair.connect()
        their_writer.write(b"last words")
        server.detach()
        assert await reader.readexactly(10) == b"last words"
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert writer.is_closing()
        with pytest.raises(ConnectionRefusedError):
            await streams(pair.client, pair.listening.address)
        await Pair(server, pair.client).listen(pair.listening.address)
        assert server.wires.ends == {}

    in_virtual_time(main)
