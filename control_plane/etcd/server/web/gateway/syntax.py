"""JSON texts as the gateway reads them, with the error texts that clients of etcd know: those of Go's encoding/json.

Well-formed texts are parsed by the standard library; only what it refuses is looked at again, character by
character, for what to say about it. Numbers stay as they were spelled (`Number`).
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Callable
from typing import Any, NoReturn

_SPACES = re.compile(r"[ \t\r\n]*")
_MARKS = re.compile(r'["\\{}\[\]]')
_DIGITS = "0123456789"
_HEX = "0123456789abcdefABCDEF"
_LITERALS = {"t": "true", "f": "false", "n": "null"}


class JsonError(ValueError):
    """A fault of a text or value; the message is for the client."""


class Incomplete(JsonError):
    """The text ends within a value."""

    def __init__(self) -> None:
        super().__init__("unexpected EOF")


class Number(str):
    """A number as it was spelled."""

    __slots__ = ()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and its like, which are no JSON


_decoder = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse)


def first_value(text: str, start: int = 0) -> tuple[Any, int]:
    """The first value of a text and where it ends. Raises Incomplete, JsonError."""
    start = skip_space(text, start)
    try:
        value, end = _decoder.raw_decode(text, start)
    except RecursionError:
        raise JsonError("exceeded max depth") from None
    except ValueError:
        _scan(text, start)
        raise JsonError("invalid JSON") from None
    return value, end


def only_value(text: str) -> Any:
    """The value that a whole text is. Raises JsonError."""
    # A space ends a number that could go on; within a string it changes nothing.
    padded = text + " "
    try:
        value, end = first_value(padded)
    except Incomplete:
        raise JsonError("unexpected end of JSON input") from None
    end = skip_space(padded, end)
    if end < len(padded):
        _scan(padded, 0)  # a number that is cut short
        raise _bad(padded[end], "after top-level value")
    return value


def skip_space(text: str, start: int) -> int:
    """Where the next character that is no white space stands."""
    found = _SPACES.match(text, start)
    return found.end() if found is not None else start


class Extent:
    """The distance of a growing text from the end of its first object or array; a character is looked at once."""

    def __init__(self, text: str = "") -> None:
        self.closed = False
        """Whether a bracket was closed that nothing is open around: the text may be complete."""
        self._open = 0
        self._in_string = False
        self._size = 0
        self._escaped = -1
        self.feed(text)

    def feed(self, text: str) -> None:
        for mark in _MARKS.finditer(text):
            at, character = self._size + mark.start(), mark.group()
            if self._in_string:
                if at == self._escaped:
                    continue
                if character == "\\":
                    self._escaped = at + 1
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._open += 1
            elif character in "}]":
                self._open -= 1
                self.closed = self.closed or self._open <= 0
        self._size += len(text)


def quoted(text: str) -> str:
    """A text in double quotes, as error messages show it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _bad(character: str, where: str) -> JsonError:
    if character == "'":
        shown = "\\'"
    elif character == "\\":
        shown = "\\\\"
    elif character >= " ":
        # Go looks at bytes.
        shown = chr(character.encode("utf-8", "surrogatepass")[0])
    else:
        shown = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\x{ord(character):02x}")
    return JsonError(f"invalid character '{shown}' {where}")


def _scan(text: str, i: int) -> None:
    """Look for the first error of a value. Raises Incomplete, JsonError; returns if there is none."""
    open_: list[str] = []
    expected: _Expected = _value
    while True:
        i = skip_space(text, i)
        i, then = expected(text, i, _at(text, i), open_)
        if then is None and not open_:
            return
        expected = then or _comma_or_end


def _value(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    if character not in "{[":
        return _scalar(text, i), None
    open_.append(character)
    return i + 1, _key_or_end if character == "{" else _value_or_end


def _value_or_end(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    if character != "]":
        return _value(text, i, character, open_)
    open_.pop()
    return i + 1, None


def _key(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    if character != '"':
        raise _bad(character, "looking for beginning of object key string")
    return _string(text, i + 1), _colon


def _key_or_end(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    if character != "}":
        return _key(text, i, character, open_)
    open_.pop()
    return i + 1, None


def _colon(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    if character != ":":
        raise _bad(character, "after object key")
    return i + 1, _value


def _comma_or_end(text: str, i: int, character: str, open_: list[str]) -> "_Step":
    within_object = open_[-1] == "{"
    if character == ",":
        return i + 1, _key if within_object else _value
    if character != ("}" if within_object else "]"):
        raise _bad(character, "after object key:value pair" if within_object else "after array element")
    open_.pop()
    return i + 1, None


_Expected = Callable[[str, int, str, list[str]], "_Step"]
_Step = tuple[int, _Expected | None]
"""Where to go on, and what must stand there; None after the end of a value."""


def _at(text: str, i: int) -> str:
    if i >= len(text):
        raise Incomplete
    return text[i]


def _scalar(text: str, i: int) -> int:
    character = text[i]
    if character == '"':
        return _string(text, i + 1)
    if character == "-" or character in _DIGITS:
        return _number(text, i)
    literal = _LITERALS.get(character)
    if literal is None:
        raise _bad(character, "looking for beginning of value")
    for offset, wanted in enumerate(literal):
        if (found := _at(text, i + offset)) != wanted:
            raise _bad(found, f"in literal {literal} (expecting '{wanted}')")
    return i + len(literal)


def _string(text: str, i: int) -> int:
    while (character := _at(text, i)) != '"':
        if character < " ":
            raise _bad(character, "in string literal")
        i += 1
        if character != "\\":
            continue
        escape = _at(text, i)
        i += 1
        if escape == "u":
            for _ in range(4):
                if (found := _at(text, i)) not in _HEX:
                    raise _bad(found, "in \\u hexadecimal character escape")
                i += 1
        elif escape not in '"\\/bfnrt':
            raise _bad(escape, "in string escape code")
    return i + 1


def _number(text: str, i: int) -> int:
    if text[i] == "-":
        i += 1
        if _at(text, i) not in _DIGITS:
            raise _bad(text[i], "in numeric literal")
    i = i + 1 if text[i] == "0" else _digits(text, i)
    if text[i : i + 1] == ".":
        i += 1
        if _at(text, i) not in _DIGITS:
            raise _bad(text[i], "after decimal point in numeric literal")
        i = _digits(text, i)
    if text[i : i + 1] in ("e", "E"):
        i += 1
        if _at(text, i) in "+-":
            i += 1
        if _at(text, i) not in _DIGITS:
            raise _bad(text[i], "in exponent of numeric literal")
        i = _digits(text, i)
    return i


def _digits(text: str, i: int) -> int:
    while i < len(text) and text[i] in _DIGITS:
        i += 1
    return i


def base64_bytes(text: str) -> bytes:
    """Bytes in standard base64 with padding; line ends are skipped. Raises JsonError naming the first bad place."""
    try:
        return b64decode(text.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        raise JsonError(f"illegal base64 data at input byte {_base64_error(text)}") from None


def _base64_error(text: str) -> int:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    places = [i for i, character in enumerate(text) if character not in "\r\n"]
    for start in range(0, len(places), 4):
        group = places[start : start + 4]
        for n, place in enumerate(group):
            if text[place] in alphabet:
                continue
            if text[place] != "=" or n < 2:
                return place
            if n == 2:
                if len(group) < 4:
                    return len(text)
                if text[group[3]] != "=":
                    return place
            # Padding ends the text.
            after = places[start + 4 : start + 5]
            return after[0] if after else place
        if len(group) < 4:
            return group[0]
    return 0
