"""Reverse proxy of one host."""

from typing import Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.rpc import http1, reverse_proxy
from rayplane.node.ingress.routes import BackendRef, RoutingTable
from rayplane.node.ingress.status import INGRESSES
from rayplane.node.proxy.rules import Endpoint, outside_ip, service_port
from rayplane.node.runtime.pod_network import DIRECT

CONNECT_TIMEOUT_S = 3.0
SILENCE_TIMEOUT_S = 60.0
TRIES_MAX = 3
BUFFERED_BODY_MAX = 64 * 1024
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


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
            response_class=reverse_proxy.Answer,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
        )
        self._ingresses.add_handler(self._changed)
        self._ingresses.start()
        await self._ingresses.synced()
        self._runner = web.ServerRunner(http1.server(self._handle))
        await self._runner.setup()
        ip, _, port = self._address.rpartition(":")
        await web.SockSite(self._runner, await DIRECT.listen(ip, int(port))).start()

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
            # Pods elsewhere are reached through the service's own address, by the service proxy.
            targets.append((outside_ip(meta.spec(service)["clusterIP"]), port["port"]))
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
        body: reverse_proxy.Body = None
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
            except reverse_proxy.Broken as e:
                failure = f"{ip}:{port}: {e}"
                if not repeatable:
                    break
        return web.Response(status=502, text=f"{failure}\n")

    async def _once(self, request: web.BaseRequest, body: reverse_proxy.Body, ip: str, port: int) -> web.StreamResponse:
        """Raises ClientConnectorError before anything was sent, Broken before anything was answered."""
        assert self._session is not None
        url = f"http://{ip}:{port}{request.raw_path if request.raw_path.startswith('/') else request.path_qs}"
        return await reverse_proxy.forward(request, self._session, url, _headers(request), body)

    async def _websocket(self, request: web.BaseRequest, targets: list[tuple[str, int]]) -> web.StreamResponse:
        assert self._session is not None
        failure = "no endpoint was tried"
        for ip, port in targets[:TRIES_MAX]:
            url = f"ws://{ip}:{port}{request.path_qs}"
            try:
                return await reverse_proxy.forward_websocket(request, self._session, url, _headers(request))
            except aiohttp.WSServerHandshakeError as e:
                return web.Response(status=e.status, text=f"{e.message}\n")
            except (aiohttp.ClientError, TimeoutError) as e:
                failure = f"{ip}:{port}: {e}"
        return web.Response(status=502, text=f"{failure}\n")


def _headers(request: web.BaseRequest) -> CIMultiDict[str]:
    headers = reverse_proxy.request_headers(request)
    headers["X-Real-IP"] = request.remote or ""
    return headers
