"""Packets that rules have a program judge, as netlink messages (linux/netfilter/nfnetlink_queue.h). Pure.

A queue belongs to the socket that asked for it. The kernel drops what comes while it is full, and all that is in it
when that socket goes; rules that name it let packets pass from then on (`expressions.Queue`).
"""

import struct
from dataclasses import dataclass

from rayplane.node.netlink import ACK, REQUEST, attribute, attribute_values, framed

_SUBSYSTEM, _PACKET, _VERDICT, _CONFIG = 3 << 8, 0, 1, 2
KIND = _SUBSYSTEM | _PACKET
_COMMAND, _COPY, _ROOM, _BIND, _COPY_PACKET = 1, 2, 3, 1, 2
_HEADER, _VERDICT_HEADER, _PAYLOAD = 1, 2, 10
_DROP, _ACCEPT = 0, 1
ADDRESSES = 20
"""Bytes of a packet in which its addresses stand, and whose they are."""
WHOLE = 0xFFFF


@dataclass(frozen=True, slots=True)
class Packet:
    """A packet that waits. `data`: as much of it as was asked for."""

    number: int
    data: bytes


def bind(queue: int, room: int) -> bytes:
    """Asks for a queue, of so many packets; with an answer."""
    command, most = attribute(_COMMAND, struct.pack(">BBH", _BIND, 0, 0)), attribute(_ROOM, struct.pack(">I", room))
    return framed(_SUBSYSTEM | _CONFIG, REQUEST | ACK, 1, _about(queue) + command + _copied(ADDRESSES) + most)


def show(queue: int, size: int) -> bytes:
    """Has the next packets come with so many of their bytes."""
    return framed(_SUBSYSTEM | _CONFIG, REQUEST, 2, _about(queue) + _copied(size))


def accept(queue: int, number: int, data: bytes | None = None) -> bytes:
    """Lets a packet go on; with `data` that, in its place."""
    changed = attribute(_PAYLOAD, data) if data is not None else b""
    return _judged(queue, number, _ACCEPT, changed)


def drop(queue: int, number: int) -> bytes:
    return _judged(queue, number, _DROP)


def read_packet(body: bytes) -> Packet | None:
    found = dict(attribute_values(body[4:]))
    header = found.get(_HEADER, b"")
    return Packet(int.from_bytes(header[:4]), found.get(_PAYLOAD, b"")) if len(header) >= 4 else None


def _judged(queue: int, number: int, verdict: int, more: bytes = b"") -> bytes:
    told = attribute(_VERDICT_HEADER, struct.pack(">II", verdict, number))
    return framed(_SUBSYSTEM | _VERDICT, REQUEST, 3, _about(queue) + told + more)


def _copied(size: int) -> bytes:
    return attribute(_COPY, struct.pack(">IB", size, _COPY_PACKET))


def _about(queue: int) -> bytes:
    return struct.pack(">BBH", 0, 0, queue)
