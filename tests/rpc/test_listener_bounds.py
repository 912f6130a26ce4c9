"""A port of gRPC under clients that say nothing, drip, or send garbage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rayplane.control_plane.rpc import RpcError, Stub, connection_io, grpc_server, listener
from rayplane.control_plane.rpc.faults import LINES_BURST, FaultLog
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.http2.frames import PREFACE
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.grpc_peers import SERVICES, Handler, services

pytestmark = pytest.mark.usefixtures("nothing_leaks")

WAIT_S = 20


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
