"""What a gRPC client that takes no answers, or ends no requests, may hold of a server."""

from __future__ import annotations

from collections import deque

import grpc
import pytest

from rayplane.control_plane.rpc import grpc_server, untaken
from rayplane.control_plane.rpc.grpc_wire import frame
from rayplane.control_plane.rpc.http2.errors import ErrorCode
from rayplane.control_plane.rpc.http2.stream import Stream
from rayplane.control_plane.rpc.listener import GrpcListener
from rayplane.control_plane.rpc.untaken import Untaken
from tests.rpc.grpc_peers import RANGE, Handler, Wire, message, services

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
