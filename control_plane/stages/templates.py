"""Templates: what a template makes of an object, within bounds.

What a field does not have is nothing (`nil`), and so are that thing's fields. A template takes at most STEPS_MAX steps
and makes at most CHARS_MAX characters; whoever loops or doubles without end fails. Pure: the moment, random numbers and
what the node knows are functions that are passed in.
Source: Go package text/template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from rayplane.control_plane.stages.errors import Failed, StageError
from rayplane.control_plane.stages.functions import FUNCTIONS
from rayplane.control_plane.stages.meter import Meter, is_true, printed
from rayplane.control_plane.stages.template_syntax import (
    Action,
    Block,
    Function,
    Group,
    Leave,
    Literal,
    Node,
    Operand,
    Path,
    Pipe,
    Text,
    parse,
)

GIVEN: Final = (
    "Now", "StartTime", "Version", "NodeName", "NodeIP", "NodeIPs", "NodePort", "NodeConditions", "NodeIPWith",
    "NodeIPsWith", "PodIPWith", "PodIPsWith",
    "randInt", "randAlphaNum", "uuidv4", "now",
)  # fmt: skip
"""Functions that whoever renders brings."""
Given = Mapping[str, Callable[..., Any]]


class Template:
    """A template that can be rendered any number of times. Raises Unreadable when it is none."""

    def __init__(self, source: str) -> None:
        self._nodes = parse(source, FUNCTIONS.keys() | set(GIVEN))

    def render(self, data: Any, given: Given) -> str:
        """The text for `data`; `given` has the functions named in GIVEN. Raises Failed."""
        run = _Run(data, given)
        try:
            run.nodes(self._nodes)
        except _Left:
            raise Failed("break or continue outside of a range") from None
        return "".join(run.out)


class _Left(Exception):
    """A `break` or `continue` on its way to its range."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class _Run:
    """One rendering."""

    def __init__(self, data: Any, given: Given) -> None:
        self.out: list[str] = []
        self._dot = data
        self._given = given
        self._meter = Meter()
        self._scopes: list[dict[str, Any]] = [{"$": data}]

    def nodes(self, nodes: tuple[Node, ...]) -> None:
        for node in nodes:
            self._meter.spend(1)
            if isinstance(node, Text):
                self._print(node.text)
            elif isinstance(node, Leave):
                raise _Left(node.kind)
            elif isinstance(node, Action):
                value = self._pipe(node.pipe)
                if not node.pipe.names:
                    self._print(printed(value, self._meter))
            else:
                self._block(node)

    def _print(self, text: str) -> None:
        self._meter.write(len(text))
        self.out.append(text)

    def _block(self, block: Block) -> None:
        self._scopes.append({})
        dot = self._dot
        try:
            if block.kind == "range":
                self._range(block)
                return
            value = self._pipe(block.pipe)
            if not is_true(value):
                self.nodes(block.otherwise)
                return
            if block.kind == "with":
                self._dot = value
            self.nodes(block.body)
        finally:
            self._dot = dot
            self._scopes.pop()

    def _range(self, block: Block) -> None:
        names = block.pipe.names
        items = _items(self._value(block.pipe), block.pipe.line)
        dot = self._dot
        for key, value in items:
            self._meter.spend(1)
            own = (value,) if len(names) == 1 else (key, value)
            if block.pipe.declares:
                self._scopes.append(dict(zip(names, own, strict=False)))
            else:
                for name, one in zip(names, own, strict=False):
                    self._assign(name, one)
                self._scopes.append({})
            self._dot = value
            try:
                self.nodes(block.body)
            except _Left as left:
                if left.kind == "break":
                    break
            finally:
                self._dot = dot
                self._scopes.pop()
        if not items:
            self.nodes(block.otherwise)

    # --- values -----------------------------------------------------------------------------------

    def _pipe(self, pipe: Pipe) -> Any:
        value = self._value(pipe)
        for name in pipe.names:
            if pipe.declares:
                self._scopes[-1][name] = value
            else:
                self._assign(name, value)
        return value

    def _value(self, pipe: Pipe) -> Any:
        value: tuple[Any, ...] = ()
        for command in pipe.commands:
            self._meter.spend(1)
            try:
                value = (self._command(command, value),)
            except StageError as e:
                raise e if str(e).startswith("line ") else Failed(f"line {pipe.line}: {e}") from None
            except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError) as e:
                raise Failed(f"line {pipe.line}: {_called(command)}: {e}") from None
        return value[0]

    def _command(self, command: tuple[Operand, ...], last: tuple[Any, ...]) -> Any:
        first = command[0]
        if not isinstance(first, Function):
            return self._operand(first)
        if first.name in ("and", "or"):
            return self._either(first.name, command[1:], last)
        args = [self._operand(one) for one in command[1:]] + list(last)
        own = self._given.get(first.name)
        if own is not None:
            return own(*args)
        function = FUNCTIONS.get(first.name)
        if function is None:
            raise Failed(f"{first.name} has no value here")
        return function(self._meter, *args)

    def _either(self, name: str, operands: tuple[Operand, ...], last: tuple[Any, ...]) -> Any:
        """The first that decides; those after it are not looked at."""
        value: Any = None
        for operand in (*operands, *(Literal(one) for one in last)):
            value = self._operand(operand)
            if is_true(value) is (name == "or"):
                break
        return value

    def _operand(self, operand: Operand) -> Any:
        self._meter.spend(1)
        if isinstance(operand, Literal):
            return operand.value
        if isinstance(operand, Path):
            return _fields(self._dot if operand.variable is None else self._variable(operand.variable), operand.fields)
        if isinstance(operand, Group):
            return _fields(self._pipe(operand.pipe), operand.fields)
        return self._command((operand,), ())

    def _variable(self, name: str) -> Any:
        for scope in reversed(self._scopes):
            if name in scope:
                return scope[name]
        return None

    def _assign(self, name: str, value: Any) -> None:
        for scope in reversed(self._scopes):
            if name in scope:
                scope[name] = value
                return


def _fields(value: Any, fields: tuple[str, ...]) -> Any:
    for name in fields:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _called(command: tuple[Operand, ...]) -> str:
    return command[0].name if isinstance(command[0], Function) else "a value"


def _items(value: Any, line: int) -> list[tuple[Any, Any]]:
    if value is None:
        return []
    if isinstance(value, dict):
        return sorted(value.items())
    if isinstance(value, list):
        return list(enumerate(value))
    if isinstance(value, int) and not isinstance(value, bool):
        # Steps bound what is made of them.
        return [(n, n) for n in range(max(0, min(value, Meter.STEPS_MAX)))]
    raise Failed(f"line {line}: range can't iterate over {type(value).__name__}")
