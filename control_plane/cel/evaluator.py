"""The evaluator: a checked tree becomes functions of a frame, which count what they cost as they go.

A frame has the variables of one evaluation and its budget. Costs are those of cel-go with Kubernetes' library: one for
a name or a field, what an overload says for a call, nothing for a test of presence. What an operation does besides, as
comparing long lists, is counted as work, and ends an evaluation like its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rayplane.control_plane.cel.errors import BudgetExceeded, EvaluationError
from rayplane.control_plane.cel.functions import Overload
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
from rayplane.control_plane.cel.types import Type, is_optional
from rayplane.control_plane.cel.values import NONE, OptionalValue, Struct, fits, truth

_WORK_PER_COST: Final = 2
_WORK_AT_LEAST: Final = 10_000
_LIST_COST: Final = 10
_MAP_COST: Final = 30
_STRUCT_COST: Final = 40
_MISFITS: Final = (AttributeError, TypeError, KeyError, IndexError, OverflowError)
"""Errors of values that are not of the type they were declared with."""


class Frame:
    """The variables of an evaluation, what it has cost, and what it may."""

    __slots__ = ("cost", "limit", "variables", "work")

    def __init__(self, variables: dict[str, Any], limit: int) -> None:
        self.variables = variables
        self.limit = limit
        self.cost = 0
        self.work = limit * _WORK_PER_COST + _WORK_AT_LEAST

    def spend(self, amount: int) -> None:
        """Raises BudgetExceeded."""
        self.cost += amount
        if self.cost > self.limit:
            raise BudgetExceeded

    def labour(self, amount: int) -> None:
        """Raises BudgetExceeded."""
        self.work -= amount
        if self.work < 0:
            raise BudgetExceeded


Step = Callable[[Frame], Any]


def build(node: Node) -> Step:
    """The function of a checked tree."""
    match node:
        case Literal():
            return _constant(node.value)
        case Ident():
            return _ident(node)
        case Select():
            return _select(node)
        case Call():
            return _call(node)
        case ListNode():
            return _list(node)
        case MapNode():
            return _map(node)
        case StructNode():
            return _struct(node)
        case Comprehension():
            return _bind(node) if node.is_bind else _comprehension(node)
    raise AssertionError(node)


def _constant(value: Any) -> Step:
    return lambda frame: value


def _ident(node: Ident) -> Step:
    name = node.name
    known = node.type.params[0] if node.type.kind == "type" and node.type.params else None

    def read(frame: Frame) -> Any:
        frame.spend(1)
        try:
            value = frame.variables[name]
        except KeyError:
            if known is not None:
                return Type(known.kind, (), known.name)
            raise EvaluationError(f"no such attribute(s): {name}") from None
        if isinstance(value, EvaluationError):
            raise value
        return value

    return read


# --- fields ---------------------------------------------------------------------------------------


def _select(node: Select) -> Step:
    operand, key = build(node.operand), node.property or node.name
    if node.test:
        return lambda frame: _present(operand(frame), key)
    if node.optional or is_optional(node.operand.type):

        def choose(frame: Frame) -> OptionalValue:
            value = operand(frame)
            frame.spend(1)
            return _chosen(value, key)

        return choose

    def select(frame: Frame) -> Any:
        value = operand(frame)
        frame.spend(1)
        return _field(value, key)

    return select


def _field(value: Any, key: Any) -> Any:
    if not isinstance(value, dict):
        if isinstance(value, OptionalValue):
            return _chosen(value, key)
        raise EvaluationError("no such overload")
    try:
        return value[key]
    except KeyError:
        raise EvaluationError(f"no such key: {key}") from None


def _present(value: Any, key: str) -> bool:
    if isinstance(value, OptionalValue):
        return bool(value.values) and _present(value.values[0], key)
    if not isinstance(value, dict):
        raise EvaluationError("no such overload")
    return key in value


def _chosen(value: Any, key: Any) -> OptionalValue:
    """The optional of a field or an index that may not be there."""
    if isinstance(value, OptionalValue):
        return _chosen(value.values[0], key) if value.values else NONE
    found: Any = None
    if isinstance(value, dict):
        if key not in value:
            return NONE
        found = value[key]
    elif isinstance(value, list | tuple) and type(key) is int:
        if not 0 <= key < len(value):
            return NONE
        found = value[key]
    else:
        raise EvaluationError("no such overload")
    return found if isinstance(found, OptionalValue) else OptionalValue((found,))


# --- calls ----------------------------------------------------------------------------------------


def _call(node: Call) -> Step:
    special = _SPECIAL.get(node.function)
    if special is not None:
        return special(*(build(arg) for arg in node.args))
    args = [build(arg) for arg in node.args]
    if node.function == "_+_" and isinstance(node.args[0], Ident) and node.args[0].name == "@result":
        item = node.args[1]
        if isinstance(item, ListNode) and len(item.elements) == 1 and not item.optional:
            return _append(args[0], build(item.elements[0]))
    single = node.overloads[0] if len(node.overloads) == 1 else None
    if single is None or any(arg.type.kind in ("dyn", "error") for arg in node.args):
        return _dispatched(node.overloads, args)
    return _direct(single, args)


def _direct(one: Overload, args: Sequence[Step]) -> Step:
    function, cost, works = one.call, one.cost, one.works

    def call(frame: Frame) -> Any:
        given = [arg(frame) for arg in args]
        try:
            result = function(*given, frame.labour) if works else function(*given)
        except _MISFITS:
            raise EvaluationError("no such overload") from None
        frame.spend(cost.actual(given, result))
        return result

    return call


def _dispatched(overloads: Sequence[Overload], args: Sequence[Step]) -> Step:
    def call(frame: Frame) -> Any:
        given = [arg(frame) for arg in args]
        for one in overloads:
            if all(fits(value, wanted) for value, wanted in zip(given, one.args, strict=True)):
                result = one.call(*given, frame.labour) if one.works else one.call(*given)
                frame.spend(one.cost.actual(given, result))
                return result
        raise EvaluationError("no such overload")

    return call


def _append(accumulated: Step, item: Step) -> Step:
    """A macro's list and one more: nobody else has seen that list yet."""

    def append(frame: Frame) -> Any:
        made = accumulated(frame)
        made.append(item(frame))
        frame.spend(1 + _LIST_COST)
        return made

    return append


