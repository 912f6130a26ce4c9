"""What the gateway answers to whom, without a cluster behind it."""

import asyncio
import contextlib
import io
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from rayplane.control_plane.cli import dashboard
from rayplane.control_plane.cluster import scraping, status
from rayplane.control_plane.cluster.state import StateDir
from rayplane.control_plane.dashboard import Gateway, door
from rayplane.control_plane.dashboard import gateway as gateway_module
from rayplane.control_plane.dashboard.kube_api import KubeApi
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.errors import Code
from rayplane.control_plane.tasks import cancel_and_wait


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", ["/", "/main.js", "/api.js", "/style.css"])
async def test_the_page_is_there_for_everybody_and_takes_nothing_from_elsewhere(
    client: aiohttp.ClientSession, path: str
) -> None:
    async with client.get(path) as answer:
        assert answer.status == 200
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy


@pytest.mark.parametrize(
    "path", ["/../gateway.py", "/%2e%2e/gateway.py", "/lib/../../gateway.py", "/lib", "/nothing.js", "//etc/passwd"]
)
async def test_nothing_but_the_page_is_a_file_of_it(gateway: Gateway, path: str) -> None:
    # As written: clients make paths shorter than this.
    host, _, port = gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {gateway.address}\r\nConnection: close\r\n\r\n".encode())
    assert (await reader.readline()).split()[1] == b"404"
    writer.close()


@pytest.mark.parametrize("path", ["/api/v1/pods", "/version", "/rayplane/v1/control-plane", "/rayplane/v1/faults"])
async def test_nothing_of_the_cluster_is_told_to_who_shows_nothing(client: aiohttp.ClientSession, path: str) -> None:
    async with client.get(path) as answer:
        assert answer.status == 401
        assert (await answer.json())["reason"] == "Unauthorized"


async def test_a_name_that_only_leads_here_is_refused(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    """A page of another's whose name was made to lead to loopback would share the dashboard's origin."""
    headers = {"Host": f"evil.example:{gateway.address.rpartition(':')[2]}"} | bearer(gateway.key)
    for path in ("/", "/version"):
        async with client.get(path, headers=headers) as answer:
            assert answer.status == 403


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "control-plane"), ("GET", "why"), ("GET", "changes"), ("POST", "faults"), ("DELETE", "faults?id=1")],
)
async def test_what_a_token_asks_for_is_asked_of_an_api_server(
    monkeypatch: pytest.MonkeyPatch, gateway: Gateway, client: aiohttp.ClientSession, method: str, path: str
) -> None:
    """RBAC is there. The key alone is not: who has it acts with the administrator's certificate."""

    async def forward(_: KubeApi, request: web.BaseRequest, body: bytes, *, token: str) -> web.StreamResponse:
        return web.Response(text=f"{request.method} {request.path_qs} as {token or 'administrator'}")

    monkeypatch.setattr(KubeApi, "forward", forward)
    url = f"/rayplane/v1/{path}"
    async with client.request(method, url, headers=bearer("a-token"), json={}) as answer:
        assert await answer.text() == f"{method} {url} as a-token"
    async with client.get("/rayplane/v1/packing", headers=bearer(gateway.key)) as answer:
        assert await answer.text() == "GET /rayplane/v1/packing as administrator"


async def test_nobody_else_is_found_at_its_port_where_browsers_look_first(
    gateway: Gateway, client: aiohttp.ClientSession, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_INET6) as other:
        try:
            other.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 here")
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            await Gateway(StateDir(tmp_path)).start(port)
    async with client.get(f"http://[::1]:{gateway.port}/main.js", headers={"Host": gateway.address}) as answer:
        assert answer.status == 200


async def test_each_start_has_a_key_of_its_own(gateway: Gateway, tmp_path: Path) -> None:
    assert gateway.key not in (Gateway(StateDir(tmp_path)).key, "")
    assert gateway.url.endswith(f"#key={gateway.key}")


