"""`rayplane trace`: what is shown of requests, and of which."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType

from rayplane.control_plane.cli.trace import Filter, Servers, _explained
from rayplane.control_plane.cli.waterfall import overview, waterfall
from rayplane.control_plane.cluster.state import StateDir

ENTRY = {
    "id": "apiserver-0-7",
    "server": "apiserver-0",
    "at": "2026-01-01T00:00:00Z",
    "seconds": 0.1,
    "code": 403,
    "face": "REST",
    "method": "POST",
    "path": "/api/v1/namespaces/shop/pods\x1b[2J",
    "user": "alice",
    "flowSchema": "global-default",
    "message": 'pods is forbidden\x07: User "alice"',
    "steps": [
        {"name": "request", "depth": 0, "at": 0.0, "seconds": 0.1},
        {"name": "authorization", "depth": 1, "at": 0.05, "seconds": 0.025, "facts": {"decision": "forbid"}},
        {"name": "etcd", "depth": 1, "at": 0.09, "seconds": 0.000001},
    ],
    "stepsLeftOut": 3,
}


def shown(what: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, soft_wrap=True, highlight=False).print(what)
    return out.getvalue().splitlines()


def test_each_step_is_shown_where_it_was_in_the_whole() -> None:
    lines = shown(waterfall(ENTRY))
    assert lines[0] == "POST /api/v1/namespaces/shop/pods?[2J  403  100.00 ms"
    assert lines[1] == "  by alice  at 2026-01-01T00:00:00Z  id apiserver-0-7  flow schema global-default"
    assert lines[2] == '  pods is forbidden?: User "alice"'
    assert lines[3:6] == [
        "  request         ████████████████████   100.00 ms",
        "    authorization ··········█████·····    25.00 ms  decision: forbid",
        "    etcd          ··················▏·     0.00 ms",
    ]
    assert lines[6] == "  and 3 steps more"


def test_a_list_of_requests_has_a_line_for_each() -> None:
    lines = shown(overview([ENTRY, {**ENTRY, "id": "apiserver-1-1234", "code": 200}]))
    assert lines[0].split() == ["ID", "AT", "CODE", "TIME", "USER", "REQUEST"]
    assert [line.split()[0] for line in lines[1:3]] == ["apiserver-0-7", "apiserver-1-1234"]
    assert shown(overview([]))[0].startswith("ID")


@pytest.mark.parametrize(
    ("wanted", "takes"),
    [
        (Filter(), True),
        (Filter(user="alice", path="shop", seconds=0.05, face="REST"), True),
        (Filter(user="bob"), False),
        (Filter(path="nodes"), False),
        (Filter(seconds=0.2), False),
        (Filter(face="gRPC"), False),
    ],
)
def test_only_what_is_wanted_is_shown(wanted: Filter, takes: bool) -> None:
    assert wanted.takes(ENTRY) is takes


class Asked(Servers):
    """Servers that tell of the last moment alone."""

    async def news(self, wait_s: int) -> list[dict[str, Any]]:
        await asyncio.sleep(0)
        return [] if wait_s else [ENTRY]


@pytest.mark.processes
@pytest.mark.parametrize("as_json", [True, False])
async def test_programs_read_requests_and_nothing_of_what_was_run(
    as_json: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    servers = Asked(None, ())  # type: ignore[arg-type]
    command = ["sh", "-c", "echo a table; exit 3"]
    assert await _explained(StateDir(tmp_path), servers, command, Filter(as_json=as_json)) == 3
    out, err = capfd.readouterr()
    if as_json:
        assert {json.loads(line)["id"] for line in out.splitlines()} == {ENTRY["id"]} and err == "a table\n"
    else:
        assert out.startswith("a table\n") and err == ""
