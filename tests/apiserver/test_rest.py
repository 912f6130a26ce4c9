"""The REST face: what stock clients depend on beyond the objects themselves."""

import asyncio
import io
import json
import struct
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from rayplane.control_plane.api.machinery import protobuf, protobuf_encoding
from rayplane.control_plane.client.history import History
from tests.apiserver.conftest import Stack

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


class Rest:
    def __init__(self, stack: Stack, session: aiohttp.ClientSession) -> None:
        self.stack = stack
        self._session = session
        self._base = f"http://{stack.servers[0].https_address}"

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        names = {k.replace("_", "-"): v for k, v in headers.items()}
        if data is not None:
            names.setdefault("Content-Type", "application/json")
        # As a file: what is given as bytes is sent in one piece, of which aiohttp warns where it is large.
        file = None if data is None else io.BytesIO(data)
        return self._session.request(method, self._base + path, data=file, headers=names)

    async def json(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        async with self.request(method, path, body, **headers) as response:
            return response.status, await response.json(content_type=None)


@pytest_asyncio.fixture
async def rest() -> AsyncIterator[Rest]:
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0")
    async with aiohttp.ClientSession() as session:
        yield Rest(stack, session)
    await stack.stop()


async def test_verbs_and_codes(rest: Rest) -> None:
    code, made = await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "a"}, "data": {"x": "1"}})
    assert (code, made["metadata"]["namespace"]) == (201, "default")
    made["data"]["x"] = "2"
    code, put = await rest.json("PUT", f"{CONFIG_MAPS}/a", made)
    assert (code, put["data"]) == (200, {"x": "2"})
    merge = {"Content_Type": "application/merge-patch+json"}
    code, patched = await rest.json("PATCH", f"{CONFIG_MAPS}/a", {"data": {"y": "3"}}, **merge)
    assert (code, patched["data"]) == (200, {"x": "2", "y": "3"})
    code, listed = await rest.json("GET", CONFIG_MAPS)
    assert listed["kind"] == "ConfigMapList"
    assert [i["metadata"]["name"] for i in listed["items"]] == ["a"]
    assert "kind" not in listed["items"][0]
    code, gone = await rest.json("DELETE", f"{CONFIG_MAPS}/a")
    assert (code, gone["status"], gone["details"]["name"]) == (200, "Success", "a")
    assert (await rest.json("GET", f"{CONFIG_MAPS}/a"))[0] == 404
    assert (await rest.json("PUT", CONFIG_MAPS, made))[0] == 405
    assert (await rest.json("POST", "/api/v1/configmaps", made))[0] == 405
    assert (await rest.json("GET", "/api/v1/nothings"))[0] == 404


async def test_a_long_list_is_whole_and_its_head_alone_can_be_had(rest: Rest) -> None:
    names = [f"c-{n:03}" for n in range(130)]
    for name in names:
        await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": name}})
    for path in (CONFIG_MAPS, f"{CONFIG_MAPS}?resourceVersion=0", f"{CONFIG_MAPS}?pretty=true"):
        async with rest.request("GET", path) as response:
            text = await response.read()
            assert int(response.headers["Content-Length"]) == len(text)
            assert [i["metadata"]["name"] for i in json.loads(text)["items"]] == names
        async with rest.request("HEAD", path) as response:
            assert (response.headers["Content-Length"], await response.read()) == (str(len(text)), b"")
    assert (await rest.json("GET", "/api/v1/namespaces/none/configmaps"))[1]["items"] == []


