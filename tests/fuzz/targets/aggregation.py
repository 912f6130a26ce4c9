"""Servers of aggregated APIs, hostile ones: what they say they serve, and what they answer, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from rayplane.control_plane.api.aggregation.catalog import Catalog, Remote
from rayplane.control_plane.api.aggregation.openapi import version_2_parts, with_remotes
from rayplane.control_plane.api.aggregation.reading import read_openapi_url, read_resources
from rayplane.control_plane.api.machinery import openapi_protobuf, openapi_v2
from rayplane.control_plane.api.machinery.discovery import Discovery, Document
from rayplane.control_plane.api.machinery.resources import builtin_registry
from rayplane.control_plane.apiserver.config import Timing
from tests.api.test_aggregation_documents import BACKEND, GROUP, KEY, V2
from tests.apiserver.test_aggregation import AUTHORITY, DISCOVERY, ROOT, Setting, api_service, extended
from tests.fuzz import mutate

CASES = 120
CASES_PER_WORLD = 400
#: What a client of ours takes of an answer that does not end.
TAKEN_MAX = 1 << 20
_ROOT = {"paths": {KEY: {"serverRelativeURL": f"/openapi/v3/{KEY}?hash=A"}}}
_REFERENCE = {"$ref": "#/components/schemas/Flunder"}
_OPERATION = {
    "operationId": "listFlunder",
    "parameters": [{"name": "limit", "in": "query", "schema": {"type": "integer"}}],
    "requestBody": {"content": {"application/json": {"schema": _REFERENCE}}},
    "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": _REFERENCE}}}},
    "x-kubernetes-group-version-kind": {"group": GROUP, "version": "v1", "kind": "Flunder"},
}
_FLUNDER = {"type": "object", "properties": {"a": {"type": "array", "items": _REFERENCE}, "b": {"default": 1}}}
_OPENAPI = {
    "openapi": "3.0.0",
    "info": {"title": "t", "version": "v"},
    "paths": {f"/{KEY}/flunders": {"get": _OPERATION, "post": _OPERATION, "parameters": _OPERATION["parameters"]}},
    "components": {"schemas": {"Flunder": _FLUNDER}},
}
_FORMS = ("", V2, "application/json", f"application/json;as=Table,{V2.replace('=v2;', '=v2beta1;')}")
_BODY = json.dumps(DISCOVERY).encode()
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY),
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\nSet-Cookie: a=b\r\n\r\n\x1f\x8b\x08\0",
    b"HTTP/1.1 302 Found\r\nLocation: https://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05hello",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 500 Internal Server Error\r\nRetry-After: -1\r\nDate: never\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=a\r\nConnection: close, x-own\r\nX-Own: \xff\r\n\r\n",
)
#: What is sent again and again until nobody listens.
_ENDLESS = (b"x" * 8192, b"a: b\r\n" * 1000, b"5\r\nhello\r\n" * 1000)

Case = tuple[str, Any]
"""`said` with the documents of a server, or `answered` with bytes and what follows them for ever, or nothing."""


def make(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        return "said", tuple(_spoiled(rng, document) for document in (DISCOVERY, _ROOT, _OPENAPI))
    answer = rng.choice(_ANSWERS)
    if rng.random() < 0.8:
        answer = mutate.of_bytes(rng, answer, _ANSWERS)
    return "answered", (answer, rng.choice(_ENDLESS) if rng.random() < 0.2 else b"")


def _spoiled(rng: random.Random, document: Any) -> bytes:
    body = json.dumps(mutate.of_json(rng, document) if rng.random() < 0.7 else document).encode()
    return mutate.of_bytes(rng, body) if rng.random() < 0.1 else body


class Hostile:
    """A server that is found available, and answers requests of clients with what it likes."""

    def __init__(self) -> None:
        self.answer, self.endless = _ANSWERS[0], b""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            asked = await reader.readuntil(b"\r\n\r\n")
            ours = b"/flunders" not in asked.partition(b"\r\n")[0]
            writer.write(_ANSWERS[0] if ours else self.answer)
            await writer.drain()
            while self.endless and not ours:
                writer.write(self.endless)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class Server:
    def __init__(self, setting: Setting, hostile: Hostile) -> None:
        self._setting = setting
        self._hostile = hostile

    async def run(self, case: Case) -> None:
        kind, what = case
        if kind == "said":
            self._say(*what)
            return
        self._hostile.answer, self._hostile.endless = what
        code, _ = await self._asked()
        assert code != 500 or b"500" in self._hostile.answer, "the API server takes it for a fault of its own"

    def _say(self, discovery: bytes, root: bytes, document: bytes) -> None:
        catalog = Catalog(builtin_registry())
        catalog.put(api_service())
        (remote,) = catalog.remotes()
        url = ""
        with contextlib.suppress(ValueError):
            url = read_openapi_url(root, KEY)
        with contextlib.suppress(ValueError):
            catalog.found(remote.backend, read_resources(discovery, GROUP, "v1"), url)
        shown = Discovery(catalog)
        served = [f"/{KEY}"] * bool(catalog.in_version(GROUP, "v1"))
        for path in ("/apis", f"/apis/{GROUP}", *served):
            for form in _FORMS:
                orjson.loads(shown.document(path, form).body)
        listed = orjson.loads(with_remotes(Document.of(b'{"paths":{}}', ""), catalog.remotes()).body)["paths"]
        assert listed.keys() <= {KEY} and all(row["serverRelativeURL"] == url for row in listed.values())
        parts = version_2_parts(document, Remote(BACKEND))
        if parts is not None:
            whole = openapi_v2.document((), version="v", others=[parts])
            assert all(path.startswith(f"/{KEY}/") for path in orjson.loads(whole.body)["paths"])
            openapi_protobuf.encoded(whole, openapi_protobuf.V2_TYPE)

    async def _asked(self) -> tuple[int, bytes]:
        """The status and the body that a client of the API server gets; 0 where its answer broke off."""
        body = b""
        headers = {"Connection": "close"}
        with contextlib.suppress(aiohttp.ClientError):
            async with self._setting.http.get(f"{ROOT}/flunders", headers=headers, allow_redirects=False) as answer:
                async for piece in answer.content.iter_chunked(1 << 16):
                    body += piece
                    if len(body) > TAKEN_MAX:
                        answer.close()
                return answer.status, body
        return 0, body

    async def good(self) -> None:
        self._hostile.answer, self._hostile.endless = _ANSWERS[0], b""
        assert await self._asked() == (200, _BODY)

    def sizes(self) -> dict[str, int]:
        return {}


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[Server]:
    hostile, tls = Hostile(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue("extension", hosts=["ext.default.svc"]).load(tls)
    with tempfile.TemporaryDirectory(prefix="fuzz-aggregation-") as directory:
        async with extended(Path(directory), Timing()) as setting:
            server = await asyncio.start_server(hostile.handle, "127.0.0.1", 0, ssl=tls)
            setting.extension.port = server.sockets[0].getsockname()[1]
            await setting.lead()
            await setting.becomes("Passed")
            try:
                yield Server(setting, hostile)
            finally:
                server.close()
