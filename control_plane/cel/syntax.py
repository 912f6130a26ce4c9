"""The syntax tree of an expression: what the parser makes, the checker annotates, and the rest reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rayplane.control_plane.cel.types import DYN, Type

if TYPE_CHECKING:
    from rayplane.control_plane.cel.functions import Overload

ACCUMULATOR = "@result"
"""The variable of a macro's result; no source can name it."""


@dataclass(slots=True, eq=False)
class Node:
    """A part of an expression: where it begins, and its type when it was checked."""

    position: int
    type: Type = field(default=DYN, kw_only=True)


@dataclass(slots=True, eq=False)
class Literal(Node):
    """A constant: null, bool, int, uint, double, string or bytes."""

    value: Any


@dataclass(slots=True, eq=False)
class Ident(Node):
    """A variable, or the name of a type."""

    name: str


@dataclass(slots=True, eq=False)
class Select(Node):
    """A field of an operand; `test` asks only whether it is there, `optional` gives an optional."""

    operand: Node
    name: str
    test: bool = False
    optional: bool = False
    property: str = ""
    """The field's name in JSON, where it has another one."""


@dataclass(slots=True, eq=False)
class Call(Node):
    """A function with its arguments; the target of a method is the first of them."""

    function: str
    args: list[Node]
    method: bool = False
    overloads: list[Overload] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ListNode(Node):
    """A list; the elements at `optional` may be left out."""

    elements: list[Node]
    optional: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class MapNode(Node):
    """A map; the entries at `optional` may be left out."""

    entries: list[tuple[Node, Node]]
    optional: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class StructNode(Node):
    """An object of a declared type."""

    name: str
    entries: list[tuple[str, Node]]
    optional: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Comprehension(Node):
    """A fold over a list or a map, which all macros with variables are made of."""

    range: Node
    variables: tuple[str, ...]
    accumulator: str
    init: Node
    condition: Node
    step: Node
    result: Node

    @property
    def is_bind(self) -> bool:
        """Whether it does no more than to name a value."""
        return self.accumulator != ACCUMULATOR


def children(node: Node) -> Iterator[Node]:
    """The parts of a node, in the order they are evaluated in."""
    match node:
        case Select():
            yield node.operand
        case Call():
            yield from node.args
        case ListNode():
            yield from node.elements
        case MapNode():
            for pair in node.entries:
                yield from pair
        case StructNode():
            yield from (value for _, value in node.entries)
        case Comprehension():
            yield from (node.range, node.init, node.condition, node.step, node.result)


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    pending = [node]
    while pending:
        one = pending.pop()
        yield one
        pending.extend(children(one))
