"""Syntax of templates: the subset of Go's text/template that stages use, from text to a tree.

There are actions with pipelines, `if`, `else if`, `with`, `range` (also over `$index, $item`), `break`, `continue`,
variables, literals, parentheses, comments and `{{-` `-}}`. What names other templates (`define`, `template`, `block`)
is refused with its line. Pure.
Source: Go package text/template.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

from rayplane.control_plane.stages.errors import Unreadable

CHARS_MAX: Final = 64 * 1024
DEPTH_MAX: Final = 32
_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+)
    |(?P<comment>/\*.*?\*/)
    |(?P<end>\}\})
    |(?P<trim>-\}\})
    |(?P<text>"(?:\\.|[^"\\\n])*")
    |(?P<raw>`[^`]*`)
    |(?P<number>[-+]?(?:\d+\.\d+|\d+))
    |(?P<field>\.[A-Za-z_]\w*)
    |(?P<variable>\$\w*)
    |(?P<name>[A-Za-z_]\w*)
    |(?P<sign>:=|[=|,().])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'"}
_OTHERS: Final = ("define", "template", "block")


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that is written out."""

    value: Any


@dataclass(frozen=True, slots=True)
class Path:
    """Fields of the current value, or of a variable (`$` is the whole object)."""

    variable: str | None
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """A pipeline in parentheses, and fields of what it gives."""

    pipe: Pipe
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """The name of a function."""

    name: str


Operand = Literal | Path | Group | Function


