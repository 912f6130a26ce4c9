"""Durations as Go reads and writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayplane.control_plane.durations import DurationError, format_duration, human_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "span_s"),
    [
        ("0", 0),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("-1.5s", -1.5),
        ("+5s", 5),
        (".5s", 0.5),
        ("1.s", 1),
        ("1us2µs", 3e-6),
    ],
)
def test_what_go_reads(text: str, span_s: float) -> None:
    assert parse_duration(text) == span_s


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1 h", 'time: unknown unit " h" in duration "1 h"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
        ("9" * 10_000 + "h", 'time: invalid duration "' + "9" * 10_000 + 'h"'),
    ],
)
def test_what_go_refuses(text: str, message: str) -> None:
    with pytest.raises(DurationError) as refused:
        parse_duration(text)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("span_s", "text"),
    [(0, "0s"), (0.25, "250ms"), (2.5, "2.5s"), (80, "1m20s"), (300, "5m0s"), (5400, "1h30m0s"), (-1e-6, "-1µs")],
)
def test_what_go_writes(span_s: float, text: str) -> None:
    assert format_duration(span_s) == text


@given(st.integers(-(10**12), 10**12).map(lambda micros: micros / 10**6))
def test_what_is_written_is_read_again(span_s: float) -> None:
    assert parse_duration(format_duration(span_s)) == span_s


@pytest.mark.parametrize(
    ("span_s", "text"), [(-0.5, "0s"), (-5, "<invalid>"), (97, "97s"), (600, "10m"), (90_000, "25h")]
)
def test_ages(span_s: float, text: str) -> None:
    assert human_duration(span_s) == text
