"""What keys of the terminal view do to objects: on an API server in memory, without a cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from rayplane.control_plane.api.errors import NotFound
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.session import Session, Terminal
from rayplane.control_plane.cli.top.forwards import Forwards, parse_ports
from rayplane.control_plane.cli.top.rows import Column, Rows
from rayplane.control_plane.cluster.errors import ClusterError, UsageError
from rayplane.proto.rayplane.v1 import pods_pb2 as pb
from rayplane.storage.env import SystemClock
from rayplane.testing import AsyncFake

pytest.importorskip("textual", reason="this environment is older than rayplane top: pip install .")

from textual.pilot import Pilot

from rayplane.control_plane.cli.top.app import Top
from rayplane.control_plane.cli.top.pages import Page
from rayplane.control_plane.cli.top.source import ClusterSource, _row
from rayplane.control_plane.cli.top.views import first_view
from tests.cli.test_top import Asides

LABELS = {"app": "web"}
TEMPLATE = {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
SPEC = {"replicas": 1, "selector": {"matchLabels": LABELS}, "template": TEMPLATE}


class Screen:
    """The view of one Deployment, with what it owns."""

    def __init__(self, app: Top, pilot: Pilot[None], fake: AsyncFake, outside: Asides) -> None:
        self.app, self.pilot, self.fake, self.outside = app, pilot, fake, outside

    async def until(self, text: str) -> str:
        """What is on the screen when the text is."""
        async with asyncio.timeout(60):
            while text not in (seen := self.text()):
                await self.pilot.pause()
                self.app._draw()
        return seen

    async def said(self, text: str) -> None:
        async with asyncio.timeout(60):
            while not any(text in one.message for one in self.app._notifications):
                await self.pilot.pause()

    def text(self) -> str:
        strips = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in strip) for strip in strips)

    async def deployment(self) -> Object:
        return await self.fake.api.get("deployments.apps", "web", "default")


async def made(fake: AsyncFake) -> None:
    owner: Any = None
    for resource, kind, spec in (
        ("deployments.apps", "Deployment", SPEC),
        ("replicasets.apps", "ReplicaSet", SPEC),
        ("pods", "Pod", TEMPLATE["spec"]),
    ):
        metadata: Any = {"name": "web", "namespace": "default", "labels": LABELS}
        metadata |= {"ownerReferences": [owner]} if owner else {}
        version = "apps/v1" if "." in resource else "v1"
        obj = {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}
        created = await fake.api.create(resource, obj)
        owner = {"apiVersion": version, "kind": kind, "name": "web", "uid": created["metadata"]["uid"]}
        owner |= {"controller": True}


@asynccontextmanager
async def opened(kind: str = "deployments") -> AsyncIterator[Screen]:
    async with AsyncFake() as fake:
        await made(fake)
        silent: Any = SimpleNamespace(write=lambda _: None, flush=lambda: None)
        terminal = Terminal(silent, silent)
        session = Session(fake.api, fake.etcd, fake.network, Kinds(fake.api), SystemClock(), terminal)
        admin: Any = SimpleNamespace(state=SimpleNamespace(config=SimpleNamespace(name="fake")))
        source, outside = ClusterSource(admin, session), Asides()
        app = Top(source, await first_view(source, kind, "default"), outside)
        async with app.run_test(size=(100, 30)) as pilot:
            screen = Screen(app, pilot, fake, outside)
            await screen.until("in default (1)")
            yield screen


async def test_what_was_edited_is_checked_shown_as_a_difference_and_written() -> None:
    async with opened() as at:
        at.outside.edits = [
            lambda text: text.replace("replicas: 1", "replicas: many"),
            lambda text: text.replace("replicas: many", "replicas: 3"),
        ]
        await at.pilot.press("e")
        assert "replicas" in await at.until("Edit it again?")
        # Somebody else writes meanwhile what was not edited.
        await at.fake.api.patch("deployments.apps", "web", "default", {"metadata": {"labels": {"theirs": "yes"}}})
        await at.pilot.press("y")
        seen = await at.until("Change deployment web so?")
        assert "-  replicas: 1" in seen and "+  replicas: 3" in seen
        assert (await at.deployment())["spec"]["replicas"] == 1, "not before a yes"
        await at.pilot.press("y")
        await at.said("deployment web edited")
        after = await at.deployment()
        assert after["spec"]["replicas"] == 3 and after["metadata"]["labels"] == LABELS | {"theirs": "yes"}


async def test_what_others_write_into_a_list_that_is_edited_is_not_undone_unseen() -> None:
    theirs = {"name": "c", "image": "nginx", "env": [{"name": "THEIRS"}]}
    async with opened() as at:
        read: list[str] = []

        def edited(text: str) -> str:
            read.append(text)
            return text.replace("image: nginx", "image: busybox")

        at.outside.edits = [edited, edited]
        await at.pilot.press("e")
        await at.until("Change deployment web so?")
        change = {"spec": {"template": {"spec": {"containers": [theirs]}}}}
        await at.fake.api.patch("deployments.apps", "web", "default", change)
        await at.pilot.press("y")
        await at.until("It was changed meanwhile")
        assert "image: nginx" in str(await at.deployment()).replace("'", "")
        await at.pilot.press("y")
        seen = await at.until("Change deployment web so?")
        assert "THEIRS" in seen, "that it would go is seen"
        assert "image: busybox" in read[1]
        await at.pilot.press("y")
        await at.said("deployment web edited")


async def test_an_edit_that_is_none_or_makes_another_object_writes_nothing() -> None:
    async with opened() as at:
        before = await at.deployment()
        at.outside.edits = [lambda text: text, lambda text: text.replace("  name: web\n", "  name: api\n", 1)]
        await at.pilot.press("e")
        await at.said("nothing was changed")
        await at.pilot.press("e")
        await at.until("metadata.name cannot be changed")
        await at.pilot.press("n")
        await at.pilot.pause()
        assert await at.deployment() == before


async def test_replicas_are_asked_for_and_rollouts_restarted() -> None:
    async with opened() as at:
        await at.pilot.press("s")
        await at.until("replicas of deployment web, now 1")
        await at.pilot.press("escape", "s")
        await at.until("replicas of deployment web, now 1")
        await at.pilot.press("4", "enter")
        await at.said("scaled to 4")
        assert (await at.deployment())["spec"]["replicas"] == 4
        await at.pilot.press("s")
        await at.until("now 4")
        await at.pilot.press("x", "enter")
        await at.said("'x' is no number of replicas")
        await at.pilot.press("r")
        await at.until("Restart deployment web?")
        await at.pilot.press("y")
        await at.said("restarted")
        annotations = (await at.deployment())["spec"]["template"]["metadata"]["annotations"]
        assert annotations.keys() == {"kubectl.kubernetes.io/restartedAt"}


async def test_owners_are_told_as_a_tree_and_jumped_to() -> None:
    async with opened("replicasets") as at:
        await at.pilot.press("x")
        seen = await at.until("ReplicaSet web")
        assert isinstance(at.app.screen, Page)
        lines = [line.rstrip() for line in seen.splitlines() if "web" in line][1:]
        assert [(line.count("    "), line.split()[0]) for line in lines] == [
            (0, "Deployment"),
            (1, "ReplicaSet"),
            (2, "Pod"),
        ]
        assert lines[1].endswith("*") and "Status Pending" in lines[2]
        await at.pilot.press("escape", "J")
        await at.until("deployments in default <metadata.name=web> (1)")
        await at.pilot.press("J")
        await at.until("deployment web has no owner")


class Echo:
    """In place of the pods: a port that gives back what it gets, until that ends."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()

    async def connection(self, asked: pb.PodConnection) -> "Echo":
        if asked.port == 81:
            raise NotFound('pods "web" not found')
        return self

    async def send(self, request: Any) -> None:
        await self.answers.put(request and pb.PodForwardResponse(data=request.data))

    async def receive(self) -> Any:
        return await self.answers.get()

    async def close(self) -> None:
        """Nothing to close."""