def _and(left: Step, right: Step) -> Step:
    return _logical(left, right, decisive=False)


def _or(left: Step, right: Step) -> Step:
    return _logical(left, right, decisive=True)


def _logical(left: Step, right: Step, *, decisive: bool) -> Step:
    """Either side decides, even if the other one fails."""

    def decide(frame: Frame) -> bool:
        try:
            if truth(left(frame)) is decisive:
                return decisive
        except EvaluationError:
            if truth(right(frame)) is decisive:
                return decisive
            raise
        return truth(right(frame))

    return decide


def _ternary(condition: Step, yes: Step, no: Step) -> Step:
    return lambda frame: yes(frame) if truth(condition(frame)) else no(frame)


def _not_strictly_false(test: Step) -> Step:
    def go_on(frame: Frame) -> bool:
        frame.spend(1)
        try:
            return test(frame) is not False
        except EvaluationError:
            return True

    return go_on


def _optional_index(operand: Step, key: Step) -> Step:
    def index(frame: Frame) -> OptionalValue:
        value, at = operand(frame), key(frame)
        frame.spend(1)
        return _chosen(value, at)

    return index


def _or_optional(target: Step, other: Step) -> Step:
    """`a.or(b)`: the second is looked at only where the first has no value."""

    def choose(frame: Frame) -> Any:
        value = target(frame)
        frame.spend(1)
        return value if isinstance(value, OptionalValue) and value.values else other(frame)

    return choose


def _or_value(target: Step, other: Step) -> Step:
    def choose(frame: Frame) -> Any:
        value = target(frame)
        frame.spend(1)
        return value.values[0] if isinstance(value, OptionalValue) and value.values else other(frame)

    return choose


_SPECIAL: Final[Mapping[str, Callable[..., Step]]] = {
    "_&&_": _and,
    "_||_": _or,
    "_?_:_": _ternary,
    "@not_strictly_false": _not_strictly_false,
    "_[?_]": _optional_index,
    "or": _or_optional,
    "orValue": _or_value,
}


