"""The server: called by the gRPC project's own client, and by clients that do as they like."""

import asyncio
import gzip
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from rayplane.control_plane.rpc import Identity, RpcError, Server, Stub, connection_io, tls
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.grpc_server import Registry, ServerConnection
from rayplane.control_plane.rpc.grpc_wire import DETAILS, frame
from rayplane.control_plane.rpc.http2 import encode_headers
from rayplane.control_plane.rpc.http2 import frames as f
from rayplane.control_plane.rpc.tls import INTERNAL_SERVER_NAME, Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.storage.env.leaps import LeapingLoop
from tests.rpc.grpc_peers import (
    RANGE,
    SERVICES,
    SNAPSHOT,
    WATCH,
    Handler,
    Theirs,
    Transport,
    Wire,
    message,
    services,
    watch,
)
from tests.rpc.http2_peer import REQUEST, frames_in, settings
from tests.rpc.http2_peer import frame as frame_of

pytestmark = pytest.mark.usefixtures("nothing_leaks")
OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
Code = grpc.StatusCode


class Served:
    def __init__(self, server: Server, handler: Handler) -> None:
        self.server, self.handler = server, handler
        self.address = server.address


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    handler = Handler()
    server = await GrpcNetwork().serve("127.0.0.1:0", services(handler))
    yield Served(server, handler)
    await server.stop()


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served.address, options=OPTIONS) as channel:
        yield channel


@pytest.fixture
async def wire(served: Served) -> AsyncIterator[Wire]:
    wire = await Wire.connect(served.address)
    yield wire
    await wire.close()


# The gRPC project's client.


async def test_calls_of_every_shape(channel: grpc.aio.Channel, served: Served) -> None:
    answer = await Theirs(channel).Range(pb.RangeRequest(key=b"abc"), metadata=(("token", "t.1"), ("x-bin", b"\0")))
    assert answer.count == 3
    assert served.handler.contexts[0].metadata["token"] == "t.1"
    assert "x-bin" not in served.handler.contexts[0].metadata

    requests = [watch(b"a"), watch(b"bb")]
    assert [r.watch_id async for r in Theirs(channel).Watch(iter(requests))] == [1, 2]

    stream = Theirs(channel).Snapshot(pb.SnapshotRequest())
    got = [(await stream.read()).remaining_bytes for _ in range(300)]
    assert got == list(range(1, 301))
    stream.cancel()
    await served.handler.left.wait()


@pytest.mark.parametrize("size", [0, 70_000, 12_000_000])
async def test_messages_of_any_size_pass_both_ways(channel: grpc.aio.Channel, size: int) -> None:
    answer = await Theirs(channel).Range(pb.RangeRequest(key=bytes(size), limit=size))
    assert (answer.count, len(answer.kvs[0].value)) == (size, size)


