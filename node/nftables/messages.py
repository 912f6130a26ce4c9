"""Changes as netlink messages, in transactions that fit into a datagram (linux/netfilter/nf_tables.h). Pure.

First comes what others refer to: sets, chains, their rules, elements; then what nobody refers to any more goes. Chains
with a hook come last of all that is new, so that no packet meets a table that is half there.
"""

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayplane.node.netlink import ACK, APPEND, CREATE, DUMP, EXCLUSIVE, IPV4, REQUEST, framed, text
from rayplane.node.nftables.expressions import Rule, nested, number, value
from rayplane.node.nftables.ruleset import Chain, Changes, Data, Element, Gives, Hook, Set

NEW_TABLE, DELETE_TABLE, NEW_CHAIN, DELETE_CHAIN, NEW_RULE, DELETE_RULE = 0, 2, 3, 5, 6, 8
GET_TABLE, NEW_SET, DELETE_SET, NEW_ELEMENTS, DELETE_ELEMENTS = 1, 9, 11, 12, 14
SUBSYSTEM = 10
_BEGIN, _END = 0x10, 0x11
ELEMENTS_AT_ONCE = 500
"""In one message: an attribute has at most 64 KiB."""
_INTERVAL, _MAP, _TIMEOUT, _EVAL, _CONCAT = 0x4, 0x8, 0x10, 0x20, 0x80
_VERDICTS = 0xFFFF_FF00
_SOME_TYPE = 5
"""What a set's keys are is for those who print them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One that changes something. `about`: for whoever reads why it was refused."""

    kind: int
    body: bytes
    flags: int = 0
    about: str = ""


Unit = list[Message]
"""Messages of one transaction."""


def packed(message: Message, sequence: int, *, acknowledged: bool = False) -> bytes:
    flags = REQUEST | message.flags | (ACK if acknowledged else 0)
    kind = message.kind if message.kind in (_BEGIN, _END) else SUBSYSTEM << 8 | message.kind
    resource = SUBSYSTEM if message.kind in (_BEGIN, _END) else 0
    return framed(kind, flags, sequence, struct.pack(">BBH", IPV4, 0, resource) + message.body)


def transaction(messages: Sequence[Message]) -> bytes:
    """A batch: message N has the number N, and the last one is acknowledged."""
    parts = [packed(Message(_BEGIN, b""), 0)]
    for n, message in enumerate(messages, 1):
        parts.append(packed(message, n, acknowledged=n == len(messages)))
    return b"".join([*parts, packed(Message(_END, b""), len(messages) + 1)])


def list_tables() -> bytes:
    """Asks for the names of all tables."""
    return packed(Message(GET_TABLE, b"", DUMP), 1)


def new_table(table: str) -> Message:
    return Message(NEW_TABLE, text(1, table), CREATE, f"table {table}")


def delete_table(table: str) -> Message:
    return Message(DELETE_TABLE, text(1, table), 0, f"end of table {table}")


def units(table: str, changes: Changes) -> Iterator[Unit]:
    """What is to be done, in order; each by itself leaves a table that holds."""
    for name, one in changes.sets.items():
        yield [_new_set(table, name, one)]
    inner = {name: chain for name, chain in changes.chains.items() if chain.hook is None}
    for name, chain in inner.items():
        yield [_new_chain(table, name, chain)]
    hooked = [name for name in changes.rules if name.startswith(HOOKED)]
    for name, chain in inner.items():
        yield from _filled(table, name, chain.rules)
    for name, rules in changes.rules.items():
        if name not in hooked:
            yield [_flush(table, name), *_rules(table, name, rules)]
    for element, old in changes.gone_elements.items():
        if element in changes.elements:
            new = {element: changes.elements[element]}
            yield [*_elements(table, DELETE_ELEMENTS, {element: old}), *_elements(table, NEW_ELEMENTS, new)]
    added = {e: d for e, d in changes.elements.items() if e not in changes.gone_elements}
    yield from ([one] for one in _elements(table, NEW_ELEMENTS, added))
    base = {name: chain for name, chain in changes.chains.items() if chain.hook is not None}
    if base:
        yield [m for name, c in base.items() for m in (_new_chain(table, name, c), *_rules(table, name, c.rules))]
    for name in hooked:
        yield [_flush(table, name), *_rules(table, name, changes.rules[name])]
    yield from _removals(table, changes)


HOOKED = "on-"
"""Names of chains with a hook begin so."""


