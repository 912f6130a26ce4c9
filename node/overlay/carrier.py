"""The carrier: packets out of this machine's device to the hosts of other machines, and theirs into it."""

import asyncio
import contextlib
import fcntl
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.authorization.node_identity import nodes_of
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS, NETWORK
from rayplane.control_plane.backoff import Backoff
from rayplane.control_plane.client import Informer
from rayplane.control_plane.rpc import Context, RpcError, Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.overlay.routes import Peer, Table, destination_of
from rayplane.node.tasks import Tasks
from rayplane.proto.rayplane.v1 import node_pb2 as pb

log = logging.getLogger(__name__)

PACKET_MAX = 65_600
READ_AT_ONCE = 64
QUEUE_BYTES_MAX = 4 * 1024 * 1024
MESSAGE_BYTES = 256 * 1024
LEAD_LOOK_S = 1.0
BATCH_S = 0.02
_BACKOFF = Backoff(0.2, 2.0)


class Wire(Protocol):
    """This machine's end: a device for packets, and the routes that lead to it."""

    network_id: str

    header: bytes
    """Before each packet that is written; as long a one is before each that is read."""

    async def open_wire(self) -> int:
        """A descriptor of packets, not blocking: what is routed to the device, and what it takes in. Raises OSError."""

    def route(self, cidr: str, *, shared: bool) -> None:
        """Send what is for a network to this host's device: what its own pods send, or what is of no pod (`shared`)."""

    def unroute(self, cidr: str, *, shared: bool) -> None: ...


