"""The way out as packet rules: what pods send to the outside is handed to sockets of this host. Pure.

After services have been translated: what goes to a pod by an external address is no way out.
"""

import hashlib
from collections.abc import Iterable
from ipaddress import IPv4Address

from rayplane.node.nftables.expressions import (
    ACCEPT,
    TCP,
    UDP,
    Field,
    Hand,
    In,
    Mark,
    Rule,
    Within,
    comes_by,
    is_protocol,
)
from rayplane.node.nftables.ruleset import PREROUTING, Chain, Fragment, Hook, Set

_HANDED = -50


def of_relay(pods: Iterable[str], stretches: Iterable[tuple[int, int]], *, tcp: int, udp: int, mark: int) -> Fragment:
    """`pods`: networks of this host's pods; `stretches`: of addresses outside; `tcp`, `udp`: ports of the relay;
    `mark`: of packets that come to this machine whatever their address.
    """
    keys = [IPv4Address(first).packed + IPv4Address(last).packed for first, last in stretches]
    name = f"outside-{hashlib.blake2s(b''.join(keys), digest_size=6).hexdigest()}-ranges"
    # What programs in this network itself send out comes back by the loopback device.
    whose = [(comes_by("lo"),), *((comes_by("pod"), Within(Field.SOURCE, network)) for network in pods)]
    rules: list[Rule] = [
        (*who, is_protocol(protocol), In((Field.DESTINATION,), name), Mark(mark), Hand(port), ACCEPT)
        for who in whose
        for protocol, port in ((TCP, tcp), (UDP, udp))
    ]
    chain = Chain(tuple(rules), Hook("filter", PREROUTING, _HANDED))
    return Fragment({name: Set((4,), ranges=True)}, {"on-way-out": chain}, {(name, one): None for one in keys})
