"""Addresses outside of the cluster that pods may reach. Pure."""

from bisect import bisect_right
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, summarize_address_range

REFUSED = (
    "0.0.0.0/8",
    # The machine itself.
    "127.0.0.0/8",
    # Its own link, where clouds tell machines their secrets; some do so elsewhere (Alibaba, Azure, Oracle).
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    # Groups, and nobody.
    "224.0.0.0/3",
)
"""Networks that are not reached unless somebody asks for them."""
_LAST = (1 << 32) - 1


class Outside:
    """The addresses outside. `own`: networks of the cluster; `allowed`: of REFUSED, what is to be reached all the same.

    Raises ValueError for what is no network of IPv4.
    """

    def __init__(self, own: Iterable[str], allowed: Iterable[str] = ()) -> None:
        wanted = [IPv4Network(one) for one in allowed]
        refused = [part for one in REFUSED for part in _without(IPv4Network(one), wanted)]
        taken = sorted(_ends(one) for one in (*refused, *map(IPv4Network, own)))
        self.stretches: list[tuple[int, int]] = []
        at = 0
        for first, last in taken:
            if first > at:
                self.stretches.append((at, first - 1))
            at = max(at, last + 1)
        if at <= _LAST:
            self.stretches.append((at, _LAST))
        self._firsts = [first for first, _ in self.stretches]

    @property
    def networks(self) -> list[str]:
        """The same as networks."""
        ends = ((IPv4Address(first), IPv4Address(last)) for first, last in self.stretches)
        return [str(network) for first, last in ends for network in summarize_address_range(first, last)]

    def has(self, ip: str) -> bool:
        number = int(IPv4Address(ip))
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self.stretches[at][1]


def _ends(one: IPv4Network) -> tuple[int, int]:
    return int(one.network_address), int(one.broadcast_address)


def _without(network: IPv4Network, holes: Iterable[IPv4Network]) -> list[IPv4Network]:
    parts = [network]
    for hole in holes:
        left: list[IPv4Network] = []
        for part in parts:
            if hole.supernet_of(part):
                continue
            left += part.address_exclude(hole) if hole.subnet_of(part) else [part]
        parts = left
    return parts
