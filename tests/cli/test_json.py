"""What programs read: every command tells it as JSON, but for those whose reason stands here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayplane.control_plane.cli.app import run
from rayplane.control_plane.cli.trace import Filter, _print
from rayplane.control_plane.cluster import draining
from tests.cli.whole import whole

A_PATH_OR_TEXT = "one value, which is all of its output"
A_DOCUMENT = "its output is a document for programs already"
OTHERS = "the output is that of another program"
SCREEN = "a screen or a page for people"
RUNS_ON = "runs until it is ended; its answers are the log's, or those of its port"
LINES = "a line for each object, as kubectl has it; `get -o json` tells what is there"
FAULTS = "`chaos list -o json` tells what stands"
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
    **dict.fromkeys(("apply", "delete", "scale", "rewind"), LINES),
    **{f"chaos {one}": FAULTS for one in ("kill", "stop", "continue", "inject", "end", "heal")},
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
