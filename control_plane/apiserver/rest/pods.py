"""Streams to pods over HTTP: logs, exec, attach, port-forward.

Clients ask for WebSockets, or switch to SPDY/3.1 as kubectl did before 1.30 and client-go still can. Each stream has
two tasks, one for each direction.
"""

import base64
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from aiohttp import web
from multidict import MultiMapping

from rayplane.control_plane.api.errors import BadRequest
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.outgoing.node_hosts import node_error
from rayplane.control_plane.apiserver.registry.pod_streams import LOG_NUMBERS, PodStreams
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.rest.numbers import flag, integer
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.streams.portforward_channels import PORTS_MAX
from rayplane.control_plane.streams.serving import Asked, serve_command, serve_ports
from rayplane.control_plane.streams.wires import wants_spdy, wants_websocket, websocket
from rayplane.proto.rayplane.v1 import node_pb2

_LOG_PROTOCOLS = ("binary.k8s.io", "base64.binary.k8s.io")


class PodHandler:
    """The handler of `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`."""

    def __init__(self, streams: PodStreams) -> None:
        self._streams = streams

    async def handle(self, request: web.BaseRequest, user: User, target: Target) -> web.StreamResponse:
        """The response, when the stream has ended. Raises ApiError before it has begun."""
        verb, options = "create" if request.method == "POST" else "get", _options(request.query, target.subresource)
        pod = await self._streams.pod(user, target, verb, options)
        if target.subresource == "log":
            return await self._log(request, pod)
        if not (wants_websocket(request) or wants_spdy(request)):
            raise BadRequest("Upgrade request required: to WebSocket or SPDY/3.1")
        if target.subresource == "portforward":
            return await self._port_forward(request, pod)
        return await self._exec(request, pod, attach=target.subresource == "attach")

    # --- logs ---------------------------------------------------------------------------------

    async def _log(self, request: web.BaseRequest, pod: Object) -> web.StreamResponse:
        query = request.query
        message = node_pb2.LogsRequest(
            follow=bool(flag(query, "follow")),
            previous=bool(flag(query, "previous")),
            timestamps=bool(flag(query, "timestamps")),
            since_time=query.get("sinceTime", ""),
        )
        for field, name in LOG_NUMBERS.items():
            if query.get(name):
                setattr(message, field, integer(query[name]))
        async with contextlib.aclosing(await self._streams.logs(pod, query.get("container", ""), message)) as chunks:
            try:
                # The first chunk comes before the headers, so that a refusal is still a plain error.
                first = await anext(chunks, None)
            except RpcError as e:
                raise node_error(e) from e
            text = _text(first, chunks)
            return await (_log_messages(request, text) if wants_websocket(request) else _log_body(request, text))

    # --- exec and attach ----------------------------------------------------------------------

    async def _exec(self, request: web.BaseRequest, pod: Object, *, attach: bool) -> web.StreamResponse:
        query = request.query
        stub, opening = await self._streams.command(
            pod,
            query.get("container", ""),
            query.getall("command", []),
            attach=attach,
            tty=bool(flag(query, "tty")),
            stdin=bool(flag(query, "stdin")),
        )
        shown = frozenset(name for name in ("stdin", "stdout", "stderr") if bool(flag(query, name)))
        asked = Asked(request, starting=audit.response_starts, failure=lambda e: node_error(e).status)
        return await serve_command(asked, stub, opening, shown)

    # --- port-forward -------------------------------------------------------------------------

    async def _port_forward(self, request: web.BaseRequest, pod: Object) -> web.StreamResponse:
        stub, ref = await self._streams.port_forward(pod)
        asked = Asked(request, starting=audit.response_starts)
        return await serve_ports(asked, stub, ref, partial(_ports, request.query))


def _options(query: MultiMapping[str], subresource: str) -> Object | None:
    """What a connection is for, as webhooks are told of it; None for what is none."""
    if subresource == "log":
        return None
    if subresource == "portforward":
        return {"ports": _ports(query) if query.get("ports") else []}
    flags = {name: bool(flag(query, name)) for name in ("stdin", "stdout", "stderr", "tty")}
    return {**flags, "container": query.get("container"), "command": query.getall("command", [])}


async def _text(first: node_pb2.LogChunk | None, rest: AsyncIterator[node_pb2.LogChunk]) -> AsyncIterator[bytes]:
    """A log's pieces; where it breaks, the last one says so."""
    if first is not None:
        yield first.data
    try:
        async for chunk in rest:
            yield chunk.data
    except RpcError as e:
        yield f"\nthe log stream broke: {e.message}\n".encode()


async def _log_body(request: web.BaseRequest, text: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain"})
    audit.response_starts(response.headers)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        async for data in text:
            await response.write(data)
        await response.write_eof()
    return response


async def _log_messages(request: web.BaseRequest, text: AsyncIterator[bytes]) -> web.StreamResponse:
    wire = await websocket(request, _LOG_PROTOCOLS, starting=audit.response_starts)
    encoded = (wire.socket.ws_protocol or "").startswith("base64")
    with contextlib.suppress(ConnectionError):
        async for data in text:
            await (wire.socket.send_str(base64.b64encode(data).decode()) if encoded else wire.send(data))
    await wire.close()
    return wire.socket


def _ports(query: MultiMapping[str]) -> list[int]:
    """The ports that a port-forward by channels is for. BadRequest."""
    ports = [integer(port) for text in query.getall("ports", ()) for port in text.split(",")]
    if not 0 < len(ports) <= PORTS_MAX or not all(0 < port < 65536 for port in ports):
        raise BadRequest(f'query parameter "ports" is required: between 1 and {PORTS_MAX} ports from 1 to 65535')
    return ports
