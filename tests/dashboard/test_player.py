"""What the player answers of a recording, good or bad, without any cluster."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rayplane.control_plane.dashboard import Player
from rayplane.control_plane.recordings import read
from rayplane.control_plane.recordings.tape import DEPTH_MAX
from tests.recordings.made import END, HEAD, packed, web

Ask = Callable[..., Awaitable[Any]]
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}


@pytest.fixture
async def played(tmp_path: Path) -> AsyncIterator[Callable[[bytes], Awaitable[Ask]]]:
    """Opens a recording; what is asked of it gives the JSON, and with `code` that it was refused so."""
    async with AsyncExitStack() as stack:

        async def opened(data: bytes) -> Ask:
            (tmp_path / "file").write_bytes(data)
            player = Player(read(tmp_path / "file"))
            await player.start()
            stack.push_async_callback(player.close)
            session = await stack.enter_async_context(aiohttp.ClientSession(f"http://{player.address}"))

            async def ask(path: str, *, code: int = 200, method: str = "GET", key: str = "", **headers: str) -> Any:
                shown = {"Authorization": f"Bearer {key or player.key}", **headers}
                async with session.request(method, f"/{path}", headers=shown) as answer:
                    assert answer.status == code, await answer.text()
                    return await answer.json(content_type=None) if "json" in answer.content_type else answer

            return ask

        yield opened


Played = Callable[[bytes], Awaitable[Ask]]


async def test_each_view_is_as_it_was(played: Played) -> None:
    ask = await played(web())
    span = await ask("rayplane/v1/history?at=2500")
    assert [span[one]["position"] for one in ("oldest", "at", "newest")] == [0, 2500, 8000]
    assert span["at"] == {"revision": 12, "time": "2026-01-01T00:00:02.500000Z", "position": 2500}

    [row] = (await ask("api/v1/namespaces/default/pods?at=2500", **TABLE))["rows"]
    assert row["cells"][:4] == ["web", "0/1", "Running", "0"] and row["cells"][4] == "102s"
    assert not (await ask("api/v1/pods?at=6000"))["items"]
    assert not (await ask("api/v1/pods?at=2500&labelSelector=a%3Db"))["items"]
    [found] = (await ask("api/v1/nodes?at=2500&fieldSelector=metadata.name%3Dnode-0"))["items"]
    assert found["kind"] == "Node"

    packing = await ask("rayplane/v1/packing?at=2500")
    assert packing["nodes"]["node-0"]["held"] == {"Pod/default/web": [1, 1000, 0]}
    assert (await ask("rayplane/v1/packing?at=1500"))["pendingCount"] == 1
    assert (await ask("rayplane/v1/control-plane?at=1000"))["members"] == [
        {"name": "member-0", "leader": True, "term": 2}
    ]

    diff = await ask("rayplane/v1/changes?from=1500&to=2500")
    [changed] = diff["changes"]
    assert (changed["change"], changed["name"]) == ("changed", "web")
    assert [f["after"] for f in changed["fields"] if f["path"] == "spec.nodeName"] == ["node-0"]

    told = await ask("rayplane/v1/recording")
    assert (told["name"], told["seed"], told["ok"], told["failures"]) == ("web", 7, False, ["it took too long"])
    assert [(m["kind"], m["from"], m["until"]) for m in told["marks"]] == [
        ("fault", 3000, 5000),
        ("violation", 4000, 4000),
    ]
    kinds = await ask("api", Accept="application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
    assert "pods" in {one["resource"] for one in kinds["items"][0]["versions"][0]["resources"]}


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("rayplane/v1/history?at=x", 400),
        ("rayplane/v1/history?at=-1", 400),
        ("rayplane/v1/changes?from=1", 400),
        ("rayplane/v1/faults", 404),
        ("api/v1/pods/web", 404),
        ("api/v1/pods?watch=true", 404),
        ("api/v1/events", 404),
        ("api/v1/pods?fieldSelector=spec.nodeName%3Dx", 400),
        ("api/v1/pods?labelSelector=%3D%3D%3D", 400),
        ("apis/nobody/v1/things", 404),
        ("main.js", 404),
        ("recording/../gateway.py", 404),
    ],
)
async def test_what_a_recording_has_not_is_refused(played: Played, path: str, code: int) -> None:
    await (await played(web()))(path, code=code)


async def test_only_the_key_opens_it_and_nobody_writes(played: Played) -> None:
    ask = await played(web())
    await ask("api/v1/pods", code=403, key="a-token")
    await ask("rayplane/v1/history", code=403, key="a-token")
    await ask("api/v1/pods", code=405, method="POST")
    assert (await ask("recording/")).content_type == "text/html"


def told(resource: str, **obj: Any) -> dict[str, Any]:
    return {"at": 1, "revision": 1, "resource": resource, "object": {"metadata": {"name": "a"}, **obj}}


THING = told("things.example.com", apiVersion="example.com/v1", kind="Thing")
THINGS = "apis/example.com/v1/things"


async def test_a_definition_without_what_each_has_is_refused_where_it_is_asked_for(played: Played) -> None:
    crd = told("customresourcedefinitions.apiextensions.k8s.io", spec={"versions": [{}]})
    crd["object"]["metadata"]["name"] = "things.example.com"
    ask = await played(packed(HEAD, THING, crd, END))
    assert "none of its kind" in (await ask(THINGS, code=400, **TABLE))["message"]
    assert (await ask(THINGS))["items"]


async def test_an_object_that_is_nested_as_deep_as_any_recorded_one_is_shown(played: Played) -> None:
    deep: Any = {}
    for _ in range(DEPTH_MAX - 2):
        deep = {"a": deep}
    before, after = (THING | {"object": THING["object"] | {"spec": spec}} for spec in ({"a": 1}, deep))
    ask = await played(packed(HEAD, before, after | {"at": 2}, END))
    assert (await ask(THINGS))["items"][0]["spec"] == deep
    assert (await ask(THINGS, **TABLE))["rows"]
    assert (await ask("rayplane/v1/changes?from=1500&to=2500"))["changes"]


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (told("pods", spec=[]), "api/v1/pods"),
        (told("pods", spec={"containers": [{"resources": {"requests": {"cpu": "many"}}}]}), "rayplane/v1/packing"),
        (told("nodes", status="x"), "rayplane/v1/packing"),
        (told("deployments.apps", spec={"selector": 1}), "apis/apps/v1/deployments"),
        (told("jobs.batch", status={"startTime": "never"}), "apis/batch/v1/jobs"),
        (told("things.example.com", apiVersion="example.com/v1", kind="Thing", spec=1), "apis/example.com/v1/things"),
        (told("things.example.com", apiVersion="example.com/v1", kind="Thing", metadata={"name": "a", "labels": 1}),
         "apis/example.com/v1/things"),
        (told("things.example.com", kind="Thing"), "apis"),
    ],
)  # fmt: skip
async def test_an_object_that_is_none_of_its_kind_spoils_no_more_than_itself(
    played: Played, line: Any, path: str
) -> None:
    ask = await played(packed(HEAD, line, END))
    for at in ("?at=0", "?at=5000", "?at=5000&labelSelector=a%3Db"):
        try:
            await ask(path + at, **TABLE)
        except AssertionError:
            refused = await ask(path + at, code=400, **TABLE)
            assert "none of its kind" in refused["message"]
    assert await ask("rayplane/v1/history")
