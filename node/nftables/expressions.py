"""Statements that rules are made of, as values with the bytes that the kernel takes and a text as `nft` writes. Pure.

Keys of sets are fields, each padded to four bytes, loaded from register 8 on; what a map gives is from 12 on.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from rayplane.node.netlink import IPV4, NESTED, attribute, text

KEY_REGISTER, DATA_REGISTER, VERDICT_REGISTER = 8, 12, 0
TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
_BIG, _LONG = struct.Struct(">I"), struct.Struct(">Q")


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def number(kind: int, value: int) -> bytes:
    return attribute(kind, _BIG.pack(value & 0xFFFF_FFFF))


def long(kind: int, value: int) -> bytes:
    return attribute(kind, _LONG.pack(value))


def expression(name: str, *attributes: bytes) -> bytes:
    """One of a rule's or a set's (NFTA_EXPR_NAME, NFTA_EXPR_DATA)."""
    return text(1, name) + nested(2, *attributes)


def value(data: bytes) -> bytes:
    return attribute(1, data)


def address(ip: str) -> bytes:
    """Raises ValueError when it is no IPv4 address."""
    return IPv4Address(ip).packed


def key(*parts: bytes | int | str) -> bytes:
    """A key of a set: addresses as text or bytes, numbers as protocols are; ports by `port`."""
    found = (address(p) if isinstance(p, str) else bytes([p]) if isinstance(p, int) else p for p in parts)
    return b"".join(p + bytes(-len(p) % 4) for p in found)


def port(number: int) -> bytes:
    return struct.pack(">H", number)


class Field(Enum):
    """A part of a packet that rules look at: its text, how many bytes it has, and what loads it."""

    SOURCE = ("ip saddr", 4, ("payload", 1, 12))
    DESTINATION = ("ip daddr", 4, ("payload", 1, 16))
    PROTOCOL = ("meta l4proto", 1, ("meta", 16, 0))
    PORT = ("th dport", 2, ("payload", 2, 2))
    STATE = ("ct state", 4, ("ct", 0, 0))
    STATUS = ("ct status", 4, ("ct", 2, 0))
    MARK = ("meta mark", 4, ("meta", 3, 0))
    CONNECTION_MARK = ("ct mark", 4, ("ct", 3, 0))
    IN = ("iifname", 16, ("meta", 6, 0))
    OUT = ("oifname", 16, ("meta", 7, 0))

    def load(self, register: int) -> bytes:
        kind, first, offset = self.value[2]
        if kind == "payload":
            more = number(3, offset) + number(4, self.size)
            return expression("payload", number(1, register), number(2, first), more)
        return expression(kind, number(1, register), number(2, first))

    @property
    def size(self) -> int:
        size: int = self.value[1]
        return size

    @property
    def text(self) -> str:
        words: str = self.value[0]
        return words


@dataclass(frozen=True, slots=True)
class Random:
    """One of so many numbers, by chance."""

    among: int

    def load(self, register: int) -> bytes:
        return expression("numgen", number(1, register), number(2, self.among), number(3, 1), number(4, 0))

    size = 4

    @property
    def text(self) -> str:
        return f"numgen random mod {self.among}"


@dataclass(frozen=True, slots=True)
class Own:
    """Bytes that a rule has of its own, so that one set serves many rules."""

    data: bytes

    def load(self, register: int) -> bytes:
        return expression("immediate", number(1, register), nested(2, value(self.data)))

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def text(self) -> str:
        return f"0x{self.data.hex()}"


SOCKET = (Field.DESTINATION, Field.PROTOCOL, Field.PORT)
"""What somebody listens on, and a service is known by. With the source before it, it is a key of who remembers."""
ESTABLISHED, NEW = 0x2 | 0x4, 0x8
"""Bits of `ct state`: of a known connection, or about one; of one that begins."""
WIRE = "wire"
"""Names of devices that packets of other machines come by begin so."""

Part = Field | Random | Own
Parts = tuple[Part, ...]


def _load(parts: Parts) -> list[bytes]:
    loaded, register = [], KEY_REGISTER
    for one in parts:
        loaded.append(one.load(register))
        register += (one.size + 3) // 4
    return loaded


def _words(parts: Parts) -> str:
    return " . ".join(one.text for one in parts)


class Statement:
    """A part of a rule: one thing that must hold, or that is done."""

    __slots__ = ()

    def expressions(self) -> list[bytes]:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Is(Statement):
    """A field begins with some bytes; `unless` it does not."""

    field: Field
    data: bytes
    unless: bool = False

    def expressions(self) -> list[bytes]:
        compare = expression("cmp", number(1, KEY_REGISTER), number(2, int(self.unless)), nested(3, value(self.data)))
        return [self.field.load(KEY_REGISTER), compare]

    def __str__(self) -> str:
        return f"{self.field.text} {'!= ' if self.unless else ''}{_shown(self.field, self.data)}"


@dataclass(frozen=True, slots=True)
class Within(Statement):
    """An address is of a network; `unless` it is not."""

    field: Field
    network: str
    unless: bool = False

    def expressions(self) -> list[bytes]:
        network = IPv4Network(self.network)
        mask = _mask(network.netmask.packed)
        compare = nested(3, value(network.network_address.packed))
        return [
            self.field.load(KEY_REGISTER),
            mask,
            expression("cmp", number(1, KEY_REGISTER), number(2, int(self.unless)), compare),
        ]

    def __str__(self) -> str:
        return f"{self.field.text} {'!= ' if self.unless else ''}{self.network}"


@dataclass(frozen=True, slots=True)
class Has(Statement):
    """A field has any of some bits, in the machine's byte order."""

    field: Field
    bits: int

    def expressions(self) -> list[bytes]:
        none = expression("cmp", number(1, KEY_REGISTER), number(2, 1), nested(3, value(bytes(4))))
        return [self.field.load(KEY_REGISTER), _mask(struct.pack("=I", self.bits)), none]

    def __str__(self) -> str:
        return f"{self.field.text} & {self.bits:#x} != 0"


