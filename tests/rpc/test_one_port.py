"""HTTP/1.1 and gRPC on one port."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web

from rayplane.control_plane.rpc import RpcError, Stub, identity_of_transport, listener
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.grpc_peers import SERVICES, Handler, Transport, services

pytestmark = pytest.mark.usefixtures("nothing_leaks")


class Web:
    """A handler that answers by path."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.left = asyncio.Event()
        self.let_go = asyncio.Event()
        self.peers: list[object] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.peers.append(request.transport.get_extra_info("peername"))  # type: ignore[union-attr]
        match request.path:
            case "/bug":
                raise ValueError("a bug")
            case "/who":
                return web.Response(text=str(identity_of_transport(request.transport)))
            case "/wait":
                self.entered.set()
                try:
                    await self.let_go.wait()
                finally:
                    self.left.set()
            case "/stream":
                return await self._stream(request)
        return web.Response(body=await request.read())

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        self.entered.set()
        try:
            for n in range(4):
                await response.write(b"%d\n" % n)
                if n == 2:
                    await self.let_go.wait()
            await asyncio.get_running_loop().create_future()
        finally:
            self.left.set()
        return response


class Port:
    def __init__(self, server: Any, web_handler: Web, network: GrpcNetwork, tls: ssl.SSLContext | None) -> None:
        self.server, self.web, self.network, self.tls = server, web_handler, network, tls
        self.url = f"{'https' if tls else 'http'}://{server.address}"
        self.stub: Any = Stub(network.channel(server.address), SERVICES["KV"])


@pytest.fixture(params=["plain", "tls"])
async def port(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Port]:
    credentials, tls = None, None
    if request.param == "tls":
        authority = Authority.create("test")
        credentials = authority.issue("someone", ("team",), hosts=["127.0.0.1"])
        credentials.write(tmp_path)
        tls = ssl.create_default_context(cafile=tmp_path / "ca.crt")
        tls.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    network = GrpcNetwork(credentials)
    handler = Web()
    server = await network.serve("127.0.0.1:0", services(Handler()), web=handler)
    yield Port(server, handler, network, tls)
    await network.close()
    await server.stop()


@pytest.fixture
async def session(port: Port) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=port.tls or False)
    async with aiohttp.ClientSession(port.url, connector=connector) as session:
        yield session
    await asyncio.sleep(0)


async def test_both_protocols_are_answered_at_once(port: Port, session: aiohttp.ClientSession) -> None:
    waiting = asyncio.ensure_future(session.post("/wait", data=b"x"))
    await port.web.entered.wait()
    assert (await port.stub.Range(pb.RangeRequest(key=b"abc"))).count == 3
    async with session.post("/echo", data=bytes(500_000)) as response:
        assert await response.read() == bytes(500_000)
    port.web.let_go.set()
    async with await waiting as response:
        assert await response.read() == b"x"


async def test_a_connection_is_kept_for_the_next_request(port: Port, session: aiohttp.ClientSession) -> None:
    for _ in range(3):
        async with session.get("/") as response:
            assert response.status == 200
    assert len(set(port.web.peers)) == 1


async def test_the_certificate_names_the_caller(port: Port, session: aiohttp.ClientSession) -> None:
    async with session.get("/who") as response:
        text = await response.text()
    assert text == ("Identity(user='someone', groups=('team',))" if port.tls else "None")


async def test_where_strangers_may_come_the_web_handler_meets_them_and_no_service(tmp_path: Path) -> None:
    authority = Authority.create("test")
    network = GrpcNetwork(authority.issue("someone", ("team",), hosts=["127.0.0.1"]))
    server = await network.serve("127.0.0.1:0", services(Handler()), web=Web(), strangers=True)
    trusting = ssl.create_default_context(cadata=authority.cert.decode())
    url = f"https://{server.address}/who"
    async with aiohttp.ClientSession() as session, session.get(url, ssl=trusting) as response:
        assert await response.text() == "None"
    stranger = GrpcNetwork(ca=authority.cert)
    stub: Any = Stub(stranger.channel(server.address), SERVICES["KV"])
    with pytest.raises(RpcError) as refused:
        await stub.Range(pb.RangeRequest(key=b"abc"))
    assert refused.value.code is grpc.StatusCode.UNAVAILABLE
    known: Any = Stub(network.channel(server.address), SERVICES["KV"])
    assert (await known.Range(pb.RangeRequest(key=b"abc"))).count == 3
    for one in (stranger, network):
        await one.close()
    await server.stop()


async def test_a_streamed_answer_comes_as_it_is_made_and_ends_when_the_client_leaves(
    port: Port, session: aiohttp.ClientSession
) -> None:
    async with session.get("/stream") as response:
        assert [await response.content.readline() for _ in range(3)] == [b"0\n", b"1\n", b"2\n"]
        port.web.let_go.set()
        assert await response.content.readline() == b"3\n"
        response.close()
    await port.web.left.wait()


