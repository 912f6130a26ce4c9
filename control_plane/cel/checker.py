"""The type checker: what every part of an expression is, which overloads a call may mean, and what does not fit.

Source: CEL language definition, "Type checking"; messages as cel-go's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from rayplane.control_plane.cel import types
from rayplane.control_plane.cel.errors import CompileError, Issue
from rayplane.control_plane.cel.functions import Overload
from rayplane.control_plane.cel.literals import literal_error
from rayplane.control_plane.cel.parser import dotted
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
from rayplane.control_plane.cel.types import BOOL, DYN, ERROR, INT, Type, is_optional, list_of, map_of, optional_of
from rayplane.control_plane.cel.values import type_of

ISSUES_MAX: Final = 32
_TYPE_NAMES: Final[Mapping[str, Type]] = {
    **{t.kind: t for t in (BOOL, INT, types.UINT, types.DOUBLE, types.STRING, types.BYTES, types.TYPE)},
    "null_type": types.NULL,
    "list": list_of(DYN),
    "map": map_of(DYN, DYN),
    "optional_type": optional_of(DYN),
}
_NULLABLE: Final = frozenset({"null", "object", "opaque", "timestamp", "duration"})


@dataclass(frozen=True, slots=True)
class Declarations:
    """The names an expression may use: variables with their types, and objects it may make."""

    variables: Mapping[str, Type] = field(default_factory=dict)
    objects: Mapping[str, Type] = field(default_factory=dict)
    binds: bool = False
    """Whether `cel.bind` may give a value a name: Kubernetes has it where devices are selected."""


def check(source: str, root: Node, declarations: Declarations, functions: Mapping[str, Sequence[Overload]]) -> None:
    """Annotate a tree with types and overloads. Raises CompileError with all that does not fit."""
    checker = _Checker(declarations, functions)
    checker.visit(root)
    if checker.issues:
        raise CompileError(source, sorted(checker.issues[:ISSUES_MAX], key=lambda issue: issue.position))


class Unifier:
    """The types that parameters stand for so far."""

    def __init__(self) -> None:
        self.bound: dict[str, Type] = {}

    def resolve(self, t: Type) -> Type:
        """A type with its parameters replaced; `dyn` for one that can be anything."""
        if t.kind == "parameter":
            found = self.bound.get(t.name)
            return self.resolve(found) if found is not None else DYN
        if not t.params:
            return t
        return replace(t, params=tuple(self.resolve(one) for one in t.params))

    def accepts(self, wanted: Type, given: Type) -> bool:
        """Whether a value of one type can be where another is wanted; binds parameters."""
        for one, other in ((wanted, given), (given, wanted)):
            if one.kind == "parameter":
                return self._bind(one.name, other)
        if wanted.kind in ("dyn", "error") or given.kind in ("dyn", "error"):
            return True
        if given.kind == "null" or wanted.kind == "null":
            return {wanted.kind, given.kind} <= _NULLABLE
        if wanted.kind != given.kind or wanted.name != given.name or len(wanted.params) != len(given.params):
            return wanted.kind == given.kind == "type"
        return all(self.accepts(a, b) for a, b in zip(wanted.params, given.params, strict=True))

    def _bind(self, name: str, given: Type) -> bool:
        known = self.bound.get(name)
        if known is None or known.kind in ("dyn", "null"):
            if given != Type("parameter", (), name):
                self.bound[name] = given if known is None or known.kind == "null" else known
            return True
        return self.accepts(known, given)


class _Checker:
    """One pass over a tree."""

    def __init__(self, declarations: Declarations, functions: Mapping[str, Sequence[Overload]]) -> None:
        self.issues: list[Issue] = []
        self._functions = functions
        self._objects = declarations.objects
        self._scope: dict[str, Type] = dict(declarations.variables)
        self._empty = 0
        self._mixed = False

    def _wrong(self, node: Node, message: str) -> Type:
        self.issues.append(Issue(node.position, message))
        return ERROR

    def visit(self, node: Node) -> Type:
        match node:
            case Literal():
                node.type = type_of(node.value)
            case Ident():
                node.type = self._ident(node)
            case Select():
                node.type = self._select(node)
            case Call():
                node.type = self._call(node)
            case ListNode():
                node.type = list_of(self._items(node.elements, node.optional))
            case MapNode():
                keys = self._items([key for key, _ in node.entries])
                node.type = map_of(keys, self._items([value for _, value in node.entries], node.optional))
            case StructNode():
                node.type = self._struct(node)
            case Comprehension():
                node.type = self._comprehension(node)
        return node.type

    # --- names and fields ---------------------------------------------------------------------

    def _ident(self, node: Ident) -> Type:
        found = self._scope.get(node.name)
        if found is not None:
            return found
        if node.name in _TYPE_NAMES:
            return Type("type", (_TYPE_NAMES[node.name],))
        return self._wrong(node, f"undeclared reference to '{node.name}' (in container '')")

    def _select(self, node: Select) -> Type:
        operand = self.visit(node.operand)
        inner = operand.element if is_optional(operand) else operand
        found = self._field(node, inner)
        if node.test:
            return BOOL
        if (node.optional or is_optional(operand)) and found.kind != "error":
            return found if is_optional(found) else optional_of(found)
        return found

    def _field(self, node: Select, operand: Type) -> Type:
        match operand.kind:
            case "object":
                node.property = operand.properties.get(node.name, node.name)
                return operand.fields.get(node.name) or self._wrong(node, f"undefined field '{node.name}'")
            case "map":
                return operand.element
            case "dyn" | "error" | "parameter":
                return DYN
        return self._wrong(node, f"type '{operand}' does not support field selection")

    def _struct(self, node: StructNode) -> Type:
        made = self._objects.get(node.name)
        values = [(name, value, self.visit(value)) for name, value in node.entries]
        if made is None:
            return self._wrong(node, f"undeclared reference to '{node.name}' (in container '')")
        for index, (name, value, given) in enumerate(values):
            wanted = made.fields.get(name)
            if wanted is None:
                self._wrong(value, f"undefined field '{name}'")
                continue
            given = given.element if index in node.optional and is_optional(given) else given
            if not Unifier().accepts(wanted, given):
                self._wrong(value, f"expected type of field '{name}' is '{wanted}' but provided type is '{given}'")
        return made

    # --- lists and maps -----------------------------------------------------------------------

    def _items(self, nodes: Sequence[Node], optional: frozenset[int] = frozenset()) -> Type:
        """The one type of all elements: literals are of one kind, as Kubernetes has it."""
        found: Type | None = None
        mixed, self._mixed = self._mixed, False
        for index, node in enumerate(nodes):
            given = self.visit(node)
            if index in optional:
                if not is_optional(given) and given.kind != "dyn":
                    self._wrong(node, f"expected type 'optional_type({given})' but found '{given}'")
                given = given.element if is_optional(given) else given
            if found is None:
                found = given
                continue
            unifier = Unifier()
            if unifier.accepts(found, given) and (found.kind == "null") == (given.kind == "null"):
                found = _joined(found, given)
            elif mixed:
                found = DYN
            else:
                self._wrong(node, f"expected type '{found}' but found '{given}'")
        self._empty += 1
        return found or Type("parameter", (), f"E@{self._empty}")

    def _comprehension(self, node: Comprehension) -> Type:
        source = self.visit(node.range)
        start = self.visit(node.init)
        names = (node.accumulator, *node.variables)
        saved = {name: self._scope.get(name) for name in names}
        self._scope[node.accumulator] = start
        self._scope.update(zip(node.variables, self._variables(node, source), strict=True))
        condition = self.visit(node.condition)
        step = self.visit(node.step)
        unifier = Unifier()
        if not unifier.accepts(BOOL, condition):
            self._wrong(node.condition, f"expected type 'bool' but found '{condition}'")
        if not unifier.accepts(start, step) and not node.is_bind:
            self._wrong(node.step, f"expected type '{start}' but found '{step}'")
        self._scope[node.accumulator] = start if node.is_bind else unifier.resolve(_joined(step, start))
        result = self.visit(node.result)
        for name, before in saved.items():
            self._scope.pop(name, None)
            if before is not None:
                self._scope[name] = before
        return result

    def _variables(self, node: Comprehension, source: Type) -> tuple[Type, ...]:
        """The types of a macro's variables."""
        first, second = DYN, DYN
        match source.kind:
            case "list":
                first, second = INT, source.element
            case "map":
                first, second = source.params or (DYN, DYN)
            case "dyn" | "error" | "parameter":
                pass
            case _:
                text = (
                    f"expression of type '{source}' cannot be range of a comprehension (must be list, map, or dynamic)"
                )
                self._wrong(node.range, text)
                first = second = ERROR
        if len(node.variables) == 2:
            return first, second
        return (second if source.kind == "list" else first,)

    # --- calls --------------------------------------------------------------------------------

    def _call(self, node: Call) -> Type:
        if node.method:
            self._qualified(node)
        if node.function == "_[?_]":
            return self._optional_index(node)
        given = [self._argument(node, arg) for arg in node.args]
        overloads = self._functions.get(node.function)
        if overloads is None:
            return self._wrong(node, f"undeclared reference to '{node.function}' (in container '')")
        result: Type | None = None
        node.overloads.clear()
        for one in overloads:
            found = _result(one, node.method, given)
            if found is None:
                continue
            node.overloads.append(one)
            result = found if result is None or result == found else DYN
        if result is None:
            return ERROR if ERROR in given else self._wrong(node, _no_overload(node, given))
        if (problem := literal_error(node)) is not None:
            return self._wrong(*problem)
        return result if node.function == "_[_]" else replace(result, size_max=None)

    def _argument(self, node: Call, arg: Node) -> Type:
        # What is formatted may be of many types.
        self._mixed = node.function == "format" and isinstance(arg, ListNode)
        found = self.visit(arg)
        self._mixed = False
        return found

    def _qualified(self, node: Call) -> None:
        """A call of a function whose name has dots, where no variable hides it."""
        prefix = dotted(node.args[0])
        if prefix and prefix.partition(".")[0] not in self._scope and f"{prefix}.{node.function}" in self._functions:
            node.function, node.method = f"{prefix}.{node.function}", False
            del node.args[0]

    def _optional_index(self, node: Call) -> Type:
        operand, key = (self.visit(arg) for arg in node.args)
        inner = operand.element if is_optional(operand) else operand
        if inner.kind == "list":
            fits = Unifier().accepts(INT, key)
        elif inner.kind == "map":
            fits = Unifier().accepts(inner.params[0], key)
        else:
            fits = inner.kind in ("dyn", "error", "parameter")
        if not fits:
            return self._wrong(node, _no_overload(node, [operand, key]))
        return optional_of(inner.element if inner.kind in ("list", "map") else DYN)


def _result(one: Overload, method: bool, given: Sequence[Type]) -> Type | None:
    """The type of a call of an overload; None if the arguments are none of its."""
    if one.method != method or len(one.args) != len(given):
        return None
    unifier = Unifier()
    for wanted, arg in zip(one.args, given, strict=True):
        if not unifier.accepts(wanted, arg):
            return None
    return unifier.resolve(one.result)


def _joined(a: Type, b: Type) -> Type:
    """The type of what may be either: the one that says more, as large as the larger."""
    if a.kind in ("parameter", "null") or b.kind == "dyn":
        return b
    if b.kind in ("parameter", "null"):
        return a
    if a.params and len(a.params) == len(b.params):
        a = replace(a, params=tuple(_joined(x, y) for x, y in zip(a.params, b.params, strict=True)))
    if a.size_max != b.size_max:
        sizes = (a.size_max, b.size_max)
        return replace(a, size_max=None if None in sizes else max(s for s in sizes if s is not None))
    return a


def _no_overload(node: Call, given: Sequence[Type]) -> str:
    args = [str(one) for one in given]
    shown = f"{args[0]}.({', '.join(args[1:])})" if node.method else f"({', '.join(args)})"
    return f"found no matching overload for '{node.function}' applied to '{shown}'"
