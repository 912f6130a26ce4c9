"""The client's connections: servers of no use, failures, closing, TLS at one end only."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import RpcError, Stub, client_connection, grpc_client
from rayplane.control_plane.rpc.connection_io import SILENT_CHECKS
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.rpc.grpc_peers import (
    ANSWER,
    SERVICES,
    Handler,
    ScriptedServer,
    Wire,
    answer_calls,
    drop_all,
    outcome,
    services,
    stub_of,
)
from tests.rpc.http2_peer import RESPONSE, TRAILERS

pytestmark = pytest.mark.usefixtures("nothing_leaks")
Code = grpc.StatusCode


async def _drop(wire: Wire) -> None:
    wire.writer.transport.abort()


async def _no_http2(wire: Wire) -> None:
    await wire.reader.read(10)
    wire.writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def _drop_after_greeting(wire: Wire) -> None:
    wire.flush()
    await wire.until(lambda: wire.peer.ended)


async def _say_nothing(wire: Wire) -> None:
    await wire.reader.read(-1)


async def _break_rules(wire: Wire) -> None:
    wire.flush()
    wire.writer.write(f.HEAD.pack(0, 1, f.PING, 0, 0) + b"x")
    await wire.reader.read(-1)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (_drop, "cannot connect"),
        (_no_http2, "cannot connect"),
        (_say_nothing, "timed out"),
        (_drop_after_greeting, "the connection was"),
        (_break_rules, "the connection was"),
    ],
)
async def test_a_server_that_is_of_no_use_is_unavailable_but_not_gone(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch, script: Any, text: str
) -> None:
    if script is _say_nothing:
        monkeypatch.setattr(grpc_client, "CONNECT_TIMEOUT_S", 0.1)
    error = await outcome(network, script)
    assert (error.code, error.refused) == (Code.UNAVAILABLE, False)
    assert text in error.message


async def test_a_refusal_that_a_server_tells_of_is_not_its_own(network: GrpcNetwork) -> None:
    error = [*RESPONSE, (b"grpc-status", b"14"), (b"grpc-message", b"connection refused")]
    assert not (await outcome(network, lambda wire: answer_calls(wire, error))).refused


async def test_after_a_failure_nothing_is_tried_for_a_while(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each failure makes the while longer, up to a limit."""
    loop, tried = asyncio.get_running_loop(), 0

    async def refuse(*_: Any, **__: Any) -> Any:
        nonlocal tried
        tried += 1
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    now = loop.time()
    channel: Any = network.channel("127.0.0.1:1")
    stub: Any = Stub(channel, SERVICES["KV"])
    waits = []
    with monkeypatch.context() as patch:
        patch.setattr(grpc_client.asyncio, "get_running_loop", lambda: _Loop(loop, refuse, lambda: now))
        for n in range(8):
            for _ in range(2):
                with pytest.raises(RpcError):
                    await stub.Range(pb.RangeRequest())
            assert tried == n + 1
            waits.append(channel._retry_at - now)
            now = channel._retry_at
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (
        pytest.approx(grpc_client.BACKOFF.first_s),
        pytest.approx(grpc_client.BACKOFF_REFUSED.max_s),
    )


