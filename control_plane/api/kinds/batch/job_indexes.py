"""Indexes of jobs as text: `1,3-5,7`, in rising order, each below the number of completions."""

from __future__ import annotations

from collections.abc import Iterator

from rayplane.control_plane.api.errors import quote

_DIGITS_MAX = 19  # more are no int64


class IndexesError(ValueError):
    """The text is no list of indexes; the message says which part is wrong."""


def intervals(text: str, completions: int) -> Iterator[tuple[int, int]]:
    """First and last index of each part of a text; IndexesError at the first part that is wrong."""
    last = None
    for part in text.split(",") if text else ():
        first, end = _interval(part, completions)
        if last is not None and last >= first:
            raise IndexesError(f"non-increasing order, previous: {last}, current: {first}")
        last = end
        yield first, end


def count_indexes(text: str, completions: int) -> int:
    """How many indexes a text names."""
    return sum(end - first + 1 for first, end in intervals(text, completions))


def first_shared(one: str, other: str, completions: int) -> int | None:
    """The first index that two texts have in common; parts that are wrong are passed over."""
    left, right = (list(_readable(text, completions)) for text in (one, other))
    i = j = 0
    while i < len(left) and j < len(right):
        (a, b), (c, d) = left[i], right[j]
        if a <= d and c <= b:
            return max(a, c)
        if a <= c:
            i += 1
        else:
            j += 1
    return None


def _readable(text: str, completions: int) -> Iterator[tuple[int, int]]:
    for part in text.split(",") if text else ():
        try:
            yield _interval(part, completions)
        except IndexesError:
            continue


def _interval(part: str, completions: int) -> tuple[int, int]:
    limits = part.split("-")
    if len(limits) > 2:
        text = "violates the requirement that an index interval can have at most two parts separated by '-'"
        raise IndexesError(f"the fragment {quote(part)} {text}")
    first = _index(limits[0], completions)
    if len(limits) == 1:
        return first, first
    last = _index(limits[1], completions)
    if first >= last:
        raise IndexesError(f"non-increasing order, previous: {first}, current: {last}")
    return first, last


def _index(text: str, completions: int) -> int:
    written = text.removeprefix("+")
    digits = written.lstrip("0")
    if not (written.isascii() and written.isdigit()) or len(digits) > _DIGITS_MAX:
        raise IndexesError(f"cannot convert string to integer for index: {quote(text)}")
    index = int(digits or 0)
    if index >= completions:
        raise IndexesError(f"too large index: {quote(text)}")
    return index
