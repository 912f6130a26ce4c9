"""Reverse proxy of one host."""

import asyncio
import logging
from typing import Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.rpc import http1
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.node.ingress.routes import BackendRef, RoutingTable
from rayplane.node.ingress.status import INGRESSES
from rayplane.node.proxy.rules import Endpoint, service_port
from rayplane.node.proxy.sockets import listening_socket

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
SILENCE_TIMEOUT_S = 60.0
TRIES_MAX = 3
BUFFERED_BODY_MAX = 64 * 1024
CHUNK = 64 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
# Of one connection, not of the request (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
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


class ServiceEndpoints(Protocol):
    """A view that finds the endpoints of services; see ServiceProxy."""

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]: ...

    def is_near(self, endpoint: Endpoint) -> bool:
        """Tell whether it can be dialled from this machine."""


class Ingress:
    """A proxy that listens on the cluster's ingress address, host:port.

    `services`: an informer that has been synced.
    """

    def __init__(self, address: str, client: ApiClient, services: Informer, endpoints: ServiceEndpoints) -> None:
        self._address = address
        self._services = services
        self._backends = endpoints
        self._ingresses = Informer(client, INGRESSES)
        self._table: RoutingTable | None = None
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=256),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
        )
        self._ingresses.add_handler(self._changed)
        self._ingresses.start()
        await self._ingresses.synced()
        self._runner = web.ServerRunner(http1.server(self._handle))
        await self._runner.setup()
        ip, _, port = self._address.rpartition(":")
        await web.SockSite(self._runner, listening_socket(ip, int(port))).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        await self._ingresses.stop()

    # --- routing ----------------------------------------------------------------------------------

    def _changed(self, _kind: str, _old: Object | None, _new: Object) -> None:
        self._table = None

    def _find(self, host: str, path: str) -> BackendRef | None:
        if self._table is None:
            self._table = RoutingTable(self._ingresses.list())
        return self._table.find(host, path)

    def _endpoints(self, backend: BackendRef) -> list[tuple[str, int]]:
        """Where to send a request, in the order to try; empty when the service has no ready endpoint."""
        service = self._services.get(backend.namespace, backend.service)
        port = service_port(service, backend.port) if service is not None else None
        if service is None or port is None:
            return []
        key = f"{backend.namespace}/{backend.service}"
        endpoints = self._backends.endpoints(key, port.get("name") or "")
        near = [e for e in endpoints if self._backends.is_near(e)]
        targets = [(e.ip, e.port) for e in self._in_turn(near)]
        if len(near) < len(endpoints):
            # Pods of other machines are reached through the service's own address, by the service proxy.
            targets.append((meta.spec(service)["clusterIP"], port["port"]))
        return targets

    def _in_turn(self, endpoints: list[Endpoint]) -> list[Endpoint]:
        if not endpoints:
            return []
        self._turn += 1
        start = self._turn % len(endpoints)
        return endpoints[start:] + endpoints[:start]

    # --- requests ---------------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        backend = self._find(request.host, request.path)
        if backend is None:
            return web.Response(status=404, text="default backend - 404\n")
        targets = self._endpoints(backend)
        if not targets:
            text = f"service {backend.namespace}/{backend.service} has no ready endpoint\n"
            return web.Response(status=503, text=text)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, targets)
        return await self._forward(request, targets)

    async def _forward(self, request: web.BaseRequest, targets: list[tuple[str, int]]) -> web.StreamResponse:
        body: bytes | aiohttp.StreamReader | None = None
        repeatable = request.method in _IDEMPOTENT
        if request.can_read_body:
            size = request.content_length
            if repeatable and size is not None and size <= BUFFERED_BODY_MAX:
                body = await request.read()
            else:
                body, repeatable = request.content, False
        failure = "no endpoint was tried"
        for ip, port in targets[:TRIES_MAX]:
            try:
                return await self._once(request, body, ip, port)
            except aiohttp.ClientConnectorError as e:
                failure = f"cannot connect to {ip}:{port}: {e.strerror}"
            except TimeoutError:
                return web.Response(status=504, text=f"{ip}:{port} did not answer in time\n")
            except _Broken as e:
                failure = f"{ip}:{port}: {e}"
                if not repeatable:
                    break
        return web.Response(status=502, text=f"{failure}\n")

    async def _once(
        self,
        request: web.BaseRequest,
        body: bytes | aiohttp.StreamReader | None,
        ip: str,
        port: int,
    ) -> web.StreamResponse:
        """Raises ClientConnectorError before anything was sent, _Broken before anything was answered."""
        assert self._session is not None
        url = f"http://{ip}:{port}{request.raw_path if request.raw_path.startswith('/') else request.path_qs}"
        try:
            answer = await self._session.request(
                request.method,
                aiohttp.client.URL(url, encoded=True),
                headers=_request_headers(request),
                data=body,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        except (aiohttp.ClientConnectorError, TimeoutError):
            raise
        except (aiohttp.ClientError, OSError) as e:
            raise _Broken(f"the connection broke: {e}") from e
        async with answer:
            response = web.StreamResponse(status=answer.status, reason=answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_chunked(CHUNK):
                    await response.write(chunk)
            except (aiohttp.ClientError, TimeoutError) as e:
                # The head of the answer is out: only a broken connection can say that the rest is missing.
                log.info("an answer of %s:%d broke off: %s", ip, port, e)
                if request.transport is not None:
                    request.transport.close()
                return response
            await response.write_eof()
            return response

    async def _websocket(self, request: web.BaseRequest, targets: list[tuple[str, int]]) -> web.StreamResponse:
        assert self._session is not None
        offered = request.headers.get("Sec-WebSocket-Protocol", "")
        protocols = [p.strip() for p in offered.split(",") if p.strip()]
        headers = _request_headers(request)
        for name in [n for n in headers if n.lower().startswith("sec-websocket")]:
            headers.popall(name, None)
        failure = "no endpoint was tried"
        for ip, port in targets[:TRIES_MAX]:
            url = f"ws://{ip}:{port}{request.path_qs}"
            try:
                upstream = await self._session.ws_connect(url, headers=headers, protocols=protocols)
            except aiohttp.WSServerHandshakeError as e:
                return web.Response(status=e.status, text=f"{e.message}\n")
            except (aiohttp.ClientError, TimeoutError) as e:
                failure = f"{ip}:{port}: {e}"
                continue
            async with upstream:
                chosen = (upstream.protocol,) if upstream.protocol else ()
                downstream = web.WebSocketResponse(protocols=chosen)
                await downstream.prepare(request)
                await _join_websockets(downstream, upstream)
                return downstream
        return web.Response(status=502, text=f"{failure}\n")


class _Broken(Exception):
    """The endpoint took the request and did not answer it."""


async def _join_websockets(a: web.WebSocketResponse, b: aiohttp.ClientWebSocketResponse) -> None:
    async def pump(
        source: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
        target: web.WebSocketResponse | aiohttp.ClientWebSocketResponse,
    ) -> None:
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


def _request_headers(request: web.BaseRequest) -> CIMultiDict[str]:
    headers: CIMultiDict[str] = CIMultiDict()
    for name, value in request.headers.items():
        if name.lower() not in _HOP_BY_HOP:
            headers.add(name, value)
    client = request.remote or ""
    before = headers.get("X-Forwarded-For")
    headers["X-Forwarded-For"] = f"{before}, {client}" if before else client
    headers["X-Real-IP"] = client
    headers["X-Forwarded-Host"] = request.host
    headers["X-Forwarded-Proto"] = request.scheme
    return headers
