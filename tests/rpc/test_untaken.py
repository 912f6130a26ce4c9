"""What a gRPC client that takes no answers, or ends no requests, may hold of a server."""

from __future__ import annotations

import asyncio
from collections import deque

import grpc
import pytest

from rayplane.control_plane.rpc import grpc_server, untaken
from rayplane.control_plane.rpc.grpc_wire import frame
from rayplane.control_plane.rpc.http2.errors import ErrorCode
from rayplane.control_plane.rpc.http2.stream import Stream
from rayplane.control_plane.rpc.listener import GrpcListener
from rayplane.control_plane.rpc.untaken import Untaken
from tests.rpc.grpc_peers import RANGE, WATCH, Handler, Wire, message, services, watch

pytestmark = pytest.mark.usefixtures("nothing_leaks")


def blocked(size: int) -> Stream:
    stream = Stream(1, 0)
    stream.queue = deque([memoryview(bytes(size))])
    return stream


async def test_a_client_that_opens_no_window_is_called_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untaken, "BYTES_MAX", 1)
    listener = GrpcListener(services(Handler()), None)
    await listener.start("127.0.0.1:0", None)
    wire = await Wire.connect(listener.address, window=0)
    first = wire.call(RANGE, message=message(key=b"abc"))
    await wire.until(lambda: wire.peer.headers[first])
    second = wire.call(RANGE, message=message(key=b"abc"))
    await wire.until(lambda: wire.peer.resets)
    assert wire.peer.resets == [(second, ErrorCode.REFUSED_STREAM)]
    # Whoever takes what waits may call again.
    wire.h2.increment_flow_control_window(1000, first)
    wire.flush()
    await wire.status(first)
    third = wire.call(RANGE, message=message(key=b"abc"))
    await wire.until(lambda: wire.peer.headers[third])
    await wire.close()
    await listener.stop()


async def test_an_answer_that_is_never_taken_is_given_up() -> None:
    listener = GrpcListener(services(Handler()), None)
    await listener.start("127.0.0.1:0", None)
    wire = await Wire.connect(listener.address, window=0)
    call = wire.call(RANGE, message=message(key=b"abc"))
    await wire.until(lambda: wire.peer.headers[call])
    [connection] = listener._registry.connections
    for _ in range(untaken.LOOKS_MAX):
        assert connection.connection.streams
        connection._silent_checks = 0  # it answers pings
        connection.check_silence()
    assert not connection.connection.streams
    await wire.until(lambda: wire.peer.resets)
    assert wire.peer.resets == [(call, ErrorCode.CANCEL)]
    await wire.close()
    await listener.stop()


def test_who_takes_a_little_now_and_then_is_waited_for() -> None:
    held, stream = Untaken(), blocked(1000)
    held.add(stream)
    for left in range(999, 900, -1):
        stream.queue = blocked(left).queue
        assert [held.look() for _ in range(untaken.LOOKS_MAX - 1)] == [[]] * (untaken.LOOKS_MAX - 1)
    stream.queue = None
    assert held.look() == []


async def test_requests_that_never_end_gather_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "GATHERED_BYTES_MAX", 50_000)
    listener = GrpcListener(services(Handler()), None)
    await listener.start("127.0.0.1:0", None)
    wire = await Wire.connect(listener.address)
    *calls, last = (wire.call(RANGE, message=frame(bytes(20_000))[:12_000], end=False) for _ in range(5))
    answer = await wire.status(last)
    assert answer[b"grpc-status"] == b"%d" % grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    [connection] = listener._registry.connections
    assert connection._gathered == 4 * 12_000
    for call in calls:
        wire.h2.reset_stream(call)
    assert (await wire.ask(RANGE, message=message(key=b"abc")))[b"grpc-status"] == b"0"
    assert connection._gathered == 0
    await wire.close()
    await listener.stop()


async def test_streamed_requests_that_nobody_reads_gather_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "GATHERED_BYTES_MAX", 50_000)
    handler = Handler()
    listener = GrpcListener(services(handler), None)
    await listener.start("127.0.0.1:0", None)
    wire = await Wire.connect(listener.address)
    waiting = frame(watch(b"wait").SerializeToString())
    call = wire.call(WATCH, message=waiting, end=False)
    await handler.entered.wait()
    [connection] = listener._registry.connections
    for part in (*[frame(bytes(10_000))] * 3, frame(bytes(30_000))[:12_000]):
        wire.h2.send_data(call, part)
    wire.flush()
    while connection._gathered < 42_000:
        await asyncio.sleep(0.001)
    wire.h2.send_data(call, bytes(12_000))
    wire.flush()
    answer = await wire.status(call)
    assert answer[b"grpc-status"] == b"%d" % grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    await handler.left.wait()
    assert connection._gathered == 0
    # What is read is no longer held, though a part of the next one is.
    handler.let_go.set()
    call = wire.call(WATCH, message=waiting * 9 + frame(bytes(30_000))[:12_000], end=False)
    while connection._gathered != 12_000:
        await asyncio.sleep(0.001)
    wire.h2.reset_stream(call)
    wire.flush()
    while connection._gathered:
        await asyncio.sleep(0.001)
    await wire.close()
    await listener.stop()


async def test_those_whom_nobody_knows_have_one_bound_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_server, "STRANGERS_GATHERED_BYTES_MAX", 30_000)
    monkeypatch.setattr(grpc_server, "STRANGERS_REQUEST_S", 0.0)
    listener = GrpcListener(services(Handler()), None)
    await listener.start("127.0.0.1:0", None)
    wires = [await Wire.connect(listener.address) for _ in range(3)]
    assert [(await wire.ask(RANGE, message=message(key=b"k")))[b"grpc-status"] for wire in wires] == [b"0"] * 3
    connections = list(listener._registry.connections)
    for connection in connections:
        connection._stranger = True
    first, second, third = (w.call(RANGE, message=frame(bytes(20_000))[:12_000], end=False) for w in wires)
    answers = [asyncio.ensure_future(w.status(c)) for w, c in zip(wires, (first, second, third), strict=True)]
    [refused], _ = await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
    assert refused.result()[b"grpc-status"] == b"%d" % grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert listener._registry.strangers_bytes == 24_000
    # Who takes its time is not waited for.
    for connection in connections:
        connection.check_silence()
    late = {(await answer)[b"grpc-status"] for answer in answers if answer is not refused}
    assert late == {b"%d" % grpc.StatusCode.DEADLINE_EXCEEDED.value[0]}
    assert listener._registry.strangers_bytes == 0
    for wire in wires:
        await wire.close()
    await listener.stop()
