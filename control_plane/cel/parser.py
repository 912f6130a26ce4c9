"""The parser: from words to a syntax tree with its macros expanded.

Source: CEL language definition, "Syntax" (github.com/google/cel-spec).
"""

from __future__ import annotations

from typing import Final

from rayplane.control_plane.cel.errors import CompileError, Issue
from rayplane.control_plane.cel.lexer import RESERVED, Token, tokens_of
from rayplane.control_plane.cel.macros import MacroError, expand
from rayplane.control_plane.cel.syntax import (
    Call,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    StructNode,
    children,
)
from rayplane.control_plane.cel.values import INT_MAX

DEPTH_MAX: Final = 64
"""Levels of brackets."""
TREE_DEPTH_MAX: Final = 150
"""Levels of the tree: what reads it goes down by a few calls for each, and Python bears a thousand."""
_PRECEDENCE: Final = {
    "||": 0,
    "&&": 1,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!=", "in"), 2),
    **dict.fromkeys(("+", "-"), 3),
    **dict.fromkeys(("*", "/", "%"), 4),
}
_CONSTANTS: Final = {"true": True, "false": False, "null": None}


def parse(source: str, *, binds: bool = False) -> Node:
    """The tree of an expression; `binds`: `cel.bind` is a macro in it. Raises CompileError."""
    parser = _Parser(source, binds=binds)
    try:
        node = parser.expression()
        parser.expect("end")
    except MacroError as error:
        raise CompileError(source, [Issue(error.position, str(error))]) from None
    _check_depth(source, node)
    return node


def _check_depth(source: str, root: Node) -> None:
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > TREE_DEPTH_MAX:
            raise CompileError(source, [Issue(0, f"expression recursion limit exceeded: {TREE_DEPTH_MAX}")])
        level = [below for node in level for below in children(node)]