async def test_an_error_is_told_whole(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await Theirs(channel).Range(pb.RangeRequest(key=b"refuse"))
    assert (e.value.code(), e.value.details()) == (Code.NOT_FOUND, "no such thing: 100 % ünknown\n")
    # As pairs: releases before 1.66 make a wrong dictionary of them.
    assert (DETAILS.decode(), b"\0details\xff") in [*e.value.trailing_metadata()]


async def test_an_error_may_follow_answers(channel: grpc.aio.Channel) -> None:
    got = []
    with pytest.raises(grpc.aio.AioRpcError) as e:
        async for r in Theirs(channel).Watch(iter([watch(b"a"), watch(b"refuse")])):
            got.append(r.watch_id)
    assert (got, e.value.code(), e.value.details()) == ([1], Code.OUT_OF_RANGE, "compacted")


@pytest.mark.parametrize("key", [b"cancelled inside", b"no answer"])
async def test_a_handler_that_fails_on_its_own_leaves_nobody_waiting(channel: grpc.aio.Channel, key: bytes) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await Theirs(channel).Range(pb.RangeRequest(key=key))
    assert e.value.code() is (Code.INTERNAL if key == b"no answer" else Code.UNAVAILABLE)


@pytest.mark.parametrize(
    ("path", "text"),
    [("/etcdserverpb.KV/Nope", "unknown method Nope for service etcdserverpb.KV"), ("/x.Y/Z", "unknown service x.Y")],
)
async def test_what_is_not_served_is_unimplemented(channel: grpc.aio.Channel, path: str, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await channel.unary_unary(path)(b"")
    assert (e.value.code(), e.value.details()) == (Code.UNIMPLEMENTED, text)


async def test_a_deadline_and_a_cancelled_call_end_the_handler(channel: grpc.aio.Channel, served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await Theirs(channel).Range(pb.RangeRequest(key=b"wait"), timeout=0.2)
    assert e.value.code() is Code.DEADLINE_EXCEEDED
    await served.handler.left.wait()
    served.handler.left.clear()
    served.handler.entered.clear()
    call = Theirs(channel).Range(pb.RangeRequest(key=b"wait"))
    await served.handler.entered.wait()
    call.cancel()
    await served.handler.left.wait()


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_read(served: Served, compression: grpc.Compression) -> None:
    async with grpc.aio.insecure_channel(served.address, options=OPTIONS, compression=compression) as channel:
        assert (await Theirs(channel).Range(pb.RangeRequest(key=bytes(5000)))).count == 5000


async def test_health_and_reflection_answer_the_standard_clients(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", "etcdserverpb.KV"):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == 1
    with pytest.raises(grpc.aio.AioRpcError) as e:
        await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert e.value.code() is Code.NOT_FOUND
    watching = health.Watch(health_pb2.HealthCheckRequest(service=""))
    assert (await watching.read()).status == 1
    watching.cancel()
    symbols = ("etcdserverpb.KV", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
    ask = [reflection_pb2.ServerReflectionRequest(list_services="")]
    ask += [reflection_pb2.ServerReflectionRequest(file_containing_symbol=s) for s in symbols]
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    services, *files = [r async for r in stub.ServerReflectionInfo(iter(ask))]
    assert set(symbols) <= {s.name for s in services.list_services_response.service}
    for answer, symbol in zip(files, symbols, strict=True):
        described = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        assert symbol in {f"{f.package}.{s.name}" for f in described for s in f.service}


async def test_the_certificate_names_the_caller() -> None:
    authority = Authority.create("test")
    handler = Handler()
    server = await GrpcNetwork(authority.issue("server")).serve("127.0.0.1:0", services(handler))
    options = (*OPTIONS, ("grpc.ssl_target_name_override", INTERNAL_SERVER_NAME))
    credentials = authority.issue("someone", ("team",)).grpc_channel()
    async with grpc.aio.secure_channel(server.address, credentials, options=options) as channel:
        await Theirs(channel).Range(pb.RangeRequest(key=b"k"))
    assert handler.contexts[0].identity == Identity("someone", ("team",))
    for stranger in (
        grpc.aio.secure_channel(server.address, grpc.ssl_channel_credentials(authority.cert), options=options),
        grpc.aio.insecure_channel(server.address, options=OPTIONS),
    ):
        async with stranger:
            with pytest.raises(grpc.aio.AioRpcError) as e:
                await Theirs(stranger).Range(pb.RangeRequest(key=b"k"), timeout=20)
            assert e.value.code() is Code.UNAVAILABLE
    assert len(handler.contexts) == 1
    await server.stop()


async def test_a_connection_outlives_its_certificate_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    authority, handler = Authority.create("test"), Handler()
    server = await GrpcNetwork(authority.issue("server")).serve("127.0.0.1:0", services(handler))
    network = GrpcNetwork(authority.issue("someone", validity=timedelta(hours=1)))
    stub = Stub(network.channel(server.address), SERVICES["KV"])
    await stub.Range(pb.RangeRequest(key=b"k"), timeout=20)
    now = time.time()
    monkeypatch.setattr(tls.time, "time", lambda: now + 3601)
    with pytest.raises(RpcError, match="the certificate of someone has expired") as refused:
        await stub.Range(pb.RangeRequest(key=b"k"), timeout=20)
    assert refused.value.code is Code.UNAUTHENTICATED
    assert len(handler.contexts) == 1
    await network.close()
    await server.stop()


# Clients that do as they like.


async def test_a_request_may_come_byte_by_byte_and_its_end_later(wire: Wire) -> None:
    stream = wire.call(RANGE, end=False)
    for byte in message(key=b"abc"):
        wire.h2.send_data(stream, bytes([byte]))
        wire.flush()
        await asyncio.sleep(0)
    answer = await wire.status(stream)
    assert answer[b"grpc-status"] == b"0"
    assert pb.RangeResponse.FromString(wire.peer.data[stream][5:]).count == 3


@pytest.mark.parametrize(
    ("headers", "data", "status", "text"),
    [
        ([], b"", Code.INTERNAL, b"no complete message"),
        ([], message(key=b"abc")[:-1], Code.INTERNAL, b"no complete message"),
        ([], b"\0\xff\xff\xff\xff", Code.RESOURCE_EXHAUSTED, b"larger than max"),
        ([], frame(b"\xff\xff\xff"), Code.INTERNAL, b"cannot read the request"),
        ([(b"grpc-timeout", b"soon")], message(), Code.INTERNAL, b"malformed grpc-timeout"),
        ([(b"grpc-timeout", b"1n")], message(key=b"wait"), Code.DEADLINE_EXCEEDED, b"deadline"),
        ([(b"grpc-encoding", b"snappy")], b"\1\0\0\0\0", Code.UNIMPLEMENTED, b"snappy"),
        ([(b"grpc-encoding", b"gzip")], b"\1\0\0\0\x14" + gzip.compress(b"", mtime=0), Code.OK, b""),
        ([], message(key=b"a") + message(key=b"b"), Code.OK, b""),
    ],
)
async def test_a_request_good_or_bad_is_answered_with_a_status(
    wire: Wire, headers: list[tuple[bytes, bytes]], data: bytes, status: grpc.StatusCode, text: bytes
) -> None:
    answer = await wire.ask(RANGE, *headers, message=data)
    assert (answer[b":status"], answer[b"grpc-status"]) == (b"200", b"%d" % status.value[0])
    assert text in answer.get(b"grpc-message", b"")


GOOD = frame(watch(b"abc").SerializeToString())


@pytest.mark.parametrize(
    ("headers", "data", "status", "text", "answers"),
    [
        ([], b"", Code.OK, b"", 0),
        ([], GOOD * 2, Code.OK, b"", 2),
        ([], GOOD + GOOD[:-1], Code.INTERNAL, b"ended within a message", 1),
        ([], GOOD + b"\0\xff\xff\xff\xff" + GOOD, Code.RESOURCE_EXHAUSTED, b"larger than max", 1),
        ([], GOOD + frame(b"\xff") + GOOD, Code.INTERNAL, b"cannot read the request", 1),
        ([(b"grpc-encoding", b"snappy")], GOOD + b"\1" + GOOD[1:], Code.UNIMPLEMENTED, b"snappy", 1),
        ([(b"grpc-timeout", b"100m")], frame(watch(b"wait").SerializeToString()), Code.DEADLINE_EXCEEDED, b"", 0),
    ],
)
async def test_a_stream_of_requests_is_answered_as_far_as_it_is_good(
    wire: Wire, headers: list[tuple[bytes, bytes]], data: bytes, status: grpc.StatusCode, text: bytes, answers: int
) -> None:
    stream = wire.call(WATCH, *headers, message=data)
    answer = await wire.status(stream)
    assert answer[b"grpc-status"] == b"%d" % status.value[0]
    assert text in answer.get(b"grpc-message", b"")
    assert wire.peer.data[stream] == frame(pb.WatchResponse(watch_id=3).SerializeToString()) * answers


@pytest.mark.parametrize(
    ("header", "status"),
    [((b"content-type", b"application/grpc-web"), b"415"), ((b":method", b"GET"), b"405"), ((b"te", b"x"), None)],
)
async def test_what_is_no_call_is_answered_in_http(
    wire: Wire, header: tuple[bytes, bytes], status: bytes | None
) -> None:
    wire.h2.config.validate_outbound_headers = False
    assert (await wire.ask(RANGE, header, message=message())).get(b":status") == status
    assert (await wire.ask(RANGE, message=message()))[b"grpc-status"] == b"0"


async def test_a_call_that_is_reset_at_once_never_reaches_its_handler(wire: Wire, served: Served) -> None:
    stream = wire.h2.get_next_available_stream_id()
    wire.call(RANGE, message=message(key=b"wait"))
    wire.h2.reset_stream(stream, 8)
    assert (await wire.ask(RANGE, message=message(key=b"next")))[b"grpc-status"] == b"0"
    # Both came in one piece, so that the first one's task had not begun.
    assert len(served.handler.contexts) + served.handler.entered.is_set() <= 2
    assert not served.handler.entered.is_set() or served.handler.left.is_set()


async def test_a_lost_connection_ends_handlers_wherever_they_are(served: Served) -> None:
    """One waits for its own work, one for a request, one for the client to read."""
    wire = await Wire.connect(served.address, window=0)
    wire.call(RANGE, message=message(key=b"wait"))
    wire.call(WATCH, end=False)
    stream = wire.call(SNAPSHOT, message=frame(b""))
    await wire.until(lambda: wire.peer.headers[stream])
    await served.handler.entered.wait()
    wire.writer.transport.abort()
    await served.handler.left.wait()
    assert served.handler.sent <= 2


async def test_a_client_that_has_sent_its_last_still_gets_its_answers(wire: Wire) -> None:
    stream = wire.call(WATCH, message=frame(watch(b"abc").SerializeToString()))
    assert (await wire.status(stream))[b"grpc-status"] == b"0"
    assert pb.WatchResponse.FromString(wire.peer.data[stream][5:]).watch_id == 3


async def test_a_deadline_frees_what_nobody_takes(served: Served) -> None:
    wire = await Wire.connect(served.address, window=10)
    wire.h2.increment_flow_control_window = lambda *_: None  # type: ignore[method-assign]  # takes no more
    stream = wire.call(RANGE, (b"grpc-timeout", b"300m"), message=message(key=b"k", limit=10_000_000))
    blocked = wire.call(SNAPSHOT, (b"grpc-timeout", b"200m"), message=frame(b""))
    await wire.until(lambda: blocked in [s for s, _ in wire.peer.resets])
    await served.handler.left.wait()
    assert stream not in wire.peer.ended
    await wire.close()


async def test_requests_that_nobody_reads_are_held_back_and_come_when_they_are_read(wire: Wire, served: Served) -> None:
    """More than the window, while the handler is busy with the first."""
    one = frame(watch(b"x" * 1000).SerializeToString())
    stream = wire.call(WATCH, message=frame(watch(b"wait").SerializeToString()), end=False)
    wire.peer.send(stream, one * 3000)
    wire.flush()
    await served.handler.entered.wait()
    first, all_ = len(GOOD) + 1, 3000 * len(one)
    await wire.until(lambda: first + all_ - len(wire.peer.unsent[stream]) >= f.STREAM_WINDOW)
    wire.h2.ping(bytes(8))
    wire.flush()
    await wire.until(lambda: wire.peer.pings)
    assert first + all_ - len(wire.peer.unsent[stream]) == f.STREAM_WINDOW
    served.handler.let_go.set()
    assert (await wire.status(stream))[b"grpc-status"] == b"0"
    assert wire.peer.data[stream].count(b"\xe8\x07") == 3000  # watch_id 1000


async def test_a_stream_that_never_waits_lets_others_have_their_turn(served: Served) -> None:
    wire = await Wire.connect(served.address, window=2**31 - 1)
    wire.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    wire.call(SNAPSHOT, message=frame(b""))
    await served.handler.entered.wait()
    assert (await wire.ask(RANGE, message=message(key=b"k")))[b"grpc-status"] == b"0"
    wire.writer.transport.abort()
    await served.handler.left.wait()


# Stopping.


async def test_calls_get_their_time_when_the_server_stops(served: Served, channel: grpc.aio.Channel) -> None:
    call = asyncio.ensure_future(_awaited(Theirs(channel).Range(pb.RangeRequest(key=b"wait", limit=9_000_000))))
    await served.handler.entered.wait()
    stopping = asyncio.ensure_future(served.server.stop(grace_s=30))
    await asyncio.sleep(0)
    served.handler.let_go.set()
    assert len((await call).kvs[0].value) == 9_000_000
    await stopping


async def _awaited(call: Any) -> Any:
    return await call


async def test_after_its_time_a_call_is_ended_and_new_ones_are_refused(served: Served, wire: Wire) -> None:
    unary = wire.call(RANGE, message=message(key=b"wait"))
    stream = wire.call(WATCH, message=GOOD, end=False)
    await wire.until(lambda: wire.peer.data[stream])
    stopping = asyncio.ensure_future(served.server.stop(grace_s=0.3))
    await asyncio.sleep(0)
    late = wire.call(RANGE, message=message())
    await wire.until(lambda: late in [s for s, _ in wire.peer.resets])
    assert dict(wire.peer.resets)[late] == 7  # REFUSED_STREAM: may be tried elsewhere
    assert (await wire.status(unary))[b"grpc-status"] == b"14"
    assert (await wire.status(stream))[b"grpc-status"] == b"14"
    await stopping
    assert served.handler.left.is_set()
    with pytest.raises(OSError):
        await Wire.connect(served.address)


async def test_a_client_that_does_not_listen_does_not_hold_up_a_stop(served: Served) -> None:
    wire = await Wire.connect(served.address, window=2**31 - 1)
    wire.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    wire.call(SNAPSHOT, message=frame(b""))
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await served.handler.entered.wait()
    while served.handler.sent < 100:
        await asyncio.sleep(0.01)
    await served.server.stop()
    assert served.handler.left.is_set()
    wire.writer.transport.abort()


# What a connection does with its transport.


def _connected(handler: Handler) -> tuple[ServerConnection, Transport]:
    connection, transport = ServerConnection(Registry(services(handler))), Transport()
    connection.connection_made(transport)
    connection.data_received(f.PREFACE + settings())
    return connection, transport


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    connection, transport = _connected(Handler())
    connection.pause_writing()
    assert not transport.reading
    connection.resume_writing()
    assert transport.reading
    connection.connection_lost(None)


def test_who_is_silent_while_time_leaps_was_given_none() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        connection, transport = _connected(Handler())
        with loop.leaps():
            for _ in range(10):
                connection.check_silence()
        assert not transport.aborted
        for _ in range(10):
            connection.check_silence()
        assert transport.aborted
        connection.connection_lost(None)

    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(main())


async def test_a_connection_is_ended_so_that_the_client_can_still_read_the_last_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closing it while the client sends would reset it."""
    monkeypatch.setattr(connection_io, "CLOSE_S", 0.05)
    connection, transport = _connected(Handler())
    connection.data_received(frame_of(f.PING, 0, 0, b"short"))
    assert frames_in(transport.written)[-1][0] == f.GOAWAY
    assert transport.ended
    assert not transport.aborted
    connection.data_received(frame_of(f.PING, 0, 0, bytes(8)))
    assert not connection.connection.has_output
    while not transport.aborted:  # by a client that does not end it, too
        await asyncio.sleep(0.01)
    connection.connection_lost(None)


async def test_a_silent_client_is_asked_and_then_given_up() -> None:
    connection, transport = _connected(Handler())
    for _ in range(2):
        connection.check_silence()
    await asyncio.sleep(0)
    assert frames_in(transport.written)[-1][0] == f.PING
    connection.data_received(b"")
    connection.check_silence()
    connection.check_silence()
    assert not transport.aborted
    connection.check_silence()
    assert transport.aborted
    connection.connection_lost(None)


async def test_a_slow_reader_is_not_silent_but_one_that_has_stopped_is() -> None:
    connection, transport = _connected(Handler())
    connection.pause_writing()
    for left in range(10, 1, -1):
        transport.buffered = left
        connection.check_silence()
    assert not transport.aborted
    for _ in range(3):
        connection.check_silence()
    assert transport.aborted
    connection.connection_lost(None)


async def test_everything_of_one_turn_is_written_at_once() -> None:
    connection, transport = _connected(Handler())
    await asyncio.sleep(0)
    writes: list[bytes] = []
    transport.write = writes.append  # type: ignore[method-assign, assignment]
    for number in (1, 3):
        fields = [(n, RANGE.encode() if n == b":path" else v) for n, v in REQUEST]
        connection.data_received(frame_of(f.HEADERS, f.END_HEADERS, number, encode_headers(fields)))
        connection.data_received(frame_of(f.DATA, f.END_STREAM, number, message(key=b"k")))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [[k for k, *_ in frames_in(w)] for w in writes] == [[f.HEADERS, f.DATA, f.HEADERS] * 2]
    connection.connection_lost(None)
