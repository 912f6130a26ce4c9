"""A real HTTPS server whose answers a test decides: an issuer of tokens, or a webhook that reviews."""

import inspect
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web

from rayplane.control_plane.rpc.tls import Authority

BREAK = object()
"""In place of an answer: the connection breaks."""
AUTHORITY = Authority.create("outside")


class HttpsServer:
    """A server: `answer(path, document)` gives a document, or a status code, at once or later.

    `seen` are the documents that came.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str, Any], Any] = lambda path, document: 404
        self.seen: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        document = orjson.loads(body) if body else None
        self.seen.append((request.path, document))
        self.headers = dict(request.headers)
        found = self.answer(request.path, document)
        if inspect.isawaitable(found):
            found = await found
        if found is BREAK:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if isinstance(found, int):
            return web.Response(status=found)
        text = found if isinstance(found, bytes) else orjson.dumps(found)
        return web.Response(body=text, content_type="application/json")

    def kubeconfig(self, directory: Path, **user: Any) -> str:
        """The path of a file that leads here."""
        authority = directory / "ca.crt"
        authority.write_bytes(AUTHORITY.cert)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"{self.url}/review", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path = directory / "webhook.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)


@asynccontextmanager
async def https_server() -> AsyncIterator[HttpsServer]:
    made = HttpsServer()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    AUTHORITY.issue("server", hosts=["127.0.0.1"]).load(context)
    runner = web.ServerRunner(web.Server(made.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()
