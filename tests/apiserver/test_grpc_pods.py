"""Streams to pods over gRPC: what node hosts say and refuse, who may, and what is given back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from rayplane.control_plane.api import errors
from rayplane.control_plane.apiserver.grpc import pods
from rayplane.control_plane.client.api import api_error
from rayplane.control_plane.rpc import Context, Identity, RpcError, Stub
from rayplane.control_plane.rpc.memory import MemoryNetwork
from rayplane.proto.rayplane.v1 import node_pb2
from rayplane.proto.rayplane.v1 import pods_pb2 as pb
from tests.apiserver.conftest import Stack
from tests.apiserver.secure import StandInNode
from tests.rpc.open_service import open_service

COMMAND = pb.PodCommand(namespace="default", name="p", command=["cat"], stdin=True)


class Node(StandInNode):
    """A stand-in that also refuses, and knows what goes on in it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def Logs(self, request: node_pb2.LogsRequest, context: Context) -> AsyncIterator[node_pb2.LogChunk]:
        if request.previous:
            raise RpcError(grpc.StatusCode.FAILED_PRECONDITION, 'previous terminated container "c" not found')
        async for chunk in super().Logs(request, context):
            yield chunk
        if request.follow:
            self.begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.ended.set()


class Pods:
    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.node = Node()
        self.stub = self.stub_of(stack.network)

    def stub_of(self, network: MemoryNetwork) -> Any:
        return Stub(network.channel(self.stack.servers[0].grpc_address), pb.DESCRIPTOR.services_by_name["Pods"])

    async def start(self) -> None:
        service = open_service(node_pb2.DESCRIPTOR.services_by_name["Node"], self.node)
        await self.stack.network.serve("host-0:10250", [service])
        client = self.stack.client()
        metadata = {"name": "n", "annotations": {"rayplane.io/host-address": "host-0:10250"}}
        await client.create("nodes", {"metadata": metadata})
        for name, placed, containers in (("p", "n", "c"), ("two", "n", "ab"), ("waiting", "", "c")):
            spec: dict[str, Any] = {"containers": [{"name": c, "image": "i"} for c in containers]}
            spec |= {"nodeName": placed} if placed else {}
            await client.create("pods", {"metadata": {"name": name, "namespace": "default"}, "spec": spec})

    async def log(self, **fields: Any) -> bytes:
        request = pb.PodLogsRequest(**{"namespace": "default", "name": "p", **fields})
        with typed():
            return b"".join([answer.data async for answer in self.stub.Logs(request)])

    async def talk(self, method: str, *requests: Any, stub: Any = None) -> list[Any]:
        with typed():
            return [answer async for answer in getattr(stub or self.stub, method)(every(requests))]


@contextlib.contextmanager
def typed() -> Any:
    try:
        yield
    except RpcError as e:
        raise api_error(e) from e


