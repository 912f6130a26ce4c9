"""Custom resources whose versions a webhook converts, over HTTP: as tables, metadata and YAML, and watched."""

import asyncio
import json

import pytest
import yaml

from rayplane.control_plane.api.meta import Object
from tests.apiserver.test_conversion import V2, Converter, converted, converter, of  # noqa: F401
from tests.apiserver.test_definitions import CRDS, thing
from tests.apiserver.test_rest import TABLE, Rest, rest  # noqa: F401

OLD = "/apis/example.com/v1/namespaces/default/things"
METADATA = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"


async def define(rest: Rest, converter: Converter) -> None:  # noqa: F811
    client = rest.stack.client()
    columns = [{"name": "N", "type": "integer", "jsonPath": ".spec.n"}]
    await client.create(CRDS, converted(converter, of("v1", additionalPrinterColumns=columns), of("v2", storage=True)))
    for name, number in (("a", 1), ("b", 2)):
        await client.create(V2, thing({"count": number}, name))


async def test_every_view_is_of_the_version_that_is_asked_for(rest: Rest, converter: Converter) -> None:  # noqa: F811
    await define(rest, converter)
    code, listed = await rest.json("GET", OLD)
    assert (code, listed["apiVersion"], listed["kind"]) == (200, "example.com/v1", "ThingList")
    assert [(o["apiVersion"], o["spec"]) for o in listed["items"]] == [("example.com/v1", {"n": n}) for n in (1, 2)]
    _, table = await rest.json("GET", OLD, Accept=TABLE)
    assert [row["cells"][:2] for row in table["rows"]] == [["a", 1], ["b", 2]]
    _, one = await rest.json("GET", f"{OLD}/b", Accept=TABLE)
    assert one["rows"][0]["cells"][:2] == ["b", 2]
    _, partial = await rest.json("GET", OLD, Accept=METADATA)
    assert [set(o) for o in partial["items"]] == [{"kind", "apiVersion", "metadata"}] * 2
    async with rest.request("GET", OLD, Accept="application/yaml") as response:
        assert [o["spec"] for o in yaml.safe_load(await response.text())["items"]] == [{"n": 1}, {"n": 2}]
    _, page = await rest.json("GET", f"{OLD}?limit=1")
    assert [o["spec"] for o in page["items"]] == [{"n": 1}]
    _, page = await rest.json("GET", f"{OLD}?limit=1&continue={page['metadata']['continue']}")
    assert [o["spec"] for o in page["items"]] == [{"n": 2}]
    async with rest.request("GET", f"{OLD}?watch=true") as response:
        lines = [json.loads(await response.content.readline()) for _ in range(2)]
        assert [line["object"]["spec"] for line in lines] == [{"n": 1}, {"n": 2}]
    async with rest.request("GET", f"{OLD}?watch=true", Accept=TABLE) as response:
        line = json.loads(await response.content.readline())
        assert line["object"]["rows"][0]["cells"][:2] == ["a", 1]
    assert len(converter.reviews) == 1
    code, gone = await rest.json("DELETE", OLD)
    assert (code, [o["spec"] for o in gone["items"]]) == (200, [{"n": 1}, {"n": 2}])


@pytest.mark.parametrize("how", ["POST", "PUT", "PATCH"])
async def test_a_dry_run_asks_the_webhook_and_stores_nothing(rest: Rest, converter: Converter, how: str) -> None:  # noqa: F811
    await define(rest, converter)
    _, before = await rest.json("GET", f"{OLD}/a")
    paths = {"POST": OLD, "PUT": f"{OLD}/a", "PATCH": f"{OLD}/a"}
    body = {"POST": thing({"n": 9}, "c"), "PUT": {**before, "spec": {"n": 9}}, "PATCH": {"spec": {"n": 9}}}[how]
    headers = {"Content_Type": "application/merge-patch+json"} if how == "PATCH" else {}
    code, shown = await rest.json(how, f"{paths[how]}?dryRun=All", body, **headers)
    assert (code, shown["apiVersion"], shown["spec"]) == (201 if how == "POST" else 200, "example.com/v1", {"n": 9})
    _, after = await rest.json("GET", OLD)
    assert [o["spec"] for o in after["items"]] == [{"n": 1}, {"n": 2}]


async def test_a_failure_is_told_in_the_words_of_kubernetes(rest: Rest, converter: Converter) -> None:  # noqa: F811
    await define(rest, converter)
    converter.answer = lambda review: {"result": {"status": "Failure", "message": "no"}}
    text = "conversion webhook for example.com/v2, Kind=Thing failed: no"
    for path in (OLD, f"{OLD}/a"):
        code, status = await rest.json("GET", path)
        assert (code, status["message"], status.get("reason")) == (500, text, None)
    async with rest.request("GET", f"{OLD}?watch=true") as response:
        line = json.loads(await response.content.readline())
        assert (line["type"], line["object"]["message"]) == ("ERROR", text)
        assert await response.content.readline() == b""


async def test_who_asks_for_what_is_being_asked_for_waits(rest: Rest, converter: Converter) -> None:  # noqa: F811
    await define(rest, converter)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(review: Object) -> Object:
        asked.set()
        await go_on.wait()
        return {}

    converter.answer = slowly
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        left = group.create_task(rest.json("GET", OLD))
        await asked.wait()
        # Who asked first goes, and what was asked for comes all the same.
        left.cancel()
        one = group.create_task(rest.json("GET", f"{OLD}/a"))
        both = group.create_task(rest.stack.client().list("things.v1.example.com"))
        # Their requests are on their way; whether they come before or after the answer, nobody asks again.
        await asyncio.sleep(0)
        go_on.set()
    assert one.result()[1]["spec"] == {"n": 1}
    assert [o["spec"] for o in both.result().items] == [{"n": 1}, {"n": 2}]
    assert len(converter.reviews) == 1
