"""The service proxy of one host: packet rules and sockets of services, kept as `rules` say.

Where the kernel takes packet rules, pods meet those, and sockets of the pods' network serve only what is outside of it.
People at this machine always meet sockets.
"""

import asyncio
import errno
import ipaddress
import logging
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS, NETWORK, RUNTIME
from rayplane.control_plane.api.node_labels import ZONE
from rayplane.control_plane.client import Informer
from rayplane.control_plane.rpc import Stub
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.config import CRI
from rayplane.node.events import Events
from rayplane.node.nftables.kernel import KernelTable
from rayplane.node.nftables.ruleset import NOTHING
from rayplane.node.proxy import host_ports, packet_rules
from rayplane.node.proxy.datagrams import UdpListener
from rayplane.node.proxy.health_check import HealthListener
from rayplane.node.proxy.listeners import Judge, Listener, Places, TcpListener
from rayplane.node.proxy.pipes import ForwardPipe, Pipe, TcpPipe
from rayplane.node.proxy.rules import (
    SCTP,
    SLICES_BY_SERVICE,
    TCP,
    UDP,
    Endpoint,
    HostView,
    Socket,
    Target,
    endpoints_of,
    left_out,
    outside,
    outside_ip,
    plan_service,
    services_of,
)
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork
from rayplane.node.tasks import Tasks
from rayplane.proto.rayplane.v1 import node_pb2 as pb

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
BIND_RETRY_S = 2.0
KERNEL_RETRY_S = 30.0


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
    services: str = ""
    """The network of the services' addresses; see NodeHostConfig."""
    dns: str = ""
    """The address of the cluster's DNS server, whose sockets are others' business."""
    kernel: KernelTable | None = None
    """Packet rules of the pods' network; None where there are none."""
    judge: Callable[[str, str, int, str], bool] = lambda client, ip, port, protocol: True
    """Whether a pod's address may speak with a place outside of that network,"""
    among: Callable[[str, str, int, str], bool] = lambda client, ip, port, protocol: True
    """and with a pod that is in another one."""


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
        self._kernel = config.kernel
        self._in_kernel = False
        """Whether pods meet packet rules."""
        self._services = services
        self._nodes = nodes
        self._ported: dict[str, Object] = {}
        """Pods that take ports of their nodes."""
        self._node_ips = node_ips
        self._channel = channel
        self._events = events
        self._tasks = tasks
        self._rng = rng
        self._slices = slices
        self._plans: dict[str, dict[Socket, Target]] = {}
        self._listeners: dict[Socket, Listener] = {}
        self._stale: dict[Socket, Listener] = {}
        self._again: set[Socket] = set()
        """Those to be opened at places where that failed."""
        self._retries: dict[Socket, asyncio.TimerHandle] = {}
        """When those are tried again that were refused."""
        self._by_rules_alone: dict[str, dict[Socket, bool]] = {}
        """Of SCTP, or at addresses that are others', by service, and whether packet rules lead to all behind them."""
        self._datagrams: dict[str, packet_rules.Datagrams] = {}
        self._lost: packet_rules.Datagrams = {}
        self._told: dict[str, str] = {}
        """What was said to be left out, by service."""
        self._dirty: dict[str, None] = {}
        self._elsewhere: frozenset[str] = frozenset()
        """Nodes whose pods are in another network than this host's."""
        self._own = [ipaddress.ip_network(n) for n in config.loopback_networks]
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._services.add_handler(lambda kind, old, new: self._mark(meta.key(new)))
        self._slices.add_handler(lambda kind, old, new: self._mark(*services_of(new)))
        self._nodes.add_handler(self._node_event)
        if self._kernel is not None:
            self._kernel.table.put("services", packet_rules.frame(self._config.services))
            dns = [Socket(self._config.dns, 53, protocol) for protocol in (TCP, UDP)] if self._config.dns else []
            self._kernel.table.put("dns", packet_rules.answered(dns))
            self._wake.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name="service proxy")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        for later in self._retries.values():
            later.cancel()
        for listener in self._listeners.values():
            await listener.close()

    # --- what others ask --------------------------------------------------------------------------

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]:
        """Return the endpoints of a port of the service namespace/name, as `rules.endpoints_of` says."""
        return endpoints_of(self._slices.by_index(SLICES_BY_SERVICE, service), port_name, self._view())

    def network_of(self, endpoint: Endpoint) -> PodNetwork | None:
        """The network that leads to an endpoint; None where only its node host does."""
        return self._network_of(endpoint) if self._far_host(endpoint) is None else None

    async def dial(self, endpoint: Endpoint) -> Pipe:
        """Connect to an endpoint, wherever it is. Raises OSError."""
        far = self._far_host(endpoint)
        if far is None:
            network, ip = self._network_of(endpoint), self._dialled(endpoint)
            return await TcpPipe.connect(network, ip, endpoint.port, timeout=CONNECT_TIMEOUT_S)
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

    async def _connect_udp(self, endpoint: Endpoint) -> socket.socket:
        if self._far_host(endpoint) is not None:
            raise OSError(errno.EHOSTUNREACH, "datagrams reach pods of other machines only where pods are isolated")
        return await self._network_of(endpoint).connect_udp(self._dialled(endpoint), endpoint.port)

    def _network_of(self, endpoint: Endpoint) -> PodNetwork:
        return self._config.network if self._is_inside(endpoint) else DIRECT

    def _dialled(self, endpoint: Endpoint) -> str:
        """The address at which an endpoint is found in its network: this machine has nodes' own in 127/8."""
        spans = self._network_of(endpoint).spans_machines
        return outside_ip(endpoint.ip) if not spans and self._own and self._is_own(endpoint.ip) else endpoint.ip

    def _is_inside(self, endpoint: Endpoint) -> bool:
        """Whether it is in the network of this host's pods. What is no pod is not: an API server, somebody's own
        address.
        """
        return bool(endpoint.pod and endpoint.node) and endpoint.node not in self._elsewhere

    def _view(self) -> HostView:
        nodes = self._nodes.list()
        simulated = (meta.name(n) for n in nodes if meta.annotations(n).get(RUNTIME) == "simulated")
        self._elsewhere = frozenset(meta.name(n) for n in nodes if self._is_elsewhere(n))
        addresses = self._node_ips()
        own = {name: self._nodes.get("", name) for name in addresses}
        zones = {name: meta.labels(node).get(ZONE, "") for name, node in own.items() if node is not None}
        return HostView(addresses, frozenset(simulated), zones)

    def _is_elsewhere(self, node: Object) -> bool:
        """Isolated pods have a network of their own, and those of another project's runtime its."""
        notes = meta.annotations(node)
        if self._config.network.spans_machines:
            return str(notes.get(RUNTIME)).startswith(CRI)
        return NETWORK in notes

    def _far_host(self, endpoint: Endpoint) -> str | None:
        node = self._nodes.get("", endpoint.node) if endpoint.node else None
        address = meta.annotations(node).get(HOST_ADDRESS) if node is not None else None
        if address is None or not endpoint.pod:
            return None
        is_inside, spans = self._is_inside(endpoint), self._config.network.spans_machines
        if not is_inside and not spans:
            return address  # nothing of this machine's own leads to isolated pods
        is_near = _machine(address) == _machine(self._config.address)
        return None if is_near or (is_inside and spans) else address

    # --- keeping sockets --------------------------------------------------------------------------

    def _mark(self, *services: str) -> None:
        self._dirty.update(dict.fromkeys(services))
        self._wake.set()

    def _node_event(self, kind: str, old: Object | None, new: Object) -> None:
        watched = (RUNTIME, HOST_ADDRESS, NETWORK)
        before = [meta.annotations(old).get(a) for a in watched] if old else []
        own = meta.name(new) in self._node_ips()
        if before != [meta.annotations(new).get(a) for a in watched] or own:
            self._mark(*(meta.key(s) for s in self._services.list()), *self._ported)
        if own:
            self._mark(f"{host_ports.KUBELET}{meta.name(new)}")

    def pod_event(self, kind: str, old: Object | None, new: Object) -> None:
        """A pod of this host is told of: the ports that it takes of its node are served as those of services are."""
        key = host_ports.key_of(new)
        known = self._ported.pop(key, None) is not None
        if kind != "DELETED" and host_ports.has_ports(new):
            self._ported[key] = new
        if known or key in self._ported:
            self._mark(key)

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
            self._for_each(dirty, partial(self._plan, view=self._view()))
            before = self._in_kernel
            await self._apply_to_kernel()
            turned = self._by_rules_alone if before != self._in_kernel else ()
            self._for_each({*dirty, *turned}, self._tell_left_out)
            await self._apply()

    def _for_each(self, services: Iterable[str], do: Callable[[str], None]) -> None:
        for key in services:
            try:
                do(key)
            except Exception:
                # One object of a form that is not its kind's must not end the others' service.
                log.exception("service %s is not served", key)

    def _owner(self, key: str) -> Object | None:
        return self._ported.get(key) or self._services.get_key(key)

    def _wanted(self, key: str, view: HostView) -> dict[Socket, Target]:
        if key.startswith(host_ports.KUBELET):
            own = view.node_ips.get(key.removeprefix(host_ports.KUBELET)) or ""
            return host_ports.plan_kubelet(key, own, _place(self._config.address))
        owner = self._owner(key)
        if owner is None:
            return {}
        if key in self._ported:
            return host_ports.plan_pod(owner, view)
        return plan_service(owner, self._slices.by_index(SLICES_BY_SERVICE, key), view)

    def _plan(self, key: str, *, view: HostView) -> None:
        plan = self._wanted(key, view)
        if self._kernel is not None:
            wanted = packet_rules.of_service(plan, view.node_ips, self._is_inside) if plan else NOTHING
            self._kernel.table.put(f"service {key}", wanted)
            self._note_datagrams(key, plan)
        self._by_rules_alone.pop(key, None)
        # Sockets give no answer where there is nobody to ask; who listens nowhere says so.
        sockets = {one: t for one, t in plan.items() if one.protocol == SCTP or t.endpoints or t.health is not None}
        alone = [one for one in sockets if one.protocol == SCTP or self._is_foreign(one.ip)]
        if alone:
            self._by_rules_alone[key] = {one: self._is_led_to(one, sockets.pop(one)) for one in alone}
        if sockets:
            self._plans[key] = sockets
        else:
            self._plans.pop(key, None)

    def _note_datagrams(self, key: str, plan: Mapping[Socket, Target]) -> None:
        """Remember where datagrams of a service may go now, and which of its sockets lost a place."""
        before = self._datagrams.pop(key, {})
        now = packet_rules.datagram_places(plan)
        self._lost.update(
            (socket, now.get(socket, frozenset()))
            for socket, was in before.items()
            if was - now.get(socket, frozenset())
        )
        if now:
            self._datagrams[key] = now

    def _tell_left_out(self, key: str) -> None:
        """Say what of a service nobody serves, once packet rules are what they are now."""
        owner = self._owner(key)
        if owner is None:
            self._told.pop(key, None)
            return
        rules = self._by_rules_alone.get(key, {})
        missing = [one for one, is_there in rules.items() if not (self._in_kernel and is_there)]
        sctp = [one for one in missing if one.protocol == SCTP]
        for ip in dict.fromkeys(one.ip for one in missing if one.protocol != SCTP):
            self._events.record(owner, "Warning", "CannotListen", f"{ip} is no address of this cluster")
        if key in self._ported:
            words = host_ports.left_out(owner, self._view(), sctp)
        else:
            words = left_out(owner, self._slices.by_index(SLICES_BY_SERVICE, key), sctp)
        if words and self._told.get(key) != words:
            self._events.record(owner, "Warning", "NotServed", f"not served: {words}")
        if words:
            self._told[key] = words
        else:
            self._told.pop(key, None)

    async def _apply_to_kernel(self) -> None:
        if self._kernel is None:
            return
        before = self._in_kernel
        try:
            await self._kernel.apply()
            lost, self._lost = self._lost, {}
            if lost:
                # A flow of datagrams knows no end, and goes on to where it was translated to.
                await self._kernel.end_flows(await self._kernel.flows(lambda flow: packet_rules.is_lost(flow, lost)))
            self._in_kernel = True
        except OSError as e:
            self._in_kernel = False
            log.warning("services of pods are served by sockets, since the kernel takes no packet rules: %s", e)
            asyncio.get_running_loop().call_later(KERNEL_RETRY_S, self._wake.set)
        if before != self._in_kernel:
            log.info("services of pods are served by %s", "packet rules" if self._in_kernel else "sockets")

    def _is_foreign(self, address: str) -> bool:
        """Whether it is a loopback address of another cluster or of the machine itself, user-chosen or restored.

        Where the host itself is reached on loopback only, so are its services: who may write them opens nothing wider.
        """
        if self._is_own(address):
            return False
        return ipaddress.ip_address(address).is_loopback or _is_loopback(_machine(self._config.address).strip("[]"))

    def _is_led_to(self, socket: Socket, target: Target) -> bool:
        """Whether packet rules lead pods from an address to all that is behind it. Of 127/8 they have the cluster's."""
        is_inside = self._is_own(socket.ip) or not ipaddress.ip_address(socket.ip).is_loopback
        return is_inside and packet_rules.is_in_kernel(target, self._is_inside)

    def _is_own(self, address: str) -> bool:
        ip = ipaddress.ip_address(address)
        return not self._own or any(ip in network for network in self._own)

    async def _apply(self) -> None:
        wanted: dict[Socket, Target] = {}
        for key in sorted(self._plans, reverse=True):
            wanted.update(self._plans[key])
        stale, self._stale = self._stale, {}
        for address, target in wanted.items():
            listener = self._listeners.get(address)
            if listener is not None and listener.places != self._places(address, target):
                stale[address] = listener
        for address in [a for a in self._listeners if a not in wanted or a in stale]:
            await self._listeners.pop(address).close()
        again, self._again = self._again, set()
        for address, target in wanted.items():
            listener = self._listeners.get(address)
            if listener is None and address in self._retries:
                continue  # whatever else changes
            if listener is None or address in again:
                listener = listener or self._make(address, target)
                if not await self._open(listener, address):
                    continue
                self._listeners[address] = listener
            listener.target = target

    def _make(self, address: Socket, target: Target) -> Listener:
        places, turn = self._places(address, target), self._rng.getrandbits(16)
        if target.health is not None:
            return HealthListener(places, target, self._tasks)
        if address.protocol == UDP:
            return UdpListener(places, target, self._connect_udp, self._judge_of(UDP), self._tasks, turn=turn)
        return TcpListener(places, target, self.dial, self._judge_of(TCP), self._tasks, turn=turn)

    def _judge_of(self, protocol: str) -> Judge:
        """What is in the pods' network, packet rules see."""
        judge, among = self._config.judge, self._config.among

        def judged(client: str, endpoint: Endpoint) -> bool:
            if self._is_inside(endpoint):
                return True
            is_pod = endpoint.node in self._elsewhere
            return (among if is_pod else judge)(client, endpoint.ip, endpoint.port, protocol)

        return judged

    def _places(self, address: Socket, target: Target) -> Places:
        """Where to listen for an address: for people at this machine, and for pods whom no packet rules lead."""
        places: Places = [(DIRECT, outside(address))]
        network = self._config.network
        if network is DIRECT or not self._is_own(address.ip):
            return places
        if self._is_led(target):
            return places
        return [(network, address), *places]

    def _is_led(self, target: Target) -> bool:
        """Whether packet rules lead pods to what is behind an address of the cluster."""
        return self._in_kernel and target.health is None and packet_rules.is_in_kernel(target, self._is_inside)

    async def _open(self, listener: Listener, address: Socket) -> bool:
        try:
            refused = await listener.open()
        except OSError as e:
            self._refused(address, listener, e)
            return False
        if refused is not None:
            self._refused(address, listener, refused)
        return True

    def _refused(self, address: Socket, listener: Listener, error: OSError) -> None:
        if error.errno == errno.EADDRNOTAVAIL:
            return  # an external address which another machine has
        target = listener.target
        text = f"cannot listen on {outside_ip(address.ip)}:{address.port}{self._for_whom(listener)}: {error.strerror}"
        if error.errno == errno.EACCES:
            text += "; use a port from 1024 on, or set net.ipv4.ip_unprivileged_port_start=0 on the machine"
        elif address not in self._retries:
            later = asyncio.get_running_loop().call_later(BIND_RETRY_S, self._retry, address, target.service)
            self._retries[address] = later
        owner = self._owner(target.service)
        if owner is not None:
            self._events.record(owner, "Warning", "CannotListen", text)
        log.warning("service %s: %s", target.service, text)

    def _for_whom(self, listener: Listener) -> str:
        """Who does without what a listener is closed to, where it is not everybody."""
        inside = [place for place in listener.places if place[0] is not DIRECT]
        if any(place in listener.closed for place in inside):
            return "" if len(listener.closed) == len(listener.places) else " for pods"
        return " for people at this machine (pods reach it)" if inside or self._is_led(listener.target) else ""

    def _retry(self, address: Socket, service: str) -> None:
        del self._retries[address]
        self._again.add(address)
        self._mark(service)


def _machine(address: str) -> str:
    """The machine of a host, without what the host is called there."""
    return address.rpartition(":")[0].rpartition("@")[2]


def _place(address: str) -> tuple[str, int]:
    return _machine(address).strip("[]"), int(address.rpartition(":")[2])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
