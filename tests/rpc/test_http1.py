"""No client holds an HTTP/1.1 port: not with half a request, not with a slow body, not by reading nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from rayplane.control_plane.rpc import http1
from rayplane.control_plane.rpc.faults import LINES_BURST, FaultLog
from rayplane.control_plane.rpc.gate import Gate, GateLimits, HttpLimits
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Authority

QUICK = HttpLimits(header_s=0.05, body_grace_s=0.05, untaken_s=0.1, check_s=0.02)
PATIENT = HttpLimits(check_s=0.02)
WAIT_S = 10


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    if request.path == "/bug":
        raise RuntimeError("a\nbug")
    if request.path == "/large":
        return web.Response(body=b"x" * (64 << 20))
    return web.Response(text=f"{request.method} {request.path} {len(await request.read())}")


@contextlib.asynccontextmanager
async def serving(
    limits: HttpLimits,
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]] = echo,
    quick: http1.Quick | None = None,
) -> AsyncIterator[tuple[str, int]]:
    server = http1.server(handler, limits, quick=quick)
    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()
    listening.close()
    await server.shutdown(0.1)


async def said(address: tuple[str, int], data: bytes) -> bytes:
    """All that a server says to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    try:
        async with asyncio.timeout(WAIT_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ", b"\r\n"])
async def test_who_does_not_end_its_headers_is_cut_off(data: bytes) -> None:
    async with serving(QUICK) as address:
        assert await said(address, data) == b""


async def test_who_begins_a_second_request_and_does_not_end_it_is_cut_off() -> None:
    async with serving(QUICK) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert b"200 OK" in await reader.readuntil(b"GET /a 0")
            writer.write(b"GET /b HT")
            assert await reader.read() == b""
        writer.close()


async def test_a_body_that_drips_is_cut_off_and_one_that_comes_is_not() -> None:
    async with serving(QUICK) as address:
        assert await said(address, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc") == b""
        body = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000
        assert (await said(address, body)).endswith(b"POST / 1000")


async def test_chunks_that_drip_are_cut_off_where_they_have_a_least_rate() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with serving(replace(QUICK, chunked_bytes_per_s=4096)) as address:
        assert await said(address, request) == b""
        assert (await said(address, request + b"0\r\n\r\n")).endswith(b"POST / 3")
    async with serving(QUICK) as address:
        # A conversation may be silent for as long as it likes.
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        await asyncio.wait([asyncio.ensure_future(reader.read())], timeout=5 * QUICK.body_grace_s)
        assert not reader.at_eof()
        writer.close()


async def test_who_does_not_take_an_answer_is_cut_off() -> None:
    ended = asyncio.Event()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * (1 << 20))
        finally:
            ended.set()

    async with serving(QUICK, stream) as address:
        _, writer = await asyncio.open_connection(*address, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            await ended.wait()
        writer.close()


async def test_who_ends_its_handshake_after_the_server_has_stopped_is_cut_off() -> None:
    _, server_tls, *_, client_tls = Authority.create("test").issue("a", ["b"]).contexts()
    server, accepted = http1.server(echo), asyncio.Event()

    def make() -> asyncio.BaseProtocol:
        accepted.set()
        return server()

    listening = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=server_tls)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    async with asyncio.timeout(WAIT_S):
        await accepted.wait()
        listening.close()
        server.pre_shutdown()
        await server.shutdown(0.1)
        with contextlib.suppress(OSError):
            await writer.start_tls(client_tls, server_hostname=INTERNAL_SERVER_NAME)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await reader.read() == b""
    writer.close()


async def test_four_hundred_half_requests_make_room_for_a_whole_one() -> None:
    limits = replace(PATIENT, gate=GateLimits(connections=50))
    async with serving(limits) as address:
        held = [await asyncio.open_connection(*address) for _ in range(400)]
        for _, writer in held:
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n")
        asked = b"GET /whole HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert (await said(address, asked)).endswith(b"GET /whole 0")
        for _, writer in held:
            writer.close()


async def test_a_full_port_refuses_until_somebody_leaves() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        await go_on.wait()
        return web.Response(text="done")

    asked = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with serving(replace(PATIENT, gate=GateLimits(connections=1)), wait) as address:
        first = asyncio.create_task(said(address, asked))
        await entered.wait()
        assert await said(address, asked) == b""
        go_on.set()
        assert b"done" in await first
        assert b"done" in await said(address, asked)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", b"405"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + b"X: y\r\n" * 1000 + b"\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 5000 + b"\r\n", b"400"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
        (b"\x00\x01\x02\x03 nonsense\r\n\r\n", b"400"),
        (b"GET http://b/abs HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
        (b"GET /old HTTP/1.0\r\n\r\n", b"200"),
    ],
)
async def test_odd_requests(data: bytes, status: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(PATIENT) as address:
        assert (await said(address, data)).split(b" ")[1] == status
    assert not caplog.records


LARGE = b"a" * (1 << 21)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + LARGE + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + LARGE,
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + LARGE + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + LARGE,
        b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 50_000 + b"\r\n") * 100,
    ],
)
async def test_a_head_that_is_too_large_is_answered_so(data: bytes) -> None:
    async with serving(PATIENT) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(data)
        async with asyncio.timeout(WAIT_S):
            answer = await reader.readuntil(b"\r\n\r\n431 Request Header Fields Too Large")
        writer.transport.abort()
    assert answer.split(b" ")[1] == b"431"


