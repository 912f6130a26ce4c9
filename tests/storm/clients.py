"""Clients that nobody wants: deaf ones, half ones, many at once, and some that go away in the middle of a call."""

import asyncio
import contextlib
import itertools
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from typing import Any

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.client import ApiClient
from rayplane.control_plane.cluster.access import Access
from rayplane.control_plane.cluster.readiness import client_ssl
from rayplane.control_plane.cluster.topology import Role
from tests.storm.load import CONFIG_MAPS, LEASES, NAMESPACE, ConfigMaps, probed

OPEN_TIMEOUT_S = 5.0
RECEIVE_BYTES = 4096
WATCHED = ("/api/v1/configmaps", "/api/v1/pods", "/api/v1/events", "/apis/coordination.k8s.io/v1/leases")
#: The beginnings of nothing: of a TLS hello, of a request, of an HTTP/2 connection.
HALVES = (
    b"",
    b"\x16\x03\x01\x02\x00\x01",
    b"GET /api HTTP/1.1\r\nHost: a",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00",
)
_PASSING = (OSError, EOFError, ssl.SSLError, TimeoutError)


async def deaf(admin: Access, count: int, for_s: float) -> None:
    """Watch everything and read nothing of it."""
    topology, context = admin.state.topology, client_ssl(admin.shown())
    ends = [*topology.endpoints(Role.APISERVER, "https"), *topology.endpoints(Role.LOAD_BALANCER, "https")]
    wanted = list(zip(range(count), itertools.cycle(ends), itertools.cycle(WATCHED)))

    async def one(end: str, path: str) -> None:
        async with _connection(end, context) as writer:
            request = f"GET {path}?watch=1&resourceVersion=0 HTTP/1.1\r\nHost: {end}\r\n\r\n"
            writer.write(request.encode())
            await asyncio.sleep(for_s)

    await _all([one(end, path) for _, end, path in wanted])


async def half_open(admin: Access, count: int, for_s: float) -> None:
    """Connections to every port that come to nothing."""
    ends = [i.endpoint(port) for i in admin.state.topology.instances for port in i.ports]

    async def one(end: str, half: bytes) -> None:
        async with _connection(end, None) as writer:
            writer.write(half)
            await asyncio.sleep(for_s)

    await _all([one(end, half) for end in ends for _, half in zip(range(count), itertools.cycle(HALVES))])


async def cancel(admin: Access, maps: ConfigMaps, count: int, within_s: float, rng: random.Random) -> None:
    """Writes of every kind, given up after a moment: those that API servers send in groups, and others."""
    servers = admin.state.topology.of(Role.APISERVER)

    async def give_up(work: Coroutine[Any, Any, object]) -> None:
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(rng.uniform(0, within_s)):
                await work

    async def leases() -> None:
        # One after the other: each is the first of its group, for which the others would wait.
        for n in range(count):
            change = {"spec": {"holderIdentity": f"nobody-{n}"}}
            await give_up(admin.api.patch(LEASES, probed(servers[n % len(servers)].name), NAMESPACE, change))

    await asyncio.gather(leases(), *(give_up(maps.create(maps.fresh("given-up"))) for _ in range(count)))


async def burst(maps: ConfigMaps, count: int) -> None:
    """So many creates at once, then as many deletions."""
    keys = [maps.fresh("burst") for _ in range(count)]
    await asyncio.gather(*(maps.create(k) for k in keys))
    await asyncio.gather(*(maps.delete(k) for k in keys))


async def watch_burst(api: ApiClient, count: int) -> None:
    """So many watches begin at once; each is gone after its first events."""

    async def one() -> None:
        stream = api.watch(CONFIG_MAPS, NAMESPACE, send_initial_events=True)
        async with contextlib.aclosing(stream) as events:
            async for _ in events:
                return

    async def limited() -> None:
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await one()

    await asyncio.gather(*(limited() for _ in range(count)))


@contextlib.asynccontextmanager
async def _connection(end: str, context: ssl.SSLContext | None) -> AsyncIterator[asyncio.StreamWriter]:
    host, _, port = end.rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
            named = host if context else None
            _, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=named, limit=16)
    except BaseException:
        sock.close()
        raise
    try:
        yield writer
    finally:
        writer.transport.abort()


async def _all(work: Sequence[Awaitable[None]]) -> None:
    """What a storm has broken meanwhile is no fault."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, _PASSING):
            raise result