@pytest.mark.parametrize(
    ("version", "asked", "told"),
    [("1.1", "", None), ("1.1", "close", "close"), ("1.0", "", "close"), ("1.0", "keep-alive", "keep-alive")],
)
async def test_a_connection_stays_as_its_client_asks(rest: Rest, version: str, asked: str, told: str | None) -> None:
    host, _, port = rest.stack.servers[0].https_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    connection = f"Connection: {asked}\r\n" if asked else ""
    writer.write(f"GET {CONFIG_MAPS} HTTP/{version}\r\nHost: a\r\n{connection}\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    assert head.startswith(f"http/{version} 200 ok")
    assert (f"connection: {told}\r\n" in head) if told else ("connection:" not in head)
    if told == "close":
        await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_yaml_bodies_and_answers(rest: Rest) -> None:
    body = b"metadata:\n  name: y\ndata:\n  a: b\n"
    async with rest.request("POST", CONFIG_MAPS, body, Content_Type="application/yaml") as response:
        assert response.status == 201
    async with rest.request("GET", f"{CONFIG_MAPS}/y", Accept="application/yaml") as response:
        assert "a: b" in await response.text()


async def test_unknown_fields_are_warned_of_or_refused(rest: Rest) -> None:
    body = {"metadata": {"name": "w"}, "datas": {}}
    async with rest.request("POST", CONFIG_MAPS, body) as response:
        assert response.status == 201
        assert response.headers["Warning"] == '299 - "unknown field \\"datas\\""'
    code, status = await rest.json("POST", f"{CONFIG_MAPS}?fieldValidation=Strict", body)
    assert code == 400
    assert 'strict decoding error: unknown field "datas"' in status["message"]


async def test_dry_run_stores_nothing(rest: Rest) -> None:
    before = rest.stack.etcd.revision
    code, made = await rest.json("POST", f"{CONFIG_MAPS}?dryRun=All", {"metadata": {"name": "d"}})
    assert (code, made["metadata"]["name"]) == (201, "d")
    assert rest.stack.etcd.revision == before
    code, _status = await rest.json("POST", f"{CONFIG_MAPS}?dryRun=Some", {"metadata": {"name": "d"}})
    assert code == 422


async def test_server_prints_tables(rest: Rest) -> None:
    code, table = await rest.json("GET", "/api/v1/namespaces", Accept=TABLE)
    assert (code, table["kind"], table["apiVersion"]) == (200, "Table", "meta.k8s.io/v1")
    assert next(row["cells"][:2] for row in table["rows"]) == ["default", "Active"]
    _, one = await rest.json("GET", "/api/v1/namespaces/default", Accept=TABLE)
    assert len(one["rows"]) == 1
    _, refused = await rest.json("GET", "/api/v1/namespaces/none", Accept=TABLE)
    assert refused["kind"] == "Status"
    code, _ = await rest.json("GET", "/api/v1/namespaces", Accept="text/html")
    assert code == 406


async def test_tables_of_the_past_tell_ages_as_they_were(rest: Rest) -> None:
    _, made = await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "a"}})
    then = made["metadata"]["resourceVersion"]
    asked = f"{CONFIG_MAPS}?fieldSelector=metadata.name=a&resourceVersion={then}&resourceVersionMatch=Exact"

    async def age() -> str:
        _, table = await rest.json("GET", asked, Accept=TABLE)
        return str(table["rows"][0]["cells"][-1])

    assert await age() in ("0s", "1s"), "no time is noted yet"
    later = datetime.fromisoformat(made["metadata"]["creationTimestamp"]) + timedelta(hours=20)
    await History(rest.stack.etcd).tick(later, 1.0)  # type: ignore[arg-type]
    assert await age() == "20h"


async def test_watch_streams_lines_and_ends_with_its_timeout(rest: Rest) -> None:
    _, listed = await rest.json("GET", CONFIG_MAPS)
    version = listed["metadata"]["resourceVersion"]
    query = f"watch=true&resourceVersion={version}&timeoutSeconds=1"
    async with rest.request("GET", f"{CONFIG_MAPS}?{query}") as response:
        await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "a"}})
        await rest.json("DELETE", f"{CONFIG_MAPS}/a")
        lines = [json.loads(line) async for line in response.content]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in lines] == [("ADDED", "a"), ("DELETED", "a")]
    assert int(lines[1]["object"]["metadata"]["resourceVersion"]) > int(version)


