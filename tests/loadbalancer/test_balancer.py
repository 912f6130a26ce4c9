"""The TCP load balancer: choice, failure and half-closed connections."""

import asyncio
import contextlib
import itertools
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import pytest_asyncio

from rayplane.control_plane.loadbalancer import LoadBalancer, LoadBalancerConfig
from rayplane.control_plane.loadbalancer.backends import Health
from rayplane.control_plane.rpc.gate import GateLimits
from rayplane.control_plane.rpc.sockets import SystemSockets
from rayplane.control_plane.tasks import cancel_and_wait
from tests.rpc.grpc_peers import drop_all


class Backend:
    """A server that answers /readyz as told, and echoes anything else once its client has said all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.mute = False
        self.keeps_probes = False
        self.address = ""
        self.served = 0
        self.ends: list[asyncio.StreamWriter] = []
        """Of what it echoes."""
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()

    async def end(self) -> None:
        """Stop, and cut whom it serves still."""
        self._server.close()
        await cancel_and_wait(*self._serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._answer(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            writer.transport.abort()
        finally:
            self._serving.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1024)
        if first.startswith(b"GET /readyz"):
            while self.mute:
                await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\n" if self.ready else b"HTTP/1.1 500 No\r\n")
            writer.write(b"Content-Length: 0\r\n\r\n" if self.keeps_probes else b"\r\n")
            if self.keeps_probes:
                return await self._answer(reader, writer)
        elif first:
            self.served += 1
            self.ends.append(writer)
            rest = await reader.read()
            writer.write(self.name.encode() + b":" + first + rest)
        writer.close()


@pytest_asyncio.fixture
async def backends() -> AsyncIterator[list[Backend]]:
    made = [Backend(name) for name in "ab"]
    for one in made:
        await one.start()
    yield made
    for one in made:
        await one.end()


async def balanced(backends: list[Backend], **changes: object) -> LoadBalancer:
    config = LoadBalancerConfig(
        backends=tuple(b.address for b in backends),
        **{"check_interval_s": 0.02} | changes,  # type: ignore[arg-type]
    )
    balancer = LoadBalancer(config)
    await balancer.start()
    return balancer


async def ask(balancer: LoadBalancer, message: bytes) -> bytes:
    host, _, port = balancer.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(message)
        await asyncio.sleep(0)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def eventually(condition: object) -> None:
    async with asyncio.timeout(60):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_servers_are_asked_over_a_connection_each_that_ends_when_they_leave() -> None:
    asked, ended = [0, 0], [0, 0]

    def serve(number: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while await reader.readline():
                    await reader.readuntil(b"\r\n\r\n")
                    asked[number] += 1
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            ended[number] += 1
            writer.close()

        return answer

    servers = [await asyncio.start_server(serve(n), "127.0.0.1", 0) for n in range(2)]
    addresses = tuple(f"127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers)
    balancer = LoadBalancer(LoadBalancerConfig(backends=addresses, check_interval_s=0.02))
    await balancer.start()
    await eventually(lambda: min(asked) > 5)
    assert ended == [0, 0]
    balancer.set_backends(addresses[1:])
    await eventually(lambda: ended == [1, 0])
    await balancer.stop()
    await eventually(lambda: ended == [1, 1])
    for one in servers:
        one.close()


async def test_a_ready_server_is_asked_rarely_and_at_once_when_its_connection_ends() -> None:
    asked, served, open_to_ready = Counter[int](), Counter[bool](), list[asyncio.StreamWriter]()

    def serve(status: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served[True] += 1
            if status == 200:
                open_to_ready.append(writer)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    asked[status] += 1
                    writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nok" % status)
            await closed(writer)
            served[False] += 1

        return answer

    ready, unready = [await asyncio.start_server(serve(status), "127.0.0.1", 0) for status in (200, 503)]
    addresses = tuple(f"127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in (ready, unready))
    balancer = LoadBalancer(LoadBalancerConfig(backends=addresses, check_interval_s=0.02, check_ready_every=1_000_000))
    await balancer.start()
    await eventually(lambda: asked[503] > 5)
    assert asked[200] == 1
    ready.close()
    for writer in open_to_ready:
        writer.close()
    await eventually(lambda: not any(b.ready for b in balancer.backends()))
    await balancer.stop()
    await eventually(lambda: served[True] == served[False])
    unready.close()


async def test_a_server_that_is_ready_is_asked_as_often_while_another_is_silent() -> None:
    asked, served = Counter[int](), Counter[bool]()

    def serve(number: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served[True] += 1
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await reader.readuntil(b"\r\n\r\n"):
                    asked[number] += 1
                    if number == 0:
                        writer.write(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok")
            await closed(writer)
            served[False] += 1

        return answer

    servers = [await asyncio.start_server(serve(number), "127.0.0.1", 0) for number in range(2)]
    addresses = tuple(f"127.0.0.1:{s.sockets[0].getsockname()[1]}" for s in servers)
    balancer = LoadBalancer(LoadBalancerConfig(backends=addresses, check_interval_s=0.02, check_timeout_s=0.1))
    await balancer.start()
    await eventually(lambda: asked[1] >= 8)
    assert asked[0] >= 6
    await balancer.stop()
    await eventually(lambda: served[True] == served[False])
    for server in servers:
        server.close()


async def test_what_comes_after_the_clients_end_arrives(backends: list[Backend]) -> None:
    balancer = await balanced(backends)
    big = b"x" * 1_000_000
    answer = await ask(balancer, big)
    assert answer[2:] == big
    await balancer.stop()


async def test_connections_go_where_fewest_are(backends: list[Backend]) -> None:
    balancer = await balanced(backends)
    host, _, port = balancer.address.rpartition(":")
    held = []
    for _ in range(4):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"hold")
        held.append((reader, writer))
        await eventually(lambda: sum(b.served for b in backends) == len(held))
    assert [b.served for b in backends] == [2, 2]
    for _, writer in held:
        writer.close()
    await balancer.stop()


async def test_unready_and_dead_servers_are_passed_over(backends: list[Backend]) -> None:
    balancer = await balanced(backends)
    backends[0].ready = False
    await eventually(lambda: not balancer.backends()[0].ready)
    assert {(await ask(balancer, b"m"))[:1] for _ in range(3)} == {b"b"}
    backends[0].ready = True
    await backends[1].stop()
    await eventually(lambda: balancer.backends()[0].ready)
    assert {(await ask(balancer, b"m"))[:1] for _ in range(3)} == {b"a"}
    await balancer.stop()


async def test_client_waits_for_a_server_to_come(backends: list[Backend]) -> None:
    for one in backends:
        one.ready = False
    balancer = await balanced(backends)
    asked = asyncio.create_task(ask(balancer, b"m"))
    await asyncio.sleep(0)
    backends[0].ready = True
    assert await asked == b"a:m"
    await balancer.stop()


async def test_a_client_that_waits_when_the_balancer_stops_is_served_by_a_server_that_comes(
    backends: list[Backend],
) -> None:
    for one in backends:
        one.ready = False
    balancer = await balanced(backends, drain_s=30.0)
    asked = asyncio.create_task(ask(balancer, b"m"))
    await eventually(lambda: balancer._connections)
    stopping = asyncio.create_task(balancer.stop())
    await eventually(lambda: balancer._listening is None)
    backends[0].ready = True
    assert await asked == b"a:m"
    await stopping


async def test_list_of_servers_is_refreshed(backends: list[Backend], caplog: pytest.LogCaptureFixture) -> None:
    config = LoadBalancerConfig(
        backends=(backends[0].address,), check_interval_s=0.02, refresh_interval_s=0.02, refresh_timeout_s=0.02
    )
    looks = itertools.count()

    async def find() -> list[str]:
        if not next(looks):
            await asyncio.Event().wait()
        return [backends[1].address]

    caplog.set_level(logging.INFO)
    balancer = LoadBalancer(config, find_backends=find)
    await balancer.start()
    await eventually(lambda: [b.address for b in balancer.backends()] == [backends[1].address])
    await eventually(lambda: balancer.backends()[0].ready)
    assert await ask(balancer, b"m") == b"b:m"
    assert "the list of API servers was not refreshed: timed out" in caplog.messages
    await balancer.stop()


async def test_a_server_that_goes_makes_it_look_for_others_at_once(backends: list[Backend]) -> None:
    """All servers may be replaced, one after the other, faster than it looks by itself."""
    config = LoadBalancerConfig(backends=(backends[0].address,), check_interval_s=0.02, refresh_interval_s=3600)

    async def find() -> list[str]:
        return [backends[1].address]

    balancer = LoadBalancer(config, find_backends=find)
    await balancer.start()
    await backends[0].stop()
    await eventually(lambda: [b.address for b in balancer.backends()] == [backends[1].address])
    await eventually(lambda: balancer.backends()[0].ready)
    assert await ask(balancer, b"m") == b"b:m"
    await balancer.stop()


@contextlib.asynccontextmanager
async def held(balancer: LoadBalancer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that has passed bytes and goes on."""
    host, _, port = balancer.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"first,")
    await eventually(lambda: sum(b.connections for b in balancer.backends()) == 1)
    yield reader, writer
    writer.close()