def _mask(bits: bytes) -> bytes:
    return expression(
        "bitwise",
        number(1, KEY_REGISTER),
        number(2, KEY_REGISTER),
        number(3, 4),
        nested(4, value(bits)),
        nested(5, value(bytes(4))),
    )


@dataclass(frozen=True, slots=True)
class In(Statement):
    """Parts are a key of a set; `unless` they are none."""

    parts: Parts
    set: str
    unless: bool = False

    def expressions(self) -> list[bytes]:
        found = expression("lookup", text(1, self.set), number(2, KEY_REGISTER), number(5, int(self.unless)))
        return [*_load(self.parts), found]

    def __str__(self) -> str:
        return f"{_words(self.parts)} {'!= ' if self.unless else ''}@{self.set}"


@dataclass(frozen=True, slots=True)
class Choose(Statement):
    """The verdict that a map has for parts, if it has one."""

    parts: Parts
    map: str

    def expressions(self) -> list[bytes]:
        found = expression("lookup", text(1, self.map), number(2, KEY_REGISTER), number(3, VERDICT_REGISTER))
        return [*_load(self.parts), found]

    def __str__(self) -> str:
        return f"{_words(self.parts)} vmap @{self.map}"


@dataclass(frozen=True, slots=True)
class Verdict(Statement):
    """The end of a rule: what becomes of the packet."""

    code: int
    chain: str = ""

    def data(self) -> bytes:
        return nested(2, number(1, self.code), text(2, self.chain) if self.chain else b"")

    def expressions(self) -> list[bytes]:
        return [expression("immediate", number(1, VERDICT_REGISTER), nested(2, self.data()))]

    def __str__(self) -> str:
        return f"{_VERDICTS[self.code]} {self.chain}".rstrip()


_VERDICTS = {0: "drop", 1: "accept", -3: "jump", -4: "goto"}
DROP, ACCEPT = Verdict(0), Verdict(1)


