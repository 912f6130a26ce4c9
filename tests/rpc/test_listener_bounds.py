"""A port of gRPC under clients that say nothing, drip, or send garbage."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from rayplane.control_plane.rpc import RpcError, Stub, connection_io, grpc_server, http1, listener
from rayplane.control_plane.rpc.faults import LINES_BURST, FaultLog
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.http2.frames import PREFACE
from rayplane.control_plane.rpc.sockets import SystemSockets
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env.leaps import LeapingLoop
from tests.rpc.grpc_peers import SERVICES, Handler, services

pytestmark = pytest.mark.usefixtures("nothing_leaks")

WAIT_S = 20
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def network() -> AsyncIterator[GrpcNetwork]:
    made = GrpcNetwork(None)
    yield made
    await made.close()


async def test_who_says_nothing_makes_room_for_who_calls(network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 20)
    server = await network.serve("127.0.0.1:0", services(Handler()))
    host, _, port = server.address.rpartition(":")
    held = [await asyncio.open_connection(host, int(port)) for _ in range(200)]
    stub: Any = Stub(network.channel(server.address), SERVICES["KV"])
    assert (await stub.Range(pb.RangeRequest(key=b"abc"))).count == 3
    for _, writer in held:
        writer.close()
    await server.stop()


@pytest.mark.parametrize("begun", [PREFACE[:20], PREFACE, PREFACE + b"\x00\x00\x06\x04\x00"])
async def test_who_drips_its_greeting_is_cut_off(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(listener, "SILENCE_CHECK_S", 0.02)
    server = await network.serve("127.0.0.1:0", services(Handler()))
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(begun[:1])
    rest = iter(begun[1:])
    async with asyncio.timeout(WAIT_S):
        while not reader.at_eof():
            writer.write(bytes([byte]) if (byte := next(rest, None)) is not None else b"")
            try:
                async with asyncio.timeout(0.005):
                    await reader.read(1024)
            except TimeoutError:
                continue
            except ConnectionError:
                break
    writer.close()
    await server.stop()
    assert connection_io.GREETING_CHECKS < 10


@pytest.mark.parametrize(("protocol", "says", "hears"), [("h2", PREFACE, b"\x00"), ("http/1.1", GET, b"H")])
def test_who_connects_while_time_is_led_forward_is_given_time_to_introduce_himself(
    protocol: str, says: bytes, hears: bytes
) -> None:
    credentials, heard = Authority.create("an authority").issue("x"), list[bytes]()
    both, client = credentials.contexts()[3:]
    client.set_alpn_protocols([protocol])

    def introduce(host: str, port: str) -> None:
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as raw:
            time.sleep(0.1)  # as one that is far or slow; hours have passed for who leaps on
            try:
                with client.wrap_socket(raw, server_hostname=INTERNAL_SERVER_NAME) as connection:
                    connection.sendall(says)
                    heard.append(connection.recv(1))
            except OSError as e:
                heard.append(str(e).encode())

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="here")

    async def main() -> None:
        loop, network = asyncio.get_running_loop(), GrpcNetwork(credentials)
        assert isinstance(loop, LeapingLoop)
        stop: Callable[[], Awaitable[None]]
        if protocol == "h2":
            server = await network.serve("127.0.0.1:0", services(Handler()))
            address, stop = server.address, server.stop
        else:
            listening = await SystemSockets().listen("127.0.0.1:0", http1.server(answer), tls=both)
            address, stop = listening.address, listening.close
        thread = threading.Thread(target=introduce, args=address.split(":"))
        thread.start()
        while thread.is_alive():
            await loop.advance(60)
        await stop()
        await network.close()

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())
    assert heard == [hears]


@pytest.mark.parametrize("half", [GET[:20], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"])
def test_who_has_sent_half_a_request_is_given_time_for_the_rest_while_time_is_led_forward(
    half: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, came, taken = list[bytes](), list[bytes](), http1.Guard.data_received

    def take(guard: http1.Guard, data: bytes) -> None:
        came.append(data)
        taken(guard, data)

    monkeypatch.setattr(http1.Guard, "data_received", take)

    def ask(host: str, port: str) -> None:
        with socket.create_connection((host, int(port)), timeout=WAIT_S) as raw:
            raw.sendall(GET)
            while not raw.recv(1024).endswith(b"here"):
                pass
            raw.sendall(half)
            time.sleep(0.1)  # hours have passed for who leaps on
            try:
                raw.sendall(GET[20:] if half in GET else b"cd")
                heard.append(raw.recv(15))
            except OSError as e:
                heard.append(str(e).encode())

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=(await request.text()) or "here")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        server = await SystemSockets().listen("127.0.0.1:0", http1.server(answer))
        thread = threading.Thread(target=ask, args=server.address.split(":"))
        thread.start()
        while b"".join(came) != GET + half:
            await asyncio.sleep(0.001)
        while thread.is_alive():
            await loop.advance(60)
        await server.close()

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())
    assert heard == [b"HTTP/1.1 200 OK"]


class Garbage:
    def SerializeToString(self) -> bytes:
        return b"\xff\xff\xff"


async def test_garbage_for_messages_is_answered_and_not_logged(
    network: GrpcNetwork, caplog: pytest.LogCaptureFixture
) -> None:
    server = await network.serve("127.0.0.1:0", services(Handler()))
    stub: Any = Stub(network.channel(server.address), SERVICES["KV"])
    for _ in range(3):
        with pytest.raises(RpcError, match="cannot read the request"):
            await stub.Range(Garbage())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await server.stop()


async def test_faults_of_handlers_are_a_line_each_and_one_trace(
    network: GrpcNetwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "_faults", FaultLog(logging.getLogger("calls"), clock=lambda: 0.0))

    class Faulty(Handler):
        async def Range(self, request: Any, context: Any) -> Any:
            raise RuntimeError("a bug")

    server = await network.serve("127.0.0.1:0", services(Faulty()))
    stub: Any = Stub(network.channel(server.address), SERVICES["KV"])
    for _ in range(LINES_BURST * 2):
        with pytest.raises(RpcError):
            await stub.Range(pb.RangeRequest(key=b"abc"))
    assert len(caplog.records) == LINES_BURST
    assert sum(bool(record.exc_info) for record in caplog.records) == 1
    await server.stop()
