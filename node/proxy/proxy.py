"""The service proxy of one host: sockets of services, kept as `rules` say."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS, RUNTIME
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.client import Informer
from rayplane.control_plane.rpc import Stub
from rayplane.control_plane.rpc.sockets import stop_listening
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.events import Events
from rayplane.node.proxy.pipes import CHUNK, ForwardPipe, Pipe, TcpPipe, splice
from rayplane.node.proxy.rules import (
    SLICES_BY_SERVICE,
    Endpoint,
    HostView,
    Socket,
    Target,
    endpoints_of,
    outside,
    plan_service,
    services_of,
)
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.tasks import Tasks
from rayplane.proto.rayplane.v1 import node_pb2 as pb

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
BIND_RETRY_S = 2.0
BACKLOG = 512
AFFINITY_MAX = 10_000
CONNECTIONS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Facts that the proxy must know of its host."""

    address: str
    """host:port of the host's gRPC services, as others dial it."""
    loopback_networks: tuple[str, ...]
    """See NodeHostConfig."""
    network: PodNetwork
    """Where pods and services have their addresses; `DIRECT` when that is this machine's own."""
    batch_window_s: float
    """How long changes wait for company."""


class ServiceProxy:
    """A proxy that listens for services with real endpoints and carries their connections.

    `services`, `slices` (with the index `SLICES_BY_SERVICE`) and `nodes`: informers that have been started and synced.
    `node_ips`: addresses of this host's nodes by name. `channel`: an address (host:port) to a channel for stubs.
    """

    def __init__(
        self,
        config: ProxyConfig,
        *,
        services: Informer,
        slices: Informer,
        nodes: Informer,
        node_ips: Callable[[], Mapping[str, str]],
        channel: Callable[[str], Any],
        events: Events,
        tasks: Tasks,
        rng: random.Random,
    ) -> None:
        self._config = config
        self._services = services
        self._nodes = nodes
        self._node_ips = node_ips
        self._channel = channel
        self._events = events
        self._tasks = tasks
        self._rng = rng
        self._slices = slices
        self._plans: dict[str, dict[Socket, Target]] = {}
        self._listeners: dict[Socket, _Listener] = {}
        self._stale: dict[Socket, _Listener] = {}
        self._dirty: dict[str, None] = {}
        self._own = [ipaddress.ip_network(n) for n in config.loopback_networks]
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._services.add_handler(lambda kind, old, new: self._mark(meta.key(new)))
        self._slices.add_handler(lambda kind, old, new: self._mark(*services_of(new)))
        self._nodes.add_handler(self._node_event)
        self._task = asyncio.get_running_loop().create_task(self._run(), name="service proxy")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        for listener in self._listeners.values():
            await listener.close()

    # --- what others ask --------------------------------------------------------------------------

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of a port of the service namespace/name, as `rules.endpoints_of` says."""
        return endpoints_of(self._slices.by_index(SLICES_BY_SERVICE, service), port_name, self._view())

    def is_near(self, endpoint: Endpoint) -> bool:
        """Tell whether this machine's own network leads to the endpoint."""
        return self._far_host(endpoint) is None and self._network_of(endpoint) is DIRECT

    async def dial(self, endpoint: Endpoint) -> Pipe:
        """Connect to an endpoint, wherever it is. Raises OSError."""
        far = self._far_host(endpoint)
        if far is None:
            network = self._network_of(endpoint)
            return await TcpPipe.connect(network, endpoint.ip, endpoint.port, timeout=CONNECT_TIMEOUT_S)
        namespace, name = meta.split_key(endpoint.pod)
        stub = Stub(self._channel(far), pb.DESCRIPTOR.services_by_name["Node"])
        ref = pb.ContainerRef(node=endpoint.node, namespace=namespace, pod=name)
        pipe = ForwardPipe(stub, ref, endpoint.port)
        try:
            await pipe.open(timeout=CONNECT_TIMEOUT_S)
        except OSError:
            await pipe.close(broken=True)
            raise
        return pipe

    def _network_of(self, endpoint: Endpoint) -> PodNetwork:
        """What is no pod is outside of the pods' network: an API server, somebody's own address."""
        return self._config.network if endpoint.pod and endpoint.node else DIRECT

    def _view(self) -> HostView:
        simulated = (meta.name(n) for n in self._nodes.list() if meta.annotations(n).get(RUNTIME) == "simulated")
        addresses = self._node_ips()
        own = {name: self._nodes.get("", name) for name in addresses}
        zones = {name: meta.labels(node).get(ZONE, "") for name, node in own.items() if node is not None}
        return HostView(addresses, frozenset(simulated), zones)

    def _far_host(self, endpoint: Endpoint) -> str | None:
        node = self._nodes.get("", endpoint.node) if endpoint.node else None
        address = meta.annotations(node).get(HOST_ADDRESS) if node is not None else None
        if address is None or _machine(address) == _machine(self._config.address) or not endpoint.pod:
            return None
        if self._config.network is not DIRECT:
            return None  # its network leads to pods of all machines
        return address

    # --- keeping sockets --------------------------------------------------------------------------

    def _mark(self, *services: str) -> None:
        self._dirty.update(dict.fromkeys(services))
        self._wake.set()

    def _node_event(self, kind: str, old: Object | None, new: Object) -> None:
        watched = (RUNTIME, HOST_ADDRESS)
        before = [meta.annotations(old).get(a) for a in watched] if old else []
        own = meta.name(new) in self._node_ips()
        if before != [meta.annotations(new).get(a) for a in watched] or own:
            self._mark(*(meta.key(s) for s in self._services.list()))

    def reopen(self) -> None:
        """Listen anew: the network that services had their addresses in is gone."""
        self._stale.update(self._listeners)
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Changes come in groups: a roll-out touches one slice many times.
            await asyncio.sleep(self._config.batch_window_s)
            dirty, self._dirty = self._dirty, {}
            view = self._view()
            for key in dirty:
                self._plan(key, view)
            await self._apply()

    def _plan(self, key: str, view: HostView) -> None:
        service = self._services.get_key(key)
        if service is None:
            self._plans.pop(key, None)
            return
        plan = plan_service(service, self._slices.by_index(SLICES_BY_SERVICE, key), view)
        for address in [a for a in plan if self._is_foreign(a[0])]:
            self._events.record(service, "Warning", "CannotListen", f"{address[0]} is no address of this cluster")
            del plan[address]
        self._plans[key] = plan

    def _is_foreign(self, address: str) -> bool:
        """Whether it is a loopback address of another cluster or of the machine itself, user-chosen or restored.

        Where the host itself is reached on loopback only, so are its services: who may write them opens nothing wider.
        """
        ip = ipaddress.ip_address(address)
        if not self._own or any(ip in network for network in self._own):
            return False
        return ip.is_loopback or _is_loopback(_machine(self._config.address).strip("[]"))

    async def _apply(self) -> None:
        wanted: dict[Socket, Target] = {}
        for key in sorted(self._plans, reverse=True):
            wanted.update(self._plans[key])
        stale, self._stale = self._stale, {}
        for address in [a for a in self._listeners if a not in wanted or a in stale]:
            await self._listeners.pop(address).close()
        for address, target in wanted.items():
            listener = self._listeners.get(address)
            if listener is None:
                turn = self._rng.getrandbits(16)
                listener = _Listener(address, self._places(address), self.dial, self._tasks, turn=turn)
                if not await self._open(listener, target):
                    continue
                self._listeners[address] = listener
            listener.target = target

    def _places(self, address: Socket) -> list[tuple[PodNetwork, Socket]]:
        """Where to listen for an address: in the pods' network, and for people at this machine too."""
        places: list[tuple[PodNetwork, Socket]] = [(DIRECT, outside(address))]
        network = self._config.network
        if network is not DIRECT and outside(address) != address:
            places.insert(0, (network, address))
        return places

    async def _open(self, listener: "_Listener", target: Target) -> bool:
        try:
            await listener.open()
        except OSError as e:
            self._refused(listener.address, target, e)
            return False
        return True

    def _refused(self, address: Socket, target: Target, error: OSError) -> None:
        if error.errno == errno.EADDRNOTAVAIL:
            return  # an external address which another machine has
        text = f"cannot listen on {address[0]}:{address[1]}: {error.strerror}"
        if error.errno == errno.EACCES:
            text += "; use a port from 1024 on, or set net.ipv4.ip_unprivileged_port_start=0 on the machine"
        else:
            asyncio.get_running_loop().call_later(BIND_RETRY_S, self._mark, target.service)
        service = self._services.get_key(target.service)
        if service is not None:
            self._events.record(service, "Warning", "CannotListen", text)
        log.warning("service %s: %s", target.service, text)