async def test_watch_in_tables_sends_columns_once(rest: Rest) -> None:
    query = "watch=true&resourceVersion=0&timeoutSeconds=1"
    async with rest.request("GET", f"/api/v1/namespaces?{query}", Accept=TABLE) as response:
        tables = [json.loads(line)["object"] async for line in response.content]
    assert len(tables) == 4
    assert tables[0]["columnDefinitions"]
    assert all(len(t["rows"]) == 1 for t in tables)


async def test_watch_list_ends_initial_events_with_a_bookmark(rest: Rest) -> None:
    query = (
        "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        "&timeoutSeconds=1&fieldSelector=metadata.name%3Ddefault"
    )
    async with rest.request("GET", f"/api/v1/namespaces?{query}") as response:
        events = [json.loads(line) async for line in response.content]
    assert [e["type"] for e in events] == ["ADDED", "BOOKMARK"]
    assert events[1]["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_too_old_watch_gets_an_error_event(rest: Rest) -> None:
    etcd = rest.stack.etcd
    for _i in range(1200):
        await etcd.put(
            b"/registry/configmaps/default/x", b'{"metadata":{"name":"x"},"kind":"ConfigMap","apiVersion":"v1"}'
        )
    await rest.json("GET", CONFIG_MAPS)
    late = await rest.stack.add_server(https_address="127.0.0.1:0")
    rest._base = f"http://{late.https_address}"
    async with rest.request("GET", f"{CONFIG_MAPS}?watch=true&resourceVersion=5") as response:
        assert response.status == 200
        events = [json.loads(line) async for line in response.content]
    assert [(e["type"], e["object"]["code"], e["object"]["reason"]) for e in events] == [("ERROR", 410, "Expired")]


async def test_idle_watch_leaves_with_its_client(rest: Rest) -> None:
    hub = rest.stack.servers[0].registry.hub

    def watchers() -> int:
        return sum(c.watcher_count for c in hub.loaded() if c.info.name == "configmaps")

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0.01)

    async with rest.request("GET", f"{CONFIG_MAPS}?watch=true&resourceVersion=0"):
        await until(lambda: watchers() == 1)
    await until(lambda: watchers() == 0)


async def test_discovery_answers_304_to_who_has_it(rest: Rest) -> None:
    async with rest.request("GET", "/apis") as response:
        etag = response.headers["ETag"]
        assert (await response.json())["kind"] == "APIGroupList"
    async with rest.request("GET", "/apis", If_None_Match=etag) as response:
        assert response.status == 304
    aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    async with rest.request("GET", "/apis", Accept=aggregated) as response:
        assert response.headers["Content-Type"] == aggregated
        assert (await response.json())["kind"] == "APIGroupDiscoveryList"
    _, root = await rest.json("GET", "/openapi/v3")
    code, document = await rest.json("GET", root["paths"]["apis/apps/v1"]["serverRelativeURL"])
    assert (code, document["openapi"]) == (200, "3.0.0")
    code, document = await rest.json("GET", "/openapi/v2")
    assert (code, document["swagger"]) == (200, "2.0")
    protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
    async with rest.request("GET", "/openapi/v2", Accept=protobuf) as response:
        assert response.content_type.endswith("+protobuf")
        assert (await response.read()).startswith(b"\n\x032.0")
    async with rest.request("GET", "/openapi/v2", Accept="text/html") as response:
        assert response.status == 406
    assert (await rest.json("GET", "/openapi/v4"))[0] == 404