class _Loop:
    """A loop with another clock and another way to connect."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connect: Any, now: Callable[[], float]) -> None:
        self._loop = loop
        self.sock_connect = connect
        self.time = now

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


UNREACHABLE = OSError(errno.EHOSTUNREACH, "no route")
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "refused")


@pytest.mark.parametrize(
    ("failures", "refused"), [((REFUSED, REFUSED), True), ((REFUSED, UNREACHABLE), False), ((UNREACHABLE,), False)]
)
async def test_a_name_is_refused_when_nothing_listens_at_any_of_its_addresses(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch, failures: tuple[OSError, ...], refused: bool
) -> None:
    left = list(failures)

    async def addresses(*_: Any) -> list[str]:
        return [f"127.0.0.{n}" for n, _ in enumerate(failures, 1)]

    async def fail(*_: Any, **__: Any) -> Any:
        raise left.pop(0)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(grpc_client, "_addresses", addresses)
    with monkeypatch.context() as patch:
        patch.setattr(grpc_client.asyncio, "get_running_loop", lambda: _Loop(loop, fail, loop.time))
        with pytest.raises(RpcError) as e:
            await stub_of(network, "name:1").Range(pb.RangeRequest())
    assert (e.value.refused, left) == (refused, [])


async def test_one_that_gives_up_connecting_leaves_it_to_the_others(network: GrpcNetwork) -> None:
    arrived, let_in = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire) -> None:
        arrived.set()
        await let_in.wait()
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    async with ScriptedServer(script) as server:
        stub = stub_of(network, server.address)
        leaves, stays = (asyncio.ensure_future(stub.Range(pb.RangeRequest())) for _ in range(2))
        with pytest.raises(RpcError, match="while connecting") as e:
            await stub.Range(pb.RangeRequest(), timeout=0.05)
        assert e.value.code is Code.DEADLINE_EXCEEDED
        await arrived.wait()
        leaves.cancel()
        await asyncio.sleep(0)
        let_in.set()
        assert (await stays).count == 7
        assert leaves.cancelled()
        assert server.connections == 1
        await network.close()


async def test_closing_while_connecting_is_told_to_those_who_wait(network: GrpcNetwork) -> None:
    async with ScriptedServer(_say_nothing) as server:
        call = asyncio.ensure_future(stub_of(network, server.address).Range(pb.RangeRequest()))
        while not server.connections:
            await asyncio.sleep(0.001)
        await network.close()
        with pytest.raises(RpcError, match="the channel is closed"):
            await call


@pytest.mark.parametrize("mix", ["plain client", "plain server"])
async def test_tls_at_one_end_only_is_unavailable(mix: str) -> None:
    credentials = Authority.create("test").issue("me")
    with_tls, without = GrpcNetwork(credentials), GrpcNetwork()
    there, here = (with_tls, without) if mix == "plain client" else (without, with_tls)
    server = await there.serve("127.0.0.1:0", services(Handler()))
    with pytest.raises(RpcError, match="cannot connect") as e:
        await stub_of(here, server.address).Range(pb.RangeRequest())
    assert e.value.retryable
    assert not e.value.refused
    await here.close()
    await server.stop()


async def test_a_dead_connection_is_found_even_when_calls_come_one_at_a_time_and_give_up(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that at no look at the connection there is a call."""
    monkeypatch.setattr(client_connection, "SILENCE_CHECK_S", 0.05)
    monkeypatch.setattr(client_connection, "IDLE_CHECKS", 10**9)

    async def script(wire: Wire) -> None:
        wire.flush()
        await wire.reader.read(-1)

    async with ScriptedServer(script) as server:
        stub = stub_of(network, server.address)
        with pytest.raises(RpcError):
            await stub.Range(pb.RangeRequest(), timeout=0.03)
        channel: Any = network.channel(server.address)
        while channel._connections:
            await asyncio.sleep(0.01)
        await network.close()


