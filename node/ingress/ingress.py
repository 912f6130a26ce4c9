"""Reverse proxy of one host."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api.ingresses import INGRESSES
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.client import ApiClient, Informer
from rayplane.control_plane.rpc import http1, reverse_proxy
from rayplane.control_plane.rpc.gate import HttpLimits
from rayplane.control_plane.rpc.sockets import BACKLOG, MakeProtocol, serving, stop_listening
from rayplane.control_plane.tasks import end_each
from rayplane.node.events import Events
from rayplane.node.ingress.annotations import GRPC, GRPCS, Options
from rayplane.node.ingress.certificates import Certificates
from rayplane.node.ingress.connector import NetworkConnector
from rayplane.node.ingress.grpc_upstream import UpstreamBroken, carry
from rayplane.node.ingress.http2_front import CHECK_S, ByProtocol, Exchange, FrontConnection
from rayplane.node.ingress.hygiene import fault
from rayplane.node.ingress.passages import Asked, Passage, Refused
from rayplane.node.ingress.routes import BackendRef, Found, RoutingTable, plain_host
from rayplane.node.kubelet.sandbox import ObjectLookup
from rayplane.node.proxy.rules import Endpoint, cluster_ip, outside_ip, service_port
from rayplane.node.runtime.pod_network import DIRECT, PodNetwork

TRIES_MAX = 3
BUFFERED_BODY_MAX = 64 * 1024
HTTPS_PORT = 443
HANDSHAKE_S = 10.0
STOP_S = 0.5
"""How long requests may go on when it stops."""
FRONTS_MAX = 2048
"""Connections of HTTP/2 at once; those of HTTP/1.1 have bounds of their own."""
TOO_LARGE = "the body is too large\n"
LIMITS = HttpLimits(head_bytes=64 * 1024, headers=256, chunked_bytes_per_s=64)
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class ServiceEndpoints(Protocol):
    """A view that finds the endpoints of services; see ServiceProxy."""

    def endpoints(self, service: str, port_name: str) -> tuple[Endpoint, ...]: ...

    def network_of(self, endpoint: Endpoint) -> PodNetwork | None:
        """Where it can be dialled from this machine; None for nowhere."""


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
        self._web: http1.GuardedServer | None = None
        self._sessions: dict[PodNetwork, aiohttp.ClientSession] = {}
        self._servers: list[asyncio.Server] = []
        self._fronts: dict[FrontConnection, None] = {}
        self._checking: asyncio.TimerHandle | None = None
        self._turn = 0

    async def start(self) -> None:
        self._ingresses.add_handler(self._changed)
        self._ingresses.start()
        await self._ingresses.synced()
        server = self._web = http1.server(self._handle, LIMITS)
        await self._listen(self._addresses.http, server)
        if self._addresses.https:
            await self.certificates.start()
            context = self.certificates.context
            await self._listen(self._addresses.https, lambda: ByProtocol(self._front, server), tls=context)
            self._checking = asyncio.get_running_loop().call_later(CHECK_S, self._check)

    async def _listen(self, address: str, make: MakeProtocol, *, tls: ssl.SSLContext | None = None) -> None:
        ip, _, port = address.rpartition(":")
        made = asyncio.get_running_loop().create_server(
            make,
            sock=await DIRECT.listen(ip, int(port)),
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_S if tls is not None else None,
            start_serving=False,
        )
        self._servers.append(await serving(made))

    def _front(self) -> FrontConnection | None:
        return FrontConnection(self._exchange, self._fronts) if len(self._fronts) < FRONTS_MAX else None

    def _check(self) -> None:
        self._checking = asyncio.get_running_loop().call_later(CHECK_S, self._check)
        for front in [*self._fronts]:
            front.check()

    async def stop(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        await end_each(
            *(partial(stop_listening, server) for server in self._servers),
            self._cut,
            self._close_sessions,
            self.certificates.stop,
            self._ingresses.stop,
        )

    async def _cut(self) -> None:
        if self._web is not None:
            self._web.pre_shutdown()
        fronts = [*self._fronts]
        for front in fronts:
            front.connection.go_away()
            front.close()
        if fronts:
            await asyncio.wait([front.lost for front in fronts])
        if self._web is not None:
            await self._web.shutdown(STOP_S)

    async def _close_sessions(self) -> None:
        while self._sessions:
            await self._sessions.popitem()[1].close()

    # --- routing ----------------------------------------------------------------------------------

    def _changed(self, _kind: str, _old: Object | None, _new: Object) -> None:
        self._table = None

    def _find(self, host: str, path: str) -> Found | None:
        if self._table is None:
            self._table = RoutingTable(self._ingresses.list())
        return self._table.find(host, path)

    def _endpoints(self, backend: BackendRef) -> list[Endpoint] | Refused:
        """Where to send a request, in the order to try."""
        service = self._services.get(backend.namespace, backend.service)
        port = service_port(service, backend.port) if service is not None else None
        key = f"{backend.namespace}/{backend.service}"
        if service is None or port is None:
            return Refused(503, f"service {key} has no ready endpoint\n")
        endpoints = self._backends.endpoints(key, port.get("name") or "")
        targets = [e for e in self._in_turn(endpoints) if self._backends.network_of(e) is not None]
        own = cluster_ip(service)
        if len(targets) < len(endpoints) and own:
            # Pods elsewhere are reached through the service's own address, by the service proxy.
            targets.append(Endpoint(outside_ip(own), port["port"]))
        if not targets:
            where = " on this machine, and no cluster IP that leads to others: give it one" if endpoints else ""
            return Refused(503, f"service {key} has no ready endpoint{where}\n")
        return targets

    def _network_of(self, place: Endpoint) -> PodNetwork:
        return self._backends.network_of(place) or DIRECT

    def _session(self, place: Endpoint) -> aiohttp.ClientSession:
        network = self._network_of(place)
        if network not in self._sessions:
            self._sessions[network] = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=NetworkConnector(network),
                response_class=reverse_proxy.Answer,
            )
        return self._sessions[network]

    def _in_turn(self, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        if not endpoints:
            return ()
        self._turn += 1
        start = self._turn % len(endpoints)
        return endpoints[start:] + endpoints[:start]

    # --- requests ---------------------------------------------------------------------------------

    def _decide(self, asked: Asked) -> Refused | Passage:
        """What becomes of a request."""
        found = self._find(asked.host, asked.path)
        elsewhere = self._elsewhere(asked, found.options) if found is not None else ""
        if elsewhere:
            return Refused(308, "", elsewhere)
        if found is None:
            return Refused(404, "default backend - 404\n")
        backend, options = found.backend, found.options
        if backend is None:
            return Refused(503, "the ingress serves no such backend\n")
        if options.protocol in (GRPC, GRPCS) and not asked.http2:
            return Refused(505, "the backend speaks HTTP/2: ask by it, over TLS\n")
        targets = self._endpoints(backend)
        if isinstance(targets, Refused):
            return targets
        if options.body_bytes_max and asked.size is not None and asked.size > options.body_bytes_max:
            return Refused(413, TOO_LARGE)
        return Passage(found, targets[:TRIES_MAX])

    def _elsewhere(self, asked: Asked, options: Options) -> str:
        """Where a request is sent instead; empty where it is served."""
        if options.redirect:
            return options.redirect
        host = plain_host(asked.host)
        wanted = options.force_ssl_redirect or (options.ssl_redirect and self.certificates.has(host))
        if asked.secure or not wanted or not self._addresses.https:
            return ""
        port = int(self._addresses.https.rpartition(":")[2])
        return f"https://{host}{'' if port == HTTPS_PORT else f':{port}'}{asked.target}"

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers
        hosts, lengths, codings = (headers.getall(name, ()) for name in ("Host", "Content-Length", "Transfer-Encoding"))
        wrong = fault(request.raw_path, request.path, hosts, lengths, codings)
        if wrong:
            return _answer(Refused(400, f"{wrong}\n"))
        secure = request.scheme == "https"
        asked = Asked(request.host, request.raw_path, request.path, secure, request.content_length)
        passage = self._decide(asked)
        if isinstance(passage, Refused):
            return _answer(passage)
        if headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request, passage)
        return await self._forward(request, passage)

    async def _forward(self, request: web.BaseRequest, passage: Passage) -> web.StreamResponse:
        body: reverse_proxy.Body = None
        bounded: _Bounded | None = None
        repeatable = request.method in _IDEMPOTENT
        if request.can_read_body:
            size = request.content_length
            if repeatable and size is not None and size <= BUFFERED_BODY_MAX:
                body = await request.read()
            else:
                content = request.content.iter_chunked(reverse_proxy.CHUNK)
                bounded = _Bounded(content, passage.options.body_bytes_max)
                body, repeatable = aiter(bounded), False
        failure = "no endpoint was tried"
        for place in passage.targets:
            try:
                return await self._once(request, passage, body, place)
            except aiohttp.ClientConnectorError as e:
                failure = f"cannot connect to {place}: {e.strerror}"
            except TimeoutError:
                return web.Response(status=504, text=f"{place} did not answer in time\n")
            except reverse_proxy.Broken as e:
                if bounded is not None and bounded.exceeded:
                    return _answer(Refused(413, TOO_LARGE))
                failure = f"{place}: {e}"
                if not repeatable:
                    break
        return web.Response(status=502, text=f"{failure}\n")

    async def _once(
        self, request: web.BaseRequest, passage: Passage, body: reverse_proxy.Body, place: Endpoint
    ) -> web.StreamResponse:
        """Raises ClientConnectorError before anything was sent, Broken before anything was answered."""
        url = passage.url("http", place, request.raw_path)
        return await reverse_proxy.forward(
            request, self._session(place), url, _headers(request), body, timeout=_timeout(passage.options)
        )

    async def _websocket(self, request: web.BaseRequest, passage: Passage) -> web.StreamResponse:
        failure = "no endpoint was tried"
        for place in passage.targets:
            url = passage.url("ws", place, request.raw_path)
            try:
                return await reverse_proxy.forward_websocket(request, self._session(place), url, _headers(request))
            except aiohttp.WSServerHandshakeError as e:
                return web.Response(status=e.status, text=f"{e.message}\n")
            except (aiohttp.ClientError, TimeoutError) as e:
                failure = f"{place}: {e}"
        return web.Response(status=502, text=f"{failure}\n")

    # --- requests over HTTP/2 ---------------------------------------------------------------------

    async def _exchange(self, exchange: Exchange) -> None:
        lengths = [] if exchange.size is None else [str(exchange.size)]
        wrong = fault(exchange.target, exchange.path, [exchange.host], lengths, [])
        asked = Asked(exchange.host, exchange.target, exchange.path, True, exchange.size, http2=True)
        decided = Refused(400, f"{wrong}\n") if wrong else self._decide(asked)
        refused = await self._carry(exchange, decided) if isinstance(decided, Passage) else decided
        if refused is not None:
            location = [("location", refused.location)] if refused.location else []
            exchange.start(refused.status, [("content-type", "text/plain; charset=utf-8"), *location])
            await exchange.send(refused.text.encode())
            exchange.end()

    async def _carry(self, exchange: Exchange, passage: Passage) -> Refused | None:
        """Why a request could not be carried to any endpoint; None for one that was answered."""
        bounded = _Bounded(exchange.body(), passage.options.body_bytes_max)
        body = aiter(bounded)
        once = self._by_http2 if passage.options.protocol in (GRPC, GRPCS) else self._by_http1
        failure = "no endpoint was tried"
        for place in passage.targets:
            try:
                await once(exchange, passage, body, place)
                return None
            except (aiohttp.ClientConnectorError, ConnectionRefusedError) as e:
                failure = f"cannot connect to {place}: {e.strerror}"
            except (aiohttp.ClientError, UpstreamBroken, TimeoutError, OSError) as e:
                if exchange.started:
                    exchange.reset()
                    return None
                if bounded.exceeded:
                    return Refused(413, TOO_LARGE)
                return Refused(504 if isinstance(e, TimeoutError) else 502, f"{place}: {e}\n")
        return Refused(502, f"{failure}\n")

    async def _by_http1(
        self, exchange: Exchange, passage: Passage, body: AsyncIterator[bytes], place: Endpoint
    ) -> None:
        async with self._session(place).request(
            exchange.method,
            aiohttp.client.URL(passage.url("http", place, exchange.target), encoded=True),
            headers=_forwarded(exchange),
            data=body if exchange.has_body else None,
            allow_redirects=False,
            skip_auto_headers=reverse_proxy.AS_THE_CLIENT_SAYS,
            timeout=_timeout(passage.options),
        ) as answer:
            exchange.start(answer.status, [*answer.headers.items()])
            async for chunk in answer.content.iter_chunked(reverse_proxy.CHUNK):
                await exchange.send(chunk)
        exchange.end()

    async def _by_http2(
        self, exchange: Exchange, passage: Passage, body: AsyncIterator[bytes], place: Endpoint
    ) -> None:
        options = passage.options
        await carry(
            exchange,
            body,
            (place.ip, place.port),
            self._network_of(place),
            target=passage.target(exchange.target),
            headers=_forwarded(exchange),
            tls=options.protocol == GRPCS,
            connect_s=options.connect_s,
            silence_s=options.read_s,
        )


def _timeout(options: Options) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=options.connect_s, sock_read=options.read_s)


def _headers(request: web.BaseRequest) -> CIMultiDict[str]:
    headers = reverse_proxy.request_headers(request)
    headers["X-Real-IP"] = request.remote or ""
    return headers


def _forwarded(exchange: Exchange) -> CIMultiDict[str]:
    headers = reverse_proxy.carried_headers(
        exchange.headers, client=exchange.remote, host=exchange.host, scheme="https"
    )
    headers["X-Real-IP"] = exchange.remote
    return headers


class _Bounded:
    """A body as it comes, as far as it is not too large."""

    def __init__(self, pieces: AsyncIterator[bytes], bytes_max: int) -> None:
        self._pieces = pieces
        self._bytes_max = bytes_max
        self.exceeded = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for piece in self._pieces:
            size += len(piece)
            if self._bytes_max and size > self._bytes_max:
                self.exceeded = True
                raise TooLarge
            yield piece


def _answer(refused: Refused) -> web.Response:
    """An answer; after one to what cannot be read, or is too much, nothing more is read of the connection."""
    response = web.Response(status=refused.status, text=refused.text)
    if refused.location:
        response.headers["Location"] = refused.location
    if refused.status in (400, 413):
        response.force_close()
    return response
