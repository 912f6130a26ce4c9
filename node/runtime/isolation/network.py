"""The network of a machine's namespace: an interface and a route for each pod, a route for each node of other machines.

Pods have addresses without neighbours (/32) and reach everybody through their node's address, so that every packet
between two pods is forwarded: services and policies see it. No two pods share a link, so none sees or answers what is
for another, and the machine takes no packet from a pod that does not bear the pod's own address (RFC 3704, strict).
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from rayplane.node.runtime.isolation import syscalls
from rayplane.node.runtime.isolation.links import (
    EGRESS_MARK,
    EVERYWHERE,
    IFF_NOARP,
    IFF_UP,
    LOOPBACK,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_TABLE_LOCAL,
    RT_TABLE_MAIN,
    RTN_LOCAL,
    RTN_UNREACHABLE,
    End,
    Route,
    delete_link,
    delete_rule,
    new_address,
    new_pair,
    new_rule,
    set_flags,
)
from rayplane.node.runtime.isolation.rtnetlink import RouteSocket
from rayplane.node.runtime.isolation.users import RANGE_COUNT

INTERFACE = "eth0"
MTU = 65000
"""Of every interface: between machines packets travel in a stream, which takes them at any size."""
_IPV4 = 0x0800
_WIRE = "wire"
_WIRE_MAC = "02:70:6f:64:73:31"
WIRE_HEADER = bytes.fromhex(_WIRE_MAC.replace(":", "")) * 2 + _IPV4.to_bytes(2)
"""Before a packet for the machine: to the device from itself."""
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
_EGRESS_TABLE, _OWN_TABLE = 110, 111
_WIRE_TABLES = 1_000_000
_WIRE_PRIORITY = 120
_MACHINE_SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    # Set for each pod's interface: packets of other machines may come in by another wire than they would leave by.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ip_unprivileged_port_start": "0",
    # Whoever asks for what is not there is told so each time.
    "net/ipv4/icmp_ratelimit": "0",
    # Links of pods have addresses of IPv6 of their own, by which they would reach programs of this network unjudged.
    "net/ipv6/conf/default/disable_ipv6": "1",
    # Connections that have ended do not take the room of new ones for long.
    "net/netfilter/nf_conntrack_tcp_timeout_time_wait": "10",
    "net/netfilter/nf_conntrack_tcp_timeout_established": "86400",
}
_POD_SETTINGS = {
    # A user other than root may listen on port 80 and ping, as container runtimes allow.
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 0",
}


class MachineNetwork:
    """The network namespace that this process is in. Raises OSError."""

    def __init__(self) -> None:
        self._routes = RouteSocket()
        self._mine = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._owner = os.readlink("/proc/self")  # of all shims, of which each is the first of its own processes
        self._wire = 0
        self._wire_table = _WIRE_TABLES + int(self._owner)
        self._outer: list[str] = []
        self._routes.tell(set_flags(LOOPBACK, IFF_UP))
        set_parameters(_MACHINE_SETTINGS)

    def add_node(self, address: str, cidr: str) -> None:
        """Have a node's address, and tell who sends to a pod of it that is not there."""
        nobody = Route(cidr, kind=RTN_UNREACHABLE)
        self._routes.tell(new_address(LOOPBACK, address), nobody.new(), but=errno.EEXIST)
        # Else who speaks to one of these would come to a pod from 127.0.0.1, which is the pod itself.
        here = partial(Route, index=LOOPBACK, source=address, kind=RTN_LOCAL, scope=RT_SCOPE_HOST, table=RT_TABLE_LOCAL)
        self._routes.tell(*(here(network).new() for network in self._outer), but=errno.EEXIST)
        # What its pods send to other machines leaves by the device of its own host, for which alone that may speak.
        self._routes.tell(delete_rule(source=cidr, priority=_WIRE_PRIORITY), but=errno.ENOENT)  # of an earlier life
        self._routes.tell(new_rule(source=cidr, table=self._wire_table, priority=_WIRE_PRIORITY))

    def add_services(self, cidr: str, outer: list[str]) -> None:
        """Take every address of a network for one of this machine's: a proxy listens where a service is.

        `outer`: networks of 127/8 that are the cluster's, also to nodes and pods that are added from now on.
        """
        self._outer = outer
        here = Route(cidr, LOOPBACK, kind=RTN_LOCAL, scope=RT_SCOPE_HOST, table=RT_TABLE_LOCAL)
        self._routes.tell(here.new(), but=errno.EEXIST)

    def add_egress(self) -> None:
        """Take packets that rules have marked for this machine's, whatever their address: a relay has them."""
        here = Route(EVERYWHERE, LOOPBACK, kind=RTN_LOCAL, scope=RT_SCOPE_HOST, table=_EGRESS_TABLE)
        marked = new_rule(mark=EGRESS_MARK, table=_EGRESS_TABLE, priority=_EGRESS_TABLE)
        self._routes.tell(here.new(), marked, but=errno.EEXIST)

    def lead_out(self, networks: list[str], source: str) -> None:
        """Let programs of this namespace itself send to these networks: by the loopback device, where rules see it."""
        way = partial(Route, index=LOOPBACK, source=source, kind=RTN_LOCAL, scope=RT_SCOPE_HOST, table=_OWN_TABLE)
        self._routes.tell(*(way(network).replace() for network in networks))
        self._routes.tell(new_rule(comes_by="lo", table=_OWN_TABLE, priority=_OWN_TABLE), but=errno.EEXIST)

    def open_wire(self) -> int:
        """A device for packets to and from other machines: a pair, of which the descriptor is the far end.

        Packets have an Ethernet header, `WIRE_HEADER` for those that are written.
        """
        name, far = f"{_WIRE}{self._owner}", f"far{self._owner}"
        self._remove(name)
        self._remove_wires_of_the_dead()
        self._routes.tell(new_pair(End(name, mac=_WIRE_MAC), End(far), MTU))
        self._wire = socket.if_nametoindex(name)
        _without_offload(name)
        # Nobody answers at the far end who has an address.
        self._routes.tell(set_flags(self._wire, IFF_NOARP | IFF_UP), set_flags(socket.if_nametoindex(far), IFF_UP))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(_IPV4)) as end:
            end.bind((far, _IPV4))
            return end.detach()

    def route(self, cidr: str, *, shared: bool) -> None:
        """Send what is for a network of another machine to this process' device: what pods of its nodes send, or
        `shared`, what is of none of them."""
        self._routes.tell(self._by_wire(cidr, shared).replace())

    def unroute(self, cidr: str, *, shared: bool) -> None:
        """Take that back. Without a device there is nothing of this process, and what another's device has stays."""
        if self._wire:
            self._routes.tell(self._by_wire(cidr, shared).delete(), but=errno.ESRCH)

    def _by_wire(self, cidr: str, shared: bool) -> Route:
        table = RT_TABLE_MAIN if shared else self._wire_table
        return Route(cidr, self._wire, scope=RT_SCOPE_LINK, table=table)

    def add_pod(self, uid: str, address: str, gateway: str, net: int, *, closed: bool = False) -> None:
        """Connect a pod's network namespace, an open descriptor, by an interface; `closed`: without a way to it yet."""
        name = interface_of(uid)
        pair = new_pair(End(name, flags=IFF_UP), End(INTERFACE, net), MTU)
        try:
            self._routes.tell(pair)
        except FileExistsError:
            # One of before goes only after its namespace has, which nobody can wait for.
            self.remove_pod(uid)
            self._routes.tell(pair)
        set_parameters({f"net/ipv4/conf/{name}/rp_filter": "1"})
        if not closed:
            self._lead_to(address, gateway, socket.if_nametoindex(name))
        syscalls.setns(net, syscalls.CLONE_NEWNET)
        try:
            _configure(address, gateway, self._outer)
        finally:
            syscalls.setns(self._mine, syscalls.CLONE_NEWNET)

    def open_pod(self, uid: str, address: str, gateway: str) -> None:
        """Let a pod that was added as closed speak."""
        try:
            index = socket.if_nametoindex(interface_of(uid))
        except OSError:
            return  # it went meanwhile
        self._lead_to(address, gateway, index)

    def _lead_to(self, address: str, gateway: str, index: int) -> None:
        """Without this the machine takes no packet from the pod either: it looks where an answer would go."""
        self._routes.tell(Route(f"{address}/32", index, source=gateway, scope=RT_SCOPE_LINK).replace())

    def remove_pod(self, uid: str) -> None:
        """Remove a pod's interface, and the way to its address with it."""
        self._remove(interface_of(uid))

    def _remove_wires_of_the_dead(self) -> None:
        """The network outlives a shim while another has it, and so would its device."""
        for _, name in socket.if_nameindex():
            pid = name.removeprefix(_WIRE)
            if pid.isdigit() and not _lives(pid):
                self._remove(name)

    def _remove(self, name: str) -> None:
        self._routes.tell(delete_link(name), but=errno.ENODEV)


