"""A registry on loopback for tests, with or without tokens, and with the faults that it is told to have."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from rayplane.node.images.manifests import document, media_type, read_manifest
from rayplane.node.images.store import ImageStore

TOKEN = "a-token"


@dataclass
class Registry:
    """What it has, who may see it, and who asked for what."""

    address: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    user: str = ""
    """NAME:PASSWORD that tokens are given for; empty: anybody sees everything."""
    broken: str = ""
    """`cut` blobs, `lie` about them, or `fail`."""
    asked: list[str] = field(default_factory=list)

    def have(self, store: ImageStore, digest: str, repository: str, tag: str) -> None:
        data = store.blobs.document(digest)
        self.manifests |= {f"{repository}:{tag}": data, f"{repository}:{digest}": data}
        manifest = read_manifest(document(data, "it"))
        for content in (manifest.config, *manifest.layers):
            self.blobs[content.digest] = store.blobs.path(content.digest).read_bytes()

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        name, reference = request.match_info["name"], request.match_info["reference"]
        self.asked.append(f"{name}:{reference}")
        if (refused := self._refused(request)) is not None:
            return refused
        data = self.manifests.get(f"{name}:{reference}")
        if data is None:
            return web.json_response({"errors": [{"code": "MANIFEST_UNKNOWN"}]}, status=404)
        return web.Response(body=data, content_type=media_type(document(data, "it")))

    async def blob(self, request: web.Request) -> web.StreamResponse:
        digest = request.match_info["digest"]
        self.asked.append(digest)
        if (refused := self._refused(request)) is not None:
            return refused
        data = self.blobs[digest]
        if self.broken == "lie":
            data = bytes(len(data))
        if self.broken == "cut":
            answer = web.StreamResponse(headers={"Content-Length": str(len(data))})
            await answer.prepare(request)
            await answer.write(data[:10])
            assert request.transport is not None
            request.transport.abort()
            return answer
        return web.Response(body=data)

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.broken == "fail":
            return web.Response(status=503)
        if not self.user or request.headers.get("Authorization") == f"Bearer {TOKEN}":
            return None
        challenge = f'Bearer realm="http://{self.address}/token",service="test"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(self, request: web.Request) -> web.Response:
        self.asked.append(f"token {request.query['scope']}")
        basic = f"Basic {base64.b64encode(self.user.encode()).decode()}"
        if request.headers.get("Authorization") != basic:
            return web.Response(status=401)
        return web.json_response({"token": TOKEN})


@asynccontextmanager
async def serving() -> AsyncIterator[Registry]:
    registry = Registry()
    app = web.Application()
    app.router.add_get("/v2/{name:.+}/manifests/{reference}", registry.manifest)
    app.router.add_get("/v2/{name:.+}/blobs/{digest}", registry.blob)
    app.router.add_get("/token", registry.token)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    registry.address = f"{host}:{port}"
    try:
        yield registry
    finally:
        await runner.cleanup()