class _Listener:
    """One socket of a service."""

    def __init__(
        self,
        address: Socket,
        places: list[tuple[PodNetwork, Socket]],
        dial: Callable[[Endpoint], Awaitable[Pipe]],
        tasks: Tasks,
        *,
        turn: int,
    ) -> None:
        self.address = address
        self._places = places
        self.target: Target | None = None
        self._dial = dial
        self._tasks = tasks
        self._servers: list[asyncio.Server] = []
        self._turn = turn
        self._clients: dict[str, tuple[Endpoint, float]] = {}
        self._connections = 0

    async def open(self) -> None:
        """Begin to listen. Raises OSError."""
        try:
            for network, (ip, port) in self._places:
                sock = await network.listen(ip, port)
                self._servers.append(await asyncio.start_server(self._accept, sock=sock, backlog=BACKLOG, limit=CHUNK))
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        """Take no more connections; those under way go on."""
        while self._servers:
            await stop_listening(self._servers.pop())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections += 1
        self._tasks.spawn(self._serve(TcpPipe(reader, writer), writer), f"connection to {self.address}")

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
        for endpoint in self._choices(client):
            with contextlib.suppress(OSError):
                pipe = await self._dial(endpoint)
                self._remember(client, endpoint)
                return pipe
        return None

    def _choices(self, client: str) -> Iterator[Endpoint]:
        """Every endpoint once: the client's own first, then in turn."""
        if self.target is None:
            return
        endpoints = self.target.endpoints
        own = self._clients.get(client)
        now = asyncio.get_running_loop().time()
        if self.target.affinity_s and own is not None and own[0] in endpoints and own[1] > now:
            yield own[0]
        self._turn += 1
        for i in range(len(endpoints)):
            yield endpoints[(self._turn + i) % len(endpoints)]

    def _remember(self, client: str, endpoint: Endpoint) -> None:
        if self.target is None or not self.target.affinity_s:
            return
        self._clients.pop(client, None)
        if len(self._clients) >= AFFINITY_MAX:
            del self._clients[next(iter(self._clients))]
        self._clients[client] = (endpoint, asyncio.get_running_loop().time() + self.target.affinity_s)


def _machine(address: str) -> str:
    return address.rpartition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