async def test_without_a_cluster_it_says_what_to_do(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    async with client.get("/version", headers=bearer(gateway.key)) as answer:
        assert answer.status == 503
        assert "rayplane up" in (await answer.json())["message"]
    async with client.get("/rayplane/v1/control-plane", headers=bearer(gateway.key)) as answer:
        assert answer.status == 503
        assert "rayplane up" in (await answer.json())["message"]


async def test_bad_requests_are_told_what_is_wrong(gateway: Gateway, client: aiohttp.ClientSession) -> None:
    for method, path, body, code in [
        ("POST", "faults", b"{", 400),
        ("POST", "faults", b'{"fault": 1}', 400),
        ("GET", "explain", None, 400),
        ("GET", "nothing", None, 404),
        ("POST", "faults", b" " * (4 << 20), 413),
    ]:
        async with client.request(
            method, f"/rayplane/v1/{path}", data=body and io.BytesIO(body), headers=bearer(gateway.key)
        ) as answer:
            assert answer.status == code, (method, path)


@pytest.mark.parametrize(
    ("method", "code", "status", "unsure"),
    [
        ("POST", Code.DEADLINE_EXCEEDED, 503, True),
        ("DELETE", Code.UNAVAILABLE, 503, True),
        ("GET", Code.UNAVAILABLE, 503, False),
        ("POST", Code.INVALID_ARGUMENT, 400, False),
        ("POST", Code.FAILED_PRECONDITION, 409, False),
        ("POST", Code.PERMISSION_DENIED, 403, False),
        ("DELETE", Code.NOT_FOUND, 404, False),
    ],
)
async def test_a_fault_is_refused_as_api_servers_do_and_said_to_be_perhaps_done_where_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
    gateway: Gateway,
    client: aiohttp.ClientSession,
    method: str,
    code: Code,
    status: int,
    unsure: bool,
) -> None:
    @contextlib.asynccontextmanager
    async def access(_: StateDir) -> AsyncIterator[None]:
        raise RpcError(code, "not so")
        yield

    monkeypatch.setattr(gateway_module, "access", access)
    url = "/rayplane/v1/faults?id=7"
    async with client.request(method, url, json={"fault": "x"}, headers=bearer(gateway.key)) as answer:
        assert answer.status == status
        assert ("may have been done" in (await answer.json())["message"]) == unsure


@pytest.mark.parametrize(
    ("head", "code"),
    [("OPTIONS * HTTP/1.1", b"404"), ("GET /version HTTP/1.1\r\nAuthorization: Bearer \xff", b"401")],
)
async def test_what_no_browser_sends_is_refused_as_anything_else(gateway: Gateway, head: str, code: bytes) -> None:
    host, _, port = gateway.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{head}\r\nHost: {gateway.address}\r\nConnection: close\r\n\r\n".encode("latin-1"))
    assert (await reader.readline()).split()[1] == code
    writer.close()


async def test_it_ends_though_a_page_looks_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def access(_: StateDir) -> AsyncIterator[None]:
        yield

    async def glance(_: None) -> dict[str, str]:
        return {"error": "", "name": "looked at"}

    @contextlib.asynccontextmanager
    async def loads(_: None) -> AsyncIterator[dict[str, str]]:
        yield {}

    monkeypatch.setattr(gateway_module, "access", access)
    monkeypatch.setattr(scraping, "loads", loads)
    monkeypatch.setattr(status, "glance", glance)
    made = Gateway(StateDir(tmp_path))
    await made.start()
    url = f"http://{made.address}/rayplane/v1/control-plane"
    async with aiohttp.ClientSession() as session, session.get(url, headers=bearer(made.key)) as answer:
        assert b"looked at" in await answer.content.readline()
        async with asyncio.timeout(30):
            await made.close()


@pytest.mark.parametrize("whole", [True, False])
async def test_a_page_without_its_libraries_is_told_of_where_it_is_served(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A browser shows nothing of it, and no reason."""
    if whole:
        (tmp_path / "lib").mkdir()
    monkeypatch.setattr(door, "_PAGE", tmp_path)
    serving = asyncio.create_task(dashboard._serve(lambda: Gateway(StateDir(tmp_path)), 0, "it"))
    told = capsys.readouterr()
    async with asyncio.timeout(60):
        while not (told.out if whole else told.err):
            await asyncio.sleep(0.01)
            more = capsys.readouterr()
            told = type(told)(told.out + more.out, told.err + more.err)
    await cancel_and_wait(serving)
    assert told.out.startswith("The dashboard of it is at http://")
    assert ("scripts/page.py" in told.err) == (not whole)