async def every(items: Iterable[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest_asyncio.fixture
async def served(stack: Stack) -> Pods:
    made = Pods(stack)
    await made.start()
    return made


async def test_logs(served: Pods) -> None:
    assert (await served.log()).splitlines() == [f"line {i} of c".encode() for i in range(5)]
    assert await served.log(tail_lines=1) == b"line 4 of c\n"
    assert await served.log(name="two", container="b", tail_lines=1) == b"line 4 of b\n"


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"previous": True}, errors.BadRequest, "previous terminated container"),
        ({"name": "none"}, errors.NotFound, 'pods "none" not found'),
        ({"name": ""}, errors.NotFound, "not found"),
        ({"namespace": ""}, errors.NotFound, "could not find the requested resource"),
        ({"name": "a/b"}, errors.BadRequest, "Name parameter invalid"),
        ({"name": "two"}, errors.BadRequest, r"a container name must be specified for pod two, choose one of: \[a b\]"),
        ({"container": "x"}, errors.BadRequest, "container x is not valid for pod p"),
        ({"name": "waiting"}, errors.BadRequest, "pod waiting does not have a host assigned"),
        ({"tail_lines": -1}, errors.Invalid, "tailLines: Invalid value: -1: must be greater than or equal to 0"),
        ({"limit_bytes": 0}, errors.Invalid, "limitBytes: Invalid value: 0: must be greater than 0"),
        ({"since_seconds": 1, "since_time": "x"}, errors.Invalid, "at most one of `sinceTime` or `sinceSeconds`"),
    ],
)
async def test_logs_that_are_not_to_be_had(
    served: Pods, fields: dict[str, Any], kind: type[errors.ApiError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        await served.log(**fields)


async def test_a_log_is_followed_until_its_reader_leaves(served: Pods) -> None:
    request = pb.PodLogsRequest(namespace="default", name="p", follow=True)
    async with contextlib.aclosing(served.stub.Logs(request)) as answers:
        async for answer in answers:
            if b"line 4" in answer.data:
                break
        async with asyncio.timeout(10):
            await served.node.begun.wait()
    async with asyncio.timeout(10):
        await served.node.ended.wait()


async def test_a_command_gets_its_input_and_tells_its_end(served: Pods) -> None:
    typed_in = [pb.PodCommandRequest(command=COMMAND), pb.PodCommandRequest(stdin=b"one")]
    *shown, last = await served.talk("Exec", *typed_in)
    assert (b"".join(s.stdout for s in shown), last.exit_code) == (b"one", 0)
    echo = pb.PodCommand(namespace="default", name="p", command=["echo", "x"])
    out, err, last = await served.talk("Exec", pb.PodCommandRequest(command=echo))
    assert (out.stdout, err.stderr, last.exit_code) == (b"echo x\n", b"trouble\n", 7)
    attached = await served.talk("Attach", *typed_in)
    assert attached[0].stdout == b"one"


async def test_a_connection_to_a_port(served: Pods) -> None:
    there = pb.PodConnection(namespace="default", name="p", port=80)
    answers = await served.talk(
        "PortForward", pb.PodForwardRequest(connection=there), pb.PodForwardRequest(data=b"hello")
    )
    assert b"".join(a.data for a in answers) == b"port 80: hello"
    there.port = 9
    with pytest.raises(errors.ServiceUnavailable, match="Connection refused"):
        await served.talk("PortForward", pb.PodForwardRequest(connection=there))
    there.port = 65_536
    with pytest.raises(errors.BadRequest, match="65536"):
        await served.talk("PortForward", pb.PodForwardRequest(connection=there))


@pytest.mark.parametrize(
    ("method", "requests", "message"),
    [
        ("Exec", [], "the first message must be the command"),
        ("Exec", [pb.PodCommandRequest(stdin=b"x")], "the first message must be the command"),
        ("PortForward", [pb.PodForwardRequest(data=b"x")], "the first message must be the connection"),
        ("Exec", [pb.PodCommandRequest(command=pb.PodCommand(namespace="default", name="p"))], "at least one command"),
    ],
)
async def test_who_does_not_say_what_it_wants_is_told(
    served: Pods, method: str, requests: list[Any], message: str
) -> None:
    with pytest.raises(errors.BadRequest, match=message):
        await served.talk(method, *requests)


async def test_who_never_says_what_it_wants_is_let_go(served: Pods, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pods, "_FIRST_S", 0.05)

    async def silent() -> AsyncIterator[Any]:
        await asyncio.get_running_loop().create_future()
        yield

    with pytest.raises(errors.BadRequest), typed():
        await anext(served.stub.Exec(silent()))


async def test_each_stream_takes_a_right_of_its_own(served: Pods) -> None:
    network = MemoryNetwork(served.stack.fabric, "host-of-jane", Identity("jane"))
    stub = served.stub_of(network)
    command = pb.PodCommandRequest(command=COMMAND)
    there = pb.PodForwardRequest(connection=pb.PodConnection(namespace="default", name="p", port=80))
    for method, request, verb, part in (
        ("Exec", command, "create", "exec"),
        ("Attach", command, "create", "attach"),
        ("PortForward", there, "create", "portforward"),
    ):
        with pytest.raises(errors.Forbidden, match=f'User "jane" cannot {verb} resource "pods/{part}"'):
            await served.talk(method, request, stub=stub)
    with pytest.raises(errors.Forbidden, match='cannot get resource "pods/log"'), typed():
        # Also of a pod that cannot be.
        await anext(stub.Logs(pb.PodLogsRequest(namespace="default", name="a/b")))