class Carrier:
    """A host's part of the network between machines, and the handler of `rayplane.v1.Overlay`.

    `nodes`: a started informer; `own`: names of the host's nodes; `lead_file`: whose lock makes one of a machine's
    hosts the one that carries what the machine itself sends.
    """

    def __init__(
        self,
        wire: Wire,
        nodes: Informer,
        own: Iterable[str],
        *,
        lead_file: str,
        channel: Callable[[str], Any],
        tasks: Tasks,
    ) -> None:
        self._wire = wire
        self._nodes = nodes
        self._own = frozenset(own)
        self._lead_file = lead_file
        self._channel = channel
        self._tasks = tasks
        self._table = Table()
        self._links: dict[str, _Link] = {}
        self._routes: dict[bool, set[str]] = {False: set(), True: set()}
        self._device = -1
        self._leads = False
        self._changed = asyncio.Event()
        self._stale = asyncio.Event()
        """Set while there is no device, or none in the network that is there now."""
        self._work: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Take part."""
        self._nodes.add_handler(lambda kind, old, new: self._changed.set())
        self._changed.set()
        self._stale.set()
        self._work = [
            self._tasks.spawn(self._keep_device(), "device between machines"),
            self._tasks.spawn(self._follow(), "routes between machines"),
            self._tasks.spawn(self._lead(), "lead of this machine's hosts"),
        ]

    async def stop(self) -> None:
        for task in self._work:
            await cancel_and_wait(task)
        for link in self._links.values():
            await link.close()
        self._drop_device()

    def reopen(self) -> None:
        """Make the device anew: the network that it was in is gone."""
        self._drop_device()
        self._stale.set()

    async def _keep_device(self) -> None:
        while True:
            await self._stale.wait()
            self._stale.clear()
            try:
                device = await self._wire.open_wire()
            except OSError as e:
                log.warning("pods of other machines cannot be reached by address: %s", e)
                await asyncio.sleep(LEAD_LOOK_S)
                self._stale.set()
                continue
            self._drop_device()
            self._device = device
            asyncio.get_running_loop().add_reader(device, self._read)
            # Routes go with the device that they lead to.
            self._routes = {False: set(), True: set()}
            self._set_routes()

    def _drop_device(self) -> None:
        if self._device >= 0:
            asyncio.get_running_loop().remove_reader(self._device)
            os.close(self._device)
            self._device = -1

    # --- who is where -----------------------------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(BATCH_S)
            self._table = Table(filter(None, map(peer_of, self._nodes.list())))
            hosts = {peer.host for peer in self._table.peers.values()}
            for host in [host for host in self._links if host not in hosts]:
                await self._links.pop(host).close()
            self._set_routes()

    async def _lead(self) -> None:
        """Become the host that the machine's own packets leave by when no other is; the lock ends with the process."""
        fd = os.open(self._lead_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not _locked(fd):
                await asyncio.sleep(LEAD_LOOK_S)
            self._leads = True
            self._set_routes()
            await asyncio.Event().wait()
        finally:
            os.close(fd)

    def _set_routes(self) -> None:
        if self._device < 0:
            return
        wanted = set(self._table.elsewhere(self._wire.network_id))
        for shared, routes in self._routes.items():
            if shared and not self._leads:
                continue
            for cidr in routes - wanted:
                self._wire.unroute(cidr, shared=shared)
            for cidr in wanted - routes:
                self._wire.route(cidr, shared=shared)
            self._routes[shared] = set(wanted)

    # --- out --------------------------------------------------------------------------------------

    def _read(self) -> None:
        for _ in range(READ_AT_ONCE):
            try:
                packet = os.read(self._device, PACKET_MAX)[len(self._wire.header) :]
            except BlockingIOError:
                return
            except OSError as e:
                log.warning("the device between machines is gone: %s", e)
                self.reopen()
                return
            peer = self._table.find(destination_of(packet))
            if peer is not None and peer.node not in self._own:
                self._link(peer).send(packet)

    def _link(self, peer: Peer) -> "_Link":
        link = self._links.get(peer.host)
        if link is None:
            stub = Stub(self._channel(peer.host), pb.DESCRIPTOR.services_by_name["Overlay"])
            link = self._links[peer.host] = _Link(stub, peer.host, self._tasks)
        return link

    # --- in ---------------------------------------------------------------------------------------

    async def Carry(self, requests: AsyncIterator[pb.Packets], context: Context) -> AsyncIterator[pb.Carried]:
        identity = context.identity
        sender = (identity and nodes_of(identity.user, identity.groups)) or frozenset()
        yield pb.Carried()
        async for request in requests:
            for packet in request.packets:
                if self._table.admits(packet, sender=sender, own=self._own):
                    with contextlib.suppress(OSError):  # a full device drops it
                        os.write(self._device, self._wire.header + packet)


class _Link:
    """The packets for one host, and the stream that takes them there. What waits is bounded; more is dropped."""

    def __init__(self, stub: Stub, host: str, tasks: Tasks) -> None:
        self._stub = stub
        self._host = host
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._task = tasks.spawn(self._run(), f"packets for {host}")

    def send(self, packet: bytes) -> None:
        if self._bytes + len(packet) <= QUEUE_BYTES_MAX:
            self._bytes += len(packet)
            self._waiting.append(packet)
            self._wake.set()

    async def close(self) -> None:
        await cancel_and_wait(self._task)

    async def _run(self) -> None:
        pause_s = 0.0
        while True:
            try:
                async for _ in self._stub.Carry(self._messages()):
                    pause_s = 0.0
            except RpcError as e:
                log.info("no packets go to %s: %s", self._host, e.message)
            pause_s = _BACKOFF.after_s(pause_s)
            await asyncio.sleep(pause_s)
            # What waited so long is stale: whoever sent it has sent it again.
            self._waiting.clear()
            self._bytes = 0

    async def _messages(self) -> AsyncIterator[pb.Packets]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                message = pb.Packets()
                size = 0
                while self._waiting and size < MESSAGE_BYTES:
                    packet = self._waiting.popleft()
                    size += len(packet)
                    message.packets.append(packet)
                self._bytes -= size
                yield message


def peer_of(node: Object) -> Peer | None:
    """What there is to know of a node; None unless its pods are isolated and have addresses."""
    notes = meta.annotations(node)
    cidr, host, network = meta.spec(node).get("podCIDR"), notes.get(HOST_ADDRESS), notes.get(NETWORK)
    return Peer(meta.name(node), cidr, host, network) if cidr and host and network else None


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