def _lives(pid: str) -> bool:
    """Whether a process runs: whoever took it in when its parent died may leave it unburied for long."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            return f.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _without_offload(name: str) -> None:
    """Have checksums in packets that a device hands over: whoever gets them is no device (linux/ethtool.h)."""
    value = (ctypes.c_uint32 * 2)(_ETHTOOL_STXCSUM, 0)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def _configure(address: str, gateway: str, outer: list[str]) -> None:
    with RouteSocket() as routes:
        index = socket.if_nametoindex(INTERFACE)
        way_out = Route(EVERYWHERE, index, gateway=gateway)
        up = (set_flags(LOOPBACK, IFF_UP), set_flags(index, IFF_UP))
        routes.tell(*up, new_address(index, address), way_out.new())
        lead_out_of_loopback(routes, INTERFACE, outer, Route(EVERYWHERE, index, gateway, source=address))


def lead_out_of_loopback(routes: RouteSocket, interface: str, networks: Sequence[str], way: Route) -> None:
    """Have parts of 127/8 lead by an interface of this namespace, where else all of it is the namespace itself.

    They are narrower than the kernel's own route to that, so they count before it.
    """
    if networks:
        set_parameters({f"net/ipv4/conf/{interface}/route_localnet": "1"})
        routes.tell(*(replace(way, to=network, table=RT_TABLE_LOCAL).new() for network in networks))


def prepare_pod() -> None:
    """Set what pods find in their network namespace, from within."""
    set_parameters(_POD_SETTINGS)
    # The kernel takes no groups that a pod has not, which of a user without subordinate numbers is one.
    set_parameters({"net/ipv4/ping_group_range": f"0 {RANGE_COUNT - 1}"})


def set_parameters(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        # What a kernel has not, or does not let namespaces change, it does without.
        with contextlib.suppress(OSError):
            set_parameter(name, value)


def set_parameter(name: str, value: str) -> None:
    """Raises OSError."""
    with open(f"/proc/sys/{name}", "w") as f:
        f.write(value)


def interface_of(uid: str) -> str:
    """Name of a pod's interface on the machine's side."""
    return f"pod{hashlib.blake2s(uid.encode(), digest_size=6).hexdigest()}"