async def test_an_openapi_document_may_be_kept_under_the_url_that_names_its_hash(rest: Rest) -> None:
    _, root = await rest.json("GET", "/openapi/v3")
    url = root["paths"]["apis/apps/v1"]["serverRelativeURL"]
    async with rest.request("GET", url) as response:
        assert response.headers["Cache-Control"] == "public, immutable"
        assert parsedate_to_datetime(response.headers["Expires"]).tzinfo is not None
        etag, body = response.headers["ETag"], await response.read()
    assert url.endswith(f"?hash={etag.strip(chr(34))}")
    async with rest.request("GET", "/openapi/v3/apis/apps/v1") as response:
        assert await response.read() == body and "Expires" not in response.headers
    async with rest.request("GET", url, If_None_Match=etag) as response:
        assert response.status == 304
    protobuf = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
    async with rest.request("GET", url, Accept=protobuf) as response:
        assert (response.status, response.headers["ETag"]) == (200, etag)
        assert (await response.read()).startswith(b"\n\x053.0.0")
    stale = "/openapi/v3/apis/apps/v1?hash=00"
    async with rest.request("GET", stale) as response:
        assert [one.status for one in response.history] == [301]
        assert response.url.path_qs == url


async def test_health_and_metrics(rest: Rest) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/readyz/etcd"):
        async with rest.request("GET", path) as response:
            assert (response.status, await response.text()) == (200, "ok"), path
    async with rest.request("GET", "/readyz?verbose&exclude=etcd&exclude=nothing") as response:
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert (await response.text()).splitlines() == [
            "[+]ping ok",
            "[+]log ok",
            "[+]etcd excluded: ok",
            "[+]shutdown ok",
            'warn: some health checks cannot be excluded: no matches for "nothing"',
            "readyz check passed",
        ]
    async with rest.request("GET", "/livez/shutdown") as response:
        assert response.status == 404
    async with rest.request("GET", "/metrics") as response:
        page = await response.text()
    assert 'apiserver_storage_objects{resource="namespaces"} 4.0' in page
    found = {sample.name: sample for family in text_string_to_metric_families(page) for sample in family.samples}
    assert found["apiserver_current_inflight_requests"].value == 0
    assert found["process_cpu_seconds_total"].value > 0
    rest.stack.servers[0].ready = False
    async with rest.request("GET", "/readyz") as response:
        assert response.status == 500
        assert (await response.text()).endswith("[-]shutdown failed: reason withheld\nreadyz check failed\n")
    async with rest.request("GET", "/readyz/shutdown") as response:
        assert (response.status, await response.text()) == (500, "internal server error: process is shutting down\n")
    async with rest.request("GET", "/livez") as response:
        assert response.status == 200


async def test_a_server_tells_what_it_runs_with_since_when_and_how_it_was(rest: Rest) -> None:
    for path in ("/livez", "/readyz?exclude=etcd", "/readyz/etcd"):
        async with rest.request("GET", path) as response:
            assert response.status == 200
    async with rest.request("GET", "/metrics/slis") as response:
        slis = await response.text()
    assert 'kubernetes_healthcheck{name="shutdown",type="readyz"} 1.0' in slis
    assert 'kubernetes_healthchecks_total{name="etcd",status="success",type="livez"} 1.0' in slis
    assert 'name="etcd",type="readyz"' not in slis, "it was excluded, and asked for alone"
    async with rest.request("GET", "/flagz") as response:
        assert "limits-requests-in-flight=128" in (await response.text()).splitlines()
    structured = "application/json;v=v1beta1;g=config.k8s.io;as=Statusz"
    async with rest.request("GET", "/statusz", Accept=structured) as response:
        told = await response.json()
    assert told["metadata"] == {"name": "kube-apiserver"} and {"/healthz", "/version"} < {*told["paths"]}
    async with rest.request("GET", "/") as response:
        assert {"/flagz", "/metrics/slis", "/statusz"} < {*(await response.json())["paths"]}