async def test_who_is_not_acknowledged_is_asked_nothing_new_and_soon_has_ended(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a lost machine. Others can be asked at once; nothing is pinged for it."""
    monkeypatch.setattr(client_connection, "SILENCE_CHECK_S", 1000.0)
    wires: list[Wire] = []

    async def script(wire: Wire) -> None:
        wires.append(wire)
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    async with ScriptedServer(script) as server:
        stub = stub_of(network, server.address)
        assert (await stub.Range(pb.RangeRequest())).count == 7
        drop_all(wires[0].writer.get_extra_info("socket"))
        lost = asyncio.ensure_future(stub.Range(pb.RangeRequest(), timeout=100.0))
        channel: Any = network.channel(server.address)
        [connection] = channel._connections
        while not connection._doubtful:
            await asyncio.sleep(0.01)
        with pytest.raises(RpcError) as refused:
            await stub.Range(pb.RangeRequest())
        assert (refused.value.code, refused.value.unsent, lost.done()) == (Code.UNAVAILABLE, True, False)
        with pytest.raises(RpcError, match="machine") as e:
            await lost
        assert (e.value.code, e.value.unsent) == (Code.UNAVAILABLE, False)
        assert (await stub.Range(pb.RangeRequest())).count == 7  # by another connection


async def test_who_comes_to_a_machine_that_does_not_answer_is_soon_told(network: GrpcNetwork) -> None:
    """And nobody who comes later waits for it; the attempt goes on."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        drop_all(silent)
        host, port = silent.getsockname()
        stub = stub_of(network, f"{host}:{port}")
        channel: Any = network.channel(f"{host}:{port}")
        for again in (False, True):
            attempt = channel._connecting
            with pytest.raises(RpcError, match="the machine has not answered") as e:
                await stub.Range(pb.RangeRequest(), timeout=100.0)
            assert (e.value.code, e.value.unsent, e.value.refused) == (Code.UNAVAILABLE, True, False)
            assert not again or channel._connecting is attempt
        assert not attempt.done()
        await network.close()


async def test_a_machine_that_answers_is_waited_for_however_long_its_server_takes(
    network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_client, "DOUBTFUL_S", 0.01)
    arrived, let_in = asyncio.Event(), asyncio.Event()

    async def script(wire: Wire) -> None:
        arrived.set()
        await let_in.wait()
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    async with ScriptedServer(script) as server:
        call = asyncio.ensure_future(stub_of(network, server.address).Range(pb.RangeRequest()))
        await arrived.wait()
        channel: Any = network.channel(server.address)
        for _ in range(3):
            await asyncio.wait([channel._connecting], timeout=grpc_client.DOUBTFUL_S)
        let_in.set()
        assert (await call).count == 7
        await network.close()


async def test_a_server_that_reads_nothing_is_there(network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "UNHEARD_S", 0.0)
    monkeypatch.setattr(client_connection, "DOUBTFUL_S", 0.0)
    goes_on = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.flush()
        await goes_on.wait()
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    async with ScriptedServer(script) as server:
        call = asyncio.ensure_future(stub_of(network, server.address).Range(pb.RangeRequest()))
        channel: Any = network.channel(server.address)
        while not any(c.connection.streams and c._acknowledging is None for c in channel._connections):
            await asyncio.sleep(0.01)
        assert not call.done()
        goes_on.set()
        assert (await call).count == 7


@pytest.mark.parametrize("patient", [False, True])
async def test_who_is_patient_bears_a_server_that_is_busy_for_longer(
    patient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "SILENCE_CHECK_S", 0.05)
    goes_on = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.flush()
        await goes_on.wait()
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    network = GrpcNetwork(patient=patient)
    async with ScriptedServer(script) as server:
        call = asyncio.ensure_future(stub_of(network, server.address).Range(pb.RangeRequest()))
        channel: Any = network.channel(server.address)
        while not (any(one._silent_checks > SILENT_CHECKS for one in channel._connections) if patient else call.done()):
            await asyncio.sleep(0.01)
        goes_on.set()
        told: Any = (await asyncio.gather(call, return_exceptions=True))[0]
        assert (told.count == 7) if patient else (told.code is Code.UNAVAILABLE), told
        await network.close()


async def test_a_connection_that_nobody_uses_is_closed(
    network: GrpcNetwork, ours: tuple[Handler, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "SILENCE_CHECK_S", 0.01)
    _, server = ours
    stub = stub_of(network, server.address)
    await stub.Range(pb.RangeRequest())
    channel: Any = network.channel(server.address)
    while channel._connections:
        await asyncio.sleep(0.01)
    assert (await stub.Range(pb.RangeRequest(key=b"k"))).count == 1
