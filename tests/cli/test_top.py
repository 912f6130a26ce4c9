"""The terminal view: what stands on the screen, and what keys do, over a source that tells what the test says."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.machinery.resources import ResourceInfo, builtin_registry
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.top.forwards import Forwards
from rayplane.control_plane.cli.top.rows import Column, Key, Row
from rayplane.control_plane.cli.top.source import Change, Selection
from rayplane.control_plane.cluster.errors import ClusterError

pytest.importorskip("textual", reason="this environment is older than rayplane top: pip install .")

from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, Log

from rayplane.control_plane.cli.top import pages
from rayplane.control_plane.cli.top.app import Top
from rayplane.control_plane.cli.top.pages import Page, Question
from rayplane.control_plane.cli.top.table import Table
from rayplane.control_plane.cli.top.views import View, first_view

NAMES = (Column("Name"), Column("Ready"), Column("Age"), Column("Node", wide=True))
MADE = "2026-01-01T10:00:00Z"
NOW = datetime(2026, 1, 1, 10, 5, tzinfo=UTC)
GLANCE = {
    "error": "",
    "members": [
        {"name": "member-0", "endpoint": "127.0.0.1:1", "running": True, "leader": True, "term": 4, "raft_index": 90},
        {"name": "member-1", "endpoint": "127.0.0.1:2", "running": True, "term": 4, "raft_index": 70},
        {"name": "member-2", "endpoint": "10.0.0.2:2", "running": False, "error": "refused"},
    ],
    "actors": [
        {"name": "scheduler-0", "role": "scheduler", "machine": "127.0.0.1", "running": True, "starts": 2, "reason": ""}
        | {"leader": True},
        {"name": "apiserver-0", "role": "apiserver", "machine": "127.0.0.1", "running": True, "starts": 1}
        | {"reason": ""},
    ],
    "machines": [{"address": "127.0.0.1", "resources": {"CPU": 8.0, "memory": 16 * 2.0**30}, "drained": True}],
    "loads": {
        "scheduler-0": {"requests_s": 0.0, "p99_s": None, "verbs": [], "queues": {"active": 3, "backoff": 1}},
        "apiserver-0": {"requests_s": 12.34, "p99_s": 0.025, "verbs": [{"verb": "GET"}], "queues": {}},
    },
}


class Told:
    """A source whose changes come from a queue for each selection; notes what is asked of it."""

    name = "told"

    def __init__(self) -> None:
        self.changes: asyncio.Queue[Change | Exception] = asyncio.Queue()
        self.shown: list[str] = []
        self.done: list[Any] = []
        self.objects: dict[str, Object] = {}

    def now(self) -> datetime:
        return NOW

    async def kind(self, word: str) -> ResourceInfo:
        if word == "nothing":
            raise ClusterError('the server doesn\'t have a resource type "nothing"')
        return builtin_registry().resolve(word)

    async def rows(self, selection: Selection) -> AsyncGenerator[Change, None]:
        of = (selection.namespace, selection.labels, selection.fields)
        self.shown.append(" ".join(filter(None, (selection.info.plural, *of))))
        while True:
            change = await self.changes.get()
            if isinstance(change, Exception):
                raise change
            yield change

    async def standings(self) -> AsyncGenerator[dict[str, Any], None]:
        yield GLANCE
        await asyncio.Event().wait()

    async def get(self, info: ResourceInfo, key: Key) -> Object:
        return self.objects[key[-1]]

    async def describe(self, info: ResourceInfo, key: Key) -> str:
        if key[-1] == "secret":
            raise Forbidden("you may not see it")
        return f"Name: {key[-1]}\nEvil: \x1b[2Jgone"

    async def logs(self, key: Key, *, previous: bool) -> AsyncGenerator[bytes, None]:
        yield b"first\nhalf"
        yield b" a line\n"
        await asyncio.Event().wait()

    async def owners(self, info: ResourceInfo, key: Key) -> str:
        return f"Deployment web\n    {info.kind} {key[-1]} *"

    async def namespaces(self) -> list[str]:
        return ["default", "shop"]

    async def patch(
        self, info: ResourceInfo, key: Key, patch: Object, *, subresource: str = "", dry_run: bool = False
    ) -> Object:
        raise AssertionError("it is tried on an API below")

    @property
    def forwards(self) -> Forwards:
        raise AssertionError("it is tried on an API below")

    async def delete(self, info: ResourceInfo, key: Key, *, at_once: bool) -> None:
        self.done.append(("delete", info.plural, key, at_once))

    async def strike(self, fault: str) -> str:
        self.done.append(fault)
        return fault

    def tell(self, *names: str, drop: tuple[str, ...] = (), anew: bool = False, ready: str = "1/1") -> None:
        rows = [Row(("shop", name), (name, ready, "0s", "node-7"), MADE, ready == "0/1") for name in names]
        self.changes.put_nowait(Change(NAMES, rows, [("shop", name) for name in drop], anew))


class Asides:
    """In place of programs that have the terminal: what they were given, and what an editor makes of a text."""

    def __init__(self) -> None:
        self.shells: list[Key] = []
        self.edits: list[Callable[[str], str]] = []

    def shell(self, pod: Key) -> None:
        self.shells.append(pod)

    def edited(self, text: str) -> str:
        return self.edits.pop(0)(text)


class Screen:
    """What people see and press."""

    def __init__(self, app: Top, pilot: Pilot[None], source: Told) -> None:
        self.app, self.pilot, self.source = app, pilot, source

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.settled()

    async def settled(self) -> None:
        """Until all that was told is drawn."""
        while not self.source.changes.empty():
            await self.pilot.pause()
        await self.pilot.pause()
        self.app._draw()
        await self.pilot.pause()

    async def until(self, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in self.text():
                await self.settled()

    def lines(self) -> list[str]:
        table = self.app.query_one(Table)
        return [line for y in range(table.size.height) if (line := table.render_line(y).text.rstrip())]

    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)


@asynccontextmanager
async def opened(kind: str = "pods", size: tuple[int, int] = (60, 12)) -> AsyncIterator[Screen]:
    source = Told()
    app = Top(source, await first_view(source, kind, ""), Asides())
    async with app.run_test(size=size) as pilot:
        yield Screen(app, pilot, source)


async def test_rows_come_change_and_go_and_ages_are_of_now() -> None:
    async with opened() as at:
        at.source.tell("web", "api", anew=True)
        await at.settled()
        assert at.lines() == ["NAME  READY  AGE", "api   1/1    5m", "web   1/1    5m"]
        at.source.tell("api", drop=("web",), ready="0/1")
        await at.settled()
        assert at.lines()[1:] == ["api   0/1    5m"]
        assert "told: pods in all namespaces (1)" in at.text()
        await at.press("w")
        assert at.lines() == ["NAME  READY  AGE     NODE", "api   0/1    5m      node-7"]


async def test_the_cursor_stays_on_its_row_among_thousands_that_come() -> None:
    async with opened() as at:
        at.source.tell("m", "z", anew=True)
        await at.settled()
        await at.press("j", "k")
        at.source.tell(*(f"a{i:05}" for i in range(20_000)))
        await at.settled()
        current = at.app.query_one(Table).current
        assert current is not None and current.key == ("shop", "m")
        await at.press("g")
        assert at.lines()[1].startswith("a00000")
        await at.press("pagedown", "pagedown")
        assert not at.lines()[1].startswith("a00000")
        await at.press("G")
        assert at.lines()[-1].startswith("z")


async def test_a_filter_lets_through_what_has_its_words_until_escape() -> None:
    async with opened() as at:
        at.source.tell("web-1", "web-2", "api-1", anew=True)
        await at.press("slash", *"web", "space", *"1")
        assert [line.split()[0] for line in at.lines()[1:]] == ["web-1", "web-2"], "the age and state have a 1 too"
        await at.press("escape", "slash", "!", *"web", "enter")
        assert [line.split()[0] for line in at.lines()[1:]] == ["api-1"]
        assert "/!web (1 of 3)" in at.text()
        at.source.tell("web-3", "job-1")
        await at.settled()
        assert [line.split()[0] for line in at.lines()[1:]] == ["api-1", "job-1"]
        await at.press("escape")
        assert len(at.lines()) == 6


async def test_what_is_typed_at_once_after_the_sign_is_all_of_the_prompt() -> None:
    async with opened() as at:
        at.source.tell("web", "sql", anew=True)
        await at.settled()
        for key, character in [("slash", "/"), ("w", "w"), ("e", "e"), ("slash", "/")]:
            at.app.post_message(events.Key(key, character))
        await at.settled()
        assert at.app.query_one(Input).value == "we/"
        await at.press("backspace", "enter")
        assert [line.split()[0] for line in at.lines()[1:]] == ["web"]


async def test_the_keys_are_told_whole_on_a_narrow_terminal() -> None:
    async with opened(size=(60, 45)) as at:
        await at.press("question_mark")
        await at.until("close, end the filter")
        told = " ".join(at.text().split())
        assert "the server checks it, you see the difference and say yes" in told
        assert "cut it off from all others, each for 10 seconds" in told


async def test_kinds_are_called_by_any_of_their_names_and_escape_goes_back() -> None:
    async with opened() as at:
        await at.press("colon", *"deploy", "enter")
        await at.press("colon", *"po", "space", *"shop", "enter")
        await at.press("colon", *"ns", "space", *"kube-system", "enter")
        await at.press("0")
        await at.press("escape")
        shown = ["pods", "deployments", "pods shop", "pods kube-system", "pods", "pods kube-system"]
        assert at.source.shown == shown
        await at.press("colon", *"nothing", "enter")
        assert ['have a resource type "nothing"' in told.message for told in at.app._notifications] == [True]
        assert at.source.shown == shown


@pytest.mark.parametrize(
    ("kind", "spec", "shown"),
    [
        ("nodes", {}, "pods spec.nodeName=one"),
        ("namespaces", {}, "pods one"),
        ("deployments", {"selector": {"matchLabels": {"app": "web"}}}, "pods shop app=web"),
        ("services", {"selector": {"app": "web"}}, "pods shop app=web"),
    ],
)
async def test_enter_shows_the_pods_of_what_has_some(kind: str, spec: Object, shown: str) -> None:
    async with opened(kind) as at:
        at.source.objects["one"] = {"spec": spec}
        at.source.tell("one", anew=True)
        await at.settled()
        await at.press("enter")
        await at.settled()
        assert at.source.shown[1:] == [shown]


async def test_texts_and_logs_are_shown_without_what_would_command_the_terminal() -> None:
    async with opened() as at:
        at.source.tell("web", anew=True)
        await at.settled()
        await at.press("d")
        await at.until("Name: web")
        assert "\x1b" not in at.text() and "?[2Jgone" in at.text()
        await at.press("escape")
        await at.press("l")
        await at.until("half a line")
        await at.press("q")
        assert not isinstance(at.app.screen, Page)
        await at.press("question_mark")
        await at.settled()
        assert "show a kind by any of its names" in at.text(), "a text is shown from its beginning"


async def test_a_log_is_shown_to_its_end_and_followed_until_somebody_looks_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more: asyncio.Queue[bytes] = asyncio.Queue()

    async def logs(*_: object, **__: object) -> AsyncGenerator[bytes, None]:
        while True:
            yield await more.get()

    monkeypatch.setattr(Told, "logs", logs)
    async with opened() as at:
        at.source.tell("web", anew=True)
        await at.settled()
        await at.press("l")
        more.put_nowait(b"".join(b"line %d\n" % n for n in range(50)))
        await at.until("line 49")
        more.put_nowait(b"line 50\n")
        await at.until("line 50")
        await at.press("g")
        more.put_nowait(b"line 51\n")
        await at.until("line 0")
        await at.settled()
        assert "line 51" not in at.text()


async def test_what_may_not_be_seen_says_so() -> None:
    async with opened("secrets") as at:
        at.source.tell("secret", anew=True)
        await at.settled()
        await at.press("d")
        await at.until("you may not see it")


async def test_deleting_and_killing_ask_first() -> None:
    async with opened() as at:
        at.source.tell("web", anew=True)
        await at.settled()
        await at.press("ctrl+d")
        assert isinstance(at.app.screen, Question)
        await at.press("enter")
        assert at.source.done == [], "enter is no yes"
        await at.press("ctrl+d", "y")
        await at.press("ctrl+k", "y")
        assert at.source.done == [("delete", "pods", ("shop", "web"), False), ("delete", "pods", ("shop", "web"), True)]


async def test_the_control_plane_is_shown_and_its_actors_are_killed_and_frozen() -> None:
    async with opened("control-plane", size=(120, 12)) as at:
        await at.until("scheduler-0")
        rows = {line.split()[0]: line for line in at.lines()[1:]}
        assert rows["member-0"].split()[1:5] == ["member", "leader", "4", "90"]
        assert "follows member-0" in rows["member-1"] and rows["member-1"].split()[6] == "20"
        assert "does not answer" in rows["member-2"] and "refused" in rows["member-2"]
        assert rows["scheduler-0"].split()[1:5] == ["scheduler", "runs,", "leads", "4"]
        assert rows["apiserver-0"].split()[1:5] == ["apiserver", "runs", "12.3", "<25ms"]
        await at.press("j", "ctrl+k", "y")
        await at.press("f", "y")
        await at.press("c", "n")
        assert at.source.done == ["kill: {target: member-1}", "stop: {target: member-1, for: 10s}"]
        await at.press("colon", *"machines", "enter")
        await at.until("10.0.0.2")
        assert [line.split()[:6] for line in at.lines()[1:]] == [
            ["10.0.0.2", "gone", "1", "1", "member-2"],
            ["127.0.0.1", "drained", "8", "16.0Gi", "4", "0"],
        ]


async def test_a_cluster_that_does_not_answer_is_said_and_asked_again() -> None:
    async with opened() as at:
        at.source.tell("web", anew=True)
        at.source.changes.put_nowait(Forbidden("it is closed"))
        await at.until("it is closed")
        assert [line.split()[0] for line in at.lines()[1:]] == ["web"], "what was known stays"
        at.source.tell("api", anew=True)
        async with asyncio.timeout(60):
            while [line.split()[0] for line in at.lines()[1:]] != ["api"]:
                await at.settled()
        assert "it is closed" not in at.text()


async def test_no_text_commands_the_terminal() -> None:
    evil = "\x1b]0;gone\x07"
    async with opened(size=(100, 12)) as at:
        at.source.name = f"told{evil}"
        row = Row(("shop", f"web{evil}"), (f"web{evil}",))
        at.source.changes.put_nowait(Change((Column(f"Name{evil}"),), [row], anew=True))
        at.source.changes.put_nowait(Forbidden(f"closed{evil}"))
        await at.until("closed?")
        assert at.lines()[0] == "NAME?]0;GONE?"
        assert "told?]0;gone?: pods" in at.text() and "\x1b" not in at.text()
        at.app._go(View(objects=replace(at.app.view.objects, namespace=f"a{evil}")))  # type: ignore[type-var]
        await at.until("in a?]0;gone?")
        assert "\x1b" not in at.text()
        at.source.changes.put_nowait(Change((Column("Name"),), [row], anew=True))
        await at.settled()
        await at.press("ctrl+d")
        assert "web?]0;gone?" in at.text() and "\x1b" not in at.text()
        await at.press("n", "d")
        await at.until("Name: web")
        assert "describe pod web?]0;gone?" in at.text() and "\x1b" not in at.text()
        await at.press("escape")

        async def refused() -> None:
            raise Forbidden(evil)

        await at.app._strike(evil)
        await at.app._try(refused)
        await at.settled()
        assert [told.message for told in at.app._notifications] == ["?]0;gone?"] * 2


async def test_columns_stand_under_their_heads_whatever_the_width_of_letters() -> None:
    async with opened(size=(12, 6)) as at:
        at.source.changes.put_nowait(
            Change((Column("\u540d"), Column("B")), [Row(("x",), ("\u4e16\u754c\u4e16", "b"))])
        )
        await at.settled()
        assert at.lines() == ["\u540d      B", "\u4e16\u754c\u4e16  b"]
        table = at.app.query_one(Table)
        assert [table.render_line(y).cell_length for y in range(2)] == [12, 12]


async def test_a_page_keeps_the_last_lines_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TEXT_MAX", 1000)

    async def kept(*lines: bytes) -> list[str]:
        written = asyncio.Event()

        async def pieces() -> AsyncGenerator[bytes, None]:
            for line in lines:
                yield line + b"\n"
            written.set()

        at.app.push_screen(Page("log", pieces(), ()))
        await written.wait()
        await at.settled()
        return list(at.app.screen.query_one(Log).lines)

    async with opened() as at:
        assert await kept(*(b"%02d" % i + b"x" * 98 for i in range(50))) == [f"{i}{'x' * 98}" for i in range(40, 50)]
        assert await kept(b"first", b"y" * 3000, b"", b"end") == [" ", "end"]
        assert await kept(b"first", b"y" * 3000) == ["y" * 3000]


def names_of(at: Screen) -> list[str]:
    return [line.split()[0] for line in at.lines()[1:]]


async def test_capital_letters_sort_by_their_column_and_again_the_other_way_round() -> None:
    columns = (Column("Name"), Column("Restarts"), Column("Memory"), Column("Age"))
    told = {"a": ("10 (5m ago)", "1Gi", 1), "b": ("2", "512Mi", 3), "c": ("<none>", "1.5Gi", 2)}
    rows = [
        Row(("", name), (name, restarts, memory, ""), f"2026-01-01T10:0{minute}:00Z")
        for name, (restarts, memory, minute) in told.items()
    ]
    async with opened(size=(80, 8)) as at:
        at.source.changes.put_nowait(Change(columns, rows, anew=True))
        await at.settled()
        orders = {"T": "bac", "M": "bac", "A": "bca", "N": "abc"}
        for letter, order in orders.items():
            await at.press(letter)
            assert "".join(names_of(at)) == order and "\u2191" in at.lines()[0], letter
            await at.press(letter)
            assert "".join(names_of(at)) == order[::-1] and "\u2193" in at.lines()[0], letter
        await at.press("G")
        assert at.app.query_one(Table).current == rows[0], "G still leads to the last"
        at.source.changes.put_nowait(Change(columns, [Row(("", "bb"), ("bb", "0", "", ""))], [("", "c")]))
        await at.settled()
        assert names_of(at) == ["bb", "b", "a"]
        await at.press("shift+right")
        assert names_of(at) == ["bb", "b", "a"] and "RESTARTS\u2191" in at.lines()[0]
        await at.press("Z")
        assert "no column begins with Z" in at.text()


async def test_numbers_are_namespaces() -> None:
    async with opened() as at:
        await at.until("0 all   1 default   2 shop")
        await at.press("2", "3", "1", "0")
        assert at.source.shown == ["pods", "pods shop", "pods default", "pods"]


async def test_shells_are_of_pods_and_what_is_behind_a_page_does_nothing() -> None:
    async with opened() as at:
        at.source.tell("web", anew=True)
        await at.settled()
        await at.press("s")
        outside = at.app._outside
        assert isinstance(outside, Asides) and outside.shells == [("shop", "web")]
        await at.press("x")
        await at.until("Pod web *")
        await at.press("s", "ctrl+d")
        assert isinstance(at.app.screen, Page) and len(outside.shells) == 1
        await at.press("escape", "v")
        assert at.source.shown[-1] == "events shop involvedObject.name=web,involvedObject.kind=Pod"
        await at.press("r")
        assert "told: events" in at.text()
