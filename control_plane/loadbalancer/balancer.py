"""A TCP load balancer: the one stable address in front of the API servers' HTTPS ports.

It passes bytes on and reads none of them (TLS ends at the servers). A new connection goes to the ready server with
the fewest; if that cannot be reached, to the next. `backends` decides; a check that fails never ends a connection.
Each connection is a task with one more for each direction; one task checks the servers. Time in which this process's
own loop stood still is nobody's failure: it does not count against what is waited for. Buffers are bounded: a slow
reader slows its writer, and one that reads nothing is cut off: its server has ended long before.

A server whose machine is gone ends nothing. The kernel asks where a connection is idle; what was sent and nobody has
acknowledged is looked at when a check got no answer. Who is there and reads nothing acknowledges: that is no end.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rayplane.control_plane.component_base.debugging import serve
from rayplane.control_plane.component_base.metrics import Family, counter, gauge
from rayplane.control_plane.loadbalancer.backends import (
    Backend,
    Checked,
    Closed,
    Cut,
    Event,
    Finding,
    Health,
    Listed,
    Opened,
    Pool,
    Retry,
    Ticked,
)
from rayplane.control_plane.loadbalancer.probe import Probe
from rayplane.control_plane.rpc import Network, Server
from rayplane.control_plane.rpc.errors import reason_of
from rayplane.control_plane.rpc.gate import Gate, GateLimits, fitting
from rayplane.control_plane.rpc.sockets import (
    DOUBTFUL_S,
    STREAM_BYTES,
    UNHEARD_S,
    Listening,
    Sockets,
    SystemSockets,
    accepting,
    is_unheard,
    streams,
)
from rayplane.control_plane.tasks import cancel_and_wait, end_each
from rayplane.control_plane.timings import SERVER_CHANGES

log = logging.getLogger(__name__)
T = TypeVar("T")

#: How often servers are looked at.
CHECK_INTERVAL_S = 0.5
_SLICES = 10
# The worst servers that a new connection is tried with, by how many waits it still has before it.
_TRIED = (Health.UNREACHABLE, Health.UNREADY, Health.DOUBTED)
# A peer whose machine is gone sends nothing more: the kernel finds out (tcp(7)). A client may be far away and asleep.
# Servers are near, and their kernels answer within some seconds however busy they are. TCP_USER_TIMEOUT would end
# connections to slow readers, too.
_OF_CLIENTS = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4))
_OF_SERVERS = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 4))

FindBackends = Callable[[], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class LoadBalancerConfig:
    """Addresses to listen on and to pass on to. Spans in seconds."""

    address: str = "127.0.0.1:0"
    metrics_address: str = ""
    """host:port where its metrics are served; empty: nowhere."""
    backends: tuple[str, ...] = ()
    """host:port of the servers known at the start."""

    ca: bytes = b""
    """PEM of the authority of the servers' certificates; empty: their ports are plain HTTP."""

    check_interval_s: float = CHECK_INTERVAL_S
    check_ready_every: int = 4
    """Of these intervals: a server that was ready and keeps the probe's connection open is asked no more often."""
    check_timeout_s: float = 1.0
    silent_to_doubt: int = 2
    """Checks in a row that must get no answer before a server is passed over while there are others."""
    silent_to_cut: int = 10
    """The same, before its connections end while others are ready: about 15 s."""

    refresh_interval_s: float = SERVER_CHANGES.discover_s
    """How often `find_backends` is asked, beside whenever a server refuses a connection."""
    refresh_timeout_s: float = SERVER_CHANGES.discover_s
    """How long that may take."""

    connect_timeout_s: float = 1.0
    wait_for_ready_s: float = 1.0
    """How long a new connection waits where servers say that they are not ready; then they may tell its client why."""
    wait_for_backend_s: float = 5.0
    """How long it waits where none can be reached; then every server is tried once more."""

    leave_s: float = 120.0
    """How long connections to a server that is listed no more may go on."""

    doubtful_s: float = DOUBTFUL_S
    """How long what was sent to a server may be unacknowledged before all servers are asked at once."""
    unheard_s: float = UNHEARD_S
    """The same, while a check gets no answer, either, before the connection ends."""

    untaken_s: float = 300.0
    """How long a side may take nothing of what waits for it, and a client stay after its server has ended."""

    gate: GateLimits = field(default_factory=GateLimits)
    """Slow clients are the servers' to end; how many come from where is known here only."""

    drain_s: float = 1.0
    """How long open connections may go on when the balancer stops."""


