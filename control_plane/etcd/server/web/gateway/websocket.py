"""Calls of the gateway over a WebSocket, for browsers and others that cannot stream a request's body.

Each message of the client is a part of the call's requests, each of the server a response, or the error that ends
the call. A token comes as the subprotocols "Bearer" and itself, since browsers can set no other header.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import WSMsgType, web

from rayplane.control_plane import etcd_errors as errors
from rayplane.control_plane.etcd.server.web.gateway.calls import (
    Requests,
    break_of,
    context_of,
    message_of,
    refusal_of,
    told,
)
from rayplane.control_plane.etcd.server.web.gateway.messages import as_object, dump
from rayplane.control_plane.etcd.server.web.gateway.syntax import JsonError
from rayplane.control_plane.rpc import Context, Method, RpcError
from rayplane.control_plane.tasks import cancel_and_wait

#: Messages of the client that wait to be read.
MESSAGES_WAITING_MAX = 16
#: A client that is silent is asked whether it lives.
HEARTBEAT_S = 30.0
_BEARER = "Bearer"


def is_socket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


async def serve_socket(request: web.BaseRequest, method: Method, function: Callable[..., Any]) -> web.StreamResponse:
    """Hold the conversation until the call ends or the client leaves."""
    context = context_of(request)
    offered = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if offered[0] == _BEARER and len(offered) == 2:
        context = replace(context, metadata={**context.metadata, "authorization": f"{_BEARER} {offered[1]}"})
    socket = web.WebSocketResponse(protocols=[_BEARER], heartbeat=HEARTBEAT_S)
    await socket.prepare(request)
    arrived: asyncio.Queue[bytes] = asyncio.Queue(MESSAGES_WAITING_MAX)
    requests = Requests(arrived.get, method.request_type)
    loop = asyncio.get_running_loop()
    tasks = [
        loop.create_task(_listen(socket, arrived)),
        loop.create_task(_call(socket, requests, method, function, context)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
    await socket.close()
    return socket


async def _listen(socket: web.WebSocketResponse, arrived: asyncio.Queue[bytes]) -> None:
    """Until the client leaves."""
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await arrived.put(message.data.encode() + b"\n")
        elif message.type is WSMsgType.BINARY:
            await arrived.put(message.data + b"\n")


async def _call(
    socket: web.WebSocketResponse, requests: Requests, method: Method, function: Callable[..., Any], context: Context
) -> None:
    begun = False
    try:
        first = await requests.first()
        if not method.server_streaming:
            await _say(socket, as_object(message_of(await function(first, context), method)))
            return
        argument: Any = requests.all(first) if method.client_streaming else first
        async with contextlib.aclosing(function(argument, context)) as messages:
            async for message in messages:
                begun = True
                await _say(socket, {"result": as_object(message_of(message, method))})
    except ConnectionError:
        return
    except JsonError as e:
        await _say(socket, refusal_of(RpcError(errors.Code.UNKNOWN, str(e)))[1])
    except Exception as e:
        await _say(socket, (break_of if begun else refusal_of)(told(e))[1])


async def _say(socket: web.WebSocketResponse, body: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await socket.send_str(dump(body).decode())
