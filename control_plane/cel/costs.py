"""The cost of an expression before it is evaluated: the least and the most, by what the types say of sizes.

Source: cel-go's `checker/cost.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from rayplane.control_plane.cel.functions import UNBOUNDED, UNKNOWN, Range, exactly
from rayplane.control_plane.cel.syntax import (
    Call,
    Comprehension,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    StructNode,
)
from rayplane.control_plane.cel.types import Type, is_fixed_size
from rayplane.control_plane.cel.values import size_of

_FREE: Final = exactly(0)
_ONE: Final = exactly(1)
_AGGREGATES: Final = {ListNode: 10, MapNode: 30, StructNode: 40}


def estimate(root: Node) -> Range:
    """The cost of a checked tree."""
    return _Estimator({}).cost(root)


@dataclass(frozen=True, slots=True)
class _Local:
    """A macro's variable, as far as it is known."""

    size: Range | None = None
    element: Range | None = None


class _Estimator:
    """One pass over a tree; `scope` has the variables of macros."""

    def __init__(self, scope: Mapping[str, _Local]) -> None:
        self._scope = dict(scope)
        self._sizes: dict[Node, Range] = {}
        self._elements: dict[Node, Range] = {}

    def cost(self, node: Node) -> Range:
        match node:
            case Ident():
                return _ONE
            case Select():
                return self.cost(node.operand) + self._own(node)
            case Call():
                return self._call(node)
            case Comprehension():
                return self._bind(node) if node.is_bind else self._comprehension(node)
            case ListNode():
                return self._aggregate(node, node.elements)
            case MapNode():
                values = [value for _, value in node.entries]
                return self._aggregate(node, values) + self._sum([key for key, _ in node.entries])
            case StructNode():
                return self._aggregate(node, [value for _, value in node.entries])
        return _FREE

    def _own(self, node: Select) -> Range:
        if node.test:
            return _FREE
        return _ONE if node.operand.type.kind in ("map", "object", "parameter", "opaque") else _FREE

    def _sum(self, nodes: list[Node]) -> Range:
        total = _FREE
        for node in nodes:
            total += self.cost(node)
        return total

    def _aggregate(self, node: Node, values: list[Node]) -> Range:
        total = self._sum(values)
        sizes = [self.size(value) for value in values]
        self._elements[node] = Range(min((s.low for s in sizes), default=0), max((s.high for s in sizes), default=0))
        return total + exactly(_AGGREGATES[type(node)])

    # --- calls --------------------------------------------------------------------------------

    def _call(self, node: Call) -> Range:
        costs = [self.cost(arg) for arg in node.args]
        total = _FREE
        for one in costs:
            total += one
        match node.function:
            case "_&&_" | "_||_":
                return Range(costs[0].low, total.high)
            case "_?_:_":
                _, yes, no = node.args
                self._sizes[node] = self.size(yes) | self.size(no)
                self._merge(node, yes, no)
                return costs[0] + (costs[1] | costs[2])
            case "dyn":
                self._sizes[node] = self.size(node.args[0])
                return total + _ONE
        if not node.overloads:
            return total + _ONE
        return total + self._overloads(node)

    def _overloads(self, node: Call) -> Range:
        """The cost of the call itself, whichever overload it will be."""
        found, size = Range(UNBOUNDED, 0), None
        for one in node.overloads:
            cost, result = one.cost.estimate(_Sizes(self, node))
            found |= cost
            if result is not None:
                size = result if size is None else size | result
        if node.function == "_[_]":
            size = self.element(node.args[0])
        if node.function == "_+_":
            self._merge(node, *node.args)
        if size is not None:
            self._sizes[node] = size
        return found

    def _merge(self, node: Node, one: Node, other: Node) -> None:
        a, b = self.element(one), self.element(other)
        if a is not None and b is not None:
            self._elements[node] = a | b

    # --- comprehensions -----------------------------------------------------------------------

    def _bind(self, node: Comprehension) -> Range:
        total = exactly(10) + self.cost(node.init)
        before = self._scope.get(node.accumulator)
        self._scope[node.accumulator] = _Local(self.size(node.init), self._elements.get(node.init))
        total += self.cost(node.result)
        self._sizes[node] = self.size(node.result)
        self._leave({node.accumulator: before})
        return total

    def _comprehension(self, node: Comprehension) -> Range:
        total = self.cost(node.range) + self.cost(node.init)
        saved = {name: self._scope.get(name) for name in (node.accumulator, *node.variables)}
        self._scope[node.accumulator] = _Local(element=self._elements.get(node.init))
        self._scope.update(self._variables(node))
        each = self.cost(node.condition) + self.cost(node.step)
        element = self._elements.get(node.step)
        total += self.cost(node.result)
        self._leave(saved)
        count = self.size(node.range)
        if isinstance(node.init, Literal):
            self._sizes[node] = _ONE
        else:
            self._sizes[node] = Range(0, count.high) if count is UNKNOWN else count
            if element is not None:
                self._elements[node] = element
        return total + count * each

    def _variables(self, node: Comprehension) -> dict[str, _Local]:
        element = _Local(self.element(node.range))
        if len(node.variables) == 2:
            return {node.variables[0]: _Local(), node.variables[1]: element}
        return {node.variables[0]: element if node.range.type.kind == "list" else _Local()}

    def _leave(self, saved: Mapping[str, _Local | None]) -> None:
        for name, before in saved.items():
            self._scope.pop(name, None)
            if before is not None:
                self._scope[name] = before

    # --- sizes --------------------------------------------------------------------------------

    def size(self, node: Node) -> Range:
        """The size of a value: characters, items, entries."""
        known = self._sizes.get(node)
        if known is not None:
            return known
        if isinstance(node, Literal):
            return exactly(size_of(node.value))
        if isinstance(node, ListNode):
            return exactly(len(node.elements))
        if isinstance(node, MapNode):
            return exactly(len(node.entries))
        return self._of_type(node)

    def _of_type(self, node: Node) -> Range:
        local = self._scope.get(node.name) if isinstance(node, Ident) else None
        if local is not None and local.size is not None:
            return local.size
        if node.type.size_max is not None:
            return Range(0, node.type.size_max)
        return _ONE if is_fixed_size(node.type) else UNKNOWN

    def element(self, node: Node) -> Range | None:
        """The size of the items of a list or the values of a map; None if nothing says so."""
        known = self._elements.get(node)
        if known is not None:
            return known
        if isinstance(node, Ident) and (local := self._scope.get(node.name)) is not None and local.element is not None:
            return local.element
        if node.type.kind not in ("list", "map") or not node.type.params:
            return None
        item = node.type.element
        if item.size_max is not None:
            return Range(0, item.size_max)
        return _ONE if is_fixed_size(item) else None


class _Sizes:
    """The arguments of one call, as its price asks for them."""

    def __init__(self, estimator: _Estimator, node: Call) -> None:
        self._estimator = estimator
        self._args = node.args

    def type(self, index: int) -> Type:
        return self._args[index].type

    def of(self, index: int) -> Range:
        return self._estimator.size(self._args[index])

    def element(self, index: int) -> Range | None:
        if self._args[index].type.kind != "list":
            return None
        return self._estimator.element(self._args[index]) or UNKNOWN

    def number(self, index: int) -> int | None:
        arg = self._args[index]
        return arg.value if isinstance(arg, Literal) and isinstance(arg.value, int) else None

    @property
    def given(self) -> int:
        return len(self._args)
