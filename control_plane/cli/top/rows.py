"""Rows of a table that changes: found by name, in order, filtered. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from sortedcontainers import SortedDict, SortedSet

from rayplane.control_plane.cli.printing import plain

Key = tuple[str, ...]
"""What rows are ordered by and found again: namespace and name of an object."""
GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column; a `wide` one is shown where people want everything."""

    name: str
    wide: bool = False

    @property
    def head(self) -> str:
        """What stands over it."""
        return plain(self.name.upper())


@dataclass(frozen=True, slots=True)
class Row:
    """A row. `since`: when what it tells of was made, from which a column `Age` is worked out anew; empty for none."""

    key: Key
    cells: tuple[str, ...]
    since: str = ""
    bad: bool = False
    text: str = field(init=False, compare=False, repr=False)
    """What a filter looks at."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", "\t".join((*self.key, *self.cells)).lower())


class Rows:
    """All rows, and those that the filter lets through, in the order of their keys."""

    def __init__(self) -> None:
        self.columns: Sequence[Column] = ()
        self.filter = ""
        self._rows: SortedDict[Key, Row] = SortedDict()
        self._shown: SortedSet[Key] = SortedSet()
        self._widths: list[int] = []

    def clear(self) -> None:
        self._rows.clear()
        self._shown.clear()
        self._widths = []

    def put(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._rows[row.key] = row
            if self._lets_through(row):
                self._shown.add(row.key)
            else:
                self._shown.discard(row.key)
            self._widths += [0] * (len(row.cells) - len(self._widths))
            for i, cell in enumerate(row.cells):
                self._widths[i] = max(self._widths[i], cell_len(plain(cell)))

    def drop(self, key: Key) -> None:
        self._rows.pop(key, None)
        self._shown.discard(key)

    def select(self, text: str) -> None:
        """Show rows alone that have all words of the text, or with a `!` before it, those that have not."""
        self.filter = text
        self._shown = SortedSet(row.key for row in self._rows.values() if self._lets_through(row))

    def __len__(self) -> int:
        """How many the filter lets through."""
        return len(self._shown)

    @property
    def total(self) -> int:
        return len(self._rows)

    def window(self, first: int, count: int) -> list[Row]:
        """Rows as they are seen, from one on."""
        return [self._rows[key] for key in self._shown.islice(max(0, first), max(0, first + count))]

    def index(self, key: Key | None) -> int:
        """Where a row stands, or would; the first without a key."""
        return 0 if key is None else int(self._shown.bisect_left(key))

    def widths(self, *, wide: bool) -> list[tuple[int, int]]:
        """The columns that are shown, each with its width, the gap before the next included."""
        found = []
        for i, column in enumerate(self.columns):
            if wide or not column.wide:
                width = self._widths[i] if i < len(self._widths) else 0
                found.append((i, max(width, cell_len(column.head)) + GAP))
        return found

    def _lets_through(self, row: Row) -> bool:
        wanted = self.filter.lower().removeprefix("!").split()
        if not wanted:
            return True
        return all(word in row.text for word in wanted) != self.filter.startswith("!")