def _removals(table: str, changes: Changes) -> Iterator[Unit]:
    gone = {e: d for e, d in changes.gone_elements.items() if e not in changes.elements}
    yield from ([one] for one in _elements(table, DELETE_ELEMENTS, gone))
    for name in changes.gone_chains:
        yield [_flush(table, name)]
    for name in changes.gone_chains:
        yield [Message(DELETE_CHAIN, text(1, table) + text(3, name), 0, f"end of chain {name}")]
    for name in changes.gone_sets:
        yield [Message(DELETE_SET, text(1, table) + text(2, name), 0, f"end of set {name}")]


def transactions(pieces: Iterable[Unit], limit: int) -> Iterator[list[Message]]:
    """Units together, as many as come to `limit` bytes at most. One that is larger stands alone."""
    together: list[Message] = []
    size = 0
    for piece in pieces:
        more = sum(len(m.body) + 20 for m in piece)
        if together and size + more > limit:
            yield together
            together, size = [], 0
        together += piece
        size += more
    if together:
        yield together


def _new_set(table: str, name: str, one: Set) -> Message:
    flags = (_MAP if one.gives else 0) | (_TIMEOUT | _EVAL if one.forgets else 0) | (_EVAL if one.counts else 0)
    description = number(1, one.room) if one.room else b""
    if one.ranges:
        flags |= _INTERVAL
    if len(one.sizes) > 1:
        flags |= _CONCAT
        description += nested(2, *(nested(1, number(1, size)) for size in one.sizes))
    body = text(1, table) + text(2, name) + number(3, flags) + number(4, _SOME_TYPE) + number(5, sum(one.sizes))
    if one.gives is Gives.VERDICT:
        body += number(6, _VERDICTS) + number(7, 16)
    elif one.gives is Gives.PLACE:
        body += number(6, _SOME_TYPE) + number(7, 8)
    if description:
        body += nested(9, description)
    # A number of the transaction's own, by which nobody asks here.
    return Message(NEW_SET, body + number(10, 1), CREATE | EXCLUSIVE, f"set {name}")


def _new_chain(table: str, name: str, chain: Chain) -> Message:
    body = text(1, table) + text(3, name)
    if chain.hook is not None:
        body += _hook(chain.hook)
    return Message(NEW_CHAIN, body, CREATE | EXCLUSIVE, f"chain {name}")


def _hook(hook: Hook) -> bytes:
    return nested(4, number(1, hook.number), number(2, hook.priority)) + number(5, 1) + text(7, hook.kind)


def _flush(table: str, chain: str) -> Message:
    return Message(DELETE_RULE, text(1, table) + text(2, chain), 0, f"rules of chain {chain}")


def _filled(table: str, chain: str, rules: Sequence[Rule]) -> Iterator[Unit]:
    """A chain that nobody goes to yet gets its rules in as many transactions as that takes."""
    for rule in rules:
        yield [*_rules(table, chain, [rule])]


def _rules(table: str, chain: str, rules: Iterable[Rule]) -> Iterator[Message]:
    for rule in rules:
        parts = (nested(1, part) for statement in rule for part in statement.expressions())
        body = text(1, table) + text(2, chain) + nested(4, *parts)
        yield Message(NEW_RULE, body, CREATE | APPEND, f"rule of chain {chain}")


RANGES = "-ranges"
"""Names of sets of ranges end so."""


def _elements(table: str, kind: int, elements: Mapping[Element, Data]) -> Iterator[Message]:
    by_set: dict[str, list[bytes]] = {}
    for (name, where), data in elements.items():
        by_set.setdefault(name, []).append(_element(where, data, ranged=name.endswith(RANGES)))
    for name, found in by_set.items():
        for at in range(0, len(found), ELEMENTS_AT_ONCE):
            body = text(1, table) + text(2, name) + nested(3, *found[at : at + ELEMENTS_AT_ONCE])
            flags = CREATE | EXCLUSIVE if kind == NEW_ELEMENTS else 0
            yield Message(kind, body, flags, f"elements of {name}")


def _element(where: bytes, data: Data, *, ranged: bool) -> bytes:
    if not ranged:
        return nested(1, nested(1, value(where)), _data(data))
    first, last = where[: len(where) // 2], where[len(where) // 2 :]
    if len(first) > 4:
        return nested(1, nested(1, value(first)), nested(10, value(last)))
    # Of one field: where the range begins, and what is behind its end.
    behind = int.from_bytes(last) + 1
    end = nested(1, nested(1, value(behind.to_bytes(4))), number(3, 1)) if behind >> 32 == 0 else b""
    return nested(1, nested(1, value(first))) + end


def _data(data: Data) -> bytes:
    return nested(2, data.data()) if data is not None else b""
