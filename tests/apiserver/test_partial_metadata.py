"""Metadata alone, as controllers of metadata ask for it: in each verb, in JSON and in protobuf, of every kind."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from rayplane.control_plane.api.machinery import protobuf
from tests.apiserver.test_definition_life import DEFINITIONS, FOOS, definition, foo
from tests.apiserver.test_patches import MEDIA, NAMESPACE, Api, api, config_map  # noqa: F401

MAPS = f"{NAMESPACE}/configmaps"
AS_PARTIAL = "as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
AS_LIST = "as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
JSON, PROTOBUF = "application/json", "application/vnd.kubernetes.protobuf"
_MESSAGES = "io.k8s.apimachinery.pkg.apis.meta.v1."


def decoded(media: str, body: bytes) -> dict[str, Any]:
    """A partial object, list or Status of either form; what protobuf leaves out of each item is added."""
    if media == JSON:
        found: dict[str, Any] = json.loads(body)
        return found
    version, kind, raw = protobuf.decode_envelope(body)
    made = {"kind": kind, "apiVersion": version, **protobuf.decode_message(_MESSAGES + kind, raw)}
    if "items" in made:
        head = {"kind": "PartialObjectMetadata", "apiVersion": version}
        made["items"] = [{**head, **item} for item in made["items"]]
    return made


@pytest.mark.parametrize("media", [JSON, PROTOBUF])
@pytest.mark.parametrize("custom", [False, True], ids=["ConfigMap", "custom"])
async def test_metadata_alone_answers_every_verb(api: Api, media: str, custom: bool) -> None:  # noqa: F811
    await api.made(DEFINITIONS, definition())
    path, body = (FOOS, foo()) if custom else (MAPS, config_map("f", x="y"))
    name = f"{path}/f"
    seen = []
    merge = {"metadata": {"labels": {"a": "b"}}}
    for method, at, sent, content in (
        ("POST", path, body, JSON),
        ("GET", name, None, JSON),
        ("PATCH", name, merge, MEDIA["merge"]),
        ("GET", path, None, JSON),
        ("DELETE", f"{name}?dryRun=All&propagationPolicy=Orphan", None, JSON),
        ("DELETE", name, None, JSON),
    ):
        accept = f"{media};{AS_LIST if at == path and method == 'GET' else AS_PARTIAL}"
        headers = {"Accept": accept, "Content-Type": content}
        async with api.session.request(method, api.base + at, json=sent, headers=headers) as response:
            assert (response.status, response.content_type) == (201 if method == "POST" else 200, media)
            seen.append(decoded(media, await response.read()))
    made, got, patched, listed, marked, gone = seen
    assert (made["kind"], made["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert made.keys() == {"kind", "apiVersion", "metadata"}
    assert got == made
    assert patched["metadata"]["labels"] == {"a": "b"}
    assert (listed["kind"], listed["items"]) == ("PartialObjectMetadataList", [patched])
    assert listed["metadata"]["resourceVersion"]
    assert marked["metadata"]["finalizers"] == ["orphan"]
    assert (gone["kind"], gone["status"], gone["details"]["name"]) == ("Status", "Success", "f")


async def test_json_is_taken_where_it_is_taken_too(api: Api) -> None:  # noqa: F811
    await api.made(MAPS, config_map())
    accept = f"{PROTOBUF};{AS_PARTIAL},{JSON};{AS_PARTIAL},{JSON}"
    code, found = await api("GET", f"{MAPS}/c", Accept=accept)
    assert (code, found["kind"]) == (200, "PartialObjectMetadata")


async def test_a_table_has_no_protobuf_form(api: Api) -> None:  # noqa: F811
    code, refused = await api("GET", MAPS, Accept=f"{PROTOBUF};as=Table;g=meta.k8s.io;v=v1")
    assert (code, refused["reason"]) == (406, "NotAcceptable")


async def test_metadata_is_watched_in_protobuf(api: Api) -> None:  # noqa: F811
    await api.made(DEFINITIONS, definition())
    made = await api.made(FOOS, foo())
    query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    headers = {"Accept": f"{PROTOBUF};{AS_PARTIAL}"}
    async with api.session.get(f"{api.base}{FOOS}?{query}&timeoutSeconds=1", headers=headers) as response:
        assert response.headers["Content-Type"] == f"{PROTOBUF};stream=watch"
        body = await response.read()
    events = []
    while body:
        (size,) = struct.unpack(">I", body[:4])
        frame, body = body[4 : 4 + size], body[4 + size :]
        kind, size = frame[2 : 2 + frame[1]].decode(), frame[1]  # the type is the first field, and short
        assert frame[0] == 1 << 3 | 2 and len(kind) == size
        events.append((kind, frame))
    assert [kind for kind, _ in events] == ["ADDED", "BOOKMARK"]
    assert made["metadata"]["uid"].encode() in events[0][1]
    assert b"k8s.io/initial-events-end" in events[1][1]
    assert all(b"PartialObjectMetadata" in frame for _, frame in events)
