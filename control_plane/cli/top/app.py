"""The screen: what keys do with the row that has the cursor."""

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Any, ClassVar, Protocol

from textual import work
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType
from textual.screen import Screen

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.machinery.resources import ResourceInfo
from rayplane.control_plane.api.machinery.selectors import label_selector_text
from rayplane.control_plane.cli.top import deeds
from rayplane.control_plane.cli.top.browsing import FAILURES, Browser, line
from rayplane.control_plane.cli.top.pages import Page, Question
from rayplane.control_plane.cli.top.rows import Key, Row
from rayplane.control_plane.cli.top.source import EVENTS, Selection, Source, owner_of, yaml_of
from rayplane.control_plane.cli.top.views import View
from rayplane.control_plane.cli.top.words import CONTROL_PLANE, FORWARDS, keys

FOR = "10s"
"""How long an actor stands still, or is cut off."""
_Deed = Callable[[Source, deeds.Desk, ResourceInfo, Key], Awaitable[None]]


class Outside(Protocol):
    """Programs that have the terminal while the screen has not."""

    def shell(self, pod: Key) -> None:
        """A shell in a pod, to its end."""

    def edited(self, text: str) -> str:
        """What an editor makes of a text."""


class Top(Browser):
    """The cluster as its administrator sees it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "open", "Open"),
        Binding("d", "describe", "Describe"),
        Binding("y", "yaml", "YAML"),
        Binding("v", "events", "Events", show=False),
        Binding("x", "owners", "Owners", show=False),
        Binding("J", "owner", "To its owner", show=False),
        Binding("l", "logs", "Log"),
        Binding("p", "logs(True)", "Log before", show=False),
        Binding("s", "shell_or_scale", "Shell, scale", show=False),
        Binding("e", "edit", "Edit"),
        Binding("r", "restart", "Restart", show=False),
        Binding("F", "forward", "Forward a port", show=False),
        Binding("ctrl+d", "delete", "Delete"),
        Binding("ctrl+k", "kill", "Kill"),
        Binding("f", "freeze", "Freeze", show=False),
        Binding("c", "cut_off", "Cut off", show=False),
        Binding("question_mark", "keys", "Keys", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+c", "quit", "Quit", show=False, priority=True),
    ]

    def __init__(self, source: Source, first: View, outside: Outside) -> None:
        super().__init__(source, first)
        self._outside = outside

    # --- what keys do -----------------------------------------------------------------------------

    def action_keys(self) -> None:
        self._page("keys", _told(keys(self.size.width - 2)))

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

    def action_owners(self) -> None:
        self._text("owners of", self._source.owners)

    def action_events(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is not None and objects is not None:
            about = f"involvedObject.name={row.key[-1]},involvedObject.kind={objects.info.kind}"
            self._beside(lambda: self._see(EVENTS, row.key[0], about))

    def action_owner(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is not None and objects is not None:
            self._beside(lambda: self._see_owner(objects.info, row.key))

    async def _see_owner(self, info: ResourceInfo, key: Key) -> None:
        owner = owner_of(await self._source.get(info, key))
        if owner is None:
            self._say(f"{info.singular} {key[-1]} has no owner")
            return
        group = meta.group_of(owner)
        await self._see(f"{owner['kind']}.{group}".rstrip("."), key[0], f"metadata.name={owner['name']}")

    async def _see(self, word: str, namespace: str, fields: str) -> None:
        info = await self._source.kind(word)
        self._go(View(objects=Selection(info, namespace if info.namespaced else "", fields=fields)))

    def action_logs(self, previous: bool = False) -> None:
        if row := self._pod():
            self._page(f"log of {row.key[1]}", self._source.logs(row.key, previous=previous), follows=True)

    def action_shell_or_scale(self) -> None:
        objects = self.view.objects
        if objects is not None and objects.info.name != "pods":
            self._deed(deeds.scale)
        elif row := self._pod():
            with self._away():
                self._outside.shell(row.key)

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Another has the terminal, where there is one."""
        with contextlib.ExitStack() as away:
            with contextlib.suppress(SuspendNotSupported):
                away.enter_context(self.suspend())
            yield
        self.refresh()

    def _pod(self) -> Row | None:
        objects = self.view.objects
        if objects is not None and objects.info.name == "pods":
            return self._table.current
        self._say("that is for pods: show them with :pods, or press enter on what has some")
        return None

    def _page(self, title: str, pieces: AsyncGenerator[bytes, None], *, follows: bool = False) -> None:
        self.push_screen(Page(title, pieces, FAILURES, follows=follows))

    # --- what changes the cluster -----------------------------------------------------------------

    def action_edit(self) -> None:
        self._deed(deeds.edit)

    def action_restart(self) -> None:
        self._deed(deeds.restart)

    def action_forward(self) -> None:
        if row := self._pod():
            self._beside(lambda: self._forward(row.key))

    async def _forward(self, key: Key) -> None:
        pod = await self._source.get(await self._source.kind("pods"), key)
        await deeds.forward(self._source, self, pod)

    def action_delete(self) -> None:
        row, objects = self._table.current, self.view.objects
        if row is None:
            return
        if objects is not None:
            what = f"{objects.info.singular} {'/'.join(filter(None, row.key))}"
            self._do(f"Delete {what}?", lambda: self._source.delete(objects.info, row.key, at_once=False))
        elif self.view.own == FORWARDS:
            self._do(f"End {row.key[-1]}?", lambda: self._source.forwards.close(row.key[-1]))

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
        self.told(await self._source.strike(fault))

    def _do(self, question: str, deed: Callable[[], Awaitable[None]]) -> None:
        """Do it if people say yes."""

        async def asked() -> None:
            if await self.yes(question):
                await deed()

        self._beside(asked)

    def _deed(self, deed: _Deed) -> None:
        row, objects = self._table.current, self.view.objects
        if row is not None and objects is not None:
            self._beside(lambda: deed(self._source, self, objects.info, row.key))

    def _beside(self, deed: Callable[[], Awaitable[None]]) -> None:
        """While the view goes on."""
        self.run_worker(self._try(deed), group="deeds")

    # --- whom deeds ask ---------------------------------------------------------------------------

    async def yes(self, question: str, details: str = "") -> bool:
        asked: Screen[Any] = Question(question, details)
        return bool(await self.push_screen_wait(asked))

    def edited(self, text: str) -> str:
        with self._away():
            return self._outside.edited(text)

    def told(self, text: str) -> None:
        self.notify(line(text), markup=False)


async def _told(text: str) -> AsyncGenerator[bytes, None]:
    yield text.encode()


async def _asked(ask: Callable[[], Awaitable[str]]) -> AsyncGenerator[bytes, None]:
    yield (await ask()).encode()
