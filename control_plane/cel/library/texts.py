"""Texts: cel-go's string extensions, Kubernetes' regular expressions and URLs.

Source: cel-go `ext/strings.go` (version 2), Kubernetes' `library/regex.go` and `library/urls.go`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from rayplane.control_plane.api.machinery import patterns
from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import (
    PATTERN,
    TRAVERSAL,
    UNBOUNDED,
    Function,
    Items,
    Product,
    Range,
    Sizes,
    Traverse,
    exactly,
    overload,
)
from rayplane.control_plane.cel.library.formatting import formatted
from rayplane.control_plane.cel.types import Type, opaque
from rayplane.control_plane.cel.values import Opaque, Spend, size_of

_MATCH: Final = Product(TRAVERSAL, PATTERN, at_least=1)
_FIND: Final = Product(TRAVERSAL, PATTERN, at_least=1, makes_list=True)
_SAME: Final = Traverse(keeps_size=True)
_UPPER: Final = {code: code - 32 for code in range(ord("a"), ord("z") + 1)}
_LOWER: Final = {code - 32: code for code in range(ord("a"), ord("z") + 1)}
_SPACE: Final = " \t\n\v\f\r\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


# --- regular expressions --------------------------------------------------------------------------


def _matches(text: str, pattern: str) -> bool:
    try:
        return patterns.search(pattern, text)
    except patterns.PatternError as error:
        raise EvaluationError(str(error)) from None


def _find_all(text: str, pattern: str, *rest: Any) -> list[str]:
    *limit, spend = rest
    found: list[str] = []
    try:
        for one in patterns.find_all(pattern, text):
            # Each may have been looked for up to the end of the text.
            spend(1 + len(text) // 10)
            if limit and 0 <= limit[0] <= len(found):
                break
            found.append(one)
    except patterns.PatternError as error:
        raise EvaluationError(f"Illegal regex: {error}") from None
    return found


def _find(text: str, pattern: str, spend: Spend) -> str:
    return next(iter(_find_all(text, pattern, 1, spend)), "")


# --- strings --------------------------------------------------------------------------------------


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise EvaluationError(f"index out of range: {index}")
    return text[index : index + 1]


def _checked(text: str, start: int) -> int:
    if not 0 <= start <= len(text):
        raise EvaluationError(f"index out of range: {start}")
    return start


def _last_index(text: str, part: str, start: int) -> int:
    return text.rfind(part, 0, _checked(text, start) + len(part))


def _substring(text: str, start: int, end: int | None = None) -> str:
    end = len(text) if end is None else end
    if not 0 <= start <= len(text) or not 0 <= end <= len(text):
        raise EvaluationError(f"index out of range: {start if not 0 <= start <= len(text) else end}")
    if start > end:
        raise EvaluationError(f"invalid substring range. start: {start}, end: {end}")
    return text[start:end]


def _replaced(text: str, old: str, new: str, *rest: Any) -> str:
    *limit, spend = rest
    count = limit[0] if limit else -1
    most = text.count(old) if count < 0 else min(count, len(text) + 1)
    spend(len(text) + most * len(new))
    return text.replace(old, new, count if count >= 0 else -1)


def _split(text: str, separator: str, limit: int = -1) -> list[str]:
    if limit == 0:
        return []
    if not separator:
        parts = list(text)
        return parts if limit < 0 or len(parts) <= limit else [*parts[: limit - 1], "".join(parts[limit - 1 :])]
    return text.split(separator, limit - 1 if limit > 0 else -1)


def _joined(parts: Sequence[Any], *rest: Any) -> str:
    *separator, spend = rest
    between: str = separator[0] if separator else ""
    if not all(isinstance(part, str) for part in parts):
        raise EvaluationError("no such overload")
    spend(sum(len(part) + len(between) for part in parts))
    return between.join(parts)


def _quoted(text: str) -> str:
    escapes = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}
    return '"' + "".join(escapes.get(c, "\\" + c if c in '\\"' else c) for c in text) + '"'


def _replace_estimate(sizes: Sizes) -> tuple[Range, Range | None]:
    text, old, new = sizes.of(0), sizes.of(1), sizes.of(2)
    if old.low == 0:
        most = min(text.high + 1, UNBOUNDED) * new.high + text.high
    elif new.high <= old.low:
        most = text.high
    else:
        most = -(-text.high // old.low) * new.high
    least = text.low if old.high <= new.low or not old.high else -(-text.low // old.high) * new.low
    return text.scaled(2 * TRAVERSAL), Range(min(least, UNBOUNDED), min(most, UNBOUNDED))


def _split_estimate(sizes: Sizes) -> tuple[Range, Range | None]:
    size = sizes.of(0)
    return size.scaled(2 * TRAVERSAL), Range(0, size.high)


def _join_estimate(sizes: Sizes) -> tuple[Range, Range | None]:
    count, item = sizes.of(0), sizes.element(0) or Range()
    total = count * item
    try:
        separator = sizes.of(1)
    except IndexError:
        separator = exactly(0)
    between = Range(max(count.low - 1, 0), max(count.high - 1, 0))
    total += separator * between
    return total.scaled(TRAVERSAL), total


def _twice(args: Sequence[Any], result: Any) -> int:
    return -(-size_of(args[0]) * 2 // 10)


def _twice_result(args: Sequence[Any], result: Any) -> int:
    return -(-size_of(result) * 2 // 10)


_REPLACE: Final = Function(_twice, _replace_estimate)
_SPLIT: Final = Function(_twice, _split_estimate)
_JOIN: Final = Function(_twice_result, _join_estimate)


# --- URLs -----------------------------------------------------------------------------------------


class URL(Opaque):
    """An absolute URL, or an absolute path."""

    __slots__ = ("parts", "text")
    TYPE: Type = opaque("kubernetes.URL")

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self.parts: SplitResult = urlsplit(text)
            port = self.parts.port
        except ValueError as error:
            raise EvaluationError(f"URL parse error during conversion from string: {error}") from None
        known = self.parts.scheme or text.startswith("/")
        if not known or any(c.isspace() or ord(c) < 32 for c in text) or (port is not None and port < 0):
            raise EvaluationError(
                f'URL parse error during conversion from string: parse "{text}": invalid URI for request'
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, URL) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def host(self) -> str:
        return self.parts.netloc.rpartition("@")[2]

    @property
    def hostname(self) -> str:
        host = self.host
        if host.startswith("["):
            return host[1:].partition("]")[0]
        return host.partition(":")[0]

    @property
    def port(self) -> str:
        return self.host.rpartition("]")[2].rpartition(":")[2] if ":" in self.host.rpartition("]")[2] else ""


def _is_url(text: str) -> bool:
    try:
        URL(text)
    except EvaluationError:
        return False
    return True


def _query(url: URL) -> dict[str, list[str]]:
    return parse_qs(url.parts.query, keep_blank_values=True)


OVERLOADS: Final = (
    overload("matches", "string.(string) bool", _matches, _MATCH),
    overload("matches", "(string, string) bool", _matches, _MATCH),
    overload("find", "string.(string) string", _find, _FIND, works=True),
    overload("findAll", "string.(string) list<string>", _find_all, _FIND, works=True),
    overload("findAll", "string.(string, int) list<string>", _find_all, _FIND, works=True),
    overload("charAt", "string.(int) string", _char_at),
    overload("indexOf", "string.(string) int", lambda a, b: a.find(b), Items()),
    overload("indexOf", "string.(string, int) int", lambda a, b, i: a.find(b, _checked(a, i)), Items()),
    overload("lastIndexOf", "string.(string) int", lambda a, b: a.rfind(b), Items()),
    overload("lastIndexOf", "string.(string, int) int", _last_index, Items()),
    overload("lowerAscii", "string.() string", lambda a: a.translate(_LOWER), _SAME),
    overload("upperAscii", "string.() string", lambda a: a.translate(_UPPER), _SAME),
    overload("trim", "string.() string", lambda a: a.strip(_SPACE), _SAME),
    overload("reverse", "string.() string", lambda a: a[::-1], _SAME),
    overload("substring", "string.(int) string", _substring, _SAME),
    overload("substring", "string.(int, int) string", _substring, _SAME),
    overload("replace", "string.(string, string) string", _replaced, _REPLACE, works=True),
    overload("replace", "string.(string, string, int) string", _replaced, _REPLACE, works=True),
    overload("split", "string.(string) list<string>", _split, _SPLIT),
    overload("split", "string.(string, int) list<string>", _split, _SPLIT),
    overload("join", "list<string>.() string", _joined, _JOIN, works=True),
    overload("join", "list<string>.(string) string", _joined, _JOIN, works=True),
    overload("strings.quote", "(string) string", _quoted, Traverse()),
    overload("format", "string.(list<dyn>) string", formatted, Traverse(), works=True),
    overload("jsonpatch.escapeKey", "(string) string", lambda a: a.replace("~", "~0").replace("/", "~1"), Traverse()),
    overload("url", "(string) kubernetes.URL", URL, Traverse()),
    overload("isURL", "(string) bool", _is_url, Traverse()),
    overload("getScheme", "kubernetes.URL.() string", lambda u: u.parts.scheme),
    overload("getHost", "kubernetes.URL.() string", lambda u: u.host),
    overload("getHostname", "kubernetes.URL.() string", lambda u: u.hostname),
    overload("getPort", "kubernetes.URL.() string", lambda u: u.port),
    overload("getEscapedPath", "kubernetes.URL.() string", lambda u: u.parts.path),
    overload("getQuery", "kubernetes.URL.() map<string, list<string>>", _query),
)
