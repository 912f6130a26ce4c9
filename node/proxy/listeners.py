"""The sockets of services: connections that are spliced, and who may make them.

Each listens in one or two networks: that of pods, and this machine's own.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

from rayplane.control_plane.rpc.sockets import serving, stop_listening
from rayplane.node.proxy.pipes import CHUNK, Pipe, TcpPipe, splice
from rayplane.node.proxy.rules import Endpoint, Socket, Target
from rayplane.node.runtime.pod_network import PodNetwork
from rayplane.node.tasks import Tasks

BACKLOG = 512
AFFINITY_MAX = 10_000
CONNECTIONS_MAX = 10_000

Places = list[tuple[PodNetwork, Socket]]
Judge = Callable[[str, Endpoint], bool]
"""Whether a client's address may speak with an endpoint that packet rules do not see."""


class Listener(Protocol):
    """A socket of a service that is open from `open` to `close`, whose target may change."""

    places: Places
    closed: Places
    """Those at which it does not listen."""
    target: Target

    async def open(self) -> OSError | None:
        """Listen where it does not yet; why that failed at some place. Raises OSError where it listens nowhere."""

    async def close(self) -> None: ...


async def opened(listener: Listener, begin: Callable[[PodNetwork, str, int], Awaitable[None]]) -> OSError | None:
    """As `Listener.open`. `begin`: listen at one place.

    The machine's own network may keep a port that is free in the pods' network: of an unprivileged user, or for another
    program.
    """
    refused: OSError | None = None
    tried, listener.closed = listener.closed, []
    for network, address in tried:
        try:
            await begin(network, address.ip, address.port)
        except OSError as e:
            listener.closed.append((network, address))
            if refused is None or not isinstance(e, PermissionError):  # which no later try changes
                refused = e
    if refused is not None and len(listener.closed) == len(listener.places):
        raise refused
    return refused


class Choices:
    """The endpoints for one client after the other: in turn, or where he was before."""

    def __init__(self, turn: int) -> None:
        self._turn = turn
        self._clients: dict[str, tuple[Endpoint, float]] = {}

    def of(self, target: Target, client: str) -> Iterator[Endpoint]:
        """Every endpoint once: the client's own first, then in turn. None for whom it is not open to."""
        if not _is_open_to(client, target.sources):
            return
        own = self._clients.get(client)
        now = asyncio.get_running_loop().time()
        if target.affinity_s and own is not None and own[0] in target.endpoints and own[1] > now:
            yield own[0]
        self._turn += 1
        for i in range(len(target.endpoints)):
            yield target.endpoints[(self._turn + i) % len(target.endpoints)]

    def remember(self, target: Target, client: str, endpoint: Endpoint) -> None:
        if not target.affinity_s:
            return
        self._clients.pop(client, None)
        if len(self._clients) >= AFFINITY_MAX:
            del self._clients[next(iter(self._clients))]
        self._clients[client] = (endpoint, asyncio.get_running_loop().time() + target.affinity_s)


def _is_open_to(client: str, sources: Sequence[str]) -> bool:
    if not sources:
        return True
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(one) for one in sources)


class TcpListener:
    """A listener for connections."""

    def __init__(
        self,
        places: Places,
        target: Target,
        dial: Callable[[Endpoint], Awaitable[Pipe]],
        judge: Judge,
        tasks: Tasks,
        *,
        turn: int,
    ) -> None:
        self.places, self.closed = places, places
        self.target = target
        self._dial = dial
        self._judge = judge
        self._tasks = tasks
        self._servers: list[asyncio.Server] = []
        self._choices = Choices(turn)
        self._connections = 0

    async def open(self) -> OSError | None:
        async def begin(network: PodNetwork, ip: str, port: int) -> None:
            sock = await network.listen(ip, port)
            made = asyncio.start_server(self._accept, sock=sock, backlog=BACKLOG, limit=CHUNK, start_serving=False)
            self._servers.append(await serving(made))

        return await opened(self, begin)

    async def close(self) -> None:
        """Take no more connections; those under way go on."""
        while self._servers:
            await stop_listening(self._servers.pop())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections += 1
        self._tasks.spawn(self._serve(TcpPipe(reader, writer), writer), f"connection to {self.target.service}")

    async def _serve(self, client: TcpPipe, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        try:
            backend = await self._connect(peer[0] if peer else "")
            if backend is None:
                await client.close(broken=True)
            else:
                await splice(client, backend)
        finally:
            self._connections -= 1

    async def _connect(self, client: str) -> Pipe | None:
        target = self.target
        for endpoint in self._choices.of(target, client):
            if not self._judge(client, endpoint):
                continue
            with contextlib.suppress(OSError):
                pipe = await self._dial(endpoint)
                self._choices.remember(target, client, endpoint)
                return pipe
        return None
