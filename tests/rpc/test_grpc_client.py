"""The client: calling the gRPC project's own server, and servers that do as they like."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import StatusCode as Code

from rayplane.control_plane.rpc import RpcError, grpc_network
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.grpc_wire import DETAILS, frame
from rayplane.control_plane.rpc.http2 import ErrorCode
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.proto.etcd import kv_pb2
from rayplane.proto.etcd import rpc_pb2 as pb
from tests.ports import free_port
from tests.rpc.grpc_peers import (
    ANSWER,
    SERVICES,
    Handler,
    ScriptedServer,
    Wire,
    answer_calls,
    outcome,
    services,
    stub_of,
    watch,
)
from tests.rpc.http2_peer import RESPONSE, TRAILERS

pytestmark = pytest.mark.usefixtures("nothing_leaks")


async def test_of_many_addresses_few_are_remembered(network: GrpcNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that are connected, nor those that somebody holds: these are renewed and closed with the network."""
    monkeypatch.setattr(grpc_network, "CHANNELS_KEPT", 20)
    server = await network.serve("127.0.0.1:0", services(Handler()))
    await stub_of(network, server.address).Range(pb.RangeRequest(key=b"k"), timeout=10)
    held = network.channel("127.0.0.1:1")
    for port in range(2, 1000):
        network.channel(f"127.0.0.1:{port}")
    gc.collect()
    known = set(network._channels)
    assert len(known) <= 22
    assert {server.address, "127.0.0.1:1", "127.0.0.1:999"} <= known
    assert network.channel("127.0.0.1:1") is held
    await server.stop()


# The gRPC project's server.


class TheirHandler:
    """A handler of the library's own kind."""

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}
        self.cancelled = asyncio.Event()
        self.taken = 0

    async def Range(self, request: pb.RangeRequest, context: grpc.aio.ServicerContext) -> pb.RangeResponse:
        self.metadata = dict(context.invocation_metadata())
        if request.key == b"refuse":
            context.set_trailing_metadata(((DETAILS.decode(), b"\0why\xff"),))
            await context.abort(Code.NOT_FOUND, "no such thing: 100 % ünknown\n")
        if request.key == b"wait":
            try:
                await asyncio.sleep(60)
            finally:
                self.cancelled.set()
        return pb.RangeResponse(count=len(request.key), kvs=[kv_pb2.KeyValue(value=bytes(request.limit))])

    async def Snapshot(self, request: pb.SnapshotRequest, context: Any) -> AsyncIterator[pb.SnapshotResponse]:
        for n in range(2000):
            yield pb.SnapshotResponse(remaining_bytes=n, blob=bytes(2000))

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> AsyncIterator[pb.WatchResponse]:
        try:
            async for request in requests:
                self.taken += 1
                yield pb.WatchResponse(watch_id=len(request.create_request.key))
        finally:
            self.cancelled.set()


