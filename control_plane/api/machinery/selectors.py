"""Label selectors, parsed once into fast matchers.

`parse_labels` reads the query form (`a=b,c!=d,e in (x,y),!f,g`), `from_label_selector` the
structured form of specs; both give a `LabelSelector` whose `matches(labels)` is cheap. Errors are
`BadRequest`, in Kubernetes' words.
Source: Kubernetes concepts "Labels and Selectors".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rayplane.control_plane.api.errors import BadRequest, quote
from rayplane.control_plane.api.machinery import budget
from rayplane.control_plane.api.machinery.names import label_value_errors, qualified_name_errors
from rayplane.control_plane.api.machinery.remembering import remembered

_CACHE = 8_192
_FEW = 8
IN, NOT_IN, EXISTS, DOES_NOT_EXIST, GREATER, LESS = "in", "notin", "exists", "!", "gt", "lt"
EQUALS, NOT_EQUALS = "=", "!="
_STRUCTURED = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": DOES_NOT_EXIST,
               "Gt": GREATER, "Lt": LESS}  # fmt: skip
_OPERATORS = "in, notin, =, ==, !=, gt, lt"


class Requirement(NamedTuple):
    """One condition on a label; `values` is sorted."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        key, operator, values = self
        found = labels.get(key)
        if operator in (EQUALS, IN):
            return found is not None and _among(found, values)
        if operator in (NOT_EQUALS, NOT_IN):
            return found is None or not _among(found, values)
        if operator == EXISTS:
            return found is not None
        if operator == DOES_NOT_EXIST:
            return found is None
        return _compares(found, operator, values[0])

    def __str__(self) -> str:
        key, operator, values = self
        if operator == EXISTS:
            return key
        if operator == DOES_NOT_EXIST:
            return f"!{key}"
        if operator in (EQUALS, NOT_EQUALS):
            return f"{key}{operator}{values[0]}"
        if operator in (GREATER, LESS):
            return f"{key}{'>' if operator == GREATER else '<'}{values[0]}"
        return f"{key} {operator} ({','.join(values)})"


def _among(text: str, values: tuple[str, ...]) -> bool:
    """Membership in sorted values; a client may write thousands."""
    if len(values) <= _FEW:
        return text in values
    at = bisect_left(values, text)
    return at < len(values) and values[at] == text


def _compares(found: str | None, operator: str, bound: str) -> bool:
    """Gt and Lt compare integers; a label that is none does not match."""
    try:
        left, right = int(found or ""), int(bound)
    except ValueError:
        return False
    return left > right if operator == GREATER else left < right


class LabelSelector:
    """A conjunction of requirements, or the selector that matches nothing."""

    __slots__ = ("_equal", "_rest", "nothing", "requirements")

    def __init__(self, requirements: Iterable[Requirement] = (), *, nothing: bool = False) -> None:
        self.requirements = tuple(sorted(requirements))
        self.nothing = nothing
        self._equal = tuple(
            (r.key, r.values[0]) for r in self.requirements if r.operator in (EQUALS, IN)
            and len(r.values) == 1
        )  # fmt: skip
        self._rest = tuple(r for r in self.requirements if not (r.operator in (EQUALS, IN) and len(r.values) == 1))

    @property
    def everything(self) -> bool:
        return not self.requirements and not self.nothing

    @property
    def exact(self) -> dict[str, str]:
        """The labels this selector fixes to one value (for index look-ups)."""
        return dict(self._equal)

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        labels = labels or {}
        for key, wanted in self._equal:
            if labels.get(key) != wanted:
                return False
        return all(requirement.matches(labels) for requirement in self._rest)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, LabelSelector)
            and self.requirements == other.requirements
            and self.nothing == other.nothing
        )

    def __hash__(self) -> int:
        return hash((self.requirements, self.nothing))


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)


