"""The gRPC face: service Pods of `rayplane.v1`, streams to what runs in pods, passed on to the node host."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, TypeVar

from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.grpc.calls import Calls
from rayplane.control_plane.apiserver.grpc.errors import rpc_error
from rayplane.control_plane.apiserver.outgoing.node_hosts import node_error
from rayplane.control_plane.apiserver.registry.pod_streams import LOG_NUMBERS, PodStreams
from rayplane.control_plane.rpc import Context, RpcError
from rayplane.proto.rayplane.v1 import node_pb2
from rayplane.proto.rayplane.v1 import pods_pb2 as pb
from rayplane.proto.rayplane.v1.objects_pb2 import CreateRequest, GetRequest, ResourceRef

R = TypeVar("R")

# Who opens a stream says at once what for.
_FIRST_S = 30.0
_LOG_FIELDS = ("follow", "previous", "timestamps", "since_time")


class PodsService:
    """Handler of `rayplane.v1.Pods`."""

    def __init__(self, calls: Calls, streams: PodStreams) -> None:
        self._calls = calls
        self._streams = streams

    async def Logs(self, request: pb.PodLogsRequest, context: Context) -> AsyncIterator[pb.PodLogsResponse]:
        message = node_pb2.LogsRequest(**{field: getattr(request, field) for field in _LOG_FIELDS})
        for field in LOG_NUMBERS:
            if request.HasField(field):
                setattr(message, field, getattr(request, field))
        async with self._calls.stream(context, "get", GetRequest(ref=_ref(request, "log"))) as (user, target), _told():
            pod = await self._streams.pod(user, target, "get")
            async with contextlib.aclosing(await self._streams.logs(pod, request.container, message)) as chunks:
                audit.started()
                async for chunk in chunks:
                    yield pb.PodLogsResponse(data=chunk.data)

    def Exec(
        self, requests: AsyncIterator[pb.PodCommandRequest], context: Context
    ) -> AsyncGenerator[pb.PodCommandResponse, None]:
        return self._command(requests, context, attach=False)

    def Attach(
        self, requests: AsyncIterator[pb.PodCommandRequest], context: Context
    ) -> AsyncGenerator[pb.PodCommandResponse, None]:
        return self._command(requests, context, attach=True)

    async def PortForward(
        self, requests: AsyncIterator[pb.PodForwardRequest], context: Context
    ) -> AsyncIterator[pb.PodForwardResponse]:
        asked = await _first(requests, "connection")
        async with (
            self._calls.stream(context, "create", CreateRequest(ref=_ref(asked, "portforward"))) as (user, target),
            _told(),
        ):
            if not 0 < asked.port < 65536:
                raise BadRequest(f"port {asked.port} is not in the range from 1 to 65535")
            pod = await self._streams.pod(user, target, "create", {"ports": [asked.port]})
            stub, ref = await self._streams.port_forward(pod)
            opening = node_pb2.PortForwardRequest(ref=ref, port=asked.port)
            closing = node_pb2.PortForwardRequest(closed=True)
            sent = _sent(opening, requests, lambda r: node_pb2.PortForwardRequest(data=r.data), closing)
            async with contextlib.aclosing(stub.PortForward(sent)) as answers:
                audit.started()
                async for answer in answers:
                    yield pb.PodForwardResponse(data=answer.data)
                    if answer.closed:
                        return

    async def _command(
        self, requests: AsyncIterator[pb.PodCommandRequest], context: Context, *, attach: bool
    ) -> AsyncGenerator[pb.PodCommandResponse, None]:
        asked = await _first(requests, "command")
        request = CreateRequest(ref=_ref(asked, "attach" if attach else "exec"))
        async with self._calls.stream(context, "create", request) as (user, target), _told():
            flags = {"stdin": asked.stdin, "stdout": True, "stderr": not asked.tty, "tty": asked.tty}
            options = {**flags, "container": asked.container, "command": [*asked.command]}
            pod = await self._streams.pod(user, target, "create", options)
            stub, opening = await self._streams.command(
                pod, asked.container, asked.command, attach=attach, tty=asked.tty, stdin=asked.stdin
            )
            closing = node_pb2.ExecRequest(stdin_closed=True)
            async with contextlib.aclosing(stub.Exec(_sent(opening, requests, _typed, closing))) as answers:
                audit.started()
                async for answer in answers:
                    shown = pb.PodCommandResponse(stdout=answer.stdout, stderr=answer.stderr)
                    if answer.HasField("exit_code"):
                        shown.exit_code = answer.exit_code
                    yield shown


def _ref(request: Any, subresource: str) -> ResourceRef:
    return ResourceRef(
        version="v1", resource="pods", namespace=request.namespace, name=request.name, subresource=subresource
    )


async def _first(requests: AsyncIterator[Any], part: str) -> Any:
    """What the first message asks for."""
    first = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_FIRST_S):
            first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != part:
        raise rpc_error(BadRequest(f"the first message must be the {part}"))
    return getattr(first, part)


async def _sent(
    opening: R, requests: AsyncIterator[Any], passed_on: Callable[[Any], R], closing: R
) -> AsyncIterator[R]:
    """Requests to the node host; the call goes on until that ends it."""
    yield opening
    async for request in requests:
        yield passed_on(request)
    yield closing
    await asyncio.get_running_loop().create_future()


def _typed(request: pb.PodCommandRequest) -> node_pb2.ExecRequest:
    size = request.size
    return node_pb2.ExecRequest(
        stdin=request.stdin, stdin_closed=request.stdin_closed, width=size.width, height=size.height
    )


@contextlib.asynccontextmanager
async def _told() -> AsyncIterator[None]:
    """What a node host refuses, as the API says it."""
    try:
        yield
    except RpcError as e:
        raise node_error(e) from e