async def test_a_request_whose_client_leaves_is_cancelled(port: Port, session: aiohttp.ClientSession) -> None:
    call = asyncio.ensure_future(session.get("/wait"))
    await port.web.entered.wait()
    call.cancel()
    await port.web.left.wait()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_fault_of_the_handler_is_answered_and_the_port_lives_on(
    port: Port, session: aiohttp.ClientSession
) -> None:
    async with session.get("/bug") as response:
        assert response.status == 500
    async with session.get("/") as response:
        assert response.status == 200
    assert (await port.stub.Range(pb.RangeRequest(key=b"a"))).count == 1


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["h2"], "h2"), (["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), ([], None), (["x"], None)],
)
async def test_who_speaks_both_protocols_gets_the_one_with_all_there_is(
    port: Port, offered: list[str], chosen: str | None
) -> None:
    """Over HTTP/2 there is only gRPC, and its clients offer nothing else."""
    if port.tls is None:
        return
    if offered:
        port.tls.set_alpn_protocols(offered)
    host, _, number = port.server.address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(number), ssl=port.tls)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
    writer.transport.abort()


async def test_a_request_gets_its_time_when_the_server_stops(port: Port, session: aiohttp.ClientSession) -> None:
    call = asyncio.ensure_future(session.post("/wait", data=b"x"))
    await port.web.entered.wait()
    stopping = asyncio.ensure_future(port.server.stop(grace_s=30))
    await asyncio.sleep(0)
    port.web.let_go.set()
    async with await call as response:
        assert await response.read() == b"x"
    await stopping


async def test_a_request_that_takes_too_long_is_cut_off_when_the_server_stops(
    port: Port, session: aiohttp.ClientSession
) -> None:
    call = asyncio.ensure_future(session.get("/wait"))
    await port.web.entered.wait()
    await port.server.stop()
    await port.web.left.wait()
    with pytest.raises(aiohttp.ClientError):
        await call


async def _answer_to(address: str, *parts: bytes) -> bytes:
    """What a client gets that sends this in plain."""
    host, _, number = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(number))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)
        return await reader.read(12)
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
async def plain() -> AsyncIterator[Any]:
    server = await GrpcNetwork().serve("127.0.0.1:0", services(Handler()), web=Web())
    yield server
    await server.stop()


@pytest.mark.parametrize(
    "request_",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"PROPFIND / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.0\r\n\r\n"],
)
async def test_a_request_may_come_in_any_pieces(plain: Any, request_: bytes) -> None:
    for cut in (1, 2, 3, 4, len(request_) - 1):
        assert (await _answer_to(plain.address, request_[:cut], request_[cut:])).endswith(b" 200")


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01", b"PRI * HTTP/1.1\r\n\r\n", b"junk\r\n\r\n"])
async def test_junk_is_refused(plain: Any, junk: bytes) -> None:
    """With a word or without one."""
    assert b"200" not in await _answer_to(plain.address, junk)


async def test_who_says_nothing_or_never_ends_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "FIRST_BYTES_S", 0.05)
    server = await GrpcNetwork().serve("127.0.0.1:0", services(Handler()), web=Web())
    for beginning in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"PRI * HTTP/2"):
        assert await _answer_to(server.address, beginning) == b""
    await server.stop()


async def test_a_stopped_server_turns_away_who_has_only_just_come(plain: Any) -> None:
    host, _, number = plain.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(b"GET ")
    await plain.stop()
    try:
        assert await reader.read() == b""
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_one_that_is_let_in_after_the_server_has_stopped_is_turned_away(plain: Any) -> None:
    """Its handshake took that long."""
    await plain.stop()
    newcomer, transport = listener._Newcomer(plain), Transport()
    newcomer.connection_made(transport)
    assert transport.aborted


async def test_http_on_a_port_of_grpc_alone_is_told_so() -> None:
    server = await GrpcNetwork().serve("127.0.0.1:0", services(Handler()))
    host, _, number = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"this port speaks HTTP/2" in await reader.read()
    writer.close()
    await server.stop()


async def test_ipv6() -> None:
    network = GrpcNetwork()
    try:
        server = await network.serve("[::1]:0", services(handler := Handler()), web=Web())
    except OSError:
        pytest.skip("no IPv6 here")
    stub: Any = Stub(network.channel(server.address), SERVICES["KV"])
    assert (await stub.Range(pb.RangeRequest(key=b"abc"))).count == 3
    assert handler.contexts[0].peer.startswith("[::1]:")
    assert (await _answer_to(server.address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b" 200")
    await network.close()
    await server.stop()


async def test_an_address_that_cannot_be_had_is_named() -> None:
    network = GrpcNetwork()
    server = await network.serve("127.0.0.1:0", [])
    with pytest.raises(OSError, match=f"cannot listen on {server.address}"):
        await network.serve(server.address, [])
    await server.stop()
    with pytest.raises(RpcError, match="connection refused"):
        await Stub(network.channel(server.address), SERVICES["KV"]).Range(pb.RangeRequest())
    await network.close()