def from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """The selector of a plain map (services, replication controllers); everything when empty."""
    return LabelSelector(Requirement(k, EQUALS, (v,)) for k, v in (labels or {}).items())


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A structured LabelSelector: None matches nothing, an empty one everything.

    BadRequest for an unknown operator or operands that do not fit it.
    """
    if selector is None:
        return NOTHING
    found = [Requirement(k, IN, (v,)) for k, v in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or ():
        name = expression.get("operator") or ""
        operator = _STRUCTURED.get(name)
        if operator is None or operator in (GREATER, LESS):
            raise BadRequest(f"{quote(name)} is not a valid label selector operator")
        values = tuple(sorted(expression.get("values") or ()))
        found.append(_checked(Requirement(expression.get("key") or "", operator, values)))
    return LabelSelector(found) if found else EVERYTHING


def from_node_expressions(expressions: Sequence[Mapping[str, Any]] | None) -> LabelSelector:
    """The matchExpressions of a node selector term, which also know Gt and Lt."""
    found = []
    for expression in expressions or ():
        name = expression.get("operator") or ""
        operator = _STRUCTURED.get(name)
        if operator is None:
            raise BadRequest(f"{quote(name)} is not a valid node selector operator")
        values = tuple(sorted(expression.get("values") or ()))
        found.append(_checked(Requirement(expression.get("key") or "", operator, values)))
    return LabelSelector(found)


def _checked(requirement: Requirement) -> Requirement:
    key, operator, values = requirement
    problems = qualified_name_errors(key)
    if problems:
        raise BadRequest(f"key: Invalid value: {quote(key)}: {problems[0]}")
    if operator in (IN, NOT_IN) and not values:
        text = "for 'in', 'notin' operators, values set can't be empty"
        raise BadRequest(f"values: Invalid value: []: {text}")
    if operator in (EXISTS, DOES_NOT_EXIST) and values:
        text = "values set must be empty for exists and does not exist"
        raise BadRequest(f"values: Invalid value: {_go_list(values)}: {text}")
    if operator in (GREATER, LESS):
        if len(values) != 1:
            text = "for 'Gt', 'Lt' operators, exactly one value is required"
            raise BadRequest(f"values: Invalid value: {_go_list(values)}: {text}")
        if not re.fullmatch(r"[+-]?[0-9]+", values[0]):
            text = "for 'Gt', 'Lt' operators, the value must be an integer"
            raise BadRequest(f"values[0]: Invalid value: {quote(values[0])}: {text}")
    for index, one in enumerate(values):
        problems = label_value_errors(one)
        if problems:
            where = f"values[{index}][{key}]"
            raise BadRequest(f"{where}: Invalid value: {quote(one)}: {problems[0]}")
    return requirement


def _go_list(values: Sequence[str]) -> str:
    return "[" + ",".join(quote(one) for one in values) + "]"


# --- the query form -----------------------------------------------------------------------------

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+|$)")
_SYMBOLS = frozenset({"=", "==", "!=", "!", "<", ">", "(", ")", ",", ""})
_INFIX = {"=": EQUALS, "==": EQUALS, "!=": NOT_EQUALS, ">": GREATER, "<": LESS,
          "in": IN, "notin": NOT_IN}  # fmt: skip


class _Parser:
    """Recursive descent over the tokens of one selector; "" is the end."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        position = 0
        while position < len(text):
            found = _TOKEN.match(text, position)
            if found is None:  # pragma: no cover - the pattern accepts any character
                raise BadRequest(f"unable to parse requirement: found {quote(text[position])}")
            if found.group(1):
                self.tokens.append(found.group(1))
            position = found.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def parse(self) -> list[Requirement]:
        found: list[Requirement] = []
        while True:
            if self.peek() == "":
                return found
            if self.peek() != "!" and self.peek() in _SYMBOLS:
                raise self.error(self.peek(), "!, identifier, or 'end of string'")
            found.append(self.requirement())
            token = self.take()
            if token == "":
                return found
            if token != ",":
                raise self.error(token, "',' or 'end of string'")
            if self.peek() != "!" and self.peek() in _SYMBOLS:
                raise self.error(self.peek(), "identifier after ','")

    @staticmethod
    def error(token: str, expected: str) -> BadRequest:
        return BadRequest(f"found '{token}', expected: {expected}")

    def requirement(self) -> Requirement:
        negated = self.peek() == "!"
        if negated:
            self.take()
        key = self.take()
        if key in _SYMBOLS:
            raise self._wrapped(key, "identifier")
        if negated:
            return self._made(Requirement(key, DOES_NOT_EXIST))
        if self.peek() in ("", ","):
            return self._made(Requirement(key, EXISTS))
        token = self.take()
        operator = _INFIX.get(token)
        if operator is None:
            raise self._wrapped(token, _OPERATORS)
        if operator in (IN, NOT_IN):
            return self._made(Requirement(key, operator, self._value_set()))
        value = "" if self.peek() in ("", ",") else self.take()
        if value in _SYMBOLS and value:
            raise self._wrapped(value, "identifier")
        return self._made(Requirement(key, operator, (value,)))

    def _value_set(self) -> tuple[str, ...]:
        token = self.take()
        if token != "(":
            raise self._wrapped(token, "'('")
        values: set[str] = set()
        expect_value = True
        while True:
            token = self.take()
            if token == ")":
                if expect_value:
                    values.add("")
                return tuple(sorted(values))
            if token == ",":
                if expect_value:
                    values.add("")
                expect_value = True
            elif token in _SYMBOLS or not expect_value:
                expected = "',', ')' or identifier" if expect_value else "',' or ')'"
                raise self._wrapped(token, expected)
            else:
                values.add(token)
                expect_value = False

    @staticmethod
    def _wrapped(token: str, expected: str) -> BadRequest:
        return BadRequest(f"unable to parse requirement: found '{token}', expected: {expected}")

    @staticmethod
    def _made(requirement: Requirement) -> Requirement:
        try:
            return _checked(requirement)
        except BadRequest as error:
            raise BadRequest(f"unable to parse requirement: {error.message}") from error


@remembered(_CACHE)
def parse_labels(text: str) -> LabelSelector:
    """The selector of a `labelSelector` query parameter; everything for the empty string."""
    found = _Parser(text).parse()
    budget.check_requirements(len(found))
    return LabelSelector(found) if found else EVERYTHING


def label_selector_text(selector: Mapping[str, Any] | None) -> str:
    """A structured selector in query form, as tables and scale objects show it."""
    if selector is None:
        return "<none>"
    parsed = from_label_selector(selector)
    texts = [
        f"{r.key}={r.values[0]}" if r.operator == IN and len(r.values) == 1 else str(r) for r in parsed.requirements
    ]
    return ",".join(texts)


def go_selector(selector: Mapping[str, Any] | None) -> str:
    """A structured LabelSelector as Go prints it in Kubernetes' messages."""
    if selector is None:
        return "nil"
    exact = "".join(f"{k}: {v}," for k, v in sorted((selector.get("matchLabels") or {}).items()))
    wanted = "".join(
        f"LabelSelectorRequirement{{Key:{one.get('key')},Operator:{one.get('operator')},"
        f"Values:[{' '.join(one.get('values') or ())}],}},"
        for one in selector.get("matchExpressions") or ()
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{exact}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{wanted}}},}}"
    )