class LoadBalancer:
    """A TCP load balancer.

    `address` is where it listens, once started. `find_backends` tells of servers that came and went.
    """

    def __init__(
        self,
        config: LoadBalancerConfig,
        *,
        find_backends: FindBackends | None = None,
        sockets: Sockets | None = None,
        network: Network | None = None,
    ) -> None:
        self.address = ""
        self._network = network
        self._server: Server | None = None
        self._taken = self._turned_away = 0
        self._config = config
        self._find_backends = find_backends
        self._pool = Pool(config.silent_to_doubt, config.silent_to_cut, config.leave_s)
        self._sockets = sockets or SystemSockets()
        self._listening: Listening | None = None
        self._probes: dict[str, Probe] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: dict[asyncio.Task[None], str] = {}
        self._carried: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        """Their ends at servers."""
        self._gate = Gate(fitting(config.gate, files_each=2))
        self._changed = asyncio.Event()
        self._refused = asyncio.Event()
        self._tls = _client_tls(config.ca) if config.ca else None

    async def start(self) -> None:
        """Listen. OSError when the address cannot be had."""
        self.set_backends(self._config.backends)
        if self._network is not None:
            self._server = await serve(self._network, self._config.metrics_address, self.collect)
        self._listening = await self._sockets.listen(self._config.address, accepting(self._accept))
        self.address = self._listening.address
        await self._check_all()
        loop = asyncio.get_running_loop()
        self._tasks.append(loop.create_task(self._check_for_ever()))
        if self._find_backends is not None:
            self._tasks.append(loop.create_task(self._refresh_for_ever(self._find_backends)))

    async def stop(self) -> None:
        """Stop listening, let open connections end for a little, then cut them."""
        listening, self._listening = self._listening, None
        await end_each(
            *([listening.close] if listening is not None else []),
            self._drain,
            lambda: cancel_and_wait(*self._connections, *self._tasks),
            *([self._server.stop] if self._server is not None else []),
        )
        self._tasks.clear()
        for probe in self._probes.values():
            probe.close()

    async def _drain(self) -> None:
        # Checks go on meanwhile: a client that was let in may wait for a server that is not ready yet.
        if self._connections:
            await asyncio.wait(list(self._connections), timeout=self._config.drain_s)

    def collect(self) -> Iterable[Family]:
        """For Prometheus; the servers are few."""
        backends = self.backends()
        open_to = {(b.address,): b.connections for b in backends}
        ready = {(b.address,): b.health is Health.READY for b in backends}
        yield gauge("loadbalancer_connections", "Connections that are open, by server.", open_to, "backend")
        yield gauge("loadbalancer_backend_ready", "Whether a server is ready.", ready, "backend")
        yield counter("loadbalancer_connections_total", "Connections taken.", self._taken)
        yield counter("loadbalancer_connections_refused_total", "Connections beyond the limit.", self._turned_away)

    def set_backends(self, addresses: Sequence[str]) -> None:
        """From now on these are the servers; the connections of others may go on for a while."""
        self._feed(Listed(tuple(addresses)))

    def backends(self) -> list[Backend]:
        """All servers, those that are leaving too."""
        return list(self._pool.backends.values())

    def _feed(self, event: Event) -> None:
        for effect in self._pool.step(event, asyncio.get_running_loop().time()):
            match effect:
                case Cut():
                    log.info("ending the connections to %s, which has left or answers nothing", effect.address)
                    for task in [t for t, address in self._connections.items() if address == effect.address]:
                        task.cancel()
                case Retry():
                    self._changed.set()
                    self._changed = asyncio.Event()

    # --- checks -------------------------------------------------------------------------------

    async def _check_for_ever(self) -> None:
        now, every_s = asyncio.get_running_loop().time, self._config.check_ready_every * self._config.check_interval_s
        asked_at = now()
        while True:
            await asyncio.sleep(self._config.check_interval_s)
            # Not by the number of looks: each is longer while a server is silent.
            began_at = now()
            if is_due := began_at >= asked_at + every_s or bool(self._unheard(self._config.doubtful_s)):
                asked_at = began_at
            await self._check_all(ready=is_due)
            self._feed(Ticked())

    async def _refresh_for_ever(self, find: FindBackends) -> None:
        while True:
            # A server that does not answer may have gone for good: look while others that know of new ones are there.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.refresh_interval_s):
                    await self._refused.wait()
            self._refused.clear()
            try:
                async with asyncio.timeout(self._config.refresh_timeout_s):
                    addresses = await find()
            except Exception as e:
                # Whatever went wrong, the servers known so far are the best guess.
                log.info("the list of API servers was not refreshed: %s", reason_of(e))
                continue
            self.set_backends(addresses)

    async def _check_all(self, *, ready: bool = True) -> None:
        """`ready` False: not those that seem to be as they were."""
        listed = {b.address: b for b in self.backends() if b.left_at is None}
        for address in [a for a in self._probes if a not in listed]:
            self._probes.pop(address).close()
        asked = [a for a, backend in listed.items() if ready or not self._seems_ready(backend)]
        await asyncio.gather(*(self._check(address) for address in asked))

    def _seems_ready(self, backend: Backend) -> bool:
        probe = self._probes.get(backend.address)
        return backend.ready and not backend.silent and probe is not None and probe.connected

    async def _check(self, address: str) -> None:
        probe = self._probes.setdefault(address, Probe(self._sockets, address, self._tls))
        try:
            ready = await _while_running(probe.is_ready(), self._config.check_timeout_s)
            finding = Finding.READY if ready else Finding.UNREADY
        except TimeoutError:
            finding = Finding.SILENT
        except (OSError, EOFError, asyncio.LimitOverrunError):
            finding = Finding.REFUSED
            self._refused.set()
        unheard = self._unheard(self._config.unheard_s).get(address, ()) if finding is Finding.SILENT else ()
        self._feed(Checked(address, Finding.UNHEARD if unheard else finding))
        for task in unheard:
            task.cancel()

    def _unheard(self, seconds: float) -> Mapping[str, list[asyncio.Task[None]]]:
        """The connections by servers of which the kernel has heard nothing for so long, though it asked: the machine,
        as it seems, is not there any more."""
        found: dict[str, list[asyncio.Task[None]]] = {}
        for task, writer in self._carried.items():
            if is_unheard(writer, seconds, again=1):
                found.setdefault(self._connections[task], []).append(task)
        return found

    # --- connections --------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        peer = writer.get_extra_info("peername")
        client = str(peer[0]) if peer else ""
        if not self._gate.enter(client):
            self._turned_away += 1
            writer.transport.abort()
            return
        self._connections[task] = ""
        self._taken += 1
        try:
            found = await self._connect()
            if found is not None:
                await self._carry(task, found, reader, writer)
        except* (OSError, asyncio.CancelledError):
            # Either side went away, or the server left for good: the client sees its connection end.
            pass
        finally:
            writer.transport.abort()
            self._gate.leave(client)
            del self._connections[task]

    async def _carry(
        self,
        task: asyncio.Task[None],
        upstream: tuple[str, asyncio.StreamReader, asyncio.StreamWriter],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        address, upstream_reader, upstream_writer = upstream
        self._connections[task] = address
        self._carried[task] = upstream_writer
        self._feed(Opened(address))
        try:
            _keep_alive(writer, _OF_CLIENTS)
            _keep_alive(upstream_writer, _OF_SERVERS)
            await _splice(reader, writer, upstream_reader, upstream_writer, self._config.untaken_s)
        finally:
            upstream_writer.transport.abort()
            del self._carried[task]
            self._feed(Closed(address))

    async def _connect(self) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """A connection to the best server that takes it; None when none did for `wait_for_backend_s`."""
        loop = asyncio.get_running_loop()
        config, began = self._config, loop.time()
        waits = sorted((config.wait_for_ready_s, config.wait_for_backend_s))
        while True:
            changed = self._changed
            while waits and loop.time() >= began + waits[0]:
                waits.pop(0)
            for address in self._pool.candidates(_TRIED[len(waits)]):
                dial = streams(self._sockets, address)
                try:
                    return address, *await _while_running(dial, config.connect_timeout_s)
                except TimeoutError:
                    self._feed(Checked(address, Finding.SILENT))
                except OSError:
                    self._feed(Checked(address, Finding.REFUSED))
            if not waits:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(began + waits[0]):
                    await changed.wait()


async def _while_running(work: Coroutine[Any, Any, T], seconds: float) -> T:
    """The result of `work`; TimeoutError when it took `seconds` in which this loop did run.

    The time is counted in slices: one that ends late, because the loop stood still, counts no more than any other.
    """
    task = asyncio.ensure_future(work)
    try:
        for _ in range(_SLICES):
            await asyncio.wait([task], timeout=seconds / _SLICES)
            if task.done():
                return task.result()
        raise TimeoutError
    finally:
        if not task.done():
            await cancel_and_wait(task)


async def _splice(
    client_reader: asyncio.StreamReader,
    client_writer: asyncio.StreamWriter,
    server_reader: asyncio.StreamReader,
    server_writer: asyncio.StreamWriter,
    untaken_s: float,
) -> None:
    """Pass bytes both ways until both sides have said all; an error of either, or its silence, ends both."""
    async with asyncio.TaskGroup() as group:
        there = group.create_task(_pump(client_reader, server_writer, untaken_s))
        await group.create_task(_pump(server_reader, client_writer, untaken_s))
        # Nothing that the client still says is answered, and it may be one that never ends.
        await asyncio.wait([there], timeout=untaken_s)
        there.cancel()
    # The last bytes may still be on their way out: aborting now would lose them.
    for writer in (client_writer, server_writer):
        writer.close()
    with contextlib.suppress(ConnectionError, TimeoutError):
        async with asyncio.timeout(untaken_s):
            await client_writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, untaken_s: float) -> None:
    while data := await reader.read(STREAM_BYTES):
        writer.write(data)
        async with asyncio.timeout(untaken_s):
            await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _keep_alive(writer: asyncio.StreamWriter, options: Sequence[tuple[str, int]]) -> None:
    end = writer.get_extra_info("socket")
    if end is None:
        return
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options:
        if hasattr(socket, name):
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _client_tls(ca: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=ca.decode())
