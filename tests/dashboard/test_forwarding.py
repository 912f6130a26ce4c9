"""What is carried between a browser and the port of a pod, over connections as they are."""

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.dashboard import Gateway
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.rpc.tls import Authority
from tests.dashboard.test_forwards import PATH, key, opened

WAIT_S = 20
BELOW = "/api/v1/namespaces/shop/services/web:80/proxy"


class ApiServer:
    """In place of one: echoes what a WebSocket says, and ends no other answer."""

    def __init__(self) -> None:
        self.asked: list[web.Request] = []
        self.ended = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        try:
            if request.headers.get("Upgrade") == "websocket":
                joined = web.WebSocketResponse(protocols=("chat",))
                await joined.prepare(request)
                async for message in joined:
                    await joined.send_str(message.data)
                return joined
            endless = web.StreamResponse()
            await endless.prepare(request)
            await endless.write(b"begun\n")
            await asyncio.Event().wait()
        finally:
            self.ended.set()
        return endless


@pytest.fixture(autouse=True)
async def api_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    made = ApiServer()
    credentials = Authority.create("test").issue("admin", hosts=["127.0.0.1"])
    credentials.write(StateDir(tmp_path).admin)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=credentials.contexts()[1])
    await site.start()
    host, port = runner.addresses[0]
    monkeypatch.setattr(KubeApi, "_servers", lambda _: [f"{host}:{port}"])
    yield made
    await runner.cleanup()


async def test_a_websocket_is_the_browsers_and_the_pods_until_its_port_is_ended(
    gateway: Gateway, client: aiohttp.ClientSession, api_server: ApiServer
) -> None:
    host = await opened(gateway, client)
    shown = "base64url.bearer.authorization.k8s.io." + base64.urlsafe_b64encode(gateway.key.encode()).decode()
    said = {"Host": host, "Origin": f"http://{host}", "Cookie": "a=b"}
    async with client.ws_connect("/talk", headers=said, protocols=("chat", shown)) as joined:
        await joined.send_str("hello")
        assert await joined.receive_str(timeout=WAIT_S) == "hello"
        [asked] = api_server.asked
        assert asked.path == f"{BELOW}/talk" and asked.headers["Cookie"] == "a=b"
        assert asked.headers["Sec-WebSocket-Protocol"] == joined.protocol == "chat"
        assert "Origin" not in asked.headers and "Authorization" not in asked.headers
        await end(gateway, client, host)
        with pytest.raises(TypeError):
            await joined.receive_str(timeout=WAIT_S)


async def test_an_answer_that_does_not_end_is_broken_off_with_its_port(
    gateway: Gateway, client: aiohttp.ClientSession, api_server: ApiServer
) -> None:
    host = await opened(gateway, client)
    async with asyncio.timeout(WAIT_S), client.get("/log", headers={"Host": host}) as answer:
        assert await answer.content.readline() == b"begun\n"
        await end(gateway, client, host)
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.content.read()
        await api_server.ended.wait()


async def end(gateway: Gateway, client: aiohttp.ClientSession, host: str) -> None:
    async with client.delete(PATH, params={"url": f"http://{host}/"}, headers=key(gateway)) as answer:
        assert answer.status == 200