@pytest.mark.parametrize(
    ("path", "selector", "code"),
    [
        ("watch/namespaces/default/configmaps/a", "metadata.name=b", 400),
        ("watch/namespaces/default/configmaps/a", "metadata.namespace=default", 400),
        ("watch/namespaces/default/configmaps/a", "metadata.name!=a", 400),
        ("watch/namespaces/default/configmaps/a", "metadata.name=a,metadata.namespace=default", 200),
        ("namespaces/default/configmaps", "metadata.name=a,metadata.name=b", 200),
    ],
)
async def test_who_watches_one_object_selects_no_other(rest: Rest, path: str, selector: str, code: int) -> None:
    async with rest.request("GET", f"/api/v1/{path}?fieldSelector={selector}&timeoutSeconds=1") as response:
        assert response.status == code
        if code == 400:
            status = await response.json()
            told = (status["reason"], status["message"])
            assert told == ("BadRequest", "fieldSelector metadata.name doesn't match requested name")


async def test_bad_requests_are_told_what_is_wrong(rest: Rest) -> None:
    for query, message in (
        ("limit=abc", 'strconv.ParseInt: parsing "abc": invalid syntax'),
        ("fieldSelector=spec.bogus%3Dx", "is not a known field selector"),
        ("continue=zzz", "continue key is not valid"),
    ):
        code, status = await rest.json("GET", f"{CONFIG_MAPS}?{query}")
        assert code == 400
        assert message in status["message"]
    code, status = await rest.json("POST", CONFIG_MAPS, b"x" * (3 * 1024 * 1024 + 1))
    assert (code, status["reason"]) == (413, "RequestEntityTooLarge")
    code, status = await rest.json("POST", CONFIG_MAPS, b"{", Content_Type="text/plain")
    assert code == 415


async def test_server_side_apply_owns_fields(rest: Rest) -> None:
    apply = {"Content_Type": "application/apply-patch+yaml"}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s"}, "data": {"a": "1"}}
    path = f"{CONFIG_MAPS}/s?fieldManager="
    assert (await rest.json("PATCH", path + "one", body, **apply))[0] == 201
    body["data"] = {"a": "2"}
    code, status = await rest.json("PATCH", path + "two", body, **apply)
    assert (code, status["message"]) == (409, 'Apply failed with 1 conflict: conflict with "one": .data.a')
    code, forced = await rest.json("PATCH", path + "two&force=true", body, **apply)
    assert (code, forced["data"]) == (200, {"a": "2"})
    assert [m["manager"] for m in forced["metadata"]["managedFields"]] == ["two"]


async def test_delete_collection_takes_what_is_selected(rest: Rest) -> None:
    for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": name, "labels": {"color": color}}})
    code, gone = await rest.json("DELETE", f"{CONFIG_MAPS}?labelSelector=color%3Dred")
    assert (code, [i["metadata"]["name"] for i in gone["items"]]) == (200, ["a", "c"])
    _, left = await rest.json("GET", CONFIG_MAPS)
    assert [i["metadata"]["name"] for i in left["items"]] == ["b"]


