"""The table on the screen and the way through it: views, the prompt, filters, sorting, namespaces."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.suggester import SuggestFromList
from textual.widgets import Footer, Input, Static

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cli.top import forwards, standings
from rayplane.control_plane.cli.top.order import column_of
from rayplane.control_plane.cli.top.rows import Rows
from rayplane.control_plane.cli.top.source import NUMBERED_MAX, Change, Selection, Source
from rayplane.control_plane.cli.top.table import Table
from rayplane.control_plane.cli.top.views import View
from rayplane.control_plane.cli.top.words import COMMON, CONTROL_PLANE, FORWARDS, MACHINES, OWN, SORTING
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.rpc import RpcError

FAILURES = (ApiError, RpcError, ClusterError, OSError)
RETRIES = Backoff(0.5, 8.0)
DRAW_S, AGE_S, LOOK_S = 0.1, 1.0, 1.0
_STANDINGS = {
    CONTROL_PLANE: (standings.ACTORS, standings.actor_rows),
    MACHINES: (standings.MACHINES, standings.machine_rows),
}


class Browser(App[None]):
    """A cluster's objects, a kind at a time."""

    CSS = """
    #head, #spaces, #said, #prompt { height: 1; }
    #head { text-style: bold; }
    #said { color: $error; }
    #prompt { border: none; padding: 0; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        # Of the app itself, before it hands on the next key: what is typed fast is no command of the table's.
        Binding("colon", "ask(':')", "Kind", key_display=":", priority=True),
        Binding("slash", "ask('/')", "Filter", key_display="/", priority=True),
        Binding("0", "all_namespaces", "All namespaces", show=False),
        *(Binding(str(n), f"numbered({n})", show=False) for n in range(1, NUMBERED_MAX + 1)),
        *(Binding(letter, f"sort('{letter}')", show=False) for letter in SORTING),
        Binding("shift+left", "sort_beside(-1)", show=False),
        Binding("shift+right", "sort_beside(1)", show=False),
        Binding("w", "wide", "Wide", show=False),
        Binding("escape", "back", "Back", show=False),
    ]

    def __init__(self, source: Source, first: View) -> None:
        super().__init__()
        self._source = source
        self._rows = Rows()
        self._table = Table(self._rows, source.now)
        self._views = [first]
        self._spaces: list[str] = []
        self._answer: asyncio.Future[str | None] | None = None
        self._error = ""
        self._changed = False

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="spaces", markup=False)
        yield self._table
        yield Static(id="said", markup=False)
        yield Input(id="prompt", compact=True, select_on_focus=False)
        yield Footer(compact=True)

    def on_mount(self) -> None:
        self._prompt.display = False
        self._table.focus()
        self.set_interval(DRAW_S, self._draw)
        self.set_interval(AGE_S, self._table.refresh)
        self._show(self._views[0])

    @property
    def view(self) -> View:
        return self._views[-1]

    @property
    def _prompt(self) -> Input:
        return self.screen_stack[0].query_one("#prompt", Input)

    # --- what is shown ----------------------------------------------------------------------------

    def _show(self, view: View) -> None:
        self._rows.clear()
        self._rows.columns = ()
        self._rows.filter = ""
        self._rows.sort(None)
        self._error = ""
        self._table.reset()
        self._changed = True
        self.run_worker(self._keep(view), group="view", exclusive=True)
        self.run_worker(self._number(), group="spaces", exclusive=True)

    async def _number(self) -> None:
        """What the keys 1 to 9 mean. A failure is told by the view."""
        with contextlib.suppress(*FAILURES):
            self._spaces = await self._source.namespaces()
            self._changed = True

    async def _keep(self, view: View) -> None:
        """Follow what the view shows, through failures, until another is shown."""
        pauses = Pauses(RETRIES)
        while True:
            changes = self._source.rows(view.objects) if view.objects is not None else self._glances(view.own)
            try:
                async with aclosing(changes):
                    async for change in changes:
                        pauses.reset()
                        self._take(change)
            except FAILURES as e:
                self._say(failure(e))
            await asyncio.sleep(pauses.next_s())

    async def _glances(self, own: str) -> AsyncGenerator[Change, None]:
        while own == FORWARDS:
            yield Change(forwards.COLUMNS, self._source.forwards.rows(), anew=True)
            await asyncio.sleep(LOOK_S)
        columns, rows = _STANDINGS[own]
        async with aclosing(self._source.standings()) as glances:
            async for now in glances:
                yield Change(columns, rows(now), anew=True)
                self._say(now["error"])

    def _take(self, change: Change) -> None:
        if change.anew:
            self._rows.clear()
        self._rows.columns = change.columns
        self._rows.put(change.put)
        for key in change.drop:
            self._rows.drop(key)
        self._say("")

    def _say(self, text: str) -> None:
        self._error = line(text)
        self._changed = True

    def _draw(self) -> None:
        # When it ends, the last turn of the clock may find nothing to draw on.
        if not self._changed or not self.screen_stack[0].query("#head"):
            return
        self._changed = False
        self._table.changed()
        shown = f"{len(self._rows)} of {self._rows.total}" if self._rows.filter else str(self._rows.total)
        of = f" /{self._rows.filter}" if self._rows.filter else ""
        main = self.screen_stack[0]
        main.query_one("#head", Static).update(line(f"{self._source.name}: {self.view.title}{of} ({shown})"))
        spaces = main.query_one("#spaces", Static)
        numbered = (f"{n} {name}" for n, name in enumerate(("all", *self._spaces)))
        spaces.update(plain("   ".join(numbered)))
        objects = self.view.objects
        spaces.display = bool(self._spaces) and objects is not None and objects.info.namespaced
        said = main.query_one("#said", Static)
        said.update(self._error)
        said.display = bool(self._error)

    def _go(self, view: View) -> None:
        self._views.append(view)
        self._show(view)

    # --- the prompt -------------------------------------------------------------------------------

    def action_ask(self, sign: str) -> None:
        prompt = self._prompt
        prompt.suggester = SuggestFromList(COMMON) if sign == ":" else None
        prompt.placeholder = sign
        prompt.value = self._rows.filter if sign == "/" else ""
        prompt.display = True
        self.screen_stack[0].set_focus(prompt)

    async def typed(self, asked: str) -> str | None:
        """What somebody types; None for those who press escape."""
        self._answer = answer = asyncio.get_running_loop().create_future()
        self.action_ask(line(asked))
        try:
            return await answer
        finally:
            self._answer = None

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.placeholder == "/":
            self._rows.select(event.value)
            self._changed = True

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        command = event.value.split() if event.input.placeholder == ":" else []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(event.value.strip())
        self._close_prompt()
        if command:
            self._run(command)

    def _close_prompt(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        self._prompt.display = False
        self._table.focus()

    @work(group="command", exclusive=True)
    async def _run(self, command: list[str]) -> None:
        word, *rest = command
        if word in ("q", "quit", "exit"):
            self.exit()
        elif word in OWN:
            self._go(View(own=OWN[word]))
        elif word in ("ns", "namespace") and rest:
            await self._stay_in(rest[0])
        else:
            await self._try(lambda: self._open_kind(word, rest[0] if rest else None))

    async def _open_kind(self, word: str, namespace: str | None) -> None:
        info = await self._source.kind(word)
        if namespace is None:
            namespace = self.view.objects.namespace if self.view.objects is not None else ""
        self._go(View(objects=Selection(info, "" if namespace == "all" or not info.namespaced else namespace)))

    # --- keys -------------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Behind a page or a question the table does nothing, and a prompt is asked for once."""
        if action == "ask" and self._prompt.display:
            return False
        return len(self.screen_stack) == 1 or action in ("pop_screen", "quit")

    async def action_back(self) -> None:
        if self._prompt.display:
            if self._prompt.placeholder == "/":
                self._rows.select("")
            self._close_prompt()
        elif self._rows.filter:
            self._rows.select("")
        elif len(self._views) > 1:
            self._views.pop()
            self._show(self.view)
        self._changed = True

    def action_wide(self) -> None:
        self._table.wide = not self._table.wide
        self._changed = True

    def action_sort(self, letter: str) -> None:
        column = column_of(letter, [column.name for column in self._rows.columns])
        if column is None:
            self._say(f"no column begins with {letter}: shift and arrows sort by the next one")
        else:
            self._sort(column)

    def action_sort_beside(self, by: int) -> None:
        shown = [i for i, _ in self._rows.widths(wide=self._table.wide)]
        now = self._rows.sorted_by
        at = shown.index(now) + by if now in shown else 0
        if shown:
            self._sort(shown[at % len(shown)])

    def _sort(self, column: int) -> None:
        again = column == self._rows.sorted_by
        self._rows.sort(column, backwards=again and not self._rows.backwards)
        self._changed = True

    def action_all_namespaces(self) -> None:
        if self.view.objects is not None:
            self._go(View(objects=replace(self.view.objects, namespace="")))

    async def action_numbered(self, number: int) -> None:
        if self.view.objects is not None and number <= len(self._spaces):
            await self._stay_in(self._spaces[number - 1])

    async def _stay_in(self, namespace: str) -> None:
        objects = self.view.objects
        word = objects.info.name if objects is not None and objects.info.namespaced else "pods"
        await self._try(lambda: self._open_kind(word, namespace))

    async def _try(self, deed: Callable[[], Awaitable[None]]) -> None:
        try:
            await deed()
        except FAILURES as e:
            self.notify(line(failure(e)), severity="error", markup=False)


def failure(error: Exception) -> str:
    """What one of `FAILURES` says."""
    return getattr(error, "message", "") or str(error)


def line(text: str) -> str:
    """A line that is harmless, whoever wrote the text."""
    return plain(" ".join(text.split()))
