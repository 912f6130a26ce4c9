"""What every Network does: the same suite over gRPC, gRPC with TLS, and memory."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from rayplane.control_plane.rpc import Context, Identity, Network, RpcError, Server, Stub
from rayplane.control_plane.rpc.grpc_network import GrpcNetwork
from rayplane.control_plane.rpc.memory import Fabric, MemoryNetwork
from rayplane.control_plane.rpc.tls import Authority
from rayplane.proto.etcd import rpc_pb2 as pb
from rayplane.proto.rayplane.v1 import raft_pb2
from tests.rpc.open_service import open_service

SERVICES = pb.DESCRIPTOR.services_by_name
PEER = raft_pb2.DESCRIPTOR.services_by_name["Peer"]
CALLER = Identity("someone", ("team-a", "team-b"))


class Handler:
    """A service of every call shape, which keeps what it is told."""

    def __init__(self) -> None:
        self.contexts: list[Context] = []
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()

    async def Range(self, request: pb.RangeRequest, context: Context) -> pb.RangeResponse:
        self.contexts.append(context)
        if request.key == b"refuse":
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, "not now", b"\x00details\xff")
        if request.key == b"break":
            raise ValueError("a bug")
        if request.key == b"hang":
            await self._hang()
        return pb.RangeResponse(count=request.limit + 1)

    async def _hang(self) -> None:
        self.entered.set()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def Snapshot(self, request: pb.SnapshotRequest, context: Context) -> AsyncIterator[pb.SnapshotResponse]:
        for n in range(200):
            yield pb.SnapshotResponse(remaining_bytes=n)

    async def Watch(
        self, requests: AsyncIterator[pb.WatchRequest], context: Context
    ) -> AsyncIterator[pb.WatchResponse]:
        async for request in requests:
            key = request.create_request.key
            if key == b"refuse":
                raise RpcError(grpc.StatusCode.OUT_OF_RANGE, "compacted", b"why")
            if key == b"hang":
                await self._hang()
            yield pb.WatchResponse(watch_id=len(key))

    async def Send(self, requests: AsyncIterator[raft_pb2.Batch], context: Context) -> raft_pb2.StreamEnd:
        count = 0
        async for _ in requests:
            count += 1
        if count != 3:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"{count} batches")
        return raft_pb2.StreamEnd()


class Ends:
    """A server and a client that can call it."""

    def __init__(self, server_network: Network, client: Network, identity: Identity | None) -> None:
        self.server_network = server_network
        self.client = client
        self.identity = identity
        self.handler = Handler()
        self.server: Server

    async def serve(self, address: str = "127.0.0.1:0") -> None:
        services = [open_service(SERVICES[name], self.handler) for name in ("KV", "Maintenance", "Watch")]
        self.server = await self.server_network.serve(address, [*services, open_service(PEER, self.handler)])

    def stub(self, service: str) -> Any:
        descriptor = PEER if service == "Peer" else SERVICES[service]
        return Stub(self.client.channel(self.server.address), descriptor)


@pytest.fixture(params=["grpc", "tls", "memory"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[Ends]:
    if request.param == "memory":
        fabric = Fabric()
        made = Ends(MemoryNetwork(fabric, "server"), MemoryNetwork(fabric, "client", CALLER), CALLER)
    elif request.param == "tls":
        authority = Authority.create("test")
        made = Ends(
            GrpcNetwork(authority.issue("server", hosts=["127.0.0.1"])),
            GrpcNetwork(authority.issue(CALLER.user, CALLER.groups)),
            CALLER,
        )
    else:
        made = Ends(GrpcNetwork(), GrpcNetwork(), None)
    await made.serve()
    yield made
    await made.client.close()
    await made.server.stop()
    await made.server_network.close()


async def test_a_call_carries_request_answer_metadata_and_identity(ends: Ends) -> None:
    answer = await ends.stub("KV").Range(pb.RangeRequest(limit=41), metadata={"tenant": "blue"})
    assert answer.count == 42
    [context] = ends.handler.contexts
    assert context.metadata["tenant"] == "blue"
    assert context.identity == ends.identity


async def test_an_error_keeps_its_code_message_and_details(ends: Ends) -> None:
    with pytest.raises(RpcError) as e:
        await ends.stub("KV").Range(pb.RangeRequest(key=b"refuse"))
    assert (e.value.code, e.value.message) == (grpc.StatusCode.FAILED_PRECONDITION, "not now")
    assert e.value.details == b"\x00details\xff"
    assert not e.value.retryable


async def test_a_fault_of_the_handler_is_internal_and_names_its_type(ends: Ends) -> None:
    with pytest.raises(RpcError, match="ValueError: a bug") as e:
        await ends.stub("KV").Range(pb.RangeRequest(key=b"break"))
    assert e.value.code is grpc.StatusCode.INTERNAL


async def test_a_method_that_the_handler_has_not_is_unimplemented(ends: Ends) -> None:
    with pytest.raises(RpcError) as e:
        await ends.stub("KV").Put(pb.PutRequest())
    assert e.value.code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_server_stream_comes_whole_and_in_order(ends: Ends) -> None:
    stream = ends.stub("Maintenance").Snapshot(pb.SnapshotRequest())
    assert [r.remaining_bytes async for r in stream] == list(range(200))


async def test_a_client_stream_is_answered_once(ends: Ends) -> None:
    async def batches(count: int) -> AsyncIterator[raft_pb2.Batch]:
        for _ in range(count):
            yield raft_pb2.Batch()

    assert [type(r) async for r in ends.stub("Peer").Send(batches(3))] == [raft_pb2.StreamEnd]
    with pytest.raises(RpcError, match="2 batches"):
        _ = [r async for r in ends.stub("Peer").Send(batches(2))]


def _watch(key: bytes) -> pb.WatchRequest:
    return pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key))


async def _held_open(*keys: bytes) -> AsyncIterator[pb.WatchRequest]:
    for key in keys:
        yield _watch(key)
    await asyncio.get_running_loop().create_future()


async def test_both_ways_of_a_stream_flow_at_once(ends: Ends) -> None:
    answered = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WatchRequest]:
        yield _watch(b"a")
        await answered.wait()
        yield _watch(b"bb")

    seen = []
    async for response in ends.stub("Watch").Watch(requests()):
        seen.append(response.watch_id)
        answered.set()
    assert seen == [1, 2]


async def test_an_error_in_a_stream_comes_after_what_was_sent(ends: Ends) -> None:
    seen = []
    with pytest.raises(RpcError) as e:
        async for response in ends.stub("Watch").Watch(_held_open(b"a", b"refuse")):
            seen.append(response.watch_id)
    assert seen == [1]
    assert (e.value.code, e.value.details) == (grpc.StatusCode.OUT_OF_RANGE, b"why")


async def test_a_deadline_ends_a_call_and_its_handler(ends: Ends) -> None:
    with pytest.raises(RpcError) as e:
        await ends.stub("KV").Range(pb.RangeRequest(key=b"hang"), timeout=0.2)
    assert e.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await ends.handler.cancelled.wait()


async def test_a_deadline_ends_a_stream(ends: Ends) -> None:
    with pytest.raises(RpcError) as e:
        async for _ in ends.stub("Watch").Watch(_held_open(b"hang"), timeout=0.2):
            pass
    assert e.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await ends.handler.cancelled.wait()


async def test_a_cancelled_caller_cancels_the_handler(ends: Ends) -> None:
    call = asyncio.ensure_future(ends.stub("KV").Range(pb.RangeRequest(key=b"hang")))
    await ends.handler.entered.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await ends.handler.cancelled.wait()


async def test_closing_a_stream_cancels_the_handler(ends: Ends) -> None:
    async with contextlib.aclosing(ends.stub("Watch").Watch(_held_open(b"a", b"hang"))) as stream:
        assert (await anext(stream)).watch_id == 1
        await ends.handler.entered.wait()
    await ends.handler.cancelled.wait()


async def test_stopping_the_server_ends_calls_with_unavailable(ends: Ends) -> None:
    call = asyncio.ensure_future(ends.stub("KV").Range(pb.RangeRequest(key=b"hang"), timeout=30))
    await ends.handler.entered.wait()
    await ends.server.stop(0)
    with pytest.raises(RpcError) as e:
        await call
    assert e.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


async def test_a_server_that_is_gone_is_unavailable_and_one_that_is_back_answers(ends: Ends) -> None:
    stub, address = ends.stub("KV"), ends.server.address
    await stub.Range(pb.RangeRequest())
    await ends.server.stop(0)
    with pytest.raises(RpcError) as e:
        await stub.Range(pb.RangeRequest())
    assert e.value.retryable
    await ends.serve(address)
    while True:
        try:
            assert (await stub.Range(pb.RangeRequest())).count == 1
            return
        except RpcError as again:
            assert again.retryable
            await asyncio.sleep(0.05)


async def test_an_address_can_be_listened_on_once(ends: Ends) -> None:
    with pytest.raises(OSError, match="in use"):
        await ends.server_network.serve(ends.server.address, [])


async def test_a_stranger_is_not_let_in() -> None:
    trusted, other = Authority.create("ours"), Authority.create("theirs")
    ends = Ends(GrpcNetwork(trusted.issue("server")), GrpcNetwork(other.issue("intruder")), None)
    await ends.serve()
    try:
        with pytest.raises(RpcError) as e:
            await ends.stub("KV").Range(pb.RangeRequest(), timeout=30)
        assert e.value.code is grpc.StatusCode.UNAVAILABLE
        assert not ends.handler.contexts
    finally:
        await ends.client.close()
        await ends.server.stop()