async def test_the_head_of_a_pipelined_request_is_bounded_and_bodies_are_not_heads() -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        await go_on.wait()
        return web.Response(text=str(sum([len(piece) async for piece in request.content.iter_any()])))

    first = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    async with serving(PATIENT, wait) as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(first)
        await entered.wait()
        writer.write(b"GET /b HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 50_000 + b"\r\n") * 100)
        async with asyncio.timeout(WAIT_S):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.transport.abort()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(first)
        writer.write(b"POST /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(LARGE))
        for at in range(0, len(LARGE), 1 << 16):
            writer.write(LARGE[at : at + (1 << 16)])
        go_on.set()
        async with asyncio.timeout(WAIT_S):
            assert (await reader.read()).endswith(b"\r\n%d" % len(LARGE))
        writer.close()


async def test_what_comes_after_an_upgrade_is_no_head() -> None:
    async def socket(request: web.BaseRequest) -> web.StreamResponse:
        opened = web.WebSocketResponse(max_msg_size=0)
        await opened.prepare(request)
        message = await opened.receive_bytes()
        await opened.send_str(str(len(message)))
        return opened

    async with (
        asyncio.timeout(WAIT_S),
        serving(PATIENT, socket) as (host, port),
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://{host}:{port}/") as opened,
    ):
        await opened.send_bytes(LARGE)
        assert await opened.receive_str() == str(len(LARGE))


async def test_bodies_are_not_decompressed() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd"
    async with serving(PATIENT) as address:
        assert (await said(address, head)).endswith(b"POST / 4")


async def test_exceptions_are_one_line_each_and_one_trace(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "_faults", FaultLog(logging.getLogger("http"), clock=lambda: 0.0))
    asked = b"GET /bug HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    async with serving(PATIENT) as address:
        for _ in range(LINES_BURST * 2):
            assert b" 500 " in await said(address, asked)
    assert len(caplog.records) == LINES_BURST
    assert sum(bool(record.exc_info) for record in caplog.records) == 1
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_log_of_faults_says_how_many_it_did_not_tell(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    faults = FaultLog(logging.getLogger("faults"), clock=lambda: now)
    for n in range(1000):
        faults.tell(f"call {n}\nforged line", ValueError("x" * 10_000))
    assert len(caplog.records) == LINES_BURST
    assert caplog.records[0].getMessage().startswith("call 0\\nforged line: ValueError: xxx")
    assert max(len(record.getMessage()) for record in caplog.records) < 1000
    now = 5.0
    faults.tell("later")
    assert caplog.records[-1].getMessage() == f"later (and {1000 - LINES_BURST} more that were not told)"


def test_one_address_has_a_share_and_the_machine_has_all() -> None:
    gate = Gate(GateLimits(connections=4, per_address=2))
    assert [gate.enter("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [gate.enter("127.0.0.1") for _ in range(3)] == [True, True, False]
    gate.leave("192.0.2.1")
    assert gate.enter("::1")
    assert not gate.enter("192.0.2.1")


class Quickly:
    """A taker of requests for /q that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[http1.Answer] = []
        self.given_up = 0
        self.came = asyncio.Event()

    def __call__(self, identity: object, data: bytes, answer: http1.Answer) -> http1.GiveUp | None:
        if not (data.startswith(b"GET /q") and data.endswith(b"\r\n\r\n")):
            return None
        self.asked.append(answer)
        self.came.set()
        return self._give_up

    def _give_up(self) -> None:
        self.given_up += 1


_Q = b"GET /q HTTP/1.1\r\nHost: a\r\n\r\n"
_LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


async def test_what_is_answered_quickly_needs_no_handler_and_the_connection_goes_on() -> None:
    quick = Quickly()
    async with serving(PATIENT, quick=quick) as address, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(*address)
        for turn in range(2):
            writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"GET /a 0")
            quick.came.clear()
            writer.write(_Q)
            await quick.came.wait()
            quick.asked[turn](b"quick")
            assert await reader.readexactly(5) == b"quick"
        writer.write(_LAST)
        assert (await reader.read()).endswith(b"GET /last 0")
        writer.close()


@pytest.mark.parametrize("how", ["declined", "late", "pipelined"])
async def test_what_is_not_answered_quickly_goes_to_the_handler(how: str) -> None:
    quick = Quickly()
    async with serving(PATIENT, quick=quick) as address, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"GET /a 0")
        writer.write(_Q)
        await quick.came.wait()
        if how == "declined":
            quick.asked[0](None)
        if how != "pipelined":
            assert b"200 OK" in await reader.readuntil(b"GET /q 0")
        writer.write(_LAST)
        answers = await reader.read()
        assert answers.endswith(b"GET /last 0") and (b"GET /q 0" in answers) is (how == "pipelined")
        assert quick.given_up == (how != "declined")
        quick.asked[0](b"too late")
        writer.close()


async def test_what_stands_within_a_request_is_not_taken_for_one() -> None:
    quick = Quickly()
    async with serving(PATIENT, quick=quick) as address, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /b HTTP/1.1\r\nX-A: ")
        await reader.readuntil(b"POST /a 0")
        writer.write(_Q)
        assert b"200 OK" in await reader.readuntil(b"GET /b 0")
        body = b"POST /c HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(_Q)
        writer.write(body)
        await asyncio.sleep(0)
        writer.write(_Q)
        assert b"200 OK" in await reader.readuntil(b"POST /c %d" % len(_Q))
        assert not quick.asked
        writer.close()


async def test_a_client_that_leaves_gives_its_quick_request_up() -> None:
    quick = Quickly()
    async with serving(PATIENT, quick=quick) as address, asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"GET /a 0")
        writer.write(_Q)
        await quick.came.wait()
        writer.transport.abort()
        while not quick.given_up:
            await asyncio.sleep(0.001)
        quick.asked[0](b"nobody hears it")
