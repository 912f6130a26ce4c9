"""HTTP requests of probes and hooks: what servers see of them, and what becomes of odd answers."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from rayplane.node.errors import NodeError, RuntimeAway, RuntimeFailed
from rayplane.node.kubelet.prober import Prober
from rayplane.node.runtime.http_get import BODY_MAX, REQUESTS_MAX, http_get
from rayplane.node.runtime.pod_network import DIRECT
from tests.node.conftest import CREDENTIALS

RUN: Any = SimpleNamespace(connect=DIRECT.connect)
CONTAINER = {"name": "c"}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """A server that answers by path, and keeps what it was asked; nothing said means closed without a word."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[list[str]] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.silent = asyncio.Event()
        """Set when somebody waits for an answer that never comes."""

    async def open(self, host: str = "127.0.0.1", **options: Any) -> int:
        self._server = await asyncio.start_server(self._serve, host, 0, **options)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        except EOFError:
            writer.close()
            return
        self.asked.append(lines[:-2])
        answer = self.answers.get(lines[0].split(" ")[1], b"")
        if answer == b"silence":
            self.silent.set()
            await reader.read()
        writer.write(answer)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    found.port = await found.open()
    yield found
    await found.close()


async def get(port: int, ip: str = "127.0.0.1", **action: Any) -> tuple[int, str]:
    return await http_get({"port": port, **action}, RUN, CONTAINER, ip=ip, agent="kube-probe/1.37")


async def probed(port: int, *, run: Any = RUN, **probe: Any) -> tuple[bool, str]:
    """The first verdict of a readiness probe, by HTTP if nothing else is said."""
    found: list[tuple[bool, str]] = []
    numbers = {"failureThreshold": 1, "timeoutSeconds": 30, "periodSeconds": 0.001}
    action = {} if probe.keys() & {"tcpSocket", "exec"} else {"httpGet": {"port": port, "path": "/x"}}
    spec = {**action, **numbers, **probe}
    await Prober().run(
        "readiness",
        {**CONTAINER, "readinessProbe": spec},
        run,
        ip="127.0.0.1",
        runs=lambda: not found,
        report=lambda ok, message, _: found.append((ok, message)),
    )
    return found[0]


async def test_a_request_as_kubernetes_makes_it(server: Server) -> None:
    port = server.port
    server.answers = {"/x?a=b&c=%2F": OK}
    assert await get(port, path="x?a=b&c=%2F#part") == (200, "hi")
    first, *headers = server.asked.pop()
    assert first == "GET /x?a=b&c=%2F HTTP/1.1"
    expected = [f"Host: 127.0.0.1:{port}", "User-Agent: kube-probe/1.37", "Accept: */*", "Connection: close"]
    assert sorted(headers) == sorted(expected)


async def test_headers_that_a_probe_names_come_first(server: Server) -> None:
    named = [("host", "web.example"), ("X-A", "1"), ("X-A", "2"), ("User-Agent", "me"), ("Accept", "")]
    server.answers = {"/": OK}
    await get(server.port, httpHeaders=[{"name": n, "value": v} for n, v in named])
    headers = {line.lower() for line in server.asked.pop()[1:]}
    assert headers == {"host: web.example", "x-a: 1", "x-a: 2", "user-agent: me", "connection: close"}


@pytest.mark.parametrize(("path", "asked"), [("/é a", "/%C3%A9%20a"), ("/a\r\nb", "/a%0D%0Ab"), ("", "/")])
async def test_paths_are_written_as_urls_are(server: Server, path: str, asked: str) -> None:
    server.answers = {asked: OK}
    assert (await get(server.port, path=path))[0] == 200