async def test_checks_that_fail_end_no_connection(backends: list[Backend]) -> None:
    balancer = await balanced(backends, check_timeout_s=0.05)
    async with held(balancer) as (reader, writer):
        for one in backends:
            one.mute = True
        await eventually(lambda: all(b.health is Health.DOUBTED for b in balancer.backends()))
        for one in backends:
            await one.stop()
        await eventually(lambda: all(b.health is Health.UNREACHABLE for b in balancer.backends()))
        writer.write(b"second")
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"a:first,second"
    await balancer.stop()


async def test_a_server_whose_machine_is_gone_is_noticed_by_its_connections_within_seconds(
    backends: list[Backend],
) -> None:
    """No packet tells of it: what the kernel is asked for is what a client has to wait."""
    opened: list[socket.socket] = []

    class Kept(SystemSockets):
        async def connect(self, *args: Any, **more: Any) -> Any:
            transport, protocol = await super().connect(*args, **more)
            opened.append(transport.get_extra_info("socket"))
            return transport, protocol

    config = LoadBalancerConfig(backends=tuple(b.address for b in backends))
    balancer = LoadBalancer(config, sockets=Kept())
    await balancer.start()
    checks = len(opened)
    async with held(balancer):
        [carried] = opened[checks:]
        asked = [
            carried.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_KEEP{x}")) for x in ("IDLE", "INTVL", "CNT")
        ]
        assert carried.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) and asked[0] + asked[1] * asked[2] <= 6
        assert carried.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0, "slow readers are let live"
    await balancer.stop()


