"""The TCP load balancer: choice, failure and half-closed connections."""

import asyncio
from collections.abc import AsyncIterator

import pytest_asyncio

from control_plane.apiserver.loadbalancer import LoadBalancer, LoadBalancerConfig


class Backend:
    """Answers /readyz as told, and echoes anything else once its client has said all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = True
        self.address = ""
        self.served = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(1024)
        if first.startswith(b"GET /readyz"):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" if self.ready else b"HTTP/1.1 500 No\r\n\r\n")
        else:
            self.served += 1
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
        await one.stop()


async def balanced(backends: list[Backend], **changes: float) -> LoadBalancer:
    config = LoadBalancerConfig(
        backends=tuple(b.address for b in backends),
        check_interval_s=0.02,
        **changes,  # type: ignore[arg-type]
    )
    balancer = LoadBalancer(config)
    await balancer.start()
    return balancer


async def ask(balancer: LoadBalancer, message: bytes) -> bytes:
    host, _, port = balancer.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(message)
    await asyncio.sleep(0)
    writer.write_eof()
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def eventually(condition: object) -> None:
    async with asyncio.timeout(10):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)


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


async def test_list_of_servers_is_refreshed(backends: list[Backend]) -> None:
    config = LoadBalancerConfig(backends=(backends[0].address,), check_interval_s=0.02, refresh_interval_s=0.02)

    async def find() -> list[str]:
        return [backends[1].address]

    balancer = LoadBalancer(config, find_backends=find)
    await balancer.start()
    await eventually(lambda: [b.address for b in balancer.backends()] == [backends[1].address])
    await eventually(lambda: balancer.backends()[0].ready)
    assert await ask(balancer, b"m") == b"b:m"
    await balancer.stop()
