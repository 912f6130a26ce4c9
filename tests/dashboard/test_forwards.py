"""Ports that are opened in the browser: a host of their own each, from which nothing else is reached."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from rayplane.control_plane.dashboard import Gateway, forwards
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.rpc import reverse_proxy

PATH = "/rayplane/v1/forwards"
WEB = {"namespace": "shop", "resource": "services", "name": "web", "port": 80}
LOOKS = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Server:
    """In place of an API server: what it was asked last, and what it answers."""

    def __init__(self) -> None:
        self.url, self.headers = "", dict[str, str]()
        self.status, self.said = 200, dict[str, str]()


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server()

    async def forward(request: object, session: object, url: str, headers: Any, body: Any, **more: Any) -> Any:
        made.url, made.headers = url, dict(headers)
        said = {name: more["located"](value) if name == "Location" else value for name, value in made.said.items()}
        answer = web.Response(status=made.status, text="a pod's page", headers=said)
        more["starting"](answer.headers)
        return answer

    monkeypatch.setattr(KubeApi, "_servers", lambda _: ["api"])
    monkeypatch.setattr(KubeApi, "_session", lambda _, bare: None)
    monkeypatch.setattr(reverse_proxy, "forward", forward)
    return made


def key(gateway: Gateway) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.key}"}


async def opened(gateway: Gateway, client: aiohttp.ClientSession, **more: Any) -> str:
    """The host of the port."""
    async with client.post(PATH, json=WEB | more, headers=key(gateway)) as answer:
        assert answer.status == 200, await answer.text()
        url: str = (await answer.json())["url"]
    return url.removeprefix("http://").removesuffix("/")


async def test_a_port_is_answered_at_its_own_host_until_it_is_ended(
    gateway: Gateway, client: aiohttp.ClientSession, server: Server
) -> None:
    host = await opened(gateway, client)
    assert await opened(gateway, client) == host != await opened(gateway, client, port=81)
    async with client.get("/a/b?c=d", headers={"Host": host}) as answer:
        assert await answer.text() == "a pod's page"
    assert server.url == "https://api/api/v1/namespaces/shop/services/web:80/proxy/a/b?c=d"
    secure = await opened(gateway, client, scheme="https", resource="pods")
    async with client.get("/", headers={"Host": secure}):
        assert server.url == "https://api/api/v1/namespaces/shop/pods/https:web:80/proxy/"
    async with client.get(PATH, headers=key(gateway)) as answer:
        assert [one["port"] for one in (await answer.json())["forwards"]] == [80, 81, 80]
    async with client.delete(PATH, params={"url": f"http://{host}/"}, headers=key(gateway)) as answer:
        assert answer.status == 200
    async with client.get("/", headers={"Host": host}) as answer:
        assert answer.status == 403


async def test_at_a_pods_host_is_nothing_of_the_dashboard_and_at_the_dashboards_nothing_of_a_pod(
    gateway: Gateway, client: aiohttp.ClientSession, server: Server
) -> None:
    host = await opened(gateway, client)
    for path in ("/", "/main.js", "/version", PATH):
        async with client.get(path, headers=key(gateway) | {"Host": host}) as answer:
            assert await answer.text() == "a pod's page"
            assert server.url.endswith(f"/proxy{path}")
            assert "Authorization" not in server.headers, "the key is nothing for a pod"
    name, _, port = host.rpartition(":")
    for other in (name, f"x.{host}", f"{'0' * 32}.localhost:{port}", f"{name}:1"):
        async with client.get("/", headers={"Host": other}) as answer:
            assert answer.status == 403


async def test_opening_takes_the_key(client: aiohttp.ClientSession) -> None:
    async with client.post(PATH, json=WEB) as answer:
        assert answer.status == 401


@pytest.mark.parametrize("path", ["/../x", "/a/../../x", "/%2e%2E/x", "/.%2e", "/a/..", "/..\\x", "/./x", "/a/..#x"])
async def test_no_path_leads_out_of_the_port(
    gateway: Gateway, client: aiohttp.ClientSession, server: Server, path: str
) -> None:
    host = await opened(gateway, client)
    url = aiohttp.client.URL(f"http://{gateway.address}{path}", encoded=True)
    async with client.get(url, headers={"Host": host}) as answer:
        assert answer.status == 400
    assert server.url == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"resource": "nodes"},
        {"scheme": "ftp"},
        {"port": "80/x"},
        {"port": 0},
        {"name": ".."},
        {"name": "../../secrets?x#"},
        {"name": None},
        {"name": "a" * 254},
        {"namespace": ""},
        {"namespace": "default/pods/p/exec"},
        {"namespace": ["shop"]},
    ],
)
async def test_what_is_no_port_of_anybody_is_refused(
    gateway: Gateway, client: aiohttp.ClientSession, wrong: dict[str, Any]
) -> None:
    async with client.post(PATH, json=WEB | wrong, headers=key(gateway)) as answer:
        assert answer.status == 400


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 200),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, 200),
        ("GET", LOOKS, 200),
        ("POST", LOOKS, 403),
        ("GET", LOOKS | {"Sec-Fetch-Dest": "iframe"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}, 403),
        # Chromium says no more of a WebSocket.
        ("GET", {"Connection": "Upgrade", "Upgrade": "websocket", "Origin": "http://localhost:8000"}, 403),
        ("GET", {"Origin": "null"}, 403),
    ],
)
async def test_pages_of_other_sites_lead_to_a_port_and_do_nothing_else_with_it(
    gateway: Gateway, client: aiohttp.ClientSession, method: str, headers: dict[str, str], status: int
) -> None:
    host = await opened(gateway, client)
    async with client.request(method, "/", headers=headers | {"Host": host}) as answer:
        assert answer.status == status


async def test_cookies_are_between_a_pod_and_the_browser_and_nobody_else_is_spoken_for(
    gateway: Gateway, client: aiohttp.ClientSession, server: Server
) -> None:
    host = await opened(gateway, client)
    below = "/api/v1/namespaces/shop/services/web:80/proxy"
    server.status, server.said = 302, {"Set-Cookie": "a=b", "Location": f"{below}/login", "Referrer-Policy": "origin"}
    given = {"Host": host, "Cookie": "a=b", "Impersonate-User": "other", "X-Remote-User": "other"}
    async with client.get("/", headers=given, allow_redirects=False) as answer:
        assert answer.headers["Set-Cookie"] == "a=b"
        assert answer.headers["Location"] == "/login"
        assert answer.headers.getall("Referrer-Policy") == ["same-origin"], "the name is told to no other site"
    assert server.headers["Cookie"] == "a=b"
    assert not [name for name in server.headers if "user" in name.lower() and name != "User-Agent"]


async def test_there_are_no_more_than_so_many(
    gateway: Gateway, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards, "FORWARDS_MAX", 1)
    await opened(gateway, client)
    async with client.post(PATH, json=WEB | {"port": 81}, headers=key(gateway)) as answer:
        assert answer.status == 429
        assert "end some" in (await answer.json())["message"]


async def test_one_port_answers_no_more_than_so_many_at_a_time(
    gateway: Gateway, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await opened(gateway, client)
    async with client.get("/", headers={"Host": host}) as answer:
        assert answer.status == 200
    monkeypatch.setattr(forwards, "ANSWERS_MAX", 0)
    async with client.get("/", headers={"Host": host}) as answer:
        assert answer.status == 429
        assert "wait for some" in (await answer.json())["message"]