async def test_a_port_leads_to_the_pod_until_it_is_ended() -> None:
    async with opened("pods") as at:
        forwards = at.app._source.forwards
        forwards._pods = Echo()  # type: ignore[assignment]
        await at.pilot.press("F")
        await at.until("port of pod web")
        await at.pilot.press(*":80", "enter")
        await at.said("leads to port 80 of pod web")
        address = forwards.rows()[0].key[1]
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"hello"
        writer.close()
        await at.pilot.press("colon", *"pf", "enter")
        await at.until(address)
        with pytest.raises(ClusterError, match=rf"port {port} of .* cannot be had .*: choose another, or :80 for any"):
            await forwards.open(("default", "web"), int(port), 80)
        await at.pilot.press("ctrl+d")
        await at.until(f"End {address}?")
        await at.pilot.press("y")
        async with asyncio.timeout(60):
            while forwards.rows():
                await at.pilot.pause()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, int(port))


async def test_why_a_forwarded_connection_failed_is_shown() -> None:
    forwards = Forwards(Echo())  # type: ignore[arg-type]
    address = await forwards.open(("default", "web"), 0, 81)
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await reader.read() == b""
    writer.close()
    assert forwards.rows()[0].cells[-1] == 'pods "web" not found'
    await forwards.close_all()


@pytest.mark.parametrize(("text", "ports"), [("80", (80, 80)), ("8080:80", (8080, 80)), (":80", (0, 80))])
def test_ports_are_said_as_for_kubectl(text: str, ports: tuple[int, int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "0", "x", "1:x", "70000", "80:", "-1", "1:2:3"])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ports(text)


def test_an_object_is_not_found_by_the_age_that_it_had_when_it_was_told() -> None:
    columns = [Column("Name"), Column("Age")]
    obj = {"metadata": {"name": "web", "namespace": "shop", "creationTimestamp": "2026-01-01T10:00:00Z"}}
    rows = Rows()
    rows.columns = columns
    rows.put([_row(columns, {"object": obj, "cells": ["web", "99s"]}, spaced=False)])
    rows.select("99")
    assert len(rows) == 0
    assert rows.widths(wide=False)[1][1] > len("23h59m"), "an age has the place to grow"