# --- aggregates -----------------------------------------------------------------------------------


def _list(node: ListNode) -> Step:
    elements, optional = [build(one) for one in node.elements], node.optional
    if not optional and all(isinstance(one, Literal) for one in node.elements):
        return _constant([one.value for one in node.elements if isinstance(one, Literal)])

    def make(frame: Frame) -> list[Any]:
        made: list[Any] = []
        for index, element in enumerate(elements):
            value = element(frame)
            if index in optional:
                made.extend(value.values)
            else:
                made.append(value)
        frame.spend(_LIST_COST)
        return made

    return make


def _map(node: MapNode) -> Step:
    entries, optional = [(build(key), build(value)) for key, value in node.entries], node.optional

    def make(frame: Frame) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        for index, (key, value) in enumerate(entries):
            name, given = key(frame), value(frame)
            if index in optional:
                if not given.values:
                    continue
                given = given.values[0]
            insert(made, name, given)
        frame.spend(_MAP_COST)
        return made

    return make


def insert(made: dict[Any, Any], key: Any, value: Any) -> None:
    """Put an entry into a map that nobody has seen yet. Raises EvaluationError."""
    if not isinstance(key, str | int):
        raise EvaluationError("unsupported key type")
    if key in made:
        raise EvaluationError(f"insert failed: key {key} already exists")
    made[key] = value


def _struct(node: StructNode) -> Step:
    entries = [(node.type.properties.get(name, name), build(value)) for name, value in node.entries]
    optional, kind = node.optional, node.type.name

    def make(frame: Frame) -> Struct:
        made = Struct(kind)
        for index, (name, value) in enumerate(entries):
            given = value(frame)
            if index in optional:
                if not given.values:
                    continue
                given = given.values[0]
            made[name] = given
        frame.spend(_STRUCT_COST)
        return made

    return make


# --- comprehensions -------------------------------------------------------------------------------


def _bind(node: Comprehension) -> Step:
    value, result, name = build(node.init), build(node.result), node.accumulator

    def bind(frame: Frame) -> Any:
        given = value(frame)
        before = frame.variables.get(name, frame)
        frame.variables[name] = given
        try:
            return result(frame)
        finally:
            _restore(frame, name, before)

    return bind


def _restore(frame: Frame, name: str, before: Any) -> None:
    """Put back what a name meant outside: the frame itself stands for nothing."""
    if before is frame:
        frame.variables.pop(name, None)
    else:
        frame.variables[name] = before


def _pairs(value: Any) -> Sequence[tuple[Any, Any]]:
    """Keys and values of a map, positions and items of a list."""
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    raise EvaluationError("no such overload")


def _comprehension(node: Comprehension) -> Step:
    source, condition, step, result = (build(p) for p in (node.range, node.condition, node.step, node.result))
    fresh = {ListNode: list, MapNode: dict}.get(type(node.init))
    init = (lambda frame: fresh()) if fresh is not None else build(node.init)
    names, accumulator = node.variables, node.accumulator
    endless = isinstance(node.condition, Literal)

    def fold(frame: Frame) -> Any:
        given = source(frame)
        pairs = _pairs(given)
        frame.labour(len(pairs))
        variables = frame.variables
        saved = [(name, variables.get(name, frame)) for name in (accumulator, *names)]
        variables[accumulator] = init(frame)
        try:
            _loop(frame, pairs, isinstance(given, dict))
            return result(frame)
        finally:
            for name, before in saved:
                _restore(frame, name, before)

    def _loop(frame: Frame, pairs: Sequence[tuple[Any, Any]], keyed: bool) -> None:
        variables = frame.variables
        for key, value in pairs:
            if len(names) == 2:
                variables[names[0]], variables[names[1]] = key, value
            else:
                variables[names[0]] = key if keyed else value
            if not condition(frame):
                return
            try:
                variables[accumulator] = step(frame)
            except EvaluationError as error:
                # A later item may still decide what `all` and `exists` are.
                variables[accumulator] = error
                if endless:
                    return

    return fold
