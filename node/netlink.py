"""Messages and attributes of netlink(7), by which a program and the kernel speak. Pure.

What they are about stands where it is used: packet rules (`node.nftables`), links (`node.runtime.isolation.links`).
"""

import struct
from collections.abc import Iterator

REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
ERROR, DONE = 2, 3
"""Kinds of answers; an error of number 0 says that all is well."""
NESTED = 0x8000
IPV4 = 2
"""The family of addresses, in messages about them."""
SOL_NETLINK, CAP_ACK = 270, 10
"""An option of sockets: answers do not bring the question back with them."""
_KIND = 0x3FFF  # of an attribute, without what is said about its payload
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


def framed(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """A whole message (struct nlmsghdr)."""
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def parsed(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Kind, number and body of the messages of a datagram."""
    while len(data) >= _HEADER.size:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[_HEADER.size : length]
        data = data[(length + 3) // 4 * 4 :]


def error_number(body: bytes) -> int:
    """The number (errno) in an answer of kind ERROR; 0 for none."""
    return -int(struct.unpack_from("=i", body)[0])


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute (struct nlattr)."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attribute_values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes by their numbers."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            return
        yield kind & _KIND, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) // 4 * 4 :]
