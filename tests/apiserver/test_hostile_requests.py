"""Requests over HTTP that are meant to hurt: each is answered, none with a 500."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
from typing import Any
from urllib.parse import quote

import pytest

from rayplane.control_plane.apiserver.config import Timing
from rayplane.control_plane.apiserver.rest.resources import warning_texts
from tests.apiserver.conftest import Stack
from tests.apiserver.test_rest import CONFIG_MAPS, Rest, rest  # noqa: F401

WAIT_S = 20


async def said(rest: Rest, data: bytes) -> bytes:  # noqa: F811
    host, _, port = rest.stack.servers[0].https_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        answer = await reader.read()
    writer.close()
    return answer


def token(**fields: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps({"v": "meta.k8s.io/v1", **fields}).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=" + "9" * 5000, 400),
        ("limit=9223372036854775807", 200),
        ("limit=-5", 200),
        ("limit=" + quote("²"), 400),
        ("timeoutSeconds=" + "9" * 400, 400),
        ("timeoutSeconds=NaN", 400),
        ("resourceVersion=" + "9" * 1000, 400),
        ("resourceVersion=" + "9" * 5000, 400),
        ("resourceVersion=" + quote("²"), 400),
        ("resourceVersion=-1", 400),
        ("labelSelector=" + ",".join(f"a{n}" for n in range(5000)), 400),
        ("labelSelector=" + quote("a in (" + ",".join(str(n) for n in range(20_000)) + ")"), 200),
        ("labelSelector=" + quote("(" * 10_000), 400),
        ("labelSelector=" + "a" * 100_000, 400),
        ("fieldSelector=" + ",".join(["metadata.name=a"] * 5000), 400),
        ("fieldSelector=" + quote("\\" * 50_000), 400),
        ("continue=" + token(rv=1 << 80, start="a"), 400),
        ("continue=" + token(rv=-7, start="a"), 400),
        ("continue=" + token(rv=True, start="a"), 400),
        ("continue=" + token(rv=1.5, start="a"), 400),
        ("continue=" + token(rv=-1, start="../../secrets/default/x"), 400),
        ("continue=" + token(rv=-1, start="/registry/secrets/"), 400),
        ("continue=" + token(rv=-1, start=["a"]), 400),
        ("continue=" + base64.urlsafe_b64encode(b"[" * 2000).decode(), 400),
        ("continue=" + quote("é"), 400),
        ("pretty=" + "a" * 10_000, 200),
    ],
)
async def test_hostile_queries(rest: Rest, query: str, code: int) -> None:  # noqa: F811
    got, status = await rest.json("GET", f"{CONFIG_MAPS}?{query}")
    assert got == code, status


async def test_a_forged_token_never_leaves_what_is_listed(rest: Rest) -> None:  # noqa: F811
    await rest.json("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "zzz"}})
    for start in ("\x00", "zzzz", "\U0010ffff" * 10, "default/zzz"):
        code, found = await rest.json("GET", f"{CONFIG_MAPS}?limit=500&continue={token(rv=-1, start=start)}")
        assert (code, {i["kind"] for i in found.get("items", ()) if "kind" in i}) == (200, set())
        assert "zzz" not in json.dumps(found)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"405"),
        (b"GET http://evil/version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /version HTTP/1.0\r\n\r\n", b"200"),
        (b"GET //////..//%2e%2e/%00%ff HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404"),
        (b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: \xff\r\n\r\n", b"400"),
        (b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nImpersonate-User: \xed\xa0\x80\r\n\r\n", b"400"),
        (b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer \xff.a.b\r\n\r\n", b"400"),
        (b"GET /api/v1/pods/\xff HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"400"),
        ("GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\nUser-Agent: ü\r\n\r\n".encode(), b"200"),
    ],
)
async def test_odd_requests(rest: Rest, data: bytes, status: bytes) -> None:  # noqa: F811
    assert (await said(rest, data)).split(b" ")[1] == status


async def test_encodings_and_expectations(rest: Rest) -> None:  # noqa: F811
    bomb = gzip.compress(b" " * (100 << 20))
    code, status = await rest.json("POST", CONFIG_MAPS, bomb, Content_Encoding="gzip")
    assert (code, status["reason"]) == (415, "UnsupportedMediaType")
    body = json.dumps({"metadata": {"name": "expected"}}).encode()
    head = f"POST {CONFIG_MAPS} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\n"
    head += f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    host, _, port = rest.stack.servers[0].https_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(head.encode())
    async with asyncio.timeout(WAIT_S):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(body)
        assert (await reader.read()).startswith(b"HTTP/1.1 201")
    writer.close()


async def test_hostile_bodies(rest: Rest) -> None:  # noqa: F811
    """Over the wire, once each: `tests/api/test_budget.py` has the kinds."""
    yaml = "\n".join(["a0: &a0 [x,x]"] + [f"a{n}: &a{n} [" + f"*a{n - 1}," * 9 + "]" for n in range(1, 12)])
    code, status = await rest.json("POST", CONFIG_MAPS, yaml.encode(), Content_Type="application/yaml")
    assert code == 400 and "excessive aliasing" in status["message"]
    for opener in (b"[", b'{"a":'):
        code, status = await rest.json("POST", CONFIG_MAPS, opener * 200_000)
        assert code == 400
    code, status = await rest.json("POST", CONFIG_MAPS, b'{"data":[' + b"{}," * 600_000 + b"1]}")
    assert code == 413
    await rest.json("POST", CONFIG_MAPS, {"metadata": {"name": "patched"}, "data": {"a": "x" * 1000}})
    copies = [{"op": "copy", "from": "/data", "path": f"/data/c{n}"} for n in range(25)]
    patch = json.dumps(copies).encode()
    code, status = await rest.json("PATCH", f"{CONFIG_MAPS}/patched", patch, Content_Type="application/json-patch+json")
    assert code == 422 and "Unable to complete the copy" in json.dumps(status)
    garbage = b"k8s\x00" + bytes(range(256)) * 10
    code, status = await rest.json("POST", CONFIG_MAPS, garbage, Content_Type="application/vnd.kubernetes.protobuf")
    assert code == 400


async def test_a_body_of_unknown_fields_is_answered_with_a_few_warnings(rest: Rest) -> None:  # noqa: F811
    unknown = {f"field\r\nX-Forged: {n}": 1 for n in range(5000)}
    async with rest.request("POST", CONFIG_MAPS, {"metadata": {"name": "warned"}, **unknown}) as response:
        assert response.status == 201
        warnings = response.headers.getall("Warning")
        assert 0 < len(warnings) <= 100
        assert "X-Forged" not in response.headers
    code, status = await rest.json(
        "POST", f"{CONFIG_MAPS}?fieldValidation=Strict", {"metadata": {"name": "w"}, **unknown}
    )
    assert code == 400 and len(status["message"]) < 10_000


def test_warnings_are_cut_as_kubernetes_cuts_them() -> None:
    assert warning_texts(["a", "a", 'b"\\\n']) == ["a", 'b\\"\\\\ ']
    many = warning_texts([f"{n} " + "x" * 1000 for n in range(1000)])
    assert len(many) == 16 and {len(text) for text in many} == {256}


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_who_may_not_write_is_told_before_the_body_is_waited_for(rest: Rest, method: str) -> None:  # noqa: F811
    host, _, port = rest.stack.servers[0].https_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    path = CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/a"
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nImpersonate-User: nobody\r\nContent-Type: {kind}\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    async with asyncio.timeout(WAIT_S):
        assert (await reader.readline()).startswith(b"HTTP/1.1 403")
    writer.close()


@pytest.mark.parametrize("metadata", [{}, {"name": ""}, {"labels": {"a": "b"}}])
async def test_a_namespace_without_a_name_is_invalid(rest: Rest, metadata: dict[str, Any]) -> None:  # noqa: F811
    code, status = await rest.json("POST", "/api/v1/namespaces", {"metadata": metadata})
    text = 'Namespace "" is invalid: metadata.name: Required value: name or generateName is required'
    assert (code, status["message"]) == (422, text)


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"items": "x"}, 400),
        ({"items": {"properties": "x"}}, 400),
        ({"items": [{"type": "string"}]}, 422),
        ({"additionalProperties": 3}, 400),
        ({"additionalProperties": {"properties": 5}}, 400),
        ({"additionalItems": "x"}, 400),
        ({"dependencies": {"a": 5}}, 400),
        ({"dependencies": {"a": ["b"], "c": {"type": "string"}}}, 422),
        ({"additionalProperties": True}, 201),
    ],
)
async def test_schemas_are_schemas_at_every_depth(rest: Rest, part: dict[str, Any], code: int) -> None:  # noqa: F811
    schema = {"type": "object", "properties": {"spec": {"type": "object", **part}}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "foos", "kind": "Foo"}
    body = {
        "metadata": {"name": "foos.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "names": names, "versions": [version]},
    }
    got, answer = await rest.json("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
    assert got == code, answer


KEY = base64.b64encode(b"0" * 16).decode()
UPGRADE = (
    "GET /api/v1/namespaces?watch=1 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
).encode()


@pytest.mark.parametrize(
    "frames",
    [
        b"\x82\xff" + (1 << 62).to_bytes(8, "big") + b"mask",
        b"\x09\x80mask",
        b"\xf2\x80mask",
        b"\x80\x80mask",
        b"\x02\x80mask" + (b"\x00\xfe\xff\xffmask" + bytes(65535)) * 300,
    ],
    ids=["no end", "half a ping", "reserved bits", "nothing goes on", "no end in pieces"],
)
async def test_frames_that_are_none_end_a_watch_and_leave_nothing(
    rest: Rest,  # noqa: F811
    frames: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = rest.stack.servers[0].registry
    cache = await registry.hub.cache(registry.kinds.named("namespaces"))
    before = cache.watcher_count
    with contextlib.suppress(ConnectionError):
        assert b"101 Switching" in await said(rest, UPGRADE + frames)
    async with asyncio.timeout(WAIT_S):
        while cache.watcher_count > before or any(registry.fairness.in_flight.values()):
            await asyncio.sleep(0.01)
    assert "failed" not in caplog.text


async def test_a_chunked_body_that_drips_is_given_up_with_its_request() -> None:
    stack = Stack()
    server = await stack.add_server(https_address="127.0.0.1:0", timing=Timing(request_timeout_s=0.1))
    host, _, port = server.https_address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CONFIG_MAPS} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    try:
        async with asyncio.timeout(WAIT_S):
            assert (await reader.readline()).startswith(b"HTTP/1.1 504")
    finally:
        writer.transport.abort()
        await stack.stop()