def jump(chain: str) -> Verdict:
    return Verdict(-3, chain)


def goto(chain: str) -> Verdict:
    return Verdict(-4, chain)


@dataclass(frozen=True, slots=True)
class Place:
    """An address and a port, as a map gives them."""

    ip: str
    port: int

    def data(self) -> bytes:
        return value(key(self.ip, port(self.port)))

    def __str__(self) -> str:
        return f"{self.ip} . {self.port}"


_TRANSLATE = expression("nat", number(1, 1), number(2, IPV4), number(3, DATA_REGISTER), number(5, DATA_REGISTER + 1))


@dataclass(frozen=True, slots=True)
class TranslateBy(Statement):
    """Have the packets of a connection go to the place that a map has for parts, if it has one."""

    parts: Parts
    map: str

    def expressions(self) -> list[bytes]:
        found = expression("lookup", text(1, self.map), number(2, KEY_REGISTER), number(3, DATA_REGISTER))
        return [*_load(self.parts), found, _TRANSLATE]

    def __str__(self) -> str:
        return f"dnat to {_words(self.parts)} map @{self.map}"


@dataclass(frozen=True, slots=True)
class Recall(Statement):
    """Have a connection go where the last one of its source to the same service went, while `live` has that place."""

    map: str
    live: str
    seconds: int

    def expressions(self) -> list[bytes]:
        found = expression("lookup", text(1, self.map), number(2, KEY_REGISTER), number(3, DATA_REGISTER))
        # The service and the place stand in registers beside each other.
        serves = expression("lookup", text(1, self.live), number(2, KEY_REGISTER + 1))
        return [*_load((Field.SOURCE, *SOCKET)), found, serves, _remember(self.map, 1, self.seconds), _TRANSLATE]

    def __str__(self) -> str:
        return f"dnat to ip saddr . {_words(SOCKET)} map @{self.map} in @{self.live} timeout {self.seconds}s"


@dataclass(frozen=True, slots=True)
class Settle(Statement):
    """Have a connection go to one of `among` places by chance, and remember which."""

    map: str
    places: str
    among: int
    seconds: int

    def expressions(self) -> list[bytes]:
        draw = Random(self.among).load(KEY_REGISTER + 3)
        found = expression("lookup", text(1, self.places), number(2, KEY_REGISTER), number(3, DATA_REGISTER))
        # What is remembered already is a place that is gone: it would stay the same.
        forget = expression(
            "dynset", text(1, self.map), number(3, 2), number(4, KEY_REGISTER), number(5, DATA_REGISTER)
        )
        who = _load((Field.SOURCE, *SOCKET))
        return [*_load(SOCKET), draw, found, *who, forget, _remember(self.map, 0, self.seconds), _TRANSLATE]

    def __str__(self) -> str:
        return f"dnat to {_words((*SOCKET, Random(self.among)))} map @{self.places} add @{self.map} {self.seconds}s"


def _remember(name: str, operation: int, seconds: int) -> bytes:
    kept = long(6, 1000 * seconds)
    key_and_data = number(4, KEY_REGISTER) + number(5, DATA_REGISTER)
    return expression("dynset", text(1, name), number(3, operation), key_and_data, kept)


@dataclass(frozen=True, slots=True)
class Masquerade(Statement):
    """Have a connection come from this machine's own address."""

    def expressions(self) -> list[bytes]:
        return [expression("masq")]

    def __str__(self) -> str:
        return "masquerade"


@dataclass(frozen=True, slots=True)
class Over(Statement):
    """Bytes a second are more than so many, after some that may come at once."""

    bytes_s: int
    burst_bytes: int = 0

    def expressions(self) -> list[bytes]:
        of_bytes, inverted = number(4, 1), number(5, 1)
        rate = long(1, self.bytes_s) + long(2, 1) + number(3, self.burst_bytes)
        return [expression("limit", rate, of_bytes, inverted)]

    def __str__(self) -> str:
        return f"limit rate over {self.bytes_s} bytes/second burst {self.burst_bytes} bytes"


