"""Connections that the kernel knows, and ending some of them (linux/netfilter/nfnetlink_conntrack.h). Pure.

A connection keeps the place that it was translated to until it is forgotten, and passes rules that came after it until
it is marked: what is on its way would make it anew, the other way round.
"""

import struct
from dataclasses import dataclass

from rayplane.node.netlink import ACK, DUMP, IPV4, NESTED, REQUEST, attribute, attribute_values, framed
from rayplane.node.nftables.expressions import number

_SUBSYSTEM, _NEW, _GET, _DELETE = 1, 0, 1, 2
KIND = _SUBSYSTEM << 8
_ORIGINAL, _REPLY, _MARK, _MASK = 1, 2, 8, 21
_IP, _PROTOCOL = 1, 2


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection: who began it and whom he named, and where it goes. `raw`: what names it to the kernel."""

    protocol: int
    source: bytes
    destination: bytes
    port: int
    to: bytes
    to_port: int
    raw: bytes
    mark: int = 0


def list_flows() -> bytes:
    return framed(KIND | _GET, REQUEST | DUMP, 1, struct.pack(">BBH", IPV4, 0, 0))


def end_flow(flow: Flow, sequence: int) -> bytes:
    return framed(KIND | _DELETE, REQUEST | ACK, sequence, struct.pack(">BBH", IPV4, 0, 0) + flow.raw)


def mark_flow(flow: Flow, mark: int, mask: int, sequence: int) -> bytes:
    """Have the bits of `mask` in a connection's mark as in `mark`."""
    body = struct.pack(">BBH", IPV4, 0, 0) + flow.raw + number(_MARK, mark) + number(_MASK, mask)
    return framed(KIND | _NEW, REQUEST | ACK, sequence, body)


def read_flow(body: bytes) -> Flow | None:
    """What a message of `list_flows`' answer tells; None for what is none of IPv4. Without ports those are 0."""
    found = dict(attribute_values(body[4:]))
    if _ORIGINAL not in found or _REPLY not in found:
        return None
    original, reply = _tuple(found[_ORIGINAL]), _tuple(found[_REPLY])
    if original is None or reply is None:
        return None
    protocol, source, destination, _, port = original
    _, to, _, to_port, _ = reply
    raw = attribute(_ORIGINAL | NESTED, found[_ORIGINAL])
    mark = int.from_bytes(found.get(_MARK, b"")[:4])
    return Flow(protocol, source, destination, port, to, to_port, raw, mark)


def _tuple(data: bytes) -> tuple[int, bytes, bytes, int, int] | None:
    """Protocol, source, destination, and the ports of both."""
    parts = dict(attribute_values(data))
    ip, transport = (dict(attribute_values(parts.get(kind, b""))) for kind in (_IP, _PROTOCOL))
    if not {1, 2} <= ip.keys() or 1 not in transport:
        return None
    source_port, port = (int.from_bytes(transport.get(kind, b"")[:2]) for kind in (2, 3))
    return transport[1][0], ip[1], ip[2], source_port, port
