"""Quantities: canonical text, rounding, and agreement with exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.api.machinery import quantity
from rayplane.control_plane.api.machinery.quantity import QuantityError, parse

_POWERS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("100m", "100m"), ("1000m", "1"), ("0.5", "500m"), (".5", "500m"), ("1.", "1"), (5, "5"),
        (0.25, "250m"), ("1Gi", "1Gi"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1.5Ki", "1536"),
        ("1000", "1k"), ("1024", "1024"), ("10000", "10k"), ("1e3", "1e3"), ("100e1", "1e3"),
        ("1E", "1E"), ("0", "0"), ("-0", "0"), ("-1.5Gi", "-1536Mi"), ("0.1Mi", "104857600m"),
        ("0.1n", "1n"), ("0.5Ki", "512"), ("5E", "5E"), ("1000E", "1e21"), ("1500E", "1500E"),
        ("100000000000000000000", "100E"), ("99999999999999999999", "99999999999999999999"), ("10000E", "10e21"),
        ("-1000000E", "-1e24"), ("16Ei", "9223372036854775807"), ("7Ei", "7Ei"), ("1e298", "10e297"),
        ("1e-1000000", "1e-9"),
        ("+1", "1"), ("1e-3", "1e-3"),
    ],
)  # fmt: skip
def test_canonical_text(text: quantity.QuantityLike, canonical: str) -> None:
    assert quantity.canonical(text) == canonical


@pytest.mark.parametrize("text", ["", "abc", ".", "1.2.3", "1x", "--1", "1 ", " 1", True, None, []])
def test_what_is_no_quantity_is_refused(text: object) -> None:
    with pytest.raises(QuantityError, match="quantities must match the regular expression"):
        parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1Kie3", "1e", "1mi", "1EiB", "1nn"])
def test_wrong_suffix_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


@pytest.mark.parametrize("text", ["1e299", "1e1000000000", "9" * 400, "-1e400"])
def test_what_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(QuantityError):
        parse(text)


def test_whole_units_and_thousandths_are_int64() -> None:
    assert quantity.value("1000E") == quantity.milli("10P") == 2**63 - 1
    assert quantity.value("-1000E") == -(2**63 - 1)
    assert quantity.compare("1000E", "999E") == 1
    assert str(quantity.add("900E", "100E")) == "1e21"
    assert str(quantity.sub("1000E", "1E")) == "999E"


def test_rounding_is_up() -> None:
    assert quantity.milli("100u") == 1
    assert quantity.value("1m") == 1
    assert quantity.value("-1500m") == -1
    assert quantity.value("1Ki") == 1024


def test_equality_is_by_amount_not_notation() -> None:
    assert parse("1024Mi") == parse("1Gi") and hash(parse("1k")) == hash(parse("1e3"))
    assert quantity.compare("1", "1000m") == 0
    assert quantity.compare("1Gi", "1G") == 1


numbers = st.integers(min_value=-(10**12), max_value=10**12)


@given(numbers, st.integers(0, 6), st.sampled_from(sorted(_POWERS)))
def test_decimal_amounts_match_fractions(digits: int, places: int, suffix: str) -> None:
    text = _decimal(digits, places) + suffix
    exact = Fraction(digits, 10**places) * Fraction(10) ** _POWERS[suffix]
    nano = abs(exact) * 10**9
    rounded = -(-nano.numerator // nano.denominator)
    assert parse(text).nano == rounded * (-1 if exact < 0 else 1)


@given(numbers, st.sampled_from(sorted(_BINARY)))
def test_binary_amounts_match_shifts(digits: int, suffix: str) -> None:
    exact = abs(digits) << _BINARY[suffix]
    expected = min(exact, 2**63 - 1) * (-1 if digits < 0 else 1)
    assert parse(f"{digits}{suffix}").nano == expected * 10**9


@given(numbers, st.integers(0, 9), st.sampled_from([*sorted(_POWERS), *sorted(_BINARY), "e2", "e40"]))
def test_canonical_text_loses_nothing_and_is_stable(digits: int, places: int, suffix: str) -> None:
    first = parse(_decimal(digits, places) + suffix)
    text = str(first)
    assert parse(text) == first
    assert quantity.canonical(text) == text


@given(numbers, numbers)
def test_sum_and_difference_undo_each_other(a: int, b: int) -> None:
    left, right = parse(f"{a}m"), parse(f"{b}Ki")
    assert left + right - right == left
    assert (left < right) == (left.nano < right.nano)


def _decimal(digits: int, places: int) -> str:
    sign, text = ("-" if digits < 0 else ""), str(abs(digits)).rjust(places + 1, "0")
    return f"{sign}{text[: len(text) - places]}.{text[len(text) - places :]}"