RESET = 1


@dataclass(frozen=True, slots=True)
class Reject(Statement):
    """Drop and say so: with a reset, or by ICMP that nothing is there or that it is forbidden."""

    kind: int = 0
    code: int = 3

    def expressions(self) -> list[bytes]:
        return [expression("reject", number(1, self.kind), attribute(2, bytes([self.code])))]

    def __str__(self) -> str:
        return "reject with tcp reset" if self.kind else f"reject with icmp {self.code}"


@dataclass(frozen=True, slots=True)
class Exceeds(Statement):
    """More connections are known with the same parts than so many. `set` keeps count."""

    parts: Parts
    set: str
    count: int

    def expressions(self) -> list[bytes]:
        over = nested(7, expression("connlimit", number(1, self.count), number(2, 1)))
        add = expression("dynset", text(1, self.set), number(3, 0), number(4, KEY_REGISTER), over)
        return [*_load(self.parts), add]

    def __str__(self) -> str:
        return f"add @{self.set} {{ {_words(self.parts)} ct count over {self.count} }}"


@dataclass(frozen=True, slots=True)
class Mark(Statement):
    """Mark the packet, for rules that see it later."""

    mark: int

    def expressions(self) -> list[bytes]:
        load = expression("immediate", number(1, KEY_REGISTER), nested(2, value(struct.pack("=I", self.mark))))
        return [load, expression("meta", number(2, 3), number(3, KEY_REGISTER))]

    def __str__(self) -> str:
        return f"meta mark set {self.mark:#x}"


@dataclass(frozen=True, slots=True)
class Hand(Statement):
    """Give the packet to the socket of this machine that listens on a port, whatever address it is for."""

    port: int

    def expressions(self) -> list[bytes]:
        load = expression("immediate", number(1, KEY_REGISTER), nested(2, value(port(self.port))))
        return [load, expression("tproxy", number(1, IPV4), number(3, KEY_REGISTER))]

    def __str__(self) -> str:
        return f"tproxy to :{self.port}"


@dataclass(frozen=True, slots=True)
class Queue(Statement):
    """Have a program of this machine say when the packet goes on; it goes on at once while none listens.

    By the target of iptables, as each kernel that has iptables has it (linux/netfilter/xt_NFQUEUE.h, revision 3).
    """

    number: int

    def expressions(self) -> list[bytes]:
        told = attribute(3, struct.pack("=HHHH", self.number, 1, 1, 0))  # to one program, unless there is none
        return [expression("target", text(1, "NFQUEUE"), number(2, 3), told)]

    def __str__(self) -> str:
        return f"queue flags bypass to {self.number}"


@dataclass(frozen=True, slots=True)
class Duplicate(Statement):
    """Send a copy of the packet to where it goes, past all other rules."""

    def expressions(self) -> list[bytes]:
        return [Field.DESTINATION.load(KEY_REGISTER), expression("dup", number(1, KEY_REGISTER))]

    def __str__(self) -> str:
        return "dup to ip daddr"


Rule = tuple[Statement, ...]


def is_protocol(protocol: int) -> Is:
    return Is(Field.PROTOCOL, bytes([protocol]))


def comes_by(prefix: str) -> Is:
    """The packet came by an interface whose name begins so."""
    return Is(Field.IN, prefix.encode())


def show(rule: Sequence[Statement]) -> str:
    """A rule as `nft` would write it, more or less."""
    return " ".join(map(str, rule))


def shown(rules: Iterable[Rule]) -> list[str]:
    return [show(rule) for rule in rules]


def _shown(one: Field, data: bytes) -> str:
    if one in (Field.SOURCE, Field.DESTINATION):
        return str(IPv4Address(data))
    if one in (Field.IN, Field.OUT):
        return f'"{data.decode()}*"'
    return str(int.from_bytes(data))
