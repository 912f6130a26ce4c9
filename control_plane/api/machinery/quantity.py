"""Resource quantities: parsing, canonical text, arithmetic.

A `Quantity` is an exact integer of billionths plus the notation it was written in. As in
Kubernetes, anything finer than one billionth is rounded away from zero, what is written with a
binary suffix is capped at 2^63-1, and whole units and thousandths are int64: more is the most that
one holds. Unlike there, what is larger than 10^298 is refused.
Source: Kubernetes API reference, "Quantity" (serialisation format and canonical form).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

NANO = 1_000_000_000
_INT64_MAX = (1 << 63) - 1
_BINARY_MAX = _INT64_MAX * NANO
_MAX = 10**298 * NANO  # ratios of amounts are floats
_EXPONENT_MAX = 400
_CACHE = 32_768
_LONGEST = 512  # digits; the largest that is told from its neighbours has twenty-eight
FORMAT_WRONG = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_SHAPE = re.compile(r"([+-]?)([0-9]*)(?:\.([0-9]*))?([eEinumkKMGTP]*)([-+]?[0-9]*)", re.ASCII)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL_SUFFIX = {exponent: suffix for suffix, exponent in _DECIMAL.items()}
_BINARY_SUFFIX = {0: "", **{power: suffix for suffix, power in _BINARY.items()}}


class QuantityError(ValueError):
    """The text is no quantity; the message is the one Kubernetes gives."""


class Format(enum.Enum):
    """The notation a quantity was written in, kept when it is printed."""

    DECIMAL_SI = "DecimalSI"
    BINARY_SI = "BinarySI"
    DECIMAL_EXPONENT = "DecimalExponent"


@dataclass(frozen=True, slots=True, order=False, eq=False)
class Quantity:
    """An exact amount of billionths, printed in `format`; compares and hashes by amount alone."""

    nano: int
    format: Format = Format.DECIMAL_SI

    @property
    def value(self) -> int:
        """Whole units, rounded up, as an int64."""
        return _int64(-(-self.nano // NANO))

    @property
    def milli(self) -> int:
        """Thousandths, rounded up, as an int64."""
        return _int64(-(-self.nano // 1_000_000))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and self.nano == other.nano

    def __hash__(self) -> int:
        return hash(self.nano)

    def __lt__(self, other: Quantity) -> bool:
        return self.nano < other.nano

    def __le__(self, other: Quantity) -> bool:
        return self.nano <= other.nano

    def __gt__(self, other: Quantity) -> bool:
        return self.nano > other.nano

    def __ge__(self, other: Quantity) -> bool:
        return self.nano >= other.nano

    def __add__(self, other: Quantity) -> Quantity:
        """The sum, in the notation of the first operand unless that is zero."""
        return Quantity(self.nano + other.nano, self.format if self.nano else other.format)

    def __sub__(self, other: Quantity) -> Quantity:
        return Quantity(self.nano - other.nano, self.format if self.nano else other.format)

    def __neg__(self) -> Quantity:
        return Quantity(-self.nano, self.format)

    def __str__(self) -> str:
        return _canonical(self.nano, self.format)


QuantityLike = str | int | float | Quantity
ZERO = Quantity(0)


def parse(text: QuantityLike) -> Quantity:
    """The quantity a JSON string or number stands for; QuantityError when it is none."""
    if isinstance(text, Quantity):
        return text
    if isinstance(text, bool) or not isinstance(text, (str, int, float)):
        raise QuantityError(FORMAT_WRONG)
    written = text if isinstance(text, str) else repr(text)
    if len(written) > _LONGEST:
        raise QuantityError(FORMAT_WRONG)
    return _parse(written)


@lru_cache(maxsize=_CACHE)
def _parse(text: str) -> Quantity:
    shape = _SHAPE.fullmatch(text)
    if shape is None or not text:
        raise QuantityError(FORMAT_WRONG)
    sign, whole, fraction, unit, exponent = shape.groups()
    fraction = fraction or ""
    if not whole and not fraction:
        raise QuantityError(FORMAT_WRONG)
    digits = int(whole + fraction or "0")
    scale, form = _suffix(unit, exponent)
    if form is Format.BINARY_SI:
        numerator, denominator = digits * NANO << (10 * scale), 10 ** len(fraction)
    else:
        # Bound the exponent first: past these limits the amount is too large or one billionth.
        power = max(-_EXPONENT_MAX, min(_EXPONENT_MAX, scale)) - len(fraction) + 9
        numerator, denominator = (digits * 10**power, 1) if power >= 0 else (digits, 10**-power)
    nano = -(-numerator // denominator)
    if form is Format.BINARY_SI:
        nano = min(nano, _BINARY_MAX)
    elif nano > _MAX:
        raise QuantityError("unable to parse numeric part of quantity")
    return Quantity(-nano if sign == "-" else nano, form)


def _int64(amount: int) -> int:
    return max(-_INT64_MAX, min(amount, _INT64_MAX))


def _suffix(unit: str, exponent: str) -> tuple[int, Format]:
    """Power and notation of a suffix: powers of 1024 for BinarySI, else of ten."""
    if exponent:
        if unit not in ("e", "E"):
            raise QuantityError("unable to parse quantity's suffix")
        try:
            return int(exponent), Format.DECIMAL_EXPONENT
        except ValueError:
            raise QuantityError("unable to parse quantity's suffix") from None
    if unit in _DECIMAL:
        return _DECIMAL[unit], Format.DECIMAL_SI
    if unit in _BINARY:
        return _BINARY[unit], Format.BINARY_SI
    raise QuantityError("unable to parse quantity's suffix")


@lru_cache(maxsize=_CACHE)
def _canonical(nano: int, form: Format) -> str:
    """No precision lost, no fraction, the largest exponent possible."""
    if nano == 0:
        return "0"
    if form is Format.BINARY_SI and abs(nano) >= 1024 * NANO and nano % NANO == 0:
        amount, power = nano // NANO, 0
        while amount % 1024 == 0 and power < 6:
            amount //= 1024
            power += 1
        return f"{amount}{_BINARY_SUFFIX[power]}"
    amount, exponent = nano, -9
    while amount % 10 == 0:
        amount //= 10
        exponent += 1
    while exponent % 3:
        amount *= 10
        exponent -= 1
    if form is Format.DECIMAL_EXPONENT or exponent not in _DECIMAL_SUFFIX:
        return f"{amount}e{exponent}" if exponent else str(amount)
    return f"{amount}{_DECIMAL_SUFFIX[exponent]}"


def is_quantity(text: Any) -> bool:
    try:
        parse(text)
    except QuantityError:
        return False
    return True


def canonical(text: QuantityLike) -> str:
    """The text Kubernetes stores for this quantity: "1000m" gives "1", "1024Mi" gives "1Gi"."""
    return str(parse(text))


def milli(text: QuantityLike) -> int:
    """Thousandths, rounded up: milli("100m") == 100."""
    return parse(text).milli


def value(text: QuantityLike) -> int:
    """Whole units, rounded up: value("1Ki") == 1024, value("100m") == 1."""
    return parse(text).value


def add(a: QuantityLike, b: QuantityLike) -> Quantity:
    return parse(a) + parse(b)


def sub(a: QuantityLike, b: QuantityLike) -> Quantity:
    return parse(a) - parse(b)


def compare(a: QuantityLike, b: QuantityLike) -> int:
    """-1, 0 or 1 as `a` is less than, equal to or greater than `b`."""
    left, right = parse(a).nano, parse(b).nano
    return (left > right) - (left < right)


ResourceList = Mapping[str, QuantityLike]
