"""Reverse proxy of one host."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api import meta
from rayplane.control_plane.api.ingresses import INGRESSES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.rpc import http1, reverse_proxy
from rayplane.control_plane.rpc.gate import HttpLimits
from rayplane.node.events import Events
from rayplane.node.ingress.annotations import GRPC, GRPCS, HTTPS, Options
from rayplane.node.ingress.certificates import Certificates
from rayplane.node.ingress.hygiene import fault
from rayplane.node.ingress.routes import BackendRef, Found, RoutingTable, plain_host
from rayplane.node.kubelet.sandbox import ObjectLookup
from rayplane.node.proxy.rules import Endpoint, outside_ip, service_port
from rayplane.node.runtime.pod_network import DIRECT

TRIES_MAX = 3
BUFFERED_BODY_MAX = 64 * 1024
HTTPS_PORT = 443
_PATH_SIGNS = "/:@!$&'()*+,;=-._~"
TOO_LARGE = "the body is too large\n"
LIMITS = HttpLimits(head_bytes=64 * 1024, headers=256, chunked_bytes_per_s=64)
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class ServiceEndpoints(Protocol):
    """A view that finds the endpoints of services; see ServiceProxy."""

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]: ...

    def is_near(self, endpoint: Endpoint) -> bool:
        """Tell whether it can be dialled from this machine."""


@dataclass(frozen=True, slots=True)
class IngressAddresses:
    """Addresses at which the ingress listens, host:port. `https` is empty for none."""

    http: str
    https: str = ""


class TooLarge(Exception):
    """A body has more bytes than its Ingress takes."""


class Ingress:
    """A proxy that listens on the cluster's ingress addresses.

    `services`: an informer that has been synced; `secrets`: where certificates come from.
    """

    def __init__(
        self,
        addresses: IngressAddresses,
        client: ApiClient,
        services: Informer,
        endpoints: ServiceEndpoints,
        secrets: ObjectLookup,
        events: Events,
    ) -> None:
        self._addresses = addresses
        self._services = services
        self._backends = endpoints
        self._ingresses = Informer(client, INGRESSES)
        self.certificates = Certificates(self._ingresses, secrets, events)
        self._table: RoutingTable | None = None
        self._runner: web.ServerRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._turn = 0

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Who is behind a Service is known by its address, not by a name that a certificate could have.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=256, ssl=False),
            response_class=reverse_proxy.Answer,
        )
        self._ingresses.add_handler(self._changed)
        self._ingresses.start()
        await self._ingresses.synced()
        self._runner = web.ServerRunner(http1.server(self._handle, LIMITS))
        await self._runner.setup()
        ip, _, port = self._addresses.http.rpartition(":")
        await web.SockSite(self._runner, await DIRECT.listen(ip, int(port))).start()
        if self._addresses.https:
            await self.certificates.start()
            ip, _, port = self._addresses.https.rpartition(":")
            sock, context = await DIRECT.listen(ip, int(port)), self.certificates.context
            await web.SockSite(self._runner, sock, ssl_context=context).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()
        await self.certificates.stop()
        await self._ingresses.stop()

    # --- routing ----------------------------------------------------------------------------------

    def _changed(self, _kind: str, _old: Object | None, _new: Object) -> None:
        self._table = None

    def _find(self, host: str, path: str) -> Found | None:
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
        headers = request.headers
        hosts, lengths, codings = (headers.getall(name, ()) for name in ("Host", "Content-Length", "Transfer-Encoding"))
        wrong = fault(request.raw_path, request.path, hosts, lengths, codings)
        if wrong:
            return _closing(400, f"{wrong}\n")
        found = self._find(request.host, request.path)
        elsewhere = self._elsewhere(request, found.options) if found is not None else ""
        if elsewhere:
            return web.Response(status=308, headers={"Location": elsewhere})
        if found is None:
            return web.Response(status=404, text="default backend - 404\n")
        return await self._serve(request, found)

    def _elsewhere(self, request: web.BaseRequest, options: Options) -> str:
        """Where a request is sent instead; empty where it is served."""
        if options.redirect:
            return options.redirect
        host = plain_host(request.host)
        wanted = options.force_ssl_redirect or (options.ssl_redirect and self.certificates.has(host))
        if request.scheme == "https" or not wanted or not self._addresses.https:
            return ""
        port = int(self._addresses.https.rpartition(":")[2])
        return f"https://{host}{'' if port == HTTPS_PORT else f':{port}'}{request.raw_path}"

    async def _serve(self, request: web.BaseRequest, found: Found) -> web.StreamResponse:
        backend, options = found.backend, found.options
        if backend is None or options.protocol in (GRPC, GRPCS):
            return web.Response(status=503, text="the ingress serves no such backend\n")
        targets = self._endpoints(backend)
        if not targets:
            text = f"service {backend.namespace}/{backend.service} has no ready endpoint\n"
            return web.Response(status=503, text=text)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, found, targets)
        size = request.content_length
        if options.body_bytes_max and size is not None and size > options.body_bytes_max:
            return _closing(413, TOO_LARGE)
        return await self._forward(request, found, targets)

    async def _forward(
        self, request: web.BaseRequest, found: Found, targets: list[tuple[str, int]]
    ) -> web.StreamResponse:
        body: reverse_proxy.Body = None
        bounded: _Bounded | None = None
        repeatable = request.method in _IDEMPOTENT
        if request.can_read_body:
            size = request.content_length
            if repeatable and size is not None and size <= BUFFERED_BODY_MAX:
                body = await request.read()
            else:
                bounded = _Bounded(request.content, found.options.body_bytes_max)
                body, repeatable = aiter(bounded), False
        failure = "no endpoint was tried"
        for ip, port in targets[:TRIES_MAX]:
            try:
                return await self._once(request, found, body, ip, port)
            except aiohttp.ClientConnectorError as e:
                failure = f"cannot connect to {ip}:{port}: {e.strerror}"
            except TimeoutError:
                return web.Response(status=504, text=f"{ip}:{port} did not answer in time\n")
            except reverse_proxy.Broken as e:
                if bounded is not None and bounded.exceeded:
                    return _closing(413, TOO_LARGE)
                failure = f"{ip}:{port}: {e}"
                if not repeatable:
                    break
        return web.Response(status=502, text=f"{failure}\n")

    async def _once(
        self, request: web.BaseRequest, found: Found, body: reverse_proxy.Body, ip: str, port: int
    ) -> web.StreamResponse:
        """Raises ClientConnectorError before anything was sent, Broken before anything was answered."""
        assert self._session is not None
        options = found.options
        url = f"{'https' if options.protocol == HTTPS else 'http'}://{ip}:{port}{_target(request, found)}"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=options.connect_s, sock_read=options.read_s)
        return await reverse_proxy.forward(request, self._session, url, _headers(request), body, timeout=timeout)

    async def _websocket(
        self, request: web.BaseRequest, found: Found, targets: list[tuple[str, int]]
    ) -> web.StreamResponse:
        assert self._session is not None
        failure = "no endpoint was tried"
        for ip, port in targets[:TRIES_MAX]:
            url = f"{'wss' if found.options.protocol == HTTPS else 'ws'}://{ip}:{port}{_target(request, found)}"
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


def _target(request: web.BaseRequest, found: Found) -> str:
    """The path, as it stands in the request or rewritten, and the query."""
    if found.path is None:
        return request.raw_path
    _, mark, query = request.raw_path.partition("?")
    return quote(found.path, safe=_PATH_SIGNS) + mark + query


class _Bounded:
    """A body as it comes, as far as it is not too large."""

    def __init__(self, content: aiohttp.StreamReader, bytes_max: int) -> None:
        self._content = content
        self._bytes_max = bytes_max
        self.exceeded = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._content.iter_chunked(reverse_proxy.CHUNK):
            size += len(chunk)
            if self._bytes_max and size > self._bytes_max:
                self.exceeded = True
                raise TooLarge
            yield chunk


def _closing(status: int, text: str) -> web.Response:
    """An answer after which nothing more is read of the connection."""
    response = web.Response(status=status, text=text)
    response.force_close()
    return response
