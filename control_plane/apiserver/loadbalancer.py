"""A TCP load balancer: the one stable address in front of the API servers' HTTPS ports.

It passes bytes on and reads none of them (TLS ends at the servers). A new connection goes to the ready server with
the fewest; if that cannot be reached, to the next. A server that stops to be ready gets no new connections; one that
cannot be reached any more also loses those it has, so that its clients find another. Each connection is a task with one
more for each direction; one task checks the servers. Buffers are bounded: a slow reader slows its writer.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from control_plane.rpc.tls import INTERNAL_SERVER_NAME

log = logging.getLogger(__name__)

_BUFFER_BYTES = 64 * 1024
_BACKLOG = 1024

FindBackends = Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class LoadBalancerConfig:
    """Where to listen and whom to pass on to. Spans in seconds."""

    address: str = "127.0.0.1:0"
    backends: tuple[str, ...] = ()
    """host:port of the servers known at the start."""

    ca: bytes = b""
    """PEM of the authority of the servers' certificates; empty: their ports are plain HTTP."""

    check_interval_s: float = 0.5
    check_timeout_s: float = 1.0
    failures_to_drop: int = 2
    """Checks that must fail in a row before a server that cannot be reached loses its connections."""

    refresh_interval_s: float = 5.0
    """How often `find_backends` is asked."""

    connect_timeout_s: float = 1.0
    wait_for_backend_s: float = 5.0
    """How long a new connection waits for a server to become ready."""

    drain_s: float = 1.0
    """How long open connections may go on when the balancer stops."""


@dataclass(slots=True, eq=False)
class Backend:
    """One server as the balancer sees it."""

    address: str
    ready: bool = False
    failures: int = 0
    leaving: bool = False
    """No longer wanted: gone when its last connection is."""

    connections: "dict[asyncio.Task[None], None]" = field(default_factory=dict)


class LoadBalancer:
    """`address` is where it listens, once started. `find_backends` tells of servers that came and went."""

    def __init__(self, config: LoadBalancerConfig, *, find_backends: FindBackends | None = None) -> None:
        self.address = ""
        self._config = config
        self._find_backends = find_backends
        self._backends: dict[str, Backend] = {}
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], None] = {}
        self._changed = asyncio.Event()
        self._tls = _client_tls(config.ca) if config.ca else None

    async def start(self) -> None:
        """Listen. OSError when the address cannot be had."""
        self.set_backends(self._config.backends)
        host, _, port = self._config.address.rpartition(":")
        self._server = await asyncio.start_server(self._accept, host, int(port), limit=_BUFFER_BYTES, backlog=_BACKLOG)
        bound = self._server.sockets[0].getsockname()
        self.address = f"{bound[0]}:{bound[1]}"
        await self._check_all()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._check_for_ever()))
        if self._find_backends is not None:
            self._tasks.append(loop.create_task(self._refresh_for_ever(self._find_backends)))

    async def stop(self) -> None:
        """Stop listening, let open connections end for a little, then cut them."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=self._config.drain_s)
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def set_backends(self, addresses: Sequence[str]) -> None:
        """From now on these are the servers; the connections of others may go on."""
        for address in addresses:
            found = self._backends.setdefault(address, Backend(address))
            found.leaving = False
        for address, backend in list(self._backends.items()):
            if address not in addresses:
                backend.leaving = True
                if not backend.connections:
                    del self._backends[address]

    def backends(self) -> list[Backend]:
        """All servers, those that are leaving too."""
        return list(self._backends.values())

    # --- checks -------------------------------------------------------------------------------

    async def _check_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.check_interval_s)
            await self._check_all()

    async def _refresh_for_ever(self, find: FindBackends) -> None:
        while True:
            await asyncio.sleep(self._config.refresh_interval_s)
            try:
                addresses = await find()
            except Exception as e:
                # Whatever went wrong, the servers known so far are the best guess.
                log.info("the list of API servers was not refreshed: %s", e)
                continue
            if addresses:
                self.set_backends(addresses)

    async def _check_all(self) -> None:
        await asyncio.gather(*(self._check(b) for b in self.backends() if not b.leaving))

    async def _check(self, backend: Backend) -> None:
        try:
            async with asyncio.timeout(self._config.check_timeout_s):
                ready = await self._is_ready(backend.address)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self._lost(backend)
            return
        backend.failures = 0
        if ready and not backend.ready:
            self._changed.set()
        backend.ready = ready

    def _lost(self, backend: Backend) -> None:
        """It could not be reached."""
        backend.ready = False
        backend.failures += 1
        if backend.failures >= self._config.failures_to_drop:
            for task in list(backend.connections):
                task.cancel()

    async def _is_ready(self, address: str) -> bool:
        host, _, port = address.rpartition(":")
        name = INTERNAL_SERVER_NAME if self._tls is not None else None
        reader, writer = await asyncio.open_connection(host, int(port), ssl=self._tls, server_hostname=name)
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n")
            await writer.drain()
            line = await reader.readuntil(b"\r\n")
        finally:
            writer.transport.abort()
        return line.split(b" ")[1:2] == [b"200"]

    # --- connections --------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        backend = None
        try:
            found = await self._connect()
            if found is None:
                return
            backend, upstream_reader, upstream_writer = found
            backend.connections[task] = None
            try:
                await _splice(reader, writer, upstream_reader, upstream_writer)
            finally:
                upstream_writer.transport.abort()
        except* (OSError, asyncio.CancelledError):
            # Either side went away, or the server was lost: the client sees its connection end.
            pass
        finally:
            writer.transport.abort()
            del self._connections[task]
            if backend is not None:
                backend.connections.pop(task, None)
                if backend.leaving and not backend.connections:
                    self._backends.pop(backend.address, None)

    async def _connect(
        self,
    ) -> tuple[Backend, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the best server; None when none is ready for too long."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._config.wait_for_backend_s
        while True:
            ready = [b for b in self.backends() if b.ready and not b.leaving]
            for backend in sorted(ready, key=lambda b: len(b.connections)):
                host, _, port = backend.address.rpartition(":")
                try:
                    async with asyncio.timeout(self._config.connect_timeout_s):
                        reader, writer = await asyncio.open_connection(host, int(port), limit=_BUFFER_BYTES)
                except (OSError, TimeoutError):
                    self._lost(backend)
                    continue
                return backend, reader, writer
            left = deadline - loop.time()
            if left <= 0:
                return None
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()


async def _splice(
    client_reader: asyncio.StreamReader,
    client_writer: asyncio.StreamWriter,
    server_reader: asyncio.StreamReader,
    server_writer: asyncio.StreamWriter,
) -> None:
    """Pass bytes both ways until both sides have said all; an error of either ends both."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_pump(client_reader, server_writer))
        group.create_task(_pump(server_reader, client_writer))
    # The last bytes may still be on their way out: aborting now would lose them.
    for writer in (client_writer, server_writer):
        writer.close()
    with contextlib.suppress(ConnectionError):
        await client_writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_BUFFER_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _client_tls(ca: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=ca.decode())