async def test_hosts_may_have_addresses_of_the_other_kind() -> None:
    server = Server()
    server.answers = {"/": OK}
    try:
        port = await server.open("::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert await get(port, host="::1") == (200, "hi")
    assert f"Host: [::1]:{port}" in server.asked[0]
    await server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_whoever_the_server_is(tmp_path: Path, version: ssl.TLSVersion) -> None:
    CREDENTIALS.write(tmp_path)
    server, tls = Server(), CREDENTIALS.ssl_server(tmp_path)
    tls.verify_mode = ssl.CERT_NONE
    tls.minimum_version = tls.maximum_version = version
    server.answers = {"/": OK}
    port = await server.open(ssl=tls)
    for host in ("127.0.0.1", "localhost"):
        assert await get(port, host=host, scheme="HTTPS") == (200, "hi")
    await server.close()


async def test_answers_that_come_before_the_answer_are_none(server: Server) -> None:
    server.answers = {"/": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK}
    assert await get(server.port) == (200, "hi")


async def test_of_a_long_answer_the_start_is_read(server: Server) -> None:
    server.answers = {"/": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100 * BODY_MAX}
    assert await get(server.port) == (200, "x" * BODY_MAX)


# --- redirects ------------------------------------------------------------------------------------


def redirect(to: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


async def test_redirects_on_the_same_host_are_followed(server: Server) -> None:
    port = server.port
    server.answers = {"/x": redirect("login?a=b"), "/login?a=b": redirect(f"http://127.0.0.1:{port}/y")}
    server.answers["/y"] = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    assert await probed(port) == (False, "HTTP probe failed with statuscode: 500")
    named = [{"name": "Host", "value": "web.example"}]
    assert (await get(port, path="/x", httpHeaders=named))[0] == 500
    hosts = [next(line for line in asked if line.startswith("Host")) for asked in server.asked[3:]]
    assert hosts == ["Host: web.example", "Host: web.example", f"Host: 127.0.0.1:{port}"]


async def test_a_redirect_elsewhere_is_a_success_with_a_warning(server: Server) -> None:
    server.answers = {"/x": b"HTTP/1.1 301 Moved\r\nLocation: http://example.com/\r\n\r\nmoved"}
    odd = "Probe terminated redirects, Response body: moved"
    assert await probed(server.port) == (True, odd)


async def test_redirects_end(server: Server) -> None:
    server.answers = {"/x": redirect("/x")}
    port = server.port
    assert await probed(port) == (False, f'Get "http://127.0.0.1:{port}/x": stopped after 10 redirects')
    assert len(server.asked) == REQUESTS_MAX


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "EOF"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "malformed HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000, "malformed HTTP response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "Response payload is not completed"),
    ],
    ids=["closed", "no-http", "without-end", "cut-off"],
)
async def test_a_server_that_does_not_answer_well(server: Server, answer: bytes, why: str) -> None:
    server.answers = {"/x": answer}
    port = server.port
    ok, message = await probed(port)
    assert not ok and message.startswith(f'Get "http://127.0.0.1:{port}/x": {why}')
    assert "\n" not in message and len(message) < 300


async def test_nobody_listens(server: Server) -> None:
    port = server.port
    await server.close()
    why = f"dial tcp 127.0.0.1:{port}: connect: connection refused"
    assert await probed(port) == (False, f'Get "http://127.0.0.1:{port}/x": {why}')


async def test_a_host_whose_name_is_not_known() -> None:
    async def connect(host: str, port: int) -> socket.socket:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    action = {"host": "db.example.com", "port": 80}
    found = await probed(80, run=SimpleNamespace(connect=connect), tcpSocket=action)
    assert found == (False, "dial tcp: lookup db.example.com: no such host")


async def test_tls_where_there_is_none() -> None:
    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 No\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    with pytest.raises(NodeError, match=r'^Get "https://127.0.0.1:\d+/": tls: .*wrong version'):
        await get(server.sockets[0].getsockname()[1], scheme="HTTPS")
    server.close()


async def test_a_server_that_says_nothing_in_time(server: Server) -> None:
    server.answers = {"/x": b"silence"}
    port = server.port
    why = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    assert await probed(port, timeoutSeconds=0.1) == (False, f'Get "http://127.0.0.1:{port}/x": {why}')
    assert server.silent.is_set()


@pytest.mark.parametrize("host", ["a..b", "x" * 300, "a b", "a\r\nb", "[", "%"])
async def test_hosts_that_are_none_fail(host: str) -> None:
    with pytest.raises(NodeError, match="Get "):
        await get(80, host=host)


async def test_headers_that_are_none_fail(server: Server) -> None:
    server.answers = {"/": OK}
    with pytest.raises(NodeError, match="Get "):
        await get(server.port, httpHeaders=[{"name": "a", "value": "x\r\ny"}])
    assert await get(server.port) == (200, "hi")
    assert len(server.asked) == 1


async def test_a_probe_that_its_runtime_does_not_make_says_nothing_of_the_container() -> None:
    """A runtime that is started anew would cost all of its containers a restart."""
    command = AsyncMock(side_effect=[RuntimeAway("it is started anew")] * 5 + [RuntimeFailed("no such program")])
    assert await probed(0, run=Mock(exec=command), exec={"command": ["x"]}) == (False, "no such program")
    assert command.call_count == 6
