"""What programs read: every command tells it as JSON, but for those whose reason stands here."""

import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from rayplane.control_plane.cli import chaos
from rayplane.control_plane.cli.app import run
from rayplane.control_plane.cli.kinds import Kinds
from rayplane.control_plane.cli.session import Session, Terminal
from rayplane.control_plane.cli.trace import Filter, _print
from rayplane.control_plane.cluster import draining
from rayplane.control_plane.cluster.in_memory import AsyncFake
from rayplane.proto.rayplane.v1 import chaos_pb2
from rayplane.storage.env import SystemClock
from tests.cli.whole import whole

A_PATH_OR_TEXT = "one value, which is all of its output"
A_DOCUMENT = "its output is a document for programs already"
OTHERS = "the output is that of another program"
SCREEN = "a screen or a page for people"
RUNS_ON = "runs until it is ended; its answers are the log's, or those of its port"
IMAGES = "`image list -o json` tells what is there"
WITHOUT = {
    "kubeconfig": A_PATH_OR_TEXT,
    "token create": A_PATH_OR_TEXT,
    "token delete": A_PATH_OR_TEXT,
    "completion": A_DOCUMENT,
    "chaos schema": A_DOCUMENT,
    "stages": A_DOCUMENT,
    "exec": OTHERS,
    "logs": OTHERS,
    "logs-of": OTHERS,
    "test-env run": OTHERS,
    "test-env stop": "says nothing",
    "describe": SCREEN,
    "top": SCREEN,
    "learn": SCREEN,
    "dashboard": SCREEN,
    "debug": SCREEN,
    "operate": RUNS_ON,
    "join": RUNS_ON,
    **{f"image {one}": IMAGES for one in ("load", "save", "build", "map", "tag", "rm", "prune")},
}


def commands(found: Any, trail: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Every command with its options."""
    inner = getattr(found, "commands", None)
    if inner is None:
        yield " ".join(trail), {option for p in found.params for option in p.opts}
        return
    for name, one in inner.items():
        yield from commands(one, (*trail, name))


def test_every_command_speaks_json_or_has_a_reason() -> None:
    silent = {name for name, options in commands(whole()) if not {"-o", "--json"} & options}
    assert silent == WITHOUT.keys()


@pytest.mark.parametrize(
    "command",
    [
        *("status", "endpoints", "get pods", "explain pod", "why pod/a", "trace", "trace -- true", "add node"),
        *("undrain machine 10.0.0.1", "chaos list", "image list", "token list", "diff --from=-1m"),
        *("chaos kill leader", "chaos stop leader", "chaos continue leader", "chaos end 7", "chaos heal"),
    ],
)
def test_what_fails_prints_nothing_that_is_no_json(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = command.split(" -- ")
    place = ["--state-dir", str(tmp_path / "none"), "-o", "json"]
    assert run([*name.split(), *place, *(["--", *rest] if rest else [])]) != 0
    out, err = capsys.readouterr()
    assert err and (not out or json.loads(out))


def test_down_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["down", "--purge", "--state-dir", str(tmp_path / "none"), "-o", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"name": "default", "existed": False, "purged": False, "left": []}


BEGUN = chaos_pb2.ActiveFault(id="7", fault="slow_network: {delay: 20ms, for: 1h}", hit=["member-0"], by="me")
AS_JSON = {"id": "7", "fault": BEGUN.fault, "hit": ["member-0"], "by": "me"}


class OneFault:
    """The faults of a cluster, in which one stands."""

    async def Begin(self, *_: object, **__: object) -> chaos_pb2.ActiveFault:
        return BEGUN

    async def List(self, *_: object, **__: object) -> chaos_pb2.ListFaultsResponse:
        return chaos_pb2.ListFaultsResponse(faults=[BEGUN])

    async def End(self, *_: object, **__: object) -> chaos_pb2.EndResponse:
        return chaos_pb2.EndResponse(fault=BEGUN)


@pytest.mark.parametrize("command", [["inject", BEGUN.fault], ["end", BEGUN.id]])
def test_a_fault_is_told_as_those_that_stand_are(
    command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who begins one is told its id, to end it by."""

    @asynccontextmanager
    async def access(_: object) -> AsyncIterator[Any]:
        yield SimpleNamespace(faults=OneFault())

    monkeypatch.setattr(chaos, "access", access)
    assert run(["chaos", *command, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == AS_JSON
    assert run(["chaos", "list", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"faults": [AS_JSON]}


WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: nginx}]}
"""


@pytest.mark.parametrize(
    ("command", "change", "code"),
    [
        ("apply -f web.yaml", "configured", 0),
        ("scale deployment/web --replicas 2", "scaled", 0),
        ("delete deployment web", "deleted", 0),
        ("delete deployment web none", "deleted", 1),
        ("rewind --to=1 --dry-run deployments", "would be deleted", 0),
        ("rewind --to=1 --yes deployments", "deleted", 0),
    ],
)
def test_what_became_of_objects_is_told_as_diff_tells_it(
    command: str,
    change: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where one of several is not there."""
    (tmp_path / "web.yaml").write_text(WEB.replace("nginx", "nginx:2"))
    monkeypatch.chdir(tmp_path)

    @asynccontextmanager
    async def session(_: object, namespace: str) -> AsyncIterator[Session]:
        async with AsyncFake() as fake:
            await fake.api.create("deployments.apps", yaml.safe_load(WEB))
            terminal = Terminal(sys.stdout.buffer, sys.stderr.buffer)
            yield Session(fake.api, fake.etcd, fake.network, Kinds(fake.api), SystemClock(), terminal, namespace)

    monkeypatch.setattr("rayplane.control_plane.cli.session.session", session)
    assert run([*command.split(), "-o", "json"]) == code
    [told] = json.loads(capsys.readouterr().out)["changes"]
    assert told == {"kind": "Deployment", "namespace": "default", "name": "web", "change": change}


def test_a_machine_that_is_not_empty(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    async def left(*_: object, **__: object) -> list[str]:
        return ["pod a/b is nobody's: [--force]"]

    monkeypatch.setattr(draining, "drain", left)
    assert run(["drain", "machine", "10.0.0.1", "-o", "json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == {"machine": "10.0.0.1", "drained": False, "left": ["pod a/b is nobody's: [--force]"]}
    assert run(["drain", "machine", "10.0.0.1"]) == 1
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "left: pod a/b is nobody's: [--force]",
        "10.0.0.1 is NOT empty",
    ]


def test_requests_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    entries = [{"path": "/a", "seconds": 2.0}, {"path": "/b", "seconds": 0.0}]
    _print(entries, Filter(seconds=1.0, as_json=True))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == entries[:1]
