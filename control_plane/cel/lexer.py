"""Words of an expression: names, numbers, texts, signs.

Source: CEL language definition, "Lexis" (github.com/google/cel-spec).
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from rayplane.control_plane.cel.errors import CompileError, Issue
from rayplane.control_plane.cel.values import INT_MAX, UINT_MAX, Uint

EXPRESSION_CHARS_MAX: Final = 100_000
RESERVED: Final = frozenset(
    {
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package"),
        *("namespace", "return", "var", "void", "while"),
    }
)
_WORD: Final = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<text>(?P<prefix>[rR][bB]?|[bB][rR]?)?(?P<quote>\"\"\"|'''|\"|'))
    |(?P<double>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
    |(?P<int>0x[0-9a-fA-F]+|[0-9]+)(?P<unsigned>[uU])?
    |(?P<name>[_a-zA-Z][_a-zA-Z0-9]*)
    |(?P<sign>&&|\|\||[=!<>]=|[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<plain>[abfnrtv\\?\"'`])|[xX](?P<hex>[0-9a-fA-F]{2})|u(?P<four>[0-9a-fA-F]{4})"
    r"|U(?P<eight>[0-9a-fA-F]{8})|(?P<octal>[0-3][0-7]{2})|(?P<bad>.?))",
    re.DOTALL,
)
_PLAIN: Final = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


class Token(NamedTuple):
    """One word: `kind` is `name`, `literal`, `end`, or the sign itself."""

    kind: str
    value: Any
    position: int


def tokens_of(source: str) -> list[Token]:
    """All words of an expression, and an `end`. Raises CompileError."""
    if len(source) > EXPRESSION_CHARS_MAX:
        text = f"expression code point size exceeds limit: size: {len(source)}, limit {EXPRESSION_CHARS_MAX}"
        raise CompileError("", [Issue(0, text)])
    found: list[Token] = []
    at = 0
    while at < len(source):
        match = _WORD.match(source, at)
        if match is None:
            raise _syntax(source, at, f"token recognition error at: '{source[at]}'")
        end = match.end()
        if match["text"]:
            value, end = _text(source, match)
            found.append(Token("literal", value, at))
        elif match["double"]:
            found.append(Token("literal", float(match["double"]), at))
        elif match["int"]:
            found.append(Token("literal", _integer(source, match), at))
        elif match["name"]:
            found.append(Token("name", match["name"], at))
        elif match["sign"]:
            found.append(Token(match["sign"], match["sign"], at))
        at = end
    found.append(Token("end", "<EOF>", len(source)))
    return found


def _syntax(source: str, at: int, message: str) -> CompileError:
    return CompileError(source, [Issue(at, f"Syntax error: {message}")])


def _integer(source: str, match: re.Match[str]) -> int:
    digits = match["int"]
    value = int(digits, 16) if digits.startswith("0x") else int(digits) if len(digits) < 32 else UINT_MAX + 1
    if match["unsigned"]:
        if value > UINT_MAX:
            raise CompileError(source, [Issue(match.start(), "invalid uint literal")])
        return Uint(value)
    if value > INT_MAX + 1:  # one more for the smallest, whose sign comes before
        raise CompileError(source, [Issue(match.start(), "invalid int literal")])
    return value


def _text(source: str, match: re.Match[str]) -> tuple[str | bytes, int]:
    prefix, quote = (match["prefix"] or "").lower(), match["quote"]
    raw, at = "r" in prefix, match.end()
    while True:
        end = source.find(quote, at)
        if end < 0 or (len(quote) == 1 and "\n" in source[match.end() : end]):
            raise _syntax(source, match.start(), f"token recognition error at: '{source[match.start() :][:40]}'")
        if raw or not _escaped(source, match.end(), end):
            break
        at = end + 1
    inner = source[match.end() : end]
    if "b" in prefix:
        return (inner.encode() if raw else _unescape_bytes(source, inner, match.start())), end + len(quote)
    return (inner if raw else _unescape(source, inner, match.start())), end + len(quote)


def _escaped(source: str, start: int, at: int) -> bool:
    slashes = 0
    while at - slashes - 1 >= start and source[at - slashes - 1] == "\\":
        slashes += 1
    return slashes % 2 == 1


def _unescape(source: str, inner: str, at: int) -> str:
    def one(match: re.Match[str]) -> str:
        if match["bad"] is not None:
            raise _syntax(source, at, f"token recognition error at: '{inner[:40]}'")
        if match["plain"]:
            return _PLAIN.get(match["plain"], match["plain"])
        digits = match["hex"] or match["four"] or match["eight"]
        code = int(digits, 16) if digits else int(match["octal"], 8)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise _syntax(source, at, "invalid unicode code point")
        return chr(code)

    return _ESCAPE.sub(one, inner) if "\\" in inner else inner


def _unescape_bytes(source: str, inner: str, at: int) -> bytes:
    made, done = bytearray(), 0
    for match in _ESCAPE.finditer(inner):
        made += inner[done : match.start()].encode()
        done = match.end()
        digits = match["hex"]
        if digits or match["octal"]:
            made.append(int(digits, 16) if digits else int(match["octal"], 8))
        else:
            made += _unescape(source, match[0], at).encode()
    return bytes(made + inner[done:].encode())
