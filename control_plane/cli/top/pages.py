"""Screens over the table: texts and logs, a question, the keys."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Log, Static

from rayplane.control_plane.cli.printing import plain

LINES_MAX = 20_000
"""Lines of a page that are kept, the last ones."""
TEXT_MAX = 8 * 1024 * 1024
"""Characters of all those lines together; the last line is kept whatever it has."""
BYTES_MAX = 64 * 1024
"""A line that goes on longer is shown in parts."""


class Page(Screen[None]):
    """A text from its beginning, or one that goes on growing: `follows` its end while that is what is seen."""

    DEFAULT_CSS = "Page Log { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "app.pop_screen", "Back"),
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
        Binding("g", "first", "First", show=False),
        Binding("G", "last", "Last", show=False),
    ]

    def __init__(
        self,
        title: str,
        pieces: AsyncGenerator[bytes, None],
        failures: tuple[type[Exception], ...],
        *,
        follows: bool = False,
    ) -> None:
        super().__init__()
        self._follows = follows
        self._title = title
        self._pieces = pieces
        self._failures = failures
        self._log = Log(auto_scroll=False)
        self._kept: deque[int] = deque()
        self._characters = 0

    def compose(self) -> ComposeResult:
        yield Static(plain(self._title), id="title", markup=False)
        yield self._log
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self.run_worker(self._read())
        self._log.focus()

    async def _read(self) -> None:
        rest = b""
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    *lines, rest = (rest + piece).split(b"\n")
                    if len(rest) > BYTES_MAX:
                        lines, rest = [*lines, rest], b""
                    self._write(lines)
        except self._failures as e:
            rest += f"\n{getattr(e, 'message', '') or e}".encode()
        self._write(rest.split(b"\n") if rest else [])

    def _write(self, lines: list[bytes]) -> None:
        log = self._log
        # What has no size yet counts as seen to its end.
        ends = log.is_vertical_scroll_end and (self._follows or log.scroll_y > 0)
        # The log leaves out what is empty.
        texts = [plain(line.decode(errors="replace").expandtabs()) or " " for line in lines]
        log.max_lines = self._keep([len(text) for text in texts])
        log.write_lines(texts, scroll_end=ends)

    def _keep(self, sizes: list[int]) -> int:
        """How many lines are kept, the last ones, when some of such sizes come."""
        self._kept += sizes
        self._characters += sum(sizes)
        while len(self._kept) > LINES_MAX or (self._characters > TEXT_MAX and len(self._kept) > 1):
            self._characters -= self._kept.popleft()
        return len(self._kept)

    def action_down(self) -> None:
        self._log.scroll_relative(y=1, animate=False)

    def action_up(self) -> None:
        self._log.scroll_relative(y=-1, animate=False)

    def action_first(self) -> None:
        self._log.scroll_home(animate=False)

    def action_last(self) -> None:
        self._log.scroll_end(animate=False)


class Question(ModalScreen[bool]):
    """A question whether to do what cannot be undone, with what there is to look at first. No is what enter means."""

    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Vertical { width: auto; max-width: 90%; height: auto; border: round $error; padding: 0 1; }
    Question Static { width: auto; max-width: 80vw; }
    Question VerticalScroll { width: auto; height: auto; max-height: 60vh; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", "Yes"),
        Binding("n,escape,enter,q", "dismiss(False)", "No"),
    ]

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__()
        self._text = text
        self._details = details

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(_harmless(self._text), markup=False)
            if self._details:
                with VerticalScroll():
                    yield Static(_harmless(self._details), markup=False)
            yield Static("\ny: yes   n: no", markup=False)


def _harmless(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))
