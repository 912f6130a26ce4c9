"""Handing HTTP requests on to another server, WebSockets included: the part that every reverse proxy has in common.

Bodies are passed on as they come, in both directions, so a slow reader slows its writer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

import aiohttp
from aiohttp import web
from aiohttp.connector import Connection
from multidict import CIMultiDict

from rayplane.control_plane.rpc import subprotocols
from rayplane.control_plane.rpc.errors import reason_of
from rayplane.control_plane.tasks import cancel_and_wait

log = logging.getLogger(__name__)

CHUNK = 64 * 1024
# Of one connection, not of the request (RFC 9110, section 7.6.1).
HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
AS_THE_CLIENT_SAYS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

Body = bytes | aiohttp.StreamReader | AsyncIterator[bytes] | None
Starting = Callable[[CIMultiDict[str]], None]


class Changing(Protocol):
    """A change of a body on its way, part by part."""

    def feed(self, part: bytes) -> bytes: ...

    def end(self) -> bytes: ...


Changed = Callable[[CIMultiDict[str]], Changing | None]
Joined = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class Broken(Exception):
    """The server took the request and did not answer it."""


class Answer(aiohttp.ClientResponse):
    """An answer of a server behind a proxy.

    One that changes protocols unasked goes on with what belongs to no request: nobody must find it on this connection.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        transport = connection.transport
        found = await super().start(connection)
        if self.status == 101 and transport is not None and "Upgrade" not in self.request_info.headers:
            transport.abort()
        return found


def request_headers(request: web.BaseRequest) -> CIMultiDict[str]:
    """The headers that are the request's own, with those that say for whom it is handed on."""
    return carried_headers(request.headers, client=request.remote or "", host=request.host, scheme=request.scheme)


def carried_headers(given: Mapping[str, str], *, client: str, host: str, scheme: str) -> CIMultiDict[str]:
    """The same of a request with the headers `given`, over whatever version of HTTP."""
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in given.items():
        if name.lower() not in HOP_BY_HOP:
            headers.add(name, value)
    before = headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{before}, {client}" if before else client
    headers["X-Forwarded-Host"] = host
    headers["X-Forwarded-Proto"] = scheme
    return headers


async def forward(
    request: web.BaseRequest,
    session: aiohttp.ClientSession,
    url: str,
    headers: CIMultiDict[str],
    body: Body,
    *,
    located: Callable[[str], str] = str,
    starting: Starting = lambda _: None,
    changed: Changed = lambda _: None,
    timeout: aiohttp.ClientTimeout | None = None,
) -> web.StreamResponse:
    """The server's answer, handed to the client; `url` is encoded, `located` changes where a Location points.

    `starting` is called with the answer's headers before they go out, `changed` says by them how its body is changed.
    `timeout`: in place of the session's.

    Raises ClientConnectorError and TimeoutError before anything was sent, Broken before anything was answered.
    """
    try:
        answer = await session.request(
            request.method,
            aiohttp.client.URL(url, encoded=True),
            headers=headers,
            data=body,
            allow_redirects=False,
            skip_auto_headers=AS_THE_CLIENT_SAYS,
            timeout=timeout or session.timeout,
        )
    except (aiohttp.ClientConnectorError, TimeoutError):
        raise
    except (aiohttp.ClientError, OSError) as e:
        raise Broken(f"the connection broke: {reason_of(e)}") from e
    async with answer:
        return await hand_on(request, answer, located=located, starting=starting, changed=changed)


async def hand_on(
    request: web.BaseRequest,
    answer: aiohttp.ClientResponse,
    *,
    located: Callable[[str], str] = str,
    starting: Starting = lambda _: None,
    changed: Changed = lambda _: None,
) -> web.StreamResponse:
    """An answer as it comes in, as `forward` hands it on. Raises Broken before its head goes out."""
    if answer.status < 200:
        raise Broken(f"the server answered {answer.status}, which was not asked for")
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in HOP_BY_HOP:
            response.headers.add(name, located(value) if name.lower() == "location" else value)
    starting(response.headers)
    changing = changed(response.headers)
    if changing is not None and request.method != "HEAD":
        response.headers.popall("Content-Length", None)
    try:
        await response.prepare(request)
    except ValueError as e:
        raise Broken(f"the server's answer has headers that are none: {e}") from e
    try:
        async for chunk in answer.content.iter_chunked(CHUNK):
            await response.write(chunk if changing is None else changing.feed(chunk))
        if changing is not None:
            await response.write(changing.end())
    except (aiohttp.ClientError, TimeoutError) as e:
        # The head of the answer is out: only a broken connection can say that the rest is missing.
        log.info("an answer of %s broke off: %s", answer.url, reason_of(e))
        if request.transport is not None:
            request.transport.close()
        return response
    await response.write_eof()
    return response


async def forward_websocket(
    request: web.BaseRequest,
    session: aiohttp.ClientSession,
    url: str,
    headers: CIMultiDict[str],
) -> web.StreamResponse:
    """Two WebSockets joined until one of them closes, in one of the subprotocols that `headers` offer.

    Raises WSServerHandshakeError for a server that refuses, ClientError and TimeoutError for one that is not reached.
    """
    offered = subprotocols.offered(headers)
    for name in [n for n in headers if n.lower().startswith("sec-websocket")]:
        headers.popall(name, None)
    async with await session.ws_connect(url, headers=headers, protocols=offered) as upstream:
        downstream = web.WebSocketResponse(protocols=(upstream.protocol,) if upstream.protocol else ())
        await downstream.prepare(request)
        await _join(downstream, upstream)
        return downstream


async def _join(a: Joined, b: Joined) -> None:
    async def pump(source: Joined, target: Joined) -> None:
        async for message in source:
            if message.type is aiohttp.WSMsgType.TEXT:
                await target.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await target.send_bytes(message.data)
        await target.close(code=source.close_code or 1000)

    tasks = [asyncio.ensure_future(pump(a, b)), asyncio.ensure_future(pump(b, a))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
