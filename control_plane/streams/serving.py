"""Requests that ask for a stream into a pod: which protocol they are answered in, and the stream itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from rayplane.control_plane.api.errors import Forbidden
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import RpcError
from rayplane.control_plane.rpc.reverse_proxy import Starting
from rayplane.control_plane.streams import portforward_channels, remotecommand
from rayplane.control_plane.streams.calls import Calls
from rayplane.control_plane.streams.channels import Channels
from rayplane.control_plane.streams.portforward import serve_tunnel
from rayplane.control_plane.streams.wires import SPDY, upgraded, wants_spdy, websocket
from rayplane.proto.rayplane.v1 import node_pb2

PORT_FORWARD = "portforward.k8s.io"
PROTOCOL = "X-Stream-Protocol-Version"
"""The header in which a SPDY client offers its protocols, and is told which is spoken."""
_TUNNEL = f"{SPDY}+{PORT_FORWARD}"


def _told(error: RpcError) -> Object:
    """The Status of a command that could not be run."""
    return {**remotecommand.success(), "status": "Failure", "reason": "InternalError", "message": error.message}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for a stream. `failure`: the Status with which a command fails that could not be run."""

    request: web.BaseRequest
    starting: Starting = lambda _: None
    failure: Callable[[RpcError], Object] = _told


async def serve_command(
    asked: Asked, stub: Calls, opening: node_pb2.ExecRequest, shown: frozenset[str]
) -> web.StreamResponse:
    """Have the command run; the response, when it has ended. `shown`: names of the streams that the client asks for.

    Raises ApiError before it has begun.
    """
    request = asked.request
    if not wants_spdy(request):
        wire = await websocket(request, remotecommand.WEBSOCKET_PROTOCOLS, starting=asked.starting)
        await _run(remotecommand.WebSocketCommand(wire), asked, stub, opening)
        return wire.socket
    protocol = _spdy_protocol(request, remotecommand.SPDY_PROTOCOLS)
    wanted = {"error", *shown}
    if opening.tty:
        wanted.discard("stderr")
        wanted |= {"resize"} if protocol >= "v3" else set()
    bare = await upgraded(request, SPDY, {PROTOCOL: protocol}, starting=asked.starting)
    client = remotecommand.SpdyCommand(bare, frozenset(wanted), as_status=protocol >= "v4")
    try:
        if await client.open():
            await _run(client, asked, stub, opening)
    finally:
        await client.close()
    return bare.response


async def _run(client: remotecommand.CommandClient, asked: Asked, stub: Calls, opening: node_pb2.ExecRequest) -> None:
    """Have the command run, until it has ended and the client knows how."""

    async def requests() -> AsyncIterator[node_pb2.ExecRequest]:
        yield opening
        async for typed in client.requests():
            yield typed
        # The call goes on until the command has ended.
        await asyncio.get_running_loop().create_future()

    status = remotecommand.success()
    try:
        async with contextlib.aclosing(stub.Exec(requests())) as answers:  # type: ignore[type-var]
            async for answer in answers:
                await client.show(answer.stdout, answer.stderr)
                if answer.HasField("exit_code"):
                    status = remotecommand.exit_status(answer.exit_code)
    except RpcError as e:
        status = asked.failure(e)
    await client.end(status)


async def serve_ports(
    asked: Asked, stub: Calls, ref: node_pb2.ContainerRef, ports: Callable[[], Sequence[int]]
) -> web.StreamResponse:
    """Forward connections; the response, when the client has gone. `ports`: those named in the request, ApiError else.

    Raises ApiError before it has begun.
    """
    request = asked.request
    if wants_spdy(request):
        protocol = _spdy_protocol(request, (PORT_FORWARD,))
        bare = await upgraded(request, SPDY, {PROTOCOL: protocol}, starting=asked.starting)
        await serve_tunnel(bare, stub, ref)
        return bare.response
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    if _TUNNEL in [name.strip() for name in offered.split(",")]:
        wire = await websocket(request, (_TUNNEL,), starting=asked.starting)
        await serve_tunnel(wire, stub, ref)
        return wire.socket
    named = ports()
    wire = await websocket(request, (*portforward_channels.PROTOCOLS, _TUNNEL), starting=asked.starting)
    await portforward_channels.serve_channels(Channels(wire), stub, ref, named)
    return wire.socket


def _spdy_protocol(request: web.BaseRequest, spoken: tuple[str, ...]) -> str:
    """The first of the client's protocols that is spoken; the oldest where it names none. Raises Forbidden."""
    offered = [name.strip() for line in request.headers.getall(PROTOCOL, ()) for name in line.split(",")]
    found = next((name for name in offered if name in spoken), None)
    if found is None and offered:
        text = f"unable to upgrade: unable to negotiate protocol: client supports {offered}, server accepts {[*spoken]}"
        raise Forbidden(text, details={})
    return found or spoken[-1]