@dataclass(frozen=True, slots=True)
class Pipe:
    """Commands, each of which is given what the one before it gave; `names` are the variables that take the result."""

    line: int
    names: tuple[str, ...]
    declares: bool
    commands: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is copied."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """A pipeline whose result is printed, unless a variable takes it."""

    pipe: Pipe


@dataclass(frozen=True, slots=True)
class Block:
    """An `if`, `with` or `range`."""

    kind: str
    pipe: Pipe
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """A `break` or `continue`."""

    kind: str


Node = Text | Action | Block | Leave


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int
    apart: bool
    """Whether there is a blank before it."""


@dataclass(slots=True)
class _Piece:
    """A text, or the tokens of an action."""

    line: int
    text: str = ""
    tokens: list[_Token] = field(default_factory=list)


def parse(source: str, functions: Collection[str]) -> tuple[Node, ...]:
    """The tree of a template that may call these functions. Raises Unreadable with the line."""
    if len(source) > CHARS_MAX:
        raise Unreadable(f"it has more than {CHARS_MAX} characters")
    return _Parser(_pieces(source.strip()), functions).whole()


# --- from text to tokens --------------------------------------------------------------------------


def _pieces(source: str) -> list[_Piece]:
    found: list[_Piece] = []
    at, line, trims = 0, 1, False
    while at < len(source):
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        line_of_text, line = line, line + text.count("\n")
        opening = start >= 0 and source[start + 2 : start + 4] in ("- ", "-\n", "-\t")
        shown = text.lstrip() if trims else text
        found.append(_Piece(line_of_text, shown.rstrip() if opening else shown))
        if start < 0:
            break
        action, at, trims = _action(source, start + (3 if opening else 2), line)
        line += source.count("\n", start, at)
        if action.tokens:
            found.append(action)
    return found


def _action(source: str, at: int, line: int) -> tuple[_Piece, int, bool]:
    """The tokens of an action, where what follows it begins, and whether blanks there are left out."""
    piece, first, apart = _Piece(line), line, False
    while True:
        match = _TOKEN.match(source, at)
        if match is None:
            what = (
                f"{source[at]!r} has no meaning here" if at < len(source) else f"the action of line {first} has no end"
            )
            raise Unreadable(f"line {line}: {what}")
        kind, text, at = match.lastgroup or "", match.group(), match.end()
        if kind in ("end", "trim"):
            return piece, at, kind == "trim"
        if kind not in ("blank", "comment"):
            piece.tokens.append(_Token(kind, text, line, apart))
        apart = kind == "blank"
        line += text.count("\n")


# --- from tokens to a tree ------------------------------------------------------------------------


class _Parser:
    """A reader of one template."""

    def __init__(self, pieces: list[_Piece], functions: Collection[str]) -> None:
        self._pieces = pieces
        self._functions = functions
        self._at = 0
        self._tokens: list[_Token] = []
        self._next = 0
        self._line = 1
        self._names: list[str] = ["$"]
        self._loops = 0

    def whole(self) -> tuple[Node, ...]:
        nodes, ended_by = self._nodes(0)
        if ended_by:
            raise self._error(f"{ended_by} without a block that it ends")
        return nodes

    def _nodes(self, depth: int) -> tuple[tuple[Node, ...], str]:
        """What stands before the end of a block, and the word that ends it: `end`, `else`, or none at the very end."""
        if depth > DEPTH_MAX:
            raise self._error(f"blocks stand in each other more than {DEPTH_MAX} levels deep")
        found: list[Node] = []
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            self._at += 1
            if not piece.tokens:
                found.append(Text(piece.text))
                continue
            self._tokens, self._next, self._line = piece.tokens, 0, piece.line
            word = piece.tokens[0].text if piece.tokens[0].kind == "name" else ""
            if word in ("end", "else"):
                self._next = 1
                return tuple(found), word
            found.append(self._node(word, depth))
        return tuple(found), ""

    def _node(self, word: str, depth: int) -> Node:
        if word in _OTHERS:
            raise self._error(f"{word}: templates of other templates are not known here")
        if word in ("break", "continue"):
            if not self._loops:
                raise self._error(f"{word} outside of a range")
            self._next = 1
            self._done()
            return Leave(word)
        if word in ("if", "with", "range"):
            self._next = 1
            return self._block(word, depth)
        node = Action(self._pipe(0))
        self._done()
        return node

    def _block(self, kind: str, depth: int) -> Block:
        line, names = self._line, len(self._names)
        pipe = self._pipe(0, loop=kind == "range")
        self._done()
        self._loops += kind == "range"
        body, ended_by = self._nodes(depth + 1)
        self._loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if ended_by == "else":
            # `else if` is a block of its own, which ends with this one.
            nested = self._tokens[self._next].text if self._next < len(self._tokens) else ""
            if nested in ("if", "with"):
                self._next += 1
                otherwise = (self._block(nested, depth + 1),)
                ended_by = "end"
            else:
                self._done()
                otherwise, ended_by = self._nodes(depth + 1)
        if ended_by != "end":
            raise Unreadable(f"line {line}: {kind} has no end")
        self._done()
        del self._names[names:]
        return Block(kind, pipe, body, otherwise)

    def _pipe(self, depth: int, *, loop: bool = False) -> Pipe:
        if depth > DEPTH_MAX:
            raise self._error(f"parentheses stand in each other more than {DEPTH_MAX} levels deep")
        line = self._line
        names, declares = self._targets(loop)
        commands = [self._command(depth)]
        while self._take("|"):
            commands.append(self._command(depth))
            if not isinstance(commands[-1][0], Function):
                raise self._error("what stands after | must be a function")
        self._names += names if declares else ()
        return Pipe(line, tuple(names), declares, tuple(commands))

    def _targets(self, loop: bool) -> tuple[list[str], bool]:
        """The variables on the left of := or =."""
        mark, names = self._next, list[str]()
        while (token := self._peek()) is not None and token.kind == "variable":
            names.append(token.text)
            self._next += 1
            if self._take(":=") or self._take("="):
                declares = self._tokens[self._next - 1].text == ":="
                if len(names) > (2 if loop else 1):
                    raise self._error("too many variables")
                for name in names if not declares else ():
                    self._known(name)
                return names, declares
            if not (loop and self._take(",")):
                break
        self._next = mark
        return [], False

    def _command(self, depth: int) -> tuple[Operand, ...]:
        operands: list[Operand] = []
        while (token := self._peek()) is not None and token.text not in ("|", ")"):
            operands.append(self._operand(token, depth))
        if not operands:
            raise self._error("a value is missing")
        if len(operands) > 1 and not isinstance(operands[0], Function):
            raise self._error("only a function takes arguments")
        return tuple(operands)

    def _operand(self, token: _Token, depth: int) -> Operand:
        self._next += 1
        self._line = token.line
        kind, text = token.kind, token.text
        if kind == "text":
            return Literal(_unescaped(text[1:-1], token.line))
        if kind == "raw":
            return Literal(text[1:-1])
        if kind == "number":
            return Literal(float(text) if "." in text else int(text[:32]))
        if kind == "variable":
            self._known(text)
            return Path(text, self._fields())
        if kind == "field":
            self._next -= 1
            return Path(None, self._fields(first=True))
        if text == ".":
            return Path(None, ())
        if text == "(":
            pipe = self._pipe(depth + 1)
            if not self._take(")"):
                raise self._error("( has no )")
            return Group(pipe, self._fields())
        if kind == "name":
            return self._named(text)
        raise self._error(f"{text!r} has no meaning here")

    def _named(self, name: str) -> Operand:
        if name in ("true", "false"):
            return Literal(name == "true")
        if name == "nil":
            return Literal(None)
        if name not in self._functions:
            raise self._error(f"there is no function {name}")
        return Function(name)

    def _fields(self, *, first: bool = False) -> tuple[str, ...]:
        """Fields that follow without a blank."""
        found: list[str] = []
        while (token := self._peek()) is not None and token.kind == "field" and (first or not token.apart):
            found.append(token.text[1:])
            self._next += 1
            first = False
        return tuple(found)

    # --- small things -----------------------------------------------------------------------------

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self, sign: str) -> bool:
        token = self._peek()
        if token is None or token.kind != "sign" or token.text != sign:
            return False
        self._next += 1
        return True

    def _known(self, name: str) -> None:
        if name not in self._names:
            raise self._error(f"there is no variable {name}")

    def _done(self) -> None:
        token = self._peek()
        if token is not None:
            raise self._error(f"{token.text!r} has no meaning here")

    def _error(self, what: str) -> Unreadable:
        return Unreadable(f"line {self._line}: {what}")


def _unescaped(text: str, line: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match.group(1) not in _ESCAPES:
            raise Unreadable(f"line {line}: \\{match.group(1)} is no escape that is known here")
        return _ESCAPES[match.group(1)]

    return re.sub(r"\\(.)", one, text)
