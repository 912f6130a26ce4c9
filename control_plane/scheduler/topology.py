"""Labels of nodes as numbers: domains of a topology, and sums over them.

A label that is asked about becomes a column: for each row the number of the node's value, kept current as nodes come
and change. Bounded: columns that nobody asked about for long are forgotten, numbers of values that are gone are given
out anew once they are more than half.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, OrderedDict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from rayplane.control_plane.api.machinery.selectors import (
    DOES_NOT_EXIST,
    EQUALS,
    EXISTS,
    GREATER,
    IN,
    NOT_EQUALS,
    NOT_IN,
    Requirement,
)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Rows = Ints | slice

COLUMNS_MAX = 256
_VALUES_SPARE = 256


class LabelColumn:
    """One label of all rows: `codes` are 0 for a row without it, else the number of the node's value."""

    __slots__ = ("_holders", "_labelled", "_numbers", "_shared", "codes", "values")

    def __init__(self, rows: int) -> None:
        self.codes: Ints = np.zeros(rows, dtype=np.int64)
        self.values: dict[str, int] = {}
        self._holders: list[int] = [0]  # rows by code
        self._numbers: tuple[list[int], Ints] | None = None  # values that are numbers, by size, and their codes
        self._shared = 0  # values that several rows have
        self._labelled = 0

    def set(self, row: int, value: str | None) -> None:
        old = int(self.codes[row])
        code = 0 if value is None else self._code(value)
        if code == old:
            return
        self._count(old, -1)
        self._count(code, 1)
        self.codes[row] = code

    def _code(self, value: str) -> int:
        code = self.values.get(value)
        if code is None:
            code = self.values[value] = len(self._holders)
            self._holders.append(0)
            self._numbers = None
        return code

    def _count(self, code: int, more: int) -> None:
        if not code:
            return
        before = self._holders[code]
        self._holders[code] = before + more
        self._labelled += more
        self._shared += (before + more > 1) - (before > 1)

    @property
    def is_worn(self) -> bool:
        """Whether most values are of nodes that are gone."""
        return len(self.values) > 2 * self._labelled + _VALUES_SPARE

    def sums(self, rows: Ints) -> Ints:
        """For each row the sum of `rows` over its domain; 0 without the label."""
        if not self._shared:
            return np.where(self.codes > 0, rows, 0)
        sums = np.bincount(self.codes, weights=rows, minlength=1)
        sums[0] = 0
        found: Ints = sums.astype(np.int64)[self.codes]
        return found

    def domains(self, among: Bools) -> int:
        """How many values the rows `among` have."""
        if not self._shared:
            return int(np.count_nonzero(among & (self.codes > 0)))
        return int(np.count_nonzero(np.bincount(self.codes, weights=among, minlength=1)[1:]))

    def mask(self, requirement: Requirement) -> Bools:
        """Rows whose value meets a requirement on this label."""
        operator, wanted = requirement.operator, requirement.values
        if operator in (EXISTS, DOES_NOT_EXIST):
            return (self.codes > 0) == (operator == EXISTS)
        if operator in (IN, EQUALS, NOT_IN, NOT_EQUALS):
            codes = [code for value in wanted if (code := self.values.get(value))]
            found: Bools = self.codes == codes[0] if len(codes) == 1 else np.isin(self.codes, codes)
            return found if operator in (IN, EQUALS) else ~found
        numbers, codes_of = self._by_size()
        meets = np.zeros(len(self._holders), dtype=np.bool_)
        bound = _number(wanted[0])
        if bound is not None:
            greater = operator == GREATER
            at = bisect_right(numbers, bound) if greater else bisect_left(numbers, bound)
            meets[codes_of[at:] if greater else codes_of[:at]] = True
        return meets[self.codes]

    def _by_size(self) -> tuple[list[int], Ints]:
        """Sorted once: a pod may compare with thousands of numbers."""
        if self._numbers is None:
            found = sorted((n, code) for value, code in self.values.items() if (n := _number(value)) is not None)
            codes = np.array([code for _, code in found], dtype=np.int64)
            self._numbers = [number for number, _ in found], codes
        return self._numbers


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


class NodeLabels:
    """Labels of all rows, with a column for each that was asked about lately."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._labels: dict[int, Mapping[str, str]] = {}
        self._columns: OrderedDict[str, LabelColumn] = OrderedDict()
        self._keys: Counter[str] = Counter()  # rows by label
        self._absent = LabelColumn(rows)  # of labels that no node has: pods may ask for any number of them
        #: Grows when a label that no node had comes, or the last node with one loses it.
        self.key_changes = 0

    def __contains__(self, key: str) -> bool:
        """Whether any node has a label."""
        return key in self._keys

    def grow(self, rows: int) -> None:
        more = rows - self._rows
        self._rows = rows
        self._absent = LabelColumn(rows)
        for column in self._columns.values():
            column.codes = np.pad(column.codes, (0, more))

    def set(self, row: int, labels: Mapping[str, str] | None) -> None:
        """A row has these labels now; None when it holds no node."""
        before = self._labels.pop(row, {})
        if labels is not None:
            self._labels[row] = labels
        for key in before.keys() - (labels or {}).keys():
            self._keys[key] -= 1
            if not self._keys[key]:
                del self._keys[key]
                self.key_changes += 1
        for key in (labels or {}).keys() - before.keys():
            self.key_changes += key not in self._keys
            self._keys[key] += 1
        for key, column in [*self._columns.items()]:
            column.set(row, None if labels is None else labels.get(key))
            if column.is_worn:
                del self._columns[key]

    def column(self, key: str) -> LabelColumn:
        found = self._columns.get(key)
        if found is None:
            if key not in self._keys:
                return self._absent
            found = self._columns[key] = LabelColumn(self._rows)
            for row, labels in self._labels.items():
                value = labels.get(key)
                if value is not None:
                    found.set(row, value)
            if len(self._columns) > COLUMNS_MAX:
                self._columns.popitem(last=False)
        else:
            self._columns.move_to_end(key)
        return found