async def test_two_versions_of_one_kind(rest: Rest) -> None:
    event = {
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Tested",
        "type": "Normal",
        "note": "a note",
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "reportingController": "test",
        "reportingInstance": "t-1",
        "action": "Test",
    }
    code, made = await rest.json("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event)
    assert code == 201, made
    query = "fieldSelector=involvedObject.name%3Dp"
    _, listed = await rest.json("GET", f"/api/v1/namespaces/default/events?{query}")
    assert [(e["message"], e["involvedObject"]["name"]) for e in listed["items"]] == [("a note", "p")]
    query = "fieldSelector=regarding.name%3Dp"
    _, listed = await rest.json("GET", f"/apis/events.k8s.io/v1/namespaces/default/events?{query}")
    assert [e["note"] for e in listed["items"]] == ["a note"]


async def test_the_paths_that_are_no_resources(rest: Rest) -> None:
    code, listed = await rest.json("GET", "/")
    assert code == 200
    assert {"/api", "/api/v1", "/apis/apps", "/apis/apps/v1", "/livez/etcd", "/version"} <= set(listed["paths"])
    assert await rest.json("GET", "/logs") == (404, listed)
    _, version = await rest.json("GET", "/version")
    assert (version["major"], version["minor"], version["minCompatibilityMinor"]) == ("1", "37", "36")
    async with rest.request("GET", "/openid/v1/jwks") as response:
        assert response.content_type == "application/jwk-set+json"
        assert response.headers["Cache-Control"] == "public, max-age=3600"
    _, found = await rest.json("GET", "/.well-known/openid-configuration")
    assert found["jwks_uri"] == found["issuer"] + "/openid/v1/jwks"


PROTOBUF = "application/vnd.kubernetes.protobuf"


async def test_who_takes_protobuf_alone_gets_it(rest: Rest) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "1"}}
    sent = {"Content_Type": PROTOBUF, "Accept": PROTOBUF}
    async with rest.request("POST", CONFIG_MAPS, protobuf_encoding.encode(body), **sent) as response:
        assert (response.status, response.content_type) == (201, PROTOBUF)
        made = protobuf.decode(await response.read())
    assert (made["kind"], made["data"]) == ("ConfigMap", {"x": "1"})
    async with rest.request("GET", CONFIG_MAPS, Accept=PROTOBUF) as response:
        listed = protobuf.decode(await response.read())
    assert (listed["kind"], [item["metadata"]["uid"] for item in listed["items"]]) == (
        "ConfigMapList",
        [made["metadata"]["uid"]],
    )
    as_json = await rest.json("GET", f"{CONFIG_MAPS}/a", Accept=f"{PROTOBUF},application/json")
    assert as_json[1] == made, "JSON costs nothing, where it is taken too"


async def test_a_watch_in_protobuf(rest: Rest) -> None:
    await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "a"}})
    query = "watch=true&resourceVersion=0&timeoutSeconds=1&fieldSelector=metadata.name=a"
    accept = f"{PROTOBUF};stream=watch,{PROTOBUF}"
    async with rest.request("GET", f"{CONFIG_MAPS}?{query}", Accept=accept) as response:
        assert response.headers["Content-Type"] == f"{PROTOBUF};stream=watch"
        (size,) = struct.unpack(">I", await response.content.readexactly(4))
        event = await response.content.readexactly(size)
    _, found = await rest.json("GET", f"{CONFIG_MAPS}/a")
    assert event == protobuf_encoding.encode_event("ADDED", found)[4:]


async def test_custom_resources_have_no_protobuf_form(rest: Rest) -> None:
    code, status = await rest.json("GET", "/apis/metrics.k8s.io/v1beta1/nodes", Accept=PROTOBUF)
    assert (code, status["reason"]) == (406, "NotAcceptable")


async def test_kinds_that_are_not_stored_have_tables_too(rest: Rest) -> None:
    code, table = await rest.json("GET", "/api/v1/componentstatuses", Accept=TABLE)
    assert (code, table["kind"]) == (200, "Table")
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Status", "Message", "Error"]
    assert [row["cells"] for row in table["rows"]] == [
        ["controller-manager", "Unhealthy", "nobody leads", ""],
        ["etcd-0", "Healthy", "ok", ""],
        ["scheduler", "Unhealthy", "nobody leads", ""],
    ]
    times = {"renewTime": "2100-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15}
    lease = {"metadata": {"name": "kube-scheduler"}, "spec": {"holderIdentity": "scheduler-0", **times}}
    await rest.json("POST", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases", lease)
    _, one = await rest.json("GET", "/api/v1/componentstatuses/scheduler")
    assert one["conditions"] == [{"type": "Healthy", "status": "True", "message": "ok"}]
    assert (await rest.json("GET", "/api/v1/componentstatuses/kubelet"))[0] == 404
    _, table = await rest.json("GET", "/apis/metrics.k8s.io/v1beta1/nodes", Accept=TABLE)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
