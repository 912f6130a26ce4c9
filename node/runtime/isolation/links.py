"""Interfaces, addresses and routes as the messages by which the kernel makes them (rtnetlink(7)). Pure.

The numbers of linux/rtnetlink.h, linux/if_link.h and linux/fib_rules.h stand here under the names that they have there.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from rayplane.node.netlink import ACK, CREATE, EXCLUSIVE, IPV4, NESTED, REPLACE, REQUEST, attribute, framed, text

LOOPBACK = 1
"""The number of the loopback interface, in every network namespace."""
IFF_UP, IFF_NOARP = 0x1, 0x80
RTN_UNICAST, RTN_LOCAL, RTN_UNREACHABLE = 1, 2, 7
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
EVERYWHERE = "0.0.0.0/0"
EGRESS_MARK = 0x10
"""Of packets that come to the pods' machine whatever their address."""
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE = 16, 17, 20, 24, 25, 32, 33
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _NET_NS_FD = 1, 3, 4, 10, 18, 28
_INFO_KIND, _INFO_DATA, _PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_DST, _OIF, _GATEWAY, _PREFSRC, _TABLE = 1, 4, 5, 7, 15
_FRA_SRC, _FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_FWMASK, _TO_TABLE = 2, 3, 6, 10, 16, 1
_SHORT_TABLES = 256  # higher numbers do not fit into a message's head
_STATIC, _ONLINK = 4, 4
_WHOLE = 32
_NUMBER = struct.Struct("=I")
_LINK, _IFA, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Order:
    """A message that changes something. `about`: for whoever reads why it was refused."""

    kind: int
    body: bytes
    flags: int
    about: str

    def packed(self, sequence: int) -> bytes:
        """With a number that its answer bears."""
        return framed(self.kind, REQUEST | ACK | self.flags, sequence, self.body)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a pair of interfaces. `net`: a descriptor of the namespace it is in, -1 for that of who orders it."""

    name: str
    net: int = -1
    mac: str = ""
    flags: int = 0


def new_pair(end: End, far: End, mtu: int) -> Order:
    """Two interfaces of which each gets what is sent by the other (veth)."""
    peer = attribute(_PEER, _end(far, mtu))
    kind = attribute(_LINKINFO | NESTED, text(_INFO_KIND, "veth") + attribute(_INFO_DATA | NESTED, peer))
    return Order(_NEWLINK, _end(end, mtu) + kind, CREATE | EXCLUSIVE, f"interface {end.name}")


def _end(end: End, mtu: int) -> bytes:
    body = _LINK.pack(0, 0, 0, end.flags, end.flags) + text(_IFNAME, end.name) + _number(_MTU, mtu)
    if end.mac:
        body += attribute(_ADDRESS, bytes.fromhex(end.mac.replace(":", "")))
    return body + (_number(_NET_NS_FD, end.net) if end.net >= 0 else b"")


def set_flags(index: int, flags: int) -> Order:
    """Have these flags of an interface set, the others as they are."""
    return Order(_NEWLINK, _LINK.pack(0, 0, index, flags, flags), 0, f"interface {index}")


def delete_link(name: str) -> Order:
    """Remove an interface, with the other of its pair and all routes by it."""
    return Order(_DELLINK, _LINK.pack(0, 0, 0, 0, 0) + text(_IFNAME, name), 0, f"end of interface {name}")


def new_bridge(name: str) -> Order:
    """A switch between the interfaces that join it."""
    kind = attribute(_LINKINFO | NESTED, text(_INFO_KIND, "bridge"))
    return Order(_NEWLINK, _LINK.pack(0, 0, 0, IFF_UP, IFF_UP) + text(_IFNAME, name) + kind, CREATE | EXCLUSIVE, name)


def join_bridge(index: int, bridge: int) -> Order:
    """Have an interface be a port of a bridge; of none with 0."""
    return Order(_NEWLINK, _LINK.pack(0, 0, index, 0, 0) + _number(_MASTER, bridge), 0, f"port {index}")


def new_address(index: int, ip: str, prefix: int = _WHOLE) -> Order:
    """An address, without neighbours unless a prefix says that there are some."""
    packed = IPv4Address(ip).packed
    body = _IFA.pack(IPV4, prefix, 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)
    return Order(_NEWADDR, body, CREATE | EXCLUSIVE, f"address {ip}")


@dataclass(frozen=True, slots=True)
class Route:
    """A way to a network. `index`: the interface it leads by, 0 for none; `source`: the address that speaks there."""

    to: str
    index: int = 0
    gateway: str = ""
    source: str = ""
    kind: int = RTN_UNICAST
    scope: int = RT_SCOPE_UNIVERSE
    table: int = RT_TABLE_MAIN

    def new(self) -> Order:
        return Order(_NEWROUTE, self._body(), CREATE | EXCLUSIVE, f"route to {self.to}")

    def replace(self) -> Order:
        """In place of one that is there."""
        return Order(_NEWROUTE, self._body(), CREATE | REPLACE, f"route to {self.to}")

    def delete(self) -> Order:
        return Order(_DELROUTE, self._body(), 0, f"end of route to {self.to}")

    def _body(self) -> bytes:
        to = IPv4Network(self.to)
        flags = _ONLINK if self.gateway else 0  # no pod has its gateway for a neighbour
        body = _ROUTE.pack(IPV4, to.prefixlen, 0, 0, _short(self.table), _STATIC, self.scope, self.kind, flags)
        body += _number(_TABLE, self.table) if self.table >= _SHORT_TABLES else b""
        body += attribute(_DST, to.network_address.packed) if to.prefixlen else b""
        body += _number(_OIF, self.index) if self.index else b""
        for kind, ip in ((_GATEWAY, self.gateway), (_PREFSRC, self.source)):
            body += attribute(kind, IPv4Address(ip).packed) if ip else b""
        return body


def new_rule(*, table: int, priority: int, mark: int = 0, source: str = EVERYWHERE, comes_by: str = "") -> Order:
    """Have packets with a mark, or of a network, or that come by an interface, take the routes of a table.

    By the loopback interface come those of this machine's own programs.
    """
    body = _rule(source, table, priority) + _number(_TABLE, table)
    body += _number(_FRA_FWMARK, mark) + _number(_FRA_FWMASK, mark) if mark else b""
    body += text(_FRA_IIFNAME, comes_by) if comes_by else b""
    return Order(_NEWRULE, body, CREATE | EXCLUSIVE, f"rule {priority} for {source}")


def delete_rule(*, source: str, priority: int) -> Order:
    """Take back one of the rules for packets of a network, whatever its table."""
    return Order(_DELRULE, _rule(source, 0, priority), 0, f"end of rule {priority} for {source}")


def _rule(source: str, table: int, priority: int) -> bytes:
    of = IPv4Network(source)
    body = _ROUTE.pack(IPV4, 0, of.prefixlen, 0, _short(table), 0, 0, _TO_TABLE, 0)
    body += attribute(_FRA_SRC, of.network_address.packed) if of.prefixlen else b""
    return body + _number(_FRA_PRIORITY, priority)


def _short(table: int) -> int:
    return table if table < _SHORT_TABLES else 0


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _NUMBER.pack(value))
