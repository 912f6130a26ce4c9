"""The relay of one host: sockets in the pods' network that take what is for the outside, others that carry it on."""

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rayplane.control_plane.rpc.sockets import serving, stop_listening
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.egress import packet_rules
from rayplane.node.egress.networks import Outside
from rayplane.node.nftables.kernel import KernelTable
from rayplane.node.proxy.datagrams import AT_ONCE, DATAGRAM_MAX, Flows
from rayplane.node.proxy.pipes import CHUNK, TcpPipe, splice
from rayplane.node.runtime.isolation.links import EGRESS_MARK
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.tasks import Tasks

log = logging.getLogger(__name__)

CONNECTIONS_MAX, CONNECTIONS_OF_ONE_MAX = 1024, 256
"""Of all pods, and of one."""
FLOWS_MAX, FLOWS_OF_ONE_MAX = 1024, 256
CONNECT_TIMEOUT_S = 10.0
BACKLOG = 256
RETRY_S = 5.0
_ORIGINAL = 20
"""IP_RECVORIGDSTADDR (linux/in.h): whom a datagram was for."""


class TransparentNetwork(Protocol):
    """A network in which sockets may have addresses that are not this machine's."""

    async def transparent(self, kind: str, ip: str, port: int) -> socket.socket:
        """A socket, tcp or udp, bound there. Raises OSError."""

    def add_egress(self) -> None:
        """Take packets with EGRESS_MARK for this machine's, whatever their address."""

    def lead_out(self, networks: Sequence[str], source: str) -> None:
        """Let programs that share the network itself send to these, from an address of it: back to where rules are."""


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """Facts that a relay must know of its host."""

    outside: Outside
    network: TransparentNetwork
    pods: Callable[[], Iterable[str]]
    """Networks of this host's pods."""
    nodes: Callable[[], Iterable[str]]
    """Addresses of its nodes, as far as they are known, which pods with their nodes' network have."""
    own: PodNetwork = DIRECT
    """Where the outside is."""


class EgressRelay:
    """A relay of one host."""

    def __init__(self, config: RelayConfig, kernel: KernelTable, tasks: Tasks) -> None:
        self._config = config
        self._kernel = kernel
        self._tasks = tasks
        self._server: asyncio.Server | None = None
        self._datagrams: socket.socket | None = None
        self._ports = (0, 0)
        self._known: tuple[str, ...] = ()
        self._connections: Counter[str] = Counter()
        self._flows = Flows(tasks, most=FLOWS_MAX, most_of_one=FLOWS_OF_ONE_MAX)
        self._stale = True
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="way out")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        await self._close()

    def check(self) -> None:
        """Networks of pods may have become known."""
        self._wake.set()

    def reopen(self) -> None:
        """The network that the sockets were in is gone."""
        self._stale = True
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._renew()
            except OSError as e:
                log.warning("pods have no way out: %s", e)
                self._stale = True
                asyncio.get_running_loop().call_later(RETRY_S, self._wake.set)

    async def _renew(self) -> None:
        if self._stale:
            self._stale = False
            await self._close()
            await self._open()
            self._known = ()
        pods, node = tuple(self._config.pods()), next(iter(self._config.nodes()), "")
        if pods != self._known:
            if node:
                self._config.network.lead_out(self._config.outside.networks, node)
            tcp, udp = self._ports
            stretches = self._config.outside.stretches
            fragment = packet_rules.of_relay(pods, stretches, tcp=tcp, udp=udp, mark=EGRESS_MARK)
            self._kernel.table.put("way out", fragment)
            await self._kernel.apply()
            self._known = pods

    async def _open(self) -> None:
        network = self._config.network
        network.add_egress()
        listening = await network.transparent("tcp", "0.0.0.0", 0)
        made = asyncio.start_server(self._accept, sock=listening, backlog=BACKLOG, limit=CHUNK, start_serving=False)
        self._server = await serving(made)
        self._datagrams = await network.transparent("udp", "0.0.0.0", 0)
        self._datagrams.setsockopt(socket.SOL_IP, _ORIGINAL, 1)
        asyncio.get_running_loop().add_reader(self._datagrams, self._read)
        self._ports = (listening.getsockname()[1], self._datagrams.getsockname()[1])

    async def _close(self) -> None:
        self._flows.close()
        if self._server is not None:
            await stop_listening(self._server)
            self._server = None
        if self._datagrams is not None:
            asyncio.get_running_loop().remove_reader(self._datagrams)
            self._datagrams.close()
            self._datagrams = None

    # --- connections ------------------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client, place = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        if client is None or place is None or not self._takes(client[0], place[0]):
            writer.transport.abort()
            return
        self._connections[client[0]] += 1
        self._tasks.spawn(self._carry(TcpPipe(reader, writer), client[0], place), f"way out to {place[0]}")

    def _takes(self, client: str, ip: str) -> bool:
        """Whoever dials the relay itself does not get out: the place that he names is the relay."""
        full = self._connections.total() >= CONNECTIONS_MAX or self._connections[client] >= CONNECTIONS_OF_ONE_MAX
        return not full and self._config.outside.has(ip)

    async def _carry(self, inside: TcpPipe, client: str, place: tuple[str, int]) -> None:
        try:
            outside = await TcpPipe.connect(self._config.own, place[0], place[1], timeout=CONNECT_TIMEOUT_S)
            await splice(inside, outside)
        except OSError:
            await inside.close(broken=True)
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]

    # --- datagrams --------------------------------------------------------------------------------

    def _read(self) -> None:
        assert self._datagrams is not None
        for _ in range(AT_ONCE):
            try:
                data, about, _, client = self._datagrams.recvmsg(DATAGRAM_MAX, socket.CMSG_SPACE(16))
            except BlockingIOError:
                return
            except OSError:
                continue
            place = original(about)
            if place is not None:
                self._take(data, client, place)

    def _take(self, data: bytes, client: tuple[str, int], place: tuple[str, int]) -> None:
        key = (client, place)
        if self._flows.send(key, data) or not self._config.outside.has(place[0]):
            return
        back = _Back(client)

        async def connect() -> socket.socket:
            back.sock = await self._config.network.transparent("udp", *place)
            try:
                return await self._config.own.connect_udp(*place)
            except OSError:
                back.close()
                raise

        self._flows.open(key, client[0], data, connect, back.send, ended=back.close)


class _Back:
    """The way of answers: from the address that was asked."""

    def __init__(self, client: tuple[str, int]) -> None:
        self._client = client
        self.sock: socket.socket | None = None

    def send(self, data: bytes) -> None:
        if self.sock is not None:
            with contextlib.suppress(OSError):  # the pod is gone, or takes nothing now
                self.sock.sendto(data, self._client)

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def original(about: Sequence[tuple[int, int, bytes]]) -> tuple[str, int] | None:
    """Whom a datagram was for, as the kernel tells beside it (struct sockaddr_in)."""
    for level, kind, data in about:
        if (level, kind) == (socket.SOL_IP, _ORIGINAL) and len(data) >= 8:
            (port,) = struct.unpack_from("!H", data, 2)
            return socket.inet_ntoa(data[4:8]), port
    return None
