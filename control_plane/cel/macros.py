"""Macros: calls that the parser replaces by comprehensions and tests, as cel-go does, so that they cost the same.

Source: CEL language definition, "Macros"; cel-go's extensions for optional values and for two variables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rayplane.control_plane.cel.syntax import (
    ACCUMULATOR,
    Call,
    Comprehension,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
)

_SORTED: Final = "@__sortBy_input__"


class MacroError(ValueError):
    """A macro whose arguments are not what it takes."""

    def __init__(self, position: int, message: str) -> None:
        self.position = position
        super().__init__(message)


def expand(call: Call, *, binds: bool = False) -> Node:
    """What a call stands for: itself, if it is no macro. `binds`: `cel.bind` is one. Raises MacroError."""
    if not call.method:
        return _has(call) if call.function == "has" and len(call.args) == 1 else call
    if binds and _is_bind(call):
        _, name, value, result = call.args
        if not isinstance(name, Ident):
            raise MacroError(name.position, "cel.bind() variable names must be simple identifiers")
        return _bind(call.position, name.name, value, result)
    made = _MACROS.get((call.function, len(call.args) - 1))
    return made(call.position, call.args[0], call.args[1:]) if made is not None else call


def _is_bind(call: Call) -> bool:
    target = call.args[0]
    return call.function == "bind" and len(call.args) == 4 and isinstance(target, Ident) and target.name == "cel"


def _has(call: Call) -> Node:
    field = call.args[0]
    if not isinstance(field, Select) or field.test:
        raise MacroError(field.position, "invalid argument to has() macro")
    return Select(call.position, field.operand, field.name, test=True)


def _variable(node: Node) -> str:
    if not isinstance(node, Ident):
        raise MacroError(node.position, "argument must be a simple name")
    return node.name


def _variables(nodes: list[Node]) -> tuple[str, ...]:
    names = tuple(_variable(node) for node in nodes)
    if len(set(names)) < len(names):
        raise MacroError(nodes[-1].position, f"duplicate variable name: {names[-1]}")
    return names


def _accumulated(at: int) -> Ident:
    return Ident(at, ACCUMULATOR)


def _call(at: int, function: str, *args: Node) -> Call:
    return Call(at, function, list(args))


def _fold(at: int, source: Node, names: tuple[str, ...], init: Node, step: Node, **parts: Node) -> Comprehension:
    condition = parts.get("condition") or Literal(at, True)
    result = parts.get("result") or _accumulated(at)
    return Comprehension(at, source, names, ACCUMULATOR, init, condition, step, result)


def _all(at: int, source: Node, args: list[Node]) -> Node:
    *names, test = args
    go_on = _call(at, "@not_strictly_false", _accumulated(at))
    step = _call(at, "_&&_", _accumulated(at), test)
    return _fold(at, source, _variables(names), Literal(at, True), step, condition=go_on)


def _exists(at: int, source: Node, args: list[Node]) -> Node:
    *names, test = args
    go_on = _call(at, "@not_strictly_false", _call(at, "!_", _accumulated(at)))
    step = _call(at, "_||_", _accumulated(at), test)
    return _fold(at, source, _variables(names), Literal(at, False), step, condition=go_on)


def _exists_one(at: int, source: Node, args: list[Node]) -> Node:
    *names, test = args
    more = _call(at, "_+_", _accumulated(at), Literal(at, 1))
    step = _call(at, "_?_:_", test, more, _accumulated(at))
    result = _call(at, "_==_", _accumulated(at), Literal(at, 1))
    return _fold(at, source, _variables(names), Literal(at, 0), step, result=result)


def _collect(at: int, source: Node, names: list[Node], test: Node | None, item: Node) -> Node:
    step: Node = _call(at, "_+_", _accumulated(at), ListNode(at, [item]))
    if test is not None:
        step = _call(at, "_?_:_", test, step, _accumulated(at))
    return _fold(at, source, _variables(names), ListNode(at, []), step)


def _map(at: int, source: Node, args: list[Node]) -> Node:
    return _collect(at, source, args[:1], args[1] if len(args) == 3 else None, args[-1])


def _filter(at: int, source: Node, args: list[Node]) -> Node:
    return _collect(at, source, args[:1], args[1], args[0])


def _transform_list(at: int, source: Node, args: list[Node]) -> Node:
    return _collect(at, source, args[:2], args[2] if len(args) == 4 else None, args[-1])


def _insert(at: int, source: Node, args: list[Node], *what: Node) -> Node:
    step: Node = _call(at, "cel.@mapInsert", _accumulated(at), *what)
    if len(args) == 4:
        step = _call(at, "_?_:_", args[2], step, _accumulated(at))
    return _fold(at, source, _variables(args[:2]), MapNode(at, []), step)


def _transform_map(at: int, source: Node, args: list[Node]) -> Node:
    return _insert(at, source, args, args[0], args[-1])


def _transform_map_entry(at: int, source: Node, args: list[Node]) -> Node:
    return _insert(at, source, args, args[-1])


def _bind(at: int, name: str, value: Node, result: Node) -> Node:
    """An expression with a value in a variable."""
    return Comprehension(at, ListNode(at, []), ("#unused",), name, value, Literal(at, False), Ident(at, name), result)


def _bound(at: int, target: Node, args: list[Node]) -> tuple[Node, Node]:
    """Whether an optional has a value, and an expression with that value in a variable."""
    name = _variable(args[0])
    value = Call(at, "value", [target], method=True)
    return Call(at, "hasValue", [target], method=True), _bind(at, name, value, args[1])


def _sort_by(at: int, source: Node, args: list[Node]) -> Node:
    if not isinstance(source, ListNode | Select | Ident | Comprehension | Call):
        kinds = "a list, identifier, comprehension, call or select expression"
        raise MacroError(source.position, f"sortBy can only be applied to {kinds}")
    keys = _map(at, Ident(at, _SORTED), args)
    return _bind(at, _SORTED, source, Call(at, "@sortByAssociatedKeys", [Ident(at, _SORTED), keys], method=True))


def _opt_map(at: int, target: Node, args: list[Node]) -> Node:
    present, bind = _bound(at, target, args)
    return _call(at, "_?_:_", present, _call(at, "optional.of", bind), _call(at, "optional.none"))


def _opt_flat_map(at: int, target: Node, args: list[Node]) -> Node:
    present, bind = _bound(at, target, args)
    return _call(at, "_?_:_", present, bind, _call(at, "optional.none"))


_MACROS: Final[dict[tuple[str, int], Callable[[int, Node, list[Node]], Node]]] = {
    ("all", 2): _all,
    ("all", 3): _all,
    ("exists", 2): _exists,
    ("exists", 3): _exists,
    ("exists_one", 2): _exists_one,
    ("existsOne", 2): _exists_one,
    ("existsOne", 3): _exists_one,
    ("map", 2): _map,
    ("map", 3): _map,
    ("filter", 2): _filter,
    ("transformList", 3): _transform_list,
    ("transformList", 4): _transform_list,
    ("transformMap", 3): _transform_map,
    ("transformMap", 4): _transform_map,
    ("transformMapEntry", 3): _transform_map_entry,
    ("transformMapEntry", 4): _transform_map_entry,
    ("sortBy", 2): _sort_by,
    ("optMap", 2): _opt_map,
    ("optFlatMap", 2): _opt_flat_map,
}
