"""Quantities, semantic versions and named formats.

Source: Kubernetes' `library/quantity.go`, `library/semverlib.go` and `library/format.go`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from rayplane.control_plane.api.machinery import formats, names, quantity
from rayplane.control_plane.cel.errors import EvaluationError
from rayplane.control_plane.cel.functions import Function, Overload, Range, Sizes, Traverse, exactly, overload
from rayplane.control_plane.cel.library.operators import INT_MAX, INT_MIN
from rayplane.control_plane.cel.types import Type, opaque
from rayplane.control_plane.cel.values import NONE, Opaque, OptionalValue, size_of

# --- quantities -----------------------------------------------------------------------------------


class QuantityValue(Opaque):
    """A quantity."""

    __slots__ = ("amount",)
    TYPE: Type = opaque("kubernetes.Quantity")

    def __init__(self, amount: quantity.Quantity) -> None:
        self.amount = amount

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantityValue) and self.amount == other.amount

    def __hash__(self) -> int:
        return hash(self.amount)


def quantity_of(text: str) -> QuantityValue:
    try:
        return QuantityValue(quantity.parse(text))
    except quantity.QuantityError as error:
        raise EvaluationError(str(error)) from None


def _sign(one: QuantityValue) -> int:
    return (one.amount.nano > 0) - (one.amount.nano < 0)


def _is_integer(one: QuantityValue) -> bool:
    whole, rest = divmod(one.amount.nano, quantity.NANO)
    return not rest and INT_MIN <= whole <= INT_MAX


def _as_integer(one: QuantityValue) -> int:
    if not _is_integer(one):
        raise EvaluationError("cannot convert value to integer")
    return one.amount.nano // quantity.NANO


def _compared(a: QuantityValue, b: QuantityValue) -> int:
    return (a.amount > b.amount) - (a.amount < b.amount)


def _added(a: QuantityValue, b: QuantityValue | int) -> QuantityValue:
    return QuantityValue(a.amount + (quantity.parse(b) if isinstance(b, int) else b.amount))


def _reduced(a: QuantityValue, b: QuantityValue | int) -> QuantityValue:
    return QuantityValue(a.amount - (quantity.parse(b) if isinstance(b, int) else b.amount))


# --- semantic versions ----------------------------------------------------------------------------

_SEMVER: Final = re.compile(
    r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?", re.ASCII
)
_LOOSE: Final = re.compile(r"([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?(.*)", re.ASCII | re.DOTALL)
_SEMVER_CHARS_MAX: Final = 256


class Semver(Opaque):
    """A semantic version; builds are no part of the order."""

    __slots__ = ("before", "core")
    TYPE: Type = opaque("kubernetes.Semver")

    def __init__(self, core: tuple[int, ...], before: tuple[tuple[int, int, str], ...]) -> None:
        self.core = core
        self.before = before

    @property
    def order(self) -> tuple[Any, ...]:
        return (self.core, not self.before, self.before)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Semver) and self.order == other.order

    def __hash__(self) -> int:
        return hash(self.order)


def semver_of(text: str, loose: bool = False) -> Semver:
    match = _SEMVER.fullmatch(_tightened(text) if loose else text) if len(text) <= _SEMVER_CHARS_MAX else None
    if match is None:
        raise EvaluationError(f"{text[:64]!r} is no semantic version")
    before = []
    for part in (match[4] or "").split(".") if match[4] else ():
        if not part or (part.isdigit() and part[0] == "0" and len(part) > 1):
            raise EvaluationError(f"{text[:64]!r} is no semantic version")
        before.append((0, int(part), "") if part.isdigit() else (1, 0, part))
    core = tuple(int(match[place]) for place in (1, 2, 3))
    if max(core) >= 1 << 64 or any(not part for part in (match[5] or "x").split(".")):
        raise EvaluationError(f"{text[:64]!r} is no semantic version")
    return Semver(core, tuple(before))


def _tightened(text: str) -> str:
    """`v1.02` as `1.2.0`."""
    match = _LOOSE.fullmatch(text.removeprefix("v"))
    if match is None:
        return text
    return ".".join(str(int(match[place] or "0")) for place in (1, 2, 3)) + match[4]


def _is_semver(text: str, loose: bool = False) -> bool:
    try:
        semver_of(text, loose)
    except EvaluationError:
        return False
    return True


def _order(a: Semver, b: Semver) -> int:
    return (a.order > b.order) - (a.order < b.order)


# --- named formats --------------------------------------------------------------------------------


class NamedFormat(Opaque):
    """A format by name: what is wrong with a text, and how long it takes to say so."""

    __slots__ = ("check", "name", "pattern_chars")
    TYPE: Type = opaque("kubernetes.NamedFormat")

    def __init__(self, name: str, check: Callable[[str], Sequence[str]], pattern_chars: int = 40) -> None:
        self.name = name
        self.check = check
        self.pattern_chars = pattern_chars

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedFormat) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _prefix(check: Callable[[str], Sequence[str]]) -> Callable[[str], Sequence[str]]:
    """A check of generateName: a last hyphen says nothing."""
    return lambda text: check(f"{text[:-1]}a" if len(text) > 1 and text.endswith("-") else text)


def _formatted(name: str, problem: str) -> Callable[[str], Sequence[str]]:
    return lambda text: () if formats.fits(text, name) else (problem,)


_FORMATS: Final = {
    one.name: one
    for one in (
        NamedFormat("dns1123Label", names.label_errors, 30),
        NamedFormat("dns1123Subdomain", names.subdomain_errors, 60),
        NamedFormat("dns1035Label", names.dns1035_errors, 30),
        NamedFormat("qualifiedName", names.qualified_name_errors, 60),
        NamedFormat("dns1123LabelPrefix", _prefix(names.label_errors), 30),
        NamedFormat("dns1123SubdomainPrefix", _prefix(names.subdomain_errors), 60),
        NamedFormat("dns1035LabelPrefix", _prefix(names.dns1035_errors), 30),
        NamedFormat("labelValue", names.label_value_errors, 40),
        NamedFormat("uri", _formatted("uri", "invalid URI"), 1000),
        NamedFormat("uuid", _formatted("uuid", "does not match the UUID format"), 64),
        NamedFormat("byte", _formatted("byte", "invalid base64"), 100),
        NamedFormat("date", _formatted("date", "invalid date"), 100),
        NamedFormat("datetime", _formatted("date-time", "invalid datetime"), 100),
    )
}


def _named(name: str) -> OptionalValue:
    return OptionalValue((_FORMATS[name],)) if name in _FORMATS else NONE


def _validated(one: NamedFormat, text: str) -> OptionalValue:
    problems = list(one.check(text))
    return OptionalValue((problems,)) if problems else NONE


def _validation_cost(args: Sequence[Any], result: Any) -> int:
    return -(-(size_of(args[1]) + 1) // 10) * -(-args[0].pattern_chars // 4)


def _validation_estimate(sizes: Sizes) -> tuple[Range, Range | None]:
    longest = max(-(-one.pattern_chars // 4) for one in _FORMATS.values())
    return (sizes.of(1) + exactly(1)).scaled(0.1) * Range(1, longest), None


_VALIDATION: Final = Function(_validation_cost, _validation_estimate)


def _named_overloads() -> Iterator[Overload]:
    for name, one in _FORMATS.items():
        yield overload(f"format.{name}", "() kubernetes.NamedFormat", lambda one=one: one)


OVERLOADS: Final = (
    overload("quantity", "(string) kubernetes.Quantity", quantity_of, Traverse()),
    overload("isQuantity", "(string) bool", quantity.is_quantity, Traverse()),
    overload("sign", "kubernetes.Quantity.() int", _sign),
    overload("isInteger", "kubernetes.Quantity.() bool", _is_integer),
    overload("asInteger", "kubernetes.Quantity.() int", _as_integer),
    overload("asApproximateFloat", "kubernetes.Quantity.() double", lambda one: one.amount.nano / quantity.NANO),
    overload("isGreaterThan", "kubernetes.Quantity.(kubernetes.Quantity) bool", lambda a, b: a.amount > b.amount),
    overload("isLessThan", "kubernetes.Quantity.(kubernetes.Quantity) bool", lambda a, b: a.amount < b.amount),
    overload("compareTo", "kubernetes.Quantity.(kubernetes.Quantity) int", _compared),
    overload("add", "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity", _added),
    overload("add", "kubernetes.Quantity.(int) kubernetes.Quantity", _added),
    overload("sub", "kubernetes.Quantity.(kubernetes.Quantity) kubernetes.Quantity", _reduced),
    overload("sub", "kubernetes.Quantity.(int) kubernetes.Quantity", _reduced),
    overload("semver", "(string) kubernetes.Semver", semver_of, Traverse()),
    overload("semver", "(string, bool) kubernetes.Semver", semver_of, Traverse()),
    overload("isSemver", "(string) bool", _is_semver, Traverse()),
    overload("isSemver", "(string, bool) bool", _is_semver, Traverse()),
    overload("major", "kubernetes.Semver.() int", lambda one: one.core[0]),
    overload("minor", "kubernetes.Semver.() int", lambda one: one.core[1]),
    overload("patch", "kubernetes.Semver.() int", lambda one: one.core[2]),
    overload("isGreaterThan", "kubernetes.Semver.(kubernetes.Semver) bool", lambda a, b: a.order > b.order),
    overload("isLessThan", "kubernetes.Semver.(kubernetes.Semver) bool", lambda a, b: a.order < b.order),
    overload("compareTo", "kubernetes.Semver.(kubernetes.Semver) int", _order),
    overload("format.named", "(string) optional<kubernetes.NamedFormat>", _named),
    *_named_overloads(),
    overload("validate", "kubernetes.NamedFormat.(string) optional<list<string>>", _validated, _VALIDATION),
)
