"""Rows of a table that changes: found by name, in the order of any column, filtered. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from sortedcontainers import SortedSet

from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cli.top.order import Rank, rank, rank_of_age

Key = tuple[str, ...]
"""What rows are ordered by and found again: namespace and name of an object."""
GAP = 2
AGE = "Age"
_AGE_WIDTH = len("7y364d")
"""Of the longest age: it grows while it is shown."""
_UP, _DOWN = "\u2191", "\u2193"
_SAME: Rank = (0, ())
"""Of all rows where no column orders them: their keys do."""


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
    """All rows, and those that the filter lets through, in the order of their keys or of a column."""

    def __init__(self) -> None:
        self.columns: Sequence[Column] = ()
        self.filter = ""
        self.sorted_by: int | None = None
        self.backwards = False
        self._rows: dict[Key, Row] = {}
        self._shown: SortedSet[tuple[Rank, Key]] = SortedSet()
        self._widths: list[int] = []

    def clear(self) -> None:
        self._rows.clear()
        self._shown.clear()
        self._widths = []

    def put(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if (before := self._rows.get(row.key)) is not None:
                self._shown.discard(self._place(before))
            self._rows[row.key] = row
            if self._lets_through(row):
                self._shown.add(self._place(row))
            self._widths += [0] * (len(row.cells) - len(self._widths))
            for i, cell in enumerate(row.cells):
                self._widths[i] = max(self._widths[i], cell_len(plain(cell)))

    def drop(self, key: Key) -> None:
        if (row := self._rows.pop(key, None)) is not None:
            self._shown.discard(self._place(row))

    def select(self, text: str) -> None:
        """Show rows alone that have all words of the text, or with a `!` before it, those that have not."""
        self.filter = text
        self._shown = SortedSet(self._place(row) for row in self._rows.values() if self._lets_through(row))

    def sort(self, column: int | None, *, backwards: bool = False) -> None:
        """Order them by what a column shows; None: by their keys."""
        self.sorted_by, self.backwards = column, backwards
        self.select(self.filter)

    def __len__(self) -> int:
        """How many the filter lets through."""
        return len(self._shown)

    @property
    def total(self) -> int:
        return len(self._rows)

    def window(self, first: int, count: int) -> list[Row]:
        """Rows as they are seen, from one on."""
        first, end = max(0, first), max(0, min(first + count, len(self)))
        if self.backwards:
            places = self._shown.islice(len(self) - end, max(0, len(self) - first), reverse=True)
        else:
            places = self._shown.islice(first, end)
        return [self._rows[key] for _, key in places]

    def index(self, key: Key | None, otherwise: int = 0) -> int:
        """Where a row stands, or would; the first without a key, `otherwise` where nobody can tell any more."""
        if key is None:
            return 0
        if (row := self._rows.get(key)) is None and self.sorted_by is not None:
            return otherwise
        at = int(self._shown.bisect_left(self._place(row) if row is not None else (_SAME, key)))
        return len(self) - 1 - at if self.backwards else at

    def widths(self, *, wide: bool) -> list[tuple[int, int]]:
        """The columns that are shown, each with its width, the gap before the next included."""
        found = []
        for i, column in enumerate(self.columns):
            if wide or not column.wide:
                width = self._widths[i] if i < len(self._widths) else 0
                width = max(width, _AGE_WIDTH) if column.name == AGE else width
                found.append((i, max(width, cell_len(self.head(i))) + GAP))
        return found

    def head(self, column: int) -> str:
        """What stands over a column, with an arrow at the one that orders the rows."""
        arrow = (_DOWN if self.backwards else _UP) if column == self.sorted_by else ""
        return self.columns[column].head + arrow

    def _place(self, row: Row) -> tuple[Rank, Key]:
        column = self.sorted_by
        if column is None:
            return _SAME, row.key
        if row.since and self.columns[column].name == AGE:
            return rank_of_age(row.since), row.key
        return rank(row.cells[column] if column < len(row.cells) else ""), row.key

    def _lets_through(self, row: Row) -> bool:
        wanted = self.filter.lower().removeprefix("!").split()
        if not wanted:
            return True
        return all(word in row.text for word in wanted) != self.filter.startswith("!")
