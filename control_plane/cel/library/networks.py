"""Addresses and networks: Kubernetes' `ip` and `cidr` functions.

Source: Kubernetes' `library/ip.go` and `library/cidr.go`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final

from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import TRAVERSAL, Function, Range, Sizes, Traverse, overload
from rayplane.control_plane.cel.types import Type, opaque
from rayplane.control_plane.cel.values import Opaque

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


class IP(Opaque):
    """An address."""

    __slots__ = ("SIZE", "address")
    TYPE: Type = opaque("net.IP")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.SIZE = address.max_prefixlen // 8

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IP) and self.address == other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __str__(self) -> str:
        return str(self.address)


class CIDR(Opaque):
    """A network by an address in it and the length of its prefix."""

    __slots__ = ("SIZE", "interface")
    TYPE: Type = opaque("net.CIDR")

    def __init__(self, interface: Interface) -> None:
        self.interface = interface
        self.SIZE = -(-interface.network.prefixlen // 8)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CIDR) and self.interface == other.interface

    def __hash__(self) -> int:
        return hash(self.interface)

    def __str__(self) -> str:
        return str(self.interface)

    def has(self, address: Address) -> bool:
        return address.version == self.interface.version and address in self.interface.network


def _ip(text: str) -> IP:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise EvaluationError(
            f'IP Address "{text}" parse error during conversion from string: ParseAddr("{text}"): unable to parse IP'
        ) from None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise EvaluationError(f'IP address "{text}" with zone value is not allowed')
        if address.ipv4_mapped is not None:
            raise EvaluationError(f'IPv4-mapped IPv6 address "{text}" is not allowed')
    return IP(address)


def _cidr(text: str) -> CIDR:
    address, slash, bits = text.partition("/")
    try:
        if not slash or not bits.isdigit() or (len(bits) > 1 and bits[0] == "0"):
            raise ValueError
        _ip(address)
        return CIDR(ipaddress.ip_interface(text))
    except ValueError:
        raise EvaluationError(
            f'network address parse error during conversion from string: network address parse error: "{text}"'
        ) from None


def _is(make: Any) -> Any:
    def test(text: str) -> bool:
        try:
            make(text)
        except EvaluationError:
            return False
        return True

    return test


def _is_canonical(text: str) -> bool:
    return str(_ip(text)) == text


def _is_global(one: IP) -> bool:
    address = one.address
    broadcast = address == ipaddress.IPv4Address("255.255.255.255")
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not (special or broadcast)


def _contains_cidr(outer: CIDR, inner: CIDR) -> bool:
    network = inner.interface.network
    return outer.has(inner.interface.ip) and network.prefixlen >= outer.interface.network.prefixlen


def _masked(one: CIDR) -> CIDR:
    return CIDR(ipaddress.ip_interface(str(one.interface.network)))


def _is_link_local_multicast(one: IP) -> bool:
    raw = one.address.packed
    return raw[:3] == b"\xe0\x00\x00" if one.address.version == 4 else raw[0] == 0xFF and raw[1] & 0x0F == 0x02


def _containment(parses: bool, nets: bool) -> Function:
    """The price of a comparison of two prefixes, and of reading the second one where it is a text."""

    def price(size: int) -> int:
        return -(-2 * size // 10) + (-(-size // 10) + 1 if nets else 0)

    def actual(args: Sequence[Any], result: Any) -> int:
        return price(args[0].SIZE) + (-(-len(args[1]) // 10) if parses else 0)

    def estimated(sizes: Sizes) -> tuple[Range, Range | None]:
        cost = Range(price(4), price(16))
        return cost + sizes.of(1).scaled(TRAVERSAL) if parses else cost, None

    return Function(actual, estimated)


OVERLOADS: Final = (
    overload("ip", "(string) net.IP", _ip, Traverse()),
    overload("isIP", "(string) bool", _is(_ip), Traverse()),
    overload("ip.isCanonical", "(string) bool", _is_canonical, Traverse(2 * TRAVERSAL)),
    overload("string", "(net.IP) string", str),
    overload("family", "net.IP.() int", lambda one: one.address.version),
    overload("isUnspecified", "net.IP.() bool", lambda one: one.address.is_unspecified),
    overload("isLoopback", "net.IP.() bool", lambda one: one.address.is_loopback),
    overload("isLinkLocalMulticast", "net.IP.() bool", _is_link_local_multicast),
    overload("isLinkLocalUnicast", "net.IP.() bool", lambda one: one.address.is_link_local),
    overload("isGlobalUnicast", "net.IP.() bool", _is_global),
    overload("cidr", "(string) net.CIDR", _cidr, Traverse()),
    overload("isCIDR", "(string) bool", _is(_cidr), Traverse()),
    overload("string", "(net.CIDR) string", str),
    overload("ip", "net.CIDR.() net.IP", lambda one: IP(one.interface.ip)),
    overload("masked", "net.CIDR.() net.CIDR", _masked),
    overload("prefixLength", "net.CIDR.() int", lambda one: one.interface.network.prefixlen),
    overload("containsIP", "net.CIDR.(net.IP) bool", lambda a, b: a.has(b.address), _containment(False, False)),
    overload("containsIP", "net.CIDR.(string) bool", lambda a, b: a.has(_ip(b).address), _containment(True, False)),
    overload("containsCIDR", "net.CIDR.(net.CIDR) bool", _contains_cidr, _containment(False, True)),
    overload(
        "containsCIDR", "net.CIDR.(string) bool", lambda a, b: _contains_cidr(a, _cidr(b)), _containment(True, True)
    ),
)
