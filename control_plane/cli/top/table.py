"""A table of which only the rows in sight are drawn."""

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from rayplane.control_plane.api.machinery.columns import since
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cli.top.rows import AGE, Key, Row, Rows

_HEAD, _PLAIN, _BAD, _CURSOR = Style(bold=True), Style(), Style(color="red"), Style(reverse=True)


class Table(ScrollView):
    """Rows under a head that stays. The cursor stays on its row, wherever that moves to."""

    DEFAULT_CSS = "Table { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False),
        Binding("home,g", "end(-1)", "First", show=False),
        Binding("end,G", "end(1)", "Last", show=False),
    ]

    class Chosen(Message):
        """A row was clicked that has the cursor."""

    def __init__(self, rows: Rows, now: Callable[[], datetime]) -> None:
        super().__init__()
        self.rows = rows
        self.wide = False
        self._now = now
        self._cursor: Key | None = None
        self._at = 0

    @property
    def current(self) -> Row | None:
        """The row that has the cursor."""
        found = self.rows.window(self._at, 1)
        return found[0] if found else None

    def reset(self) -> None:
        """Begin at the top: the rows are others now."""
        self._cursor, self._at = None, 0
        self.scroll_to(0, 0, animate=False)
        self.changed()

    def changed(self) -> None:
        """Draw what the rows are now."""
        last = max(0, len(self.rows) - 1)
        # Without a key the cursor waits at the top for the first rows.
        self._at = max(0, min(self.rows.index(self._cursor, self._at), last))
        width = sum(width for _, width in self.rows.widths(wide=self.wide))
        self.virtual_size = Size(width, len(self.rows) + 1)
        self.refresh()

    def action_move(self, by: int) -> None:
        self._go(self._at + by)

    def action_page(self, by: int) -> None:
        self._go(self._at + by * max(1, self.size.height - 2))

    def action_end(self, by: int) -> None:
        self._go(0 if by < 0 else len(self.rows))

    def on_click(self, event: Click) -> None:
        before, y = self._at, event.y - 1
        if y < 0:
            return
        self._go(y + self.scroll_offset.y)
        if before == self._at:
            self.post_message(self.Chosen())

    def _go(self, to: int) -> None:
        self._at = max(0, min(to, len(self.rows) - 1))
        row = self.current
        self._cursor = row.key if row else None
        # The head covers one line of what is in sight.
        self.scroll_to_region(Region(self.scroll_offset.x, self._at, 1, 2), animate=False)
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """The head at the top, and the rows in sight below it."""
        left, top = self.scroll_offset
        widths = self.rows.widths(wide=self.wide)
        if y == 0:
            text = "".join(_filled(self.rows.head(i), width) for i, width in widths)
            return self._strip(text, left, _HEAD)
        at = top + y - 1
        found = self.rows.window(at, 1)
        if not found:
            return Strip.blank(self.size.width)
        row = found[0]
        text = "".join(_filled(plain(self._cell(row, i)), width) for i, width in widths)
        return self._strip(text, left, _CURSOR if at == self._at else _BAD if row.bad else _PLAIN)

    def _cell(self, row: Row, i: int) -> str:
        if row.since and self.rows.columns[i].name == AGE:
            return since(row.since, self._now())
        return row.cells[i] if i < len(row.cells) else ""

    def _strip(self, text: str, left: int, style: Style) -> Strip:
        width = self.size.width
        return Strip([Segment(text, style)]).crop_extend(left, left + width, style)


def _filled(text: str, width: int) -> str:
    """With blanks up to so many cells of the terminal."""
    return text + " " * (width - cell_len(text))
