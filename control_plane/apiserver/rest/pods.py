"""Streams to pods: logs, exec, attach, port-forward, passed on to the node host that runs the pod.

exec and attach speak Kubernetes' channel protocol over WebSocket: each binary message begins with the number of its
channel (0 stdin, 1 stdout, 2 stderr, 3 the final Status, 4 terminal size; version 5 adds 255, which closes a channel).
The node host is found by its Node's annotation. Each stream has two tasks, one for each direction; the buffers between
them are those of the transports, so a slow reader slows its writer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping

import grpc
import orjson
from aiohttp import WSMsgType, web

from rayplane.control_plane.api.errors import (
    ApiError,
    BadRequest,
    InternalError,
    Invalid,
    NotFound,
    ServiceUnavailable,
    TooManyRequests,
    forbidden,
    invalid,
)
from rayplane.control_plane.api.meta import Object, annotations
from rayplane.control_plane.api.node_annotations import HOST_ADDRESS
from rayplane.control_plane.api.pods.containers import every
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.rest.numbers import integer
from rayplane.control_plane.apiserver.rest.portforward import serve_tunnel
from rayplane.control_plane.rpc import Network, RpcError, Stub
from rayplane.proto.rayplane.v1 import node_pb2

_NODE = node_pb2.DESCRIPTOR.services_by_name["Node"]
_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_TUNNEL = "SPDY/3.1+portforward.k8s.io"
_STDIN, _STDOUT, _STDERR, _ERROR, _RESIZE, _CLOSE = 0, 1, 2, 3, 4, 255
_MESSAGE_BYTES_MAX = 1 << 20
_HEARTBEAT_S = 30.0
_TRUE = ("true", "1")
_STATUS_OF_CODE = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.INVALID_ARGUMENT: BadRequest,
    grpc.StatusCode.FAILED_PRECONDITION: BadRequest,
    grpc.StatusCode.UNIMPLEMENTED: BadRequest,
    grpc.StatusCode.RESOURCE_EXHAUSTED: TooManyRequests,
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
}


def node_error(error: RpcError) -> ApiError:
    """What the API answers when a node host refuses."""
    return _STATUS_OF_CODE.get(error.code, InternalError)(error.message)


class PodStreams:
    """The handler of `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`."""

    def __init__(self, registry: ObjectRegistry, network: Network) -> None:
        self._registry = registry
        self._network = network

    async def handle(self, request: web.BaseRequest, user: User, target: Target) -> web.StreamResponse:
        """The response, when the stream has ended. Raises ApiError before it has begun."""
        verb = "create" if request.method == "POST" else "get"
        await self._registry.allow(user, verb, target)
        if target.subresource != "log":
            # A WebSocket begins with GET, whatever it does in the pod: who may only look may not, as in Kubernetes.
            await self._registry.allow(user, "create", target)
        plain = Target(target.info, target.namespace, target.name)
        pod = (await self._registry.reader.get(plain)).object
        if target.subresource == "log":
            return await self._log(request, pod)
        if request.headers.get("Upgrade", "").lower() != "websocket":
            raise BadRequest("Upgrade request required: this server speaks WebSocket only")
        if target.subresource == "portforward":
            return await self._port_forward(request, pod)
        attach = target.subresource == "attach"
        return await self._exec(request, pod, attach=attach)

    async def _stub(self, pod: Object) -> tuple[Stub, str]:
        """The node host's service, and the node's name."""
        name = (pod.get("spec") or {}).get("nodeName") or ""
        if not name:
            raise BadRequest(f"pod {pod['metadata']['name']} does not have a host assigned")
        node = await self._registry.lookup.get("nodes", name)
        if node is None:
            raise NotFound.of("nodes", name)
        address = annotations(node).get(HOST_ADDRESS)
        if not address:
            raise ServiceUnavailable(f"node {name} does not say where its host is reached ({HOST_ADDRESS})")
        return Stub(self._network.channel(address), _NODE), name

    def _ref(self, pod: Object, node: str, container: str) -> node_pb2.ContainerRef:
        spec, meta = pod.get("spec") or {}, pod["metadata"]
        names = [c["name"] for c in every(spec)]
        if not container:
            # kubectl reads the same annotation before it asks.
            container = annotations(pod).get("kubectl.kubernetes.io/default-container", "")
            container = container if container in names else spec["containers"][0]["name"]
        if container not in names:
            raise BadRequest(f"container {container} is not valid for pod {meta['name']}")
        return node_pb2.ContainerRef(node=node, namespace=meta["namespace"], pod=meta["name"], container=container)

    # --- logs ---------------------------------------------------------------------------------

    async def _log(self, request: web.BaseRequest, pod: Object) -> web.StreamResponse:
        query = request.query
        containers = (pod.get("spec") or {}).get("containers") or ()
        if not query.get("container") and len(containers) > 1:
            names = " ".join(c["name"] for c in containers)
            if not annotations(pod).get("kubectl.kubernetes.io/default-container"):
                raise BadRequest(
                    f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{names}]"
                )
        numbers = _log_numbers(query, pod["metadata"]["name"])
        stub, node = await self._stub(pod)
        message = node_pb2.LogsRequest(
            ref=self._ref(pod, node, query.get("container", "")),
            follow=query.get("follow", "") in _TRUE,
            previous=query.get("previous", "") in _TRUE,
            timestamps=query.get("timestamps", "") in _TRUE,
            since_time=query.get("sinceTime", ""),
        )
        for field, value in numbers.items():
            setattr(message, field, value)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        async with contextlib.aclosing(stub.Logs(message)) as chunks:
            try:
                # The first chunk comes before the headers, so that a refusal is still a plain error.
                first = await anext(chunks, None)
            except RpcError as e:
                raise node_error(e) from e
            audit.response_starts(response.headers)
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                if first is not None:
                    await response.write(first.data)
                try:
                    async for chunk in chunks:
                        await response.write(chunk.data)
                except RpcError as e:
                    await response.write(f"\nthe log stream broke: {e.message}\n".encode())
                await response.write_eof()
        return response

    # --- exec and attach ----------------------------------------------------------------------

    async def _exec(self, request: web.BaseRequest, pod: Object, *, attach: bool) -> web.StreamResponse:
        query = request.query
        command = query.getall("command", [])
        if not command and not attach:
            raise BadRequest("you must specify at least one command for the container")
        stub, node = await self._stub(pod)
        opening = node_pb2.ExecRequest(
            ref=self._ref(pod, node, query.get("container", "")),
            command=command,
            tty=query.get("tty", "") in _TRUE,
            stdin_open=query.get("stdin", "") in _TRUE,
        )
        socket = web.WebSocketResponse(protocols=_PROTOCOLS, max_msg_size=_MESSAGE_BYTES_MAX, heartbeat=_HEARTBEAT_S)
        audit.response_starts(socket.headers)
        await socket.prepare(request)
        status = _success()
        requests = _exec_requests(socket, opening)
        try:
            async with contextlib.aclosing(stub.Exec(requests)) as answers:
                async for answer in answers:
                    if answer.stdout:
                        await socket.send_bytes(bytes((_STDOUT,)) + answer.stdout)
                    if answer.stderr:
                        await socket.send_bytes(bytes((_STDERR,)) + answer.stderr)
                    if answer.HasField("exit_code"):
                        status = _exit_status(answer.exit_code)
        except RpcError as e:
            status = node_error(e).status
        with contextlib.suppress(ConnectionError):
            await socket.send_bytes(bytes((_ERROR,)) + orjson.dumps(status))
            await socket.close()
        return socket

    # --- port-forward -------------------------------------------------------------------------

    async def _port_forward(self, request: web.BaseRequest, pod: Object) -> web.StreamResponse:
        stub, node = await self._stub(pod)
        ref = self._ref(pod, node, "")
        socket = web.WebSocketResponse(protocols=(_TUNNEL,), max_msg_size=_MESSAGE_BYTES_MAX, heartbeat=_HEARTBEAT_S)
        if not socket.can_prepare(request).ok or socket.can_prepare(request).protocol != _TUNNEL:
            raise BadRequest(f"port-forward needs the WebSocket protocol {_TUNNEL}")
        audit.response_starts(socket.headers)
        await socket.prepare(request)
        await serve_tunnel(socket, stub, ref)
        return socket


async def _exec_requests(
    socket: web.WebSocketResponse, opening: node_pb2.ExecRequest
) -> AsyncIterator[node_pb2.ExecRequest]:
    """The client's messages as requests to the node host."""
    yield opening
    async for message in socket:
        if message.type is not WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == _STDIN:
            yield node_pb2.ExecRequest(stdin=data)
        elif channel == _CLOSE and data[:1] == bytes((_STDIN,)):
            yield node_pb2.ExecRequest(stdin_closed=True)
        elif channel == _RESIZE:
            with contextlib.suppress(AttributeError, TypeError, ValueError):
                size = orjson.loads(data)
                yield node_pb2.ExecRequest(width=int(size.get("Width") or 0), height=int(size.get("Height") or 0))
    yield node_pb2.ExecRequest(stdin_closed=True)
    # The call goes on until the command has ended.
    await asyncio.get_running_loop().create_future()


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


def _exit_status(code: int) -> Object:
    if code == 0:
        return _success()
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _log_numbers(query: Mapping[str, str], pod: str) -> dict[str, int]:
    """The numbers in a request for logs, by the field of the node's LogsRequest. BadRequest, Invalid."""
    found: dict[str, int] = {}
    problems = []
    for name, field, least in (
        ("tailLines", "tail_lines", 0),
        ("sinceSeconds", "since_seconds", 1),
        ("limitBytes", "limit_bytes", 1),
    ):
        if not query.get(name):
            continue
        value = integer(query[name])
        if value < least:
            text = "must be greater than 0" if least else "must be greater than or equal to 0"
            problems.append(invalid(name, value, text))
        found[field] = value
    if "since_seconds" in found and query.get("sinceTime"):
        problems.append(forbidden("sinceSeconds", "at most one of `sinceTime` or `sinceSeconds` may be specified"))
    if problems:
        raise Invalid.of("PodLogOptions", pod, problems)
    return found
