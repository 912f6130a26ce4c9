"""Requests for groups and versions that another server answers for: handed on as they are, with who asks in headers.

Whether the user may ask was decided before, by our own rules. Streams (watches, logs, upgrades) go on for as long as
both sides want; everything else has the time of any request. Whatever such a server does, it gets no more than the
connection of who asked it.

Source: kube-aggregator's handler_proxy, apimachinery's proxy/upgradeaware.go.
"""

import asyncio
from collections import Counter
from urllib.parse import quote

import aiohttp
from aiohttp import web
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.api.errors import ApiError, BadRequest, TooManyRequests
from rayplane.control_plane.apiserver import audit
from rayplane.control_plane.apiserver.aggregator.aggregator import Aggregator
from rayplane.control_plane.apiserver.aggregator.client import headers_of, is_of_user
from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, reason
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.rpc import reverse_proxy, subprotocols
from rayplane.control_plane.streams.wires import Unread, go_on, upgrade_of, upgraded
from rayplane.control_plane.tasks import cancel_and_wait

_CONNECT_S = 10.0
#: Requests that wait for one server, streams aside, of all users and of one; more are told to come again.
WAITING_MAX = 400
WAITING_OF_ONE_MAX = 100
# What may stand in a path as it is (RFC 3986, section 3.3).
_IN_PATHS = "/:@!$&'()*+,;=~"
_REDIRECTED = "the backend attempted to redirect this request, which is not permitted"
_OPENAPI = "openapi/v3/"


class AggregatedApis:
    """The handler of what other servers answer. `timeout_s`: the time of a request that is no stream."""

    def __init__(self, aggregator: Aggregator, *, timeout_s: float) -> None:
        self._aggregator = aggregator
        self._timeout_s = timeout_s
        self._waiting: Counter[tuple[str, ...]] = Counter()

    def backend(self, path: str) -> Backend | None:
        """Who answers at a path; None where this server does."""
        match path.strip("/").removeprefix(_OPENAPI).split("/", 3):
            case ["apis", group, version, *_]:
                return self._aggregator.backend(group, version)
        return None

    async def handle(
        self, request: web.BaseRequest, user: User, backend: Backend, *, stream: bool
    ) -> web.StreamResponse:
        """The answer of the server, or 503. Raises ApiError for a request that is wrong in itself."""
        if not backend.available:
            return _refusal("service unavailable")
        if stream:
            return await self._ask(request, user, backend, None)
        all_, own = (backend.name,), (backend.name, user.name)
        if self._waiting[all_] >= WAITING_MAX or self._waiting[own] >= WAITING_OF_ONE_MAX:
            raise TooManyRequests(retry_after=1)
        self._waiting.update((all_, own))
        try:
            return await self._ask(request, user, backend, self._timeout_s)
        finally:
            self._waiting.subtract((all_, own))
            self._waiting += Counter()  # without those of whom nothing is waited for

    async def _ask(
        self, request: web.BaseRequest, user: User, backend: Backend, total_s: float | None
    ) -> web.StreamResponse:
        url, headers = _url(request, backend), _headers(request, user)
        has_body, upgrade = request.can_read_body, upgrade_of(request)
        timeout = aiohttp.ClientTimeout(total=total_s, sock_connect=_CONNECT_S, connect=_CONNECT_S)
        await go_on(request)
        try:
            # What has a body cannot be sent again where a kept connection turns out to be closed.
            async with self._aggregator.client.session(backend, fresh=has_body or bool(upgrade)) as session:
                body = request.content if has_body else None
                answer = await session.request(
                    request.method,
                    aiohttp.client.URL(url, encoded=True),
                    headers=headers,
                    data=None if upgrade else body,
                    allow_redirects=False,
                    skip_auto_headers=reverse_proxy.AS_THE_CLIENT_SAYS,
                    timeout=timeout,
                )
                async with answer:
                    return await self._hand_on(request, answer, upgrade)
        except ApiError:
            return _refusal("service unavailable")
        except (*FAILURES, reverse_proxy.Broken) as e:
            return _refusal(f"error trying to reach service: {reason(e)}")

    async def _hand_on(
        self, request: web.BaseRequest, answer: aiohttp.ClientResponse, upgrade: str
    ) -> web.StreamResponse:
        if answer.status == 101 and upgrade:
            return await _joined(request, answer, upgrade)
        if 300 <= answer.status <= 399 and answer.headers.get("Location"):
            return web.Response(status=502, text=_REDIRECTED)
        return await reverse_proxy.hand_on(request, answer, starting=audit.response_starts)


async def _joined(request: web.BaseRequest, answer: aiohttp.ClientResponse, protocol: str) -> web.StreamResponse:
    """Two connections that have left HTTP, joined until one of them ends."""
    connection = answer.connection
    if connection is None or connection.protocol is None or connection.transport is None:
        raise reverse_proxy.Broken("the server closed the connection")
    behind = Unread(connection.transport)
    connection.protocol.set_parser(behind, None)
    kept = {n: v for n, v in answer.headers.items() if n.lower() not in reverse_proxy.HOP_BY_HOP}
    client = await upgraded(request, protocol, kept, starting=audit.response_starts)
    loop, transport = asyncio.get_running_loop(), connection.transport
    writer = StreamWriter(connection.protocol, loop)

    async def there() -> None:
        async for data in client:
            await writer.write(data)

    async def back() -> None:
        while data := await behind.take():
            await client.send(data)

    tasks = [loop.create_task(part(), name="upgraded to an aggregated API") for part in (there, back)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_and_wait(*tasks)
        transport.abort()
    return client.response


def _headers(request: web.BaseRequest, user: User) -> CIMultiDict[str]:
    headers = reverse_proxy.request_headers(request)
    for name in {name for name in headers if is_of_user(name) or name.lower() == "expect"}:
        headers.popall(name, None)
    subprotocols.drop_token(headers)
    for name, value in headers_of(user):
        headers.add(name, value)
    if upgrade := upgrade_of(request):
        headers["Connection"], headers["Upgrade"] = "Upgrade", upgrade
    return headers


def _url(request: web.BaseRequest, backend: Backend) -> str:
    """The path as it was judged, encoded anew: read otherwise there it would be another right. Raises BadRequest."""
    path = request.path
    if {".", ".."} & set(path.split("/")):
        raise BadRequest("the request's path must not contain . or ..")
    _, mark, query = request.raw_path.partition("?")
    return f"{backend.root}/{quote(path.lstrip('/'), safe=_IN_PATHS)}{mark}{query}"


def _refusal(text: str) -> web.Response:
    return web.Response(status=503, text=f"{text}\n", headers={"X-Content-Type-Options": "nosniff"})