class Deaf:
    """A server that never answers a check, and reads what else it is sent when it is told to."""

    def __init__(self) -> None:
        self.ends: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(4)
        if first in (b"", b"GET "):  # a check, perhaps one that ended before it asked
            await reader.read()
            await closed(writer)
        else:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            self.ends.append((reader, writer))


@contextlib.asynccontextmanager
async def poured() -> AsyncIterator[tuple[LoadBalancer, Deaf, asyncio.StreamReader, asyncio.StreamWriter, bytes]]:
    """A connection on which its client sends more than its server has room for; how much may be unheard: 0.3 s."""
    deaf = Deaf()
    server = await asyncio.start_server(deaf.serve, "127.0.0.1", 0, limit=1024)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    timing = {"check_interval_s": 0.02, "check_timeout_s": 0.05, "unheard_s": 0.3}
    balancer = LoadBalancer(LoadBalancerConfig(backends=(address,), **timing))  # type: ignore[arg-type]
    await balancer.start()
    host, _, port = balancer.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = b"pour" * 5_000_000
    try:
        writer.write(data[:4])
        await eventually(lambda: deaf.ends)
        yield balancer, deaf, reader, writer, data
    finally:
        writer.close()
        await balancer.stop()
        for _, end in deaf.ends:
            end.transport.abort()
        server.close()


async def test_a_server_that_reads_nothing_for_a_while_keeps_its_connections() -> None:
    async with poured() as (balancer, deaf, _, writer, data):
        [(reader, end)] = deaf.ends
        writer.write(data[4:])
        writer.write_eof()
        began, now = time.monotonic(), time.monotonic
        await eventually(lambda: now() > began + 1.5)
        assert [b.connections for b in balancer.backends()] == [1]
        end.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(60):
            taken = 0
            while piece := await reader.read(1 << 20):
                taken += len(piece)
        assert taken == len(data) - 4


async def test_a_connection_whose_servers_machine_is_gone_ends_though_bytes_are_on_their_way() -> None:
    async with poured() as (_, deaf, reader, writer, _):
        [(_, end)] = deaf.ends
        drop_all(end.get_extra_info("socket"))
        writer.write(b"lost")
        assert await asyncio.wait_for(reader.read(), 60) == b""


