"""The screen: one table at a time, and what keys do with the row that has the cursor."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.suggester import SuggestFromList
from textual.widgets import Footer, Input, Static

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.cli.printing import plain
from rayplane.control_plane.cli.top import standings
from rayplane.control_plane.cli.top.pages import Page, Question
from rayplane.control_plane.cli.top.rows import Row, Rows
from rayplane.control_plane.cli.top.source import Change, Selection, Source, yaml_of
from rayplane.control_plane.cli.top.table import Table
from rayplane.control_plane.cluster.errors import ClusterError
from rayplane.control_plane.rpc import RpcError

FAILURES = (ApiError, RpcError, ClusterError, OSError)
RETRIES = Backoff(0.5, 8.0)
DRAW_S, AGE_S = 0.1, 1.0
FOR = "10s"
"""How long an actor stands still, or is cut off."""
CONTROL_PLANE, MACHINES = "control-plane", "machines"
_OWN = {"cp": CONTROL_PLANE, CONTROL_PLANE: CONTROL_PLANE, MACHINES: MACHINES}
_STANDINGS = {
    CONTROL_PLANE: (standings.ACTORS, standings.actor_rows),
    MACHINES: (standings.MACHINES, standings.machine_rows),
}
_COMMON = (
    *("pods", "deployments", "replicasets", "statefulsets", "daemonsets", "jobs", "cronjobs", "services", "ingresses"),
    *(
        "configmaps",
        "secrets",
        "persistentvolumeclaims",
        "persistentvolumes",
        "nodes",
        "namespaces",
        "events",
        "leases",
    ),
    *(CONTROL_PLANE, MACHINES, "quit"),
)
_KEYS = """
:KIND          show a kind by any of its names, such as :po, :deploy or :nodes; `:po NAMESPACE` in one namespace
:ns NAME       stay in a namespace; 0 shows all again
:cp :machines  members and actors of the control plane, and its machines
/WORDS         rows that have all words; /!WORDS those that have not
enter          what belongs to the row: pods of a node or workload, the log of a pod; else its description
d y            describe, YAML
l p            log as it grows, log of the run before
s              a shell in the pod
ctrl+d         delete it; ctrl+k kills: a pod at once, of the control plane an actor, of nodes the host
f c            in the control plane: freeze an actor, cut it off from all others, each for 10 seconds
w              all columns; arrows, j k g G, page up and down move
escape         close, end the filter, go back
q ctrl+c       leave
"""


@dataclass(frozen=True, slots=True)
class View:
    """A view of the table: objects, or one of our own."""

    own: str = ""
    objects: Selection | None = None

    @property
    def title(self) -> str:
        if self.objects is None:
            return self.own
        where = f"in {self.objects.namespace}" if self.objects.namespace else "in all namespaces"
        of = self.objects.labels or self.objects.fields
        parts = (self.objects.info.plural, where if self.objects.info.namespaced else "", f"<{of}>" if of else "")
        return " ".join(part for part in parts if part)


async def first_view(source: Source, word: str, namespace: str) -> View:
    """What is shown first. Raises ClusterError for a kind that is not served."""
    if word in _OWN:
        return View(own=_OWN[word])
    info = await source.kind(word)
    return View(objects=Selection(info, namespace if info.namespaced else ""))


class Top(App[None]):
    """The cluster as its administrator sees it."""

    CSS = """
    #head, #said, #prompt { height: 1; }
    #head { text-style: bold; }
    #said { color: $error; }
    #prompt { border: none; padding: 0; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("colon", "ask(':')", "Kind", key_display=":"),
        Binding("slash", "ask('/')", "Filter", key_display="/"),
        Binding("enter", "open", "Open"),
        Binding("d", "describe", "Describe"),
        Binding("y", "yaml", "YAML"),
        Binding("l", "logs", "Log"),
        Binding("p", "logs(True)", "Log before", show=False),
        Binding("s", "shell", "Shell", show=False),
        Binding("ctrl+d", "delete", "Delete"),
        Binding("ctrl+k", "kill", "Kill"),
        Binding("f", "freeze", "Freeze", show=False),
        Binding("c", "cut_off", "Cut off", show=False),
        Binding("0", "all_namespaces", "All namespaces", show=False),
        Binding("w", "wide", "Wide", show=False),
        Binding("escape", "back", "Back", show=False),
        Binding("question_mark", "keys", "Keys", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, source: Source, first: View, shell: Callable[[Row], None]) -> None:
        """`shell` runs one in a pod; it has the terminal meanwhile."""
        super().__init__()
        self._source = source
        self._shell = shell
        self._rows = Rows()
        self._table = Table(self._rows, source.now)
        self._views = [first]
        self._error = ""
        self._changed = False

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
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
        self._rows.select("")
        self._error = ""
        self._table.reset()
        self._changed = True
        self.run_worker(self._keep(view), group="view", exclusive=True)

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
                self._say(getattr(e, "message", "") or str(e))
            await asyncio.sleep(pauses.next_s())

    async def _glances(self, own: str) -> AsyncGenerator[Change, None]:
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
        self._error = _line(text)
        self._changed = True

    def _draw(self) -> None:
        if not self._changed:
            return
        self._changed = False
        self._table.changed()
        shown = f"{len(self._rows)} of {self._rows.total}" if self._rows.filter else str(self._rows.total)
        of = f" /{self._rows.filter}" if self._rows.filter else ""
        main = self.screen_stack[0]
        main.query_one("#head", Static).update(_line(f"{self._source.name}: {self.view.title}{of} ({shown})"))
        said = main.query_one("#said", Static)
        said.update(self._error)
        said.display = bool(self._error)

    def _go(self, view: View) -> None:
        self._views.append(view)
        self._show(view)

    # --- the prompt -------------------------------------------------------------------------------

    def action_ask(self, sign: str) -> None:
        prompt = self._prompt
        prompt.suggester = SuggestFromList(_COMMON) if sign == ":" else None
        prompt.placeholder = sign
        prompt.value = "" if sign == ":" else self._rows.filter
        prompt.display = True
        prompt.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.placeholder == "/":
            self._rows.select(event.value)
            self._changed = True

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        command = event.value.split() if event.input.placeholder == ":" else []
        self._close_prompt()
        if command:
            self._run(command)

    def _close_prompt(self) -> None:
        self._prompt.display = False
        self._table.focus()

    @work(group="command", exclusive=True)
    async def _run(self, command: list[str]) -> None:
        word, *rest = command
        if word in ("q", "quit", "exit"):
            self.exit()
        elif word in _OWN:
            self._go(View(own=_OWN[word]))
        elif word in ("ns", "namespace") and rest:
            await self._stay_in(rest[0])
        else:
            await self._try(lambda: self._open_kind(word, rest[0] if rest else None))

    async def _open_kind(self, word: str, namespace: str | None) -> None:
        info = await self._source.kind(word)
        if namespace is None:
            namespace = self.view.objects.namespace if self.view.objects is not None else ""
        self._go(View(objects=Selection(info, "" if namespace == "all" or not info.namespaced else namespace)))

    async def _stay_in(self, namespace: str) -> None:
        objects = self.view.objects
        word = objects.info.name if objects is not None and objects.info.namespaced else "pods"
        await self._try(lambda: self._open_kind(word, namespace))

    # --- what keys do -----------------------------------------------------------------------------

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

    def action_all_namespaces(self) -> None:
        if self.view.objects is not None:
            self._go(View(objects=replace(self.view.objects, namespace="")))

    def action_keys(self) -> None:
        self._page("keys", _told(_KEYS))

    def on_table_chosen(self) -> None:
        self.action_open()

    @work(group="command", exclusive=True)
    async def action_open(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is not None and objects is not None:
            await self._try(lambda: self._enter(objects, row))

    async def _enter(self, objects: Selection, row: Row) -> None:
        kind, name = objects.info.name, row.key[-1]
        if kind == "pods":
            return self.action_logs()
        pods = await self._source.kind("pods")
        if kind == "namespaces":
            return self._go(View(objects=Selection(pods, name)))
        if kind == "nodes":
            return self._go(View(objects=Selection(pods, fields=f"spec.nodeName={name}")))
        selector = meta.spec(await self._source.get(objects.info, row.key)).get("selector")
        if not isinstance(selector, dict) or not selector:
            return self.action_describe()
        nested = selector if {"matchLabels", "matchExpressions"} & selector.keys() else {"matchLabels": selector}
        return self._go(View(objects=Selection(pods, row.key[0], labels=label_selector_text(nested))))

    def action_describe(self) -> None:
        self._text("describe", self._source.describe)

    def action_yaml(self) -> None:
        async def yaml(info: Any, key: Any) -> str:
            return yaml_of(await self._source.get(info, key))

        self._text("yaml", yaml)

    def _text(self, what: str, of: Callable[[Any, Any], Awaitable[str]]) -> None:
        row, objects = self._table.current, self.view.objects
        if row is not None and objects is not None:
            self._page(f"{what} {objects.info.singular} {row.key[-1]}", _asked(lambda: of(objects.info, row.key)))

    def action_logs(self, previous: bool = False) -> None:
        if row := self._pod():
            self._page(f"log of {row.key[1]}", self._source.logs(row.key, previous=previous))

    def action_shell(self) -> None:
        if row := self._pod():
            with self.suspend():
                self._shell(row)
            self.refresh()

    def _pod(self) -> Row | None:
        objects = self.view.objects
        if objects is not None and objects.info.name == "pods":
            return self._table.current
        self._say("that is for pods: show them with :pods, or press enter on what has some")
        return None

    def _page(self, title: str, pieces: AsyncGenerator[bytes, None]) -> None:
        self.push_screen(Page(title, pieces, FAILURES))

    # --- what changes the cluster -----------------------------------------------------------------

    def action_delete(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is None or objects is None:
            return
        what = f"{objects.info.singular} {'/'.join(filter(None, row.key))}"
        self._do(f"Delete {what}?", lambda: self._source.delete(objects.info, row.key, at_once=False))

    def action_kill(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is None:
            return
        name = row.key[-1]
        if objects is not None and objects.info.name == "pods":
            question = f"Kill pod {name} at once, without its time to end?"
            self._do(question, lambda: self._source.delete(objects.info, row.key, at_once=True))
        elif self.view.own == CONTROL_PLANE or (objects is not None and objects.info.name == "nodes"):
            target = name if objects is None else f"node {name}"
            self._do(
                f"Kill {target}? The supervisor starts it again.", lambda: self._strike(f"kill: {{target: {target}}}")
            )
        else:
            self._say("what can be killed are pods, nodes and actors of the control plane (:cp); ctrl+d deletes")

    def action_freeze(self) -> None:
        self._hurt("Freeze", lambda name: f"stop: {{target: {name}, for: {FOR}}}")

    def action_cut_off(self) -> None:
        self._hurt("Cut off", lambda name: f"partition: {{hosts: [[{name}]], for: {FOR}}}")

    def _hurt(self, word: str, fault: Callable[[str], str]) -> None:
        row = self._table.current
        if row is None or self.view.own != CONTROL_PLANE:
            self._say("that is for actors of the control plane: show them with :cp")
            return
        name = row.key[-1]
        self._do(f"{word} {name} for {FOR}?", lambda: self._strike(fault(name)))

    async def _strike(self, fault: str) -> None:
        self.notify(_line(await self._source.strike(fault)), markup=False)

    def _do(self, question: str, deed: Callable[[], Awaitable[None]]) -> None:
        """Do it if people say yes."""

        def answered(yes: bool | None) -> None:
            if yes:
                self.run_worker(self._try(deed), group="deeds")

        self.push_screen(Question(question), answered)

    async def _try(self, deed: Callable[[], Awaitable[None]]) -> None:
        try:
            await deed()
        except FAILURES as e:
            self.notify(_line(getattr(e, "message", "") or str(e)), severity="error", markup=False)


def _line(text: str) -> str:
    """A line that is harmless, whoever wrote the text."""
    return plain(" ".join(text.split()))


async def _told(text: str) -> AsyncGenerator[bytes, None]:
    yield text.encode()


async def _asked(ask: Callable[[], Awaitable[str]]) -> AsyncGenerator[bytes, None]:
    yield (await ask()).encode()