@pytest.fixture
async def theirs() -> AsyncIterator[tuple[TheirHandler, str]]:
    handler = TheirHandler()
    server = grpc.aio.server(
        options=(("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)), compression=grpc.Compression.Gzip
    )
    for name, method, kind in (
        ("KV", "Range", "unary_unary"),
        ("Maintenance", "Snapshot", "unary_stream"),
        ("Watch", "Watch", "stream_stream"),
    ):
        described = SERVICES[name].methods_by_name[method]
        read = getattr(pb, described.input_type.name).FromString
        write = getattr(pb, described.output_type.name).SerializeToString
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        handlers = {method: make(getattr(handler, method), read, write)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"etcdserverpb.{name}", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield handler, f"127.0.0.1:{port}"
    await server.stop(0)


async def test_calls_of_every_shape(network: GrpcNetwork, theirs: tuple[TheirHandler, str]) -> None:
    """The answers are compressed."""
    handler, address = theirs
    answer = await stub_of(network, address).Range(
        pb.RangeRequest(key=b"abc", limit=5_000_000), metadata={"Token": "t.1"}
    )
    assert (answer.count, len(answer.kvs[0].value)) == (3, 5_000_000)
    assert handler.metadata["token"] == "t.1"
    answer = await stub_of(network, address).Range(pb.RangeRequest(key=bytes(5_000_000)))
    assert answer.count == 5_000_000
    got = [r.remaining_bytes async for r in stub_of(network, address, "Maintenance").Snapshot(pb.SnapshotRequest())]
    assert got == list(range(2000))

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        for n in range(100):
            yield watch(bytes(n * 300))

    assert [r.watch_id async for r in stub_of(network, address, "Watch").Watch(requests())] == list(
        range(0, 30_000, 300)
    )


async def test_errors_deadlines_and_cancels(network: GrpcNetwork, theirs: tuple[TheirHandler, str]) -> None:
    handler, address = theirs
    stub = stub_of(network, address)
    with pytest.raises(RpcError) as e:
        await stub.Range(pb.RangeRequest(key=b"refuse"))
    assert (e.value.code, e.value.message) == (Code.NOT_FOUND, "no such thing: 100 % ünknown\n")
    assert e.value.details == b"\0why\xff"
    with pytest.raises(RpcError) as e:
        await stub.Put(pb.PutRequest())
    assert e.value.code is Code.UNIMPLEMENTED
    with pytest.raises(RpcError) as e:
        await stub.Range(pb.RangeRequest(key=b"wait"), timeout=0.2)
    assert e.value.code is Code.DEADLINE_EXCEEDED
    await handler.cancelled.wait()


async def test_a_stream_whose_reader_leaves_ends_at_the_server(
    network: GrpcNetwork, theirs: tuple[TheirHandler, str]
) -> None:
    handler, address = theirs

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield watch(b"abc")
        await asyncio.get_running_loop().create_future()

    async for response in stub_of(network, address, "Watch").Watch(requests()):
        assert response.watch_id == 3
        break  # without closing it: the collector does
    gc.collect()
    await handler.cancelled.wait()


# Our own, for what is under way at its ends.


async def test_a_reader_that_rests_holds_the_server_back(network: GrpcNetwork, ours: tuple[Handler, Any]) -> None:
    handler, server = ours
    stream = stub_of(network, server.address, "Maintenance").Snapshot(pb.SnapshotRequest())
    async with contextlib.aclosing(stream):
        assert (await anext(stream)).remaining_bytes == 1
        kv = stub_of(network, server.address)
        before = -1
        while before != handler.sent:  # calls beside it go on
            before = handler.sent
            for _ in range(5):
                await kv.Range(pb.RangeRequest(key=b"k"))
        assert handler.sent * 10_000 < 2 * f.STREAM_WINDOW
        for n in range(2, 500):
            assert (await anext(stream)).remaining_bytes == n
    await handler.left.wait()


async def test_requests_that_fail_end_the_call_and_tell_the_server(
    network: GrpcNetwork, ours: tuple[Handler, Any]
) -> None:
    handler, server = ours

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield watch(b"wait")
        await handler.entered.wait()
        raise ValueError("a bug of the caller")

    with pytest.raises(RpcError, match="ValueError: a bug of the caller") as e:
        async for _ in stub_of(network, server.address, "Watch").Watch(requests()):
            pass
    assert e.value.code is Code.CANCELLED
    await handler.left.wait()


async def test_a_call_that_ends_early_ends_its_requests(network: GrpcNetwork, ours: tuple[Handler, Any]) -> None:
    _, server = ours
    closed = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        try:
            yield watch(b"refuse")
            await asyncio.get_running_loop().create_future()
        finally:
            closed.set()

    with pytest.raises(RpcError, match="compacted"):
        async for _ in stub_of(network, server.address, "Watch").Watch(requests()):
            pass
    assert closed.is_set()


async def test_closing_ends_the_calls_under_way(ours: tuple[Handler, Any]) -> None:
    handler, server = ours
    network = GrpcNetwork()
    stub = stub_of(network, server.address)
    call = asyncio.ensure_future(stub.Range(pb.RangeRequest(key=b"wait")))
    await handler.entered.wait()
    await network.close()
    with pytest.raises(RpcError, match="the channel is closed") as e:
        await call
    assert e.value.code is Code.CANCELLED
    await handler.left.wait()
    with pytest.raises(RpcError, match="the channel is closed"):
        await stub.Range(pb.RangeRequest())


async def test_a_request_that_cannot_be_sent_leaves_no_call_behind(
    network: GrpcNetwork, ours: tuple[Handler, Any]
) -> None:
    _, server = ours
    stub = stub_of(network, server.address)
    await stub.Range(pb.RangeRequest())
    with pytest.raises(ValueError, match="cannot be named"):
        await stub.Range(pb.RangeRequest(), metadata={"grpc-status": "0"})
    channel: Any = network.channel(server.address)
    assert not channel._connection.connection.streams


async def test_calls_that_differ_in_what_is_left_of_their_time_are_all_answered(
    network: GrpcNetwork, ours: tuple[Handler, Any]
) -> None:
    _, server = ours
    stub = stub_of(network, server.address)
    for n in range(300):
        assert (await stub.Range(pb.RangeRequest(key=b"k"), timeout=10 + n / 7)).count == 1


# Servers that do as they like.


ERROR = [(b"grpc-status", b"5"), (b"grpc-message", b"gone")]


@pytest.mark.parametrize(
    ("parts", "code", "text"),
    [
        ([[*RESPONSE, *ERROR]], Code.NOT_FOUND, "gone"),
        ([RESPONSE, ERROR], Code.NOT_FOUND, "gone"),
        ([RESPONSE, ANSWER, ERROR], Code.NOT_FOUND, "gone"),
        ([RESPONSE, TRAILERS], Code.INTERNAL, "0 messages"),
        ([RESPONSE, ANSWER + ANSWER, TRAILERS], Code.INTERNAL, "2 messages"),
        ([RESPONSE, ANSWER[:-1], TRAILERS], Code.INTERNAL, "within a message"),
        ([RESPONSE, ANSWER], Code.INTERNAL, "no trailers"),
        ([RESPONSE, b"\0\xff\xff\xff\xff", TRAILERS], Code.RESOURCE_EXHAUSTED, "larger than max"),
        ([RESPONSE, frame(b"\xff"), TRAILERS], Code.INTERNAL, "cannot read the answer"),
        ([RESPONSE, ANSWER, [(b"other", b"1")]], Code.UNKNOWN, "no gRPC status"),
        ([[(b":status", b"503")]], Code.UNAVAILABLE, "HTTP status 503"),
        ([[(b":status", b"404"), (b"content-type", b"text/html")], b"<html>"], Code.UNIMPLEMENTED, "404"),
        ([[(b":status", b"200"), (b"content-type", b"text/html")], b"<html>"], Code.UNKNOWN, "no gRPC status"),
    ],
)
async def test_an_answer_that_is_none_is_an_error(
    network: GrpcNetwork, parts: list[Any], code: grpc.StatusCode, text: str
) -> None:
    error = await outcome(network, lambda wire: answer_calls(wire, *parts))
    assert isinstance(error, RpcError)
    assert (error.code, text in error.message) == (code, True), error


async def test_what_a_server_says_before_the_answer_is_passed_over(network: GrpcNetwork) -> None:
    script: list[Any] = [[(b":status", b"103")], RESPONSE, ANSWER, TRAILERS]
    assert (await outcome(network, lambda wire: answer_calls(wire, *script))).count == 7


@pytest.mark.parametrize(
    ("reset", "code"),
    [
        (ErrorCode.REFUSED_STREAM, Code.UNAVAILABLE),
        (ErrorCode.CANCEL, Code.CANCELLED),
        (ErrorCode.ENHANCE_YOUR_CALM, Code.RESOURCE_EXHAUSTED),
        (ErrorCode.NO_ERROR, Code.INTERNAL),
        (0x1234, Code.INTERNAL),
    ],
)
async def test_a_reset_call_has_the_code_that_belongs_to_it(network: GrpcNetwork, reset: int, code: Code) -> None:
    async def script(wire: Wire) -> None:
        wire.flush()
        await wire.until(lambda: wire.peer.ended)
        wire.h2.reset_stream(1, reset)
        wire.flush()
        await wire.until(lambda: False)

    assert (await outcome(network, script)).code is code


async def test_a_server_that_goes_away_ends_the_calls_it_has_and_loses_those_it_has_not_seen(
    network: GrpcNetwork,
) -> None:
    async def script(wire: Wire) -> None:
        wire.flush()
        if server.connections > 1:
            await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)
        await wire.until(lambda: len(wire.peer.ended) == 2)
        wire.writer.write(f.HEAD.pack(0, 8, f.GOAWAY, 0, 0) + f.U32.pack(1) + f.U32.pack(0))
        wire.h2.send_headers(1, RESPONSE)
        wire.h2.send_data(1, ANSWER)
        wire.h2.send_headers(1, TRAILERS, end_stream=True)
        wire.flush()
        await wire.until(lambda: False)

    async with ScriptedServer(script) as server:
        stub = stub_of(network, server.address)
        first, second = (asyncio.ensure_future(stub.Range(pb.RangeRequest(key=b"k"))) for _ in range(2))
        assert (await first).count == 7
        with pytest.raises(RpcError, match="takes no more calls") as e:
            await second
        assert e.value.retryable
        assert (await stub.Range(pb.RangeRequest())).count == 7
        assert server.connections == 2
        await network.close()


async def test_more_calls_than_the_server_allows_are_refused(network: GrpcNetwork) -> None:
    async def script(wire: Wire) -> None:
        wire.h2.update_settings({f.SET_STREAMS: 1})
        await answer_calls(wire, RESPONSE, ANSWER, TRAILERS)

    async with ScriptedServer(script) as server:
        stub = stub_of(network, server.address)
        await stub.Range(pb.RangeRequest())
        call = asyncio.ensure_future(stub.Range(pb.RangeRequest()))
        await asyncio.sleep(0)
        with pytest.raises(RpcError, match="1 calls on one connection"):
            await stub.Range(pb.RangeRequest())
        assert (await call).count == 7
        await network.close()


async def test_a_connection_that_has_used_up_its_numbers_is_replaced(network: GrpcNetwork) -> None:
    async with ScriptedServer(lambda wire: answer_calls(wire, RESPONSE, ANSWER, TRAILERS)) as server:
        stub = stub_of(network, server.address)
        await stub.Range(pb.RangeRequest())
        channel: Any = network.channel(server.address)
        channel._connection.connection._next_stream = f.STREAM_ID_MAX
        for _ in range(2):
            assert (await stub.Range(pb.RangeRequest())).count == 7
        assert server.connections == 2
        await network.close()


# Connecting.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_port_where_nobody_listens_is_told_from_other_failures(network: GrpcNetwork, host: str) -> None:
    stub = stub_of(network, f"{host}:{free_port()}")
    for _ in range(2):  # the second is not even tried
        with pytest.raises(RpcError, match="connection refused") as e:
            await stub.Range(pb.RangeRequest())
        assert e.value.retryable
        assert e.value.refused
