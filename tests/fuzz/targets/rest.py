"""The REST face: paths, queries, headers, bodies of every kind and media type, patches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from tests.apiserver.conftest import Stack
from tests.fuzz import mutate
from tests.fuzz.targets import _objects
from tests.fuzz.targets._http import Header, ask, body_of, code_of, is_fault, request
from tests.fuzz.targets._objects import SEEDS, collection

CASES = 80
CASES_PER_WORLD = 120
#: For what may go on for ever: watches, and bodies that are announced longer than they are.
OPEN_S = 0.3

Asked = tuple[str, str, tuple[Header, ...], bytes | None]
"""Method, path with query, headers, body."""
Case = list[Asked]
_PATCHES = ("application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json",
    "application/apply-patch+yaml")  # fmt: skip
_SUBRESOURCES = ("status", "scale", "token", "eviction", "binding", "log", "exec", "portforward", "proxy", "finalize",
    "resize", "ephemeralcontainers", "approval", "attach", "nothing")  # fmt: skip
_ACCEPTS = ("application/json", "application/yaml", "*/*", "application/json;as=Table;v=v1;g=meta.k8s.io",
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf", "",
    "application/json;stream=watch", ",", "a/b;q=x", "application/cbor", ";" * 500, "application/json;q=0")  # fmt: skip
_SELECTORS = ("a=b", "a in (b,c)", "!a", "a notin (x)", "a", "a!=b,c=d", "a>1", "metadata.name=a", "spec.nodeName!=x",
    "status.phase=Running,metadata.namespace=default", "involvedObject.name=a", "app=a,x")  # fmt: skip


def make(rng: random.Random) -> Case:
    case: Case = []
    seed = rng.choice(SEEDS)
    for _ in range(mutate.some(rng, 5)):
        if rng.random() < 0.3:
            seed = rng.choice(SEEDS)
        case.append(_one(rng, seed))
    return case


def _one(rng: random.Random, seed: Any) -> Asked:
    there = collection(seed)
    name = rng.choice(("a", "a", "a", "b"))
    queries: Sequence[str]
    match rng.randrange(8):
        case 0 | 1 | 2:
            media, body = _objects.encoded(rng, _objects.odd(rng, seed, name))
            return _asked(rng, "POST", there, ("fieldValidation", "dryRun", "fieldManager"), body, media)
        case 3:
            media, body = _objects.encoded(rng, _objects.odd(rng, seed, name))
            return _asked(rng, "PUT", _below(rng, f"{there}/{name}"), ("fieldValidation", "dryRun"), body, media)
        case 4 | 5:
            media, body = _patch(rng, seed, name)
            queries = ("fieldManager", "force", "fieldValidation", "dryRun")
            return _asked(rng, "PATCH", _below(rng, f"{there}/{name}"), queries, body, media)
        case 6:
            options = {
                "kind": "DeleteOptions",
                "apiVersion": "v1",
                "gracePeriodSeconds": 0,
                "preconditions": {"uid": "x"},
            }
            told = json.dumps(mutate.of_json(rng, options)).encode() if rng.random() < 0.5 else None
            path = there if rng.random() < 0.2 else f"{there}/{name}"
            queries = ("gracePeriodSeconds", "propagationPolicy", "dryRun", "labelSelector", "orphanDependents")
            return _asked(rng, "DELETE", path, queries, told, "application/json")
    path = there if rng.random() < 0.6 else _below(rng, f"{there}/{name}")
    queries = ("labelSelector", "fieldSelector", "limit", "continue", "resourceVersion",
        "resourceVersionMatch", "watch",
        "timeoutSeconds", "sendInitialEvents", "allowWatchBookmarks", "includeObject", "pretty", "command",
        "container", "tailLines", "sinceTime", "limitBytes", "ports")  # fmt: skip
    return _asked(rng, rng.choice(("GET", "GET", "GET", "GET", "HEAD", "OPTIONS", "POST")), path, queries, None, "")


def _below(rng: random.Random, path: str) -> str:
    return f"{path}/{rng.choice(_SUBRESOURCES)}" if rng.random() < 0.25 else path


def _asked(rng: random.Random, method: str, path: str, queries: Sequence[str], body: bytes | None, media: str) -> Asked:
    if rng.random() < 0.1:
        path = "/".join(mutate.of_list(rng, path.split("/"), lambda part: _in_path(mutate.of_text(rng, part))))
    fields = [(q, _value(rng, q)) for q in queries if rng.random() < 0.25]
    query = (
        urlencode(fields, errors="surrogatepass")
        if rng.random() < 0.9
        else "&".join(f"{k}={_in_path(v)}" for k, v in fields)
    )
    headers = [("Content-Type", media.encode())] if media else []
    headers += [("Accept", rng.choice(_ACCEPTS).encode())] if rng.random() < 0.3 else []
    if rng.random() < 0.1:
        name, value = rng.choice(_ODD_HEADERS)
        headers.append((name, mutate.of_bytes(rng, value) if rng.random() < 0.5 else value))
    clean = [(n, v.replace(b"\r", b"").replace(b"\n", b"").replace(b"\0", b"")) for n, v in headers]
    return method, f"{path}?{query}" if query else path, tuple(clean), body


_ODD_HEADERS = (
    ("Authorization", b"Bearer a.b.c"), ("Authorization", b"Basic YTpi"), ("Impersonate-User", b"bob"),
    ("Impersonate-Group", b"g"), ("Impersonate-Extra-%41", b"x"), ("Impersonate-Uid", b"1"),
    ("Content-Encoding", b"gzip"), ("X-Forwarded-For", b"1.2.3.4"), ("User-Agent", b"kubectl/v1.37 (\xff)"),
    ("If-None-Match", b"*"), ("Upgrade", b"websocket"), ("Sec-WebSocket-Key", b"x"), ("Cookie", b"a=b; c"),
    ("Content-Type", b"text/html; charset=\xff"), ("Accept-Encoding", b"gzip"), ("Audit-ID", b"\x01"),
)  # fmt: skip


def _in_path(text: str) -> str:
    return quote(text.encode("utf-8", "surrogatepass"), safe="/%.*~!@()&=+,;:")


def _value(rng: random.Random, query: str) -> str:
    known = {
        "labelSelector": _SELECTORS, "fieldSelector": _SELECTORS, "watch": ("true", "1", "0"),
        "continue": (_token(rng),), "resourceVersion": ("0", "1", "5", "999999", ""), "dryRun": ("All",),
        "resourceVersionMatch": ("Exact", "NotOlderThan"), "limit": ("1", "0", "500"), "timeoutSeconds": ("0", "1"),
        "fieldValidation": ("Strict", "Warn", "Ignore"), "force": ("true",), "fieldManager": ("m", "x" * 129),
        "propagationPolicy": ("Orphan", "Foreground", "Background"), "includeObject": ("Object", "None", "Metadata"),
    }  # fmt: skip
    value = rng.choice(known.get(query, ("true", "false", "1")))
    return mutate.of_text(rng, value) if rng.random() < 0.5 else value


def _token(rng: random.Random) -> str:
    fields = {"v": "meta.k8s.io/v1", "rv": rng.choice((1, 5, -1, 10)), "start": "a\0"}
    if rng.random() < 0.5:
        fields = mutate.of_json(rng, fields)
    data = json.dumps(fields).encode()
    data = mutate.of_bytes(rng, data) if rng.random() < 0.2 else data
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _patch(rng: random.Random, seed: Any, name: str) -> tuple[str, bytes]:
    media = rng.choice(_PATCHES)
    if media == _PATCHES[0]:
        paths = ("/metadata/labels", "/metadata/name", "/spec", "/data/a", "/spec/replicas", "", "/",
            "/metadata/labels/-",
            "/spec/containers/0", "/spec/template/spec/containers/-", "/a~1b~0", "/rules/0/verbs/1",
                "/metadata")  # fmt: skip
        patch: Any = [
            {"op": rng.choice(("add", "remove", "replace", "copy", "move", "test")), "path": rng.choice(paths),
             "from": rng.choice(paths), "value": rng.choice(({"a": "b"}, "x", 1, [], None))}
            for _ in range(rng.choice((1, 2, 8)))
        ]  # fmt: skip
    else:
        patch = _objects.odd(rng, seed, name)
        if isinstance(patch, dict) and rng.random() < 0.3:
            directive = rng.choice(
                ("$patch", "$retainKeys", "$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers")
            )
            patch[directive] = rng.choice(("delete", "replace", "merge", ["a"], [{"name": "c"}], 5, None))
    patch = mutate.of_json(rng, patch, _objects.PARTS) if rng.random() < 0.5 else patch
    body = json.dumps(patch).encode()
    return media, mutate.of_bytes(rng, body) if rng.random() < 0.1 else body


class Face:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.address = stack.servers[0].https_address

    async def run(self, case: Case) -> None:
        for asked in case:
            method, path, headers, body = asked
            goes_on = "watch" in path or any(s in path for s in ("log", "exec", "attach", "portforward", "proxy"))
            answer = await ask(self.address, request(method, path, headers, body), seconds=OPEN_S if goes_on else None)
            code = code_of(answer)
            assert not is_fault(answer), (asked, answer[-1500:])
            if b"\r\nContent-Type: application/vnd.kubernetes.protobuf\r\n" in answer and method != "HEAD":
                assert body_of(answer) is not None, f"no protobuf for {asked}"
            assert code or goes_on, f"no answer to {asked}"

    async def good(self) -> None:
        answer = await ask(self.address, request("GET", "/api/v1/namespaces/default/configmaps"))
        assert code_of(answer) == 200, answer[:500]
        body = b'{"metadata":{"name":"good"}}'
        headers = [("Content-Type", b"application/json")]
        answer = await ask(
            self.address, request("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", headers, body)
        )
        assert code_of(answer) in (201, 409), answer[:500]

    def sizes(self) -> dict[str, int]:
        server = self.stack.http_server()
        registry = self.stack.servers[0].registry
        return {
            "connections": len(server.connections),
            "guards": len(server._guards),
            "watchers": sum(cache.watcher_count for cache in registry.hub.loaded()),
            "waiting for a version": len(registry.hub._waiting),
            "in flight": sum(registry.fairness.in_flight.values()),
        }


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Face]:
    stack = Stack()
    await stack.add_server(https_address="127.0.0.1:0")
    try:
        await stack.client().create("serviceaccounts", {"metadata": {"name": "default", "namespace": "default"}})
        foo = next(s for s in SEEDS if s[1] == "customresourcedefinitions")
        await stack.client().create(f"{foo[1]}.apiextensions.k8s.io", _objects.good(foo))
        yield Face(stack)
        await asyncio.sleep(0)
    finally:
        await stack.stop()