class _Parser:
    """A parser by recursive descent; one pass, one word ahead."""

    def __init__(self, source: str, *, binds: bool) -> None:
        self._source = source
        self._binds = binds
        self._tokens = tokens_of(source)
        self._at = 0
        self._depth = 0

    # --- words --------------------------------------------------------------------------------

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self, *kinds: str) -> Token | None:
        """The next word if it is one of these."""
        token = self._next
        if token.kind in kinds:
            self._at += 1
            return token
        return None

    def expect(self, kind: str) -> Token:
        """The next word, which must be of a kind."""
        token = self._take(kind)
        if token is None:
            shown = {"end": "<EOF>", "name": "IDENTIFIER"}.get(kind, f"'{kind}'")
            raise self._wrong(self._next, f"expecting {shown}")
        return token

    def _wrong(self, token: Token, expected: str = "") -> CompileError:
        word = str(token.value) if token.kind != "literal" else self._word(token)
        text = f"Syntax error: mismatched input '{word}' {expected}".rstrip()
        return CompileError(self._source, [Issue(token.position, text)])

    def _word(self, token: Token) -> str:
        end = self._tokens[self._tokens.index(token) + 1].position
        return self._source[token.position : end].strip()

    # --- operators ----------------------------------------------------------------------------

    def expression(self) -> Node:
        """A whole expression, down to its last ternary."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            text = f"expression recursion limit exceeded: {DEPTH_MAX}"
            raise CompileError(self._source, [Issue(self._next.position, text)])
        node = self._operators(0)
        if (mark := self._take("?")) is not None:
            yes = self._operators(0)
            self.expect(":")
            node = Call(mark.position, "_?_:_", [node, yes, self.expression()])
        self._depth -= 1
        return node

    def _operators(self, level: int) -> Node:
        """Operands and what is between them, of this level of precedence and above."""
        node = self._unary()
        while (own := _PRECEDENCE.get(self._next.value, -1) if self._next.kind != "literal" else -1) >= level:
            mark = self._next
            operands, positions = [node], []
            while self._next.value == mark.value and self._next.kind == mark.kind:
                positions.append(self._next.position)
                self._at += 1
                operands.append(self._operators(own + 1))
            node = _combined(mark.value, operands, positions)
        return node

    def _unary(self) -> Node:
        marks: list[Token] = []
        while (mark := self._take("!", "-")) is not None:
            if marks and mark.kind != marks[0].kind:
                raise self._wrong(mark)
            marks.append(mark)
        if marks and marks[-1].kind == "-" and type(self._next.value) in (int, float) and self._next.kind == "literal":
            token = self._tokens[self._at]
            self._tokens[self._at] = Token("literal", -token.value, marks.pop().position)
            node = self._member()
        else:
            node = self._member()
        if len(marks) % 2:
            node = Call(marks[0].position, f"{marks[0].kind}_", [node])
        return node

    # --- members ------------------------------------------------------------------------------

    def _member(self) -> Node:
        node = self._primary()
        while (mark := self._take(".", "[", "{")) is not None:
            if mark.kind == "{":
                node = self._struct(node, mark)
            elif mark.kind == "[":
                function = "_[?_]" if self._take("?") else "_[_]"
                node = Call(mark.position, function, [node, self.expression()])
                self.expect("]")
            else:
                node = self._field(node, mark)
        return node

    def _field(self, operand: Node, mark: Token) -> Node:
        if self._take("?"):
            return Select(mark.position, operand, self.expect("name").value, optional=True)
        name = self.expect("name")
        if (opened := self._take("(")) is None:
            return Select(mark.position, operand, name.value)
        args, _ = self._list(")")
        return expand(Call(opened.position, name.value, [operand, *args], method=True), binds=self._binds)

    def _primary(self) -> Node:
        token = self._next
        self._at += 1
        match token.kind:
            case "literal":
                if type(token.value) is int and token.value > INT_MAX:
                    raise CompileError(self._source, [Issue(token.position, "invalid int literal")])
                return Literal(token.position, token.value)
            case "(":
                node = self.expression()
                self.expect(")")
                return node
            case "[":
                return ListNode(token.position, *self._list("]"))
            case "{":
                return self._map(token)
            case ".":
                return self._name(self.expect("name"))
            case "name":
                return self._name(token)
        raise self._wrong(token)

    def _name(self, token: Token) -> Node:
        if token.value in _CONSTANTS:
            return Literal(token.position, _CONSTANTS[token.value])
        if token.value in RESERVED or token.value == "in":
            if token.value == "in":
                raise self._wrong(token)
            raise CompileError(self._source, [Issue(token.position, f"reserved identifier: {token.value}")])
        if (opened := self._take("(")) is None:
            return Ident(token.position, token.value)
        args, _ = self._list(")")
        return expand(Call(opened.position, token.value, args))

    def _list(self, end: str) -> tuple[list[Node], frozenset[int]]:
        """Elements up to the closing bracket, and which of them are optional."""
        found: list[Node] = []
        optional: set[int] = set()
        while self._take(end) is None:
            if end == "]" and self._take("?"):
                optional.add(len(found))
            found.append(self.expression())
            if self._take(",") is None:
                self.expect(end)
                break
            if end == ")" and self._next.kind == end:
                raise self._wrong(self._next)
        return found, frozenset(optional)

    def _map(self, mark: Token) -> Node:
        entries: list[tuple[Node, Node]] = []
        optional: set[int] = set()
        while self._take("}") is None:
            if self._take("?"):
                optional.add(len(entries))
            key = self.expression()
            self.expect(":")
            entries.append((key, self.expression()))
            if self._take(",") is None:
                self.expect("}")
                break
        return MapNode(mark.position, entries, frozenset(optional))

    def _struct(self, node: Node, mark: Token) -> Node:
        name = dotted(node)
        if not name:
            raise self._wrong(mark)
        entries: list[tuple[str, Node]] = []
        optional: set[int] = set()
        while self._take("}") is None:
            if self._take("?"):
                optional.add(len(entries))
            field = self.expect("name")
            self.expect(":")
            entries.append((field.value, self.expression()))
            if self._take(",") is None:
                self.expect("}")
                break
        return StructNode(mark.position, name, entries, frozenset(optional))


def _combined(sign: str, operands: list[Node], positions: list[int]) -> Node:
    """A chain of one operator: of && and || a tree that is as flat as can be, else from left to right."""
    function = "@in" if sign == "in" else f"_{sign}_"
    if sign in ("&&", "||"):
        return _balanced(function, operands, positions)
    node = operands[0]
    for position, operand in zip(positions, operands[1:], strict=True):
        node = Call(position, function, [node, operand])
    return node


def _balanced(function: str, terms: list[Node], positions: list[int]) -> Node:
    if len(terms) == 1:
        return terms[0]
    middle = len(positions) // 2
    left = _balanced(function, terms[: middle + 1], positions[:middle])
    right = _balanced(function, terms[middle + 1 :], positions[middle + 1 :])
    return Call(positions[middle], function, [left, right])


def dotted(node: Node) -> str:
    """`a.b.c` of a chain of selections from a name; empty for anything else."""
    if isinstance(node, Ident):
        return node.name
    if isinstance(node, Select) and not node.test and not node.optional:
        before = dotted(node.operand)
        return f"{before}.{node.name}" if before else ""
    return ""