async def test_of_a_lost_machine_all_connections_end_and_new_ones_go_elsewhere(backends: list[Backend]) -> None:
    """One that waits for an answer is enough: neither the next look at a server that was ready is waited for, nor that
    the others have something to send."""
    for one in backends:
        one.keeps_probes = True
    timing = {"check_timeout_s": 0.2, "doubtful_s": 0.1, "unheard_s": 0.2, "check_ready_every": 1_000_000}
    balancer = await balanced(backends, **timing)
    await eventually(lambda: all(b.health is Health.READY for b in balancer.backends()))
    host, _, port = balancer.address.rpartition(":")
    clients: dict[str, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {"a": [], "b": []}
    for _ in range(4):
        before = [len(b.ends) for b in backends]
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"first,")
        await eventually(lambda before=before: [len(b.ends) for b in backends] != before)
        [at] = [b for b, had in zip(backends, before, strict=True) if len(b.ends) > had]
        clients[at.name].append((reader, writer))
    lost = backends[0]
    lost.mute = True
    for end in lost.ends:
        drop_all(end.get_extra_info("socket"))
    clients["a"][0][1].write(b"second")
    for reader, _ in clients["a"]:
        assert await asyncio.wait_for(reader.read(), 60) == b""
    assert await ask(balancer, b"third") == b"b:third"
    for reader, writer in clients["b"]:
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"b:first,"
    for _, writer in (*clients["a"], *clients["b"]):
        await closed(writer)
    await balancer.stop()


async def test_new_connections_are_tried_when_every_check_fails(backends: list[Backend]) -> None:
    balancer = await balanced(backends, check_timeout_s=0.05)
    for one in backends:
        one.mute = True
    await eventually(lambda: all(b.health is Health.DOUBTED for b in balancer.backends()))
    assert await ask(balancer, b"m") in (b"a:m", b"b:m")
    for one in backends:
        one.ready = one.mute = False
    await eventually(lambda: all(b.health is Health.UNREADY for b in balancer.backends()))
    await balancer.stop()


async def test_servers_that_say_no_are_still_tried_before_giving_up(backends: list[Backend]) -> None:
    for one in backends:
        one.ready = False
    balancer = await balanced(backends, wait_for_backend_s=0.1)
    assert await ask(balancer, b"m") in (b"a:m", b"b:m")
    await balancer.stop()


async def test_time_in_which_the_balancer_stood_still_is_no_failure_of_a_server(backends: list[Backend]) -> None:
    balancer = await balanced(backends, check_timeout_s=0.05)
    for one in backends:
        one.mute = True
    for _ in range(12):
        # A check is on its way whenever this loop stands still for longer than it may take.
        asyncio.get_running_loop().call_soon(time.sleep, 0.06)
        await asyncio.sleep(0)
    assert all(b.ready for b in balancer.backends())
    await balancer.stop()


async def test_a_connection_that_fails_goes_to_the_next_server(backends: list[Backend]) -> None:
    balancer = await balanced(backends, check_interval_s=60.0)
    await backends[0].stop()
    assert {await ask(balancer, b"m") for _ in range(2)} == {b"b:m"}
    await balancer.stop()


async def test_connections_to_a_server_that_left_end_in_the_end(backends: list[Backend]) -> None:
    balancer = await balanced(backends, leave_s=0.1)
    async with held(balancer) as (reader, _):
        balancer.set_backends([backends[1].address])
        assert await asyncio.wait_for(reader.read(), 10) == b""
    await balancer.stop()


async def asked(balancer: LoadBalancer, message: bytes) -> bytes:
    """As `ask`; nothing where the connection is refused."""
    try:
        return await ask(balancer, message)
    except OSError:
        return b""


async def test_a_balancer_takes_so_many_connections(backends: list[Backend]) -> None:
    balancer = await balanced(backends, gate=GateLimits(connections=3))
    host, _, port = balancer.address.rpartition(":")
    held = [(await asyncio.open_connection(host, int(port)))[1] for _ in range(3)]
    for writer in held:
        writer.write(b"x")
    await eventually(lambda: sum(b.served for b in backends) == 3)
    assert await asked(balancer, b"refused") == b""
    held.pop().close()
    async with asyncio.timeout(60):
        while not (await asked(balancer, b"taken")).endswith(b":taken"):
            await asyncio.sleep(0.01)
    for writer in held:
        writer.close()
    await balancer.stop()


async def test_a_client_that_stays_after_its_server_has_ended_is_cut_off(backends: list[Backend]) -> None:
    balancer = await balanced(backends, untaken_s=0.1)
    host, _, port = balancer.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /readyz HTTP/1.1\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 200 OK")
    await eventually(lambda: not balancer._connections)
    writer.close()
    await balancer.stop()


async def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 100_000)
                await writer.drain()

    server = await asyncio.start_server(pour, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    balancer = LoadBalancer(LoadBalancerConfig(backends=(address,), check_interval_s=60.0, untaken_s=0.1))
    await balancer.start()
    host, _, port = balancer.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    await eventually(lambda: balancer._taken == 1)
    await eventually(lambda: not balancer._connections)
    writer.close()
    await balancer.stop()
    server.close()
