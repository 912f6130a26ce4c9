"""Requests for `.../proxy/PATH`: HTTP handed on to a pod, to a pod of a service, or answered for a node.

What a node's own server has at a path its host is asked for, over gRPC.

Source: pkg/registry/core/{pod,service,node}, ResourceLocation; apimachinery's proxy/upgradeaware.go.
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from rayplane.control_plane.api.errors import BadRequest, NotFound, ServiceUnavailable
from rayplane.control_plane.api.machinery.names import is_number_of_port
from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.apiserver.outgoing.node_hosts import address_of_node, host_of, node_error, node_stub
from rayplane.control_plane.apiserver.outgoing.pods import PodConnector
from rayplane.control_plane.apiserver.outgoing.services import endpoints_of
from rayplane.control_plane.apiserver.registry.registry import ObjectRegistry
from rayplane.control_plane.apiserver.requests import Target, User
from rayplane.control_plane.apiserver.rest.page_links import PageLinks
from rayplane.control_plane.rpc import Network, RpcError, reverse_proxy, subprotocols
from rayplane.control_plane.streams.wires import wants_websocket
from rayplane.proto.rayplane.v1 import node_pb2

_SILENCE_S = 60.0
_NODE_TIMEOUT_S = 3.0
_HTML = "text/html"
_SANDBOX = "sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts"
"""As Content-Security-Policy: of no origin, so that it reads nothing of a page at the same address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Name of whom a request is for, as it stands in the path: `[SCHEME:]NAME[:PORT]`."""

    name: str
    scheme: str = "http"
    port: str = ""

    @staticmethod
    def parse(text: str, kind: str) -> "Address":
        """BadRequest for what is no address."""
        match text.split(":"):
            case [name] if name:
                return Address(name)
            case [name, port] if name:
                return Address(name, port=port)
            case [("http" | "https" | "") as scheme, name, port] if name:
                return Address(name, scheme or "http", port)
        raise BadRequest(f'invalid {kind} request "{text}"')


class Proxy:
    """Handler of `pods/proxy`, `services/proxy` and `nodes/proxy`.

    `beside_page`: a page with people's tokens is served here too, from which what others show is kept.
    """

    def __init__(self, registry: ObjectRegistry, network: Network, *, beside_page: bool) -> None:
        self._registry = registry
        self._network = network
        self._headers = {"Content-Security-Policy": _SANDBOX} if beside_page else {}

    async def handle(self, request: web.BaseRequest, user: User, target: Target, verb: str) -> web.StreamResponse:
        """The answer of whom the request is handed on to. Raises ApiError."""
        await self._registry.allow(user, verb, target)
        address = Address.parse(target.name, target.info.kind.lower())
        prefix, slash, path = _split(request, namespaced=target.info.namespaced)
        await self._registry.connect(user, target, {"path": f"/{path}"})
        if target.info.name == "nodes":
            return await self._node(request, address.name, path.strip("/"))
        if target.info.name == "pods":
            pod, port = await self._pod(target.namespace, address)
        else:
            pod, port = await self._service(target.namespace, address)
        if not slash and not wants_websocket(request):
            # Relative links of a page would point beside it otherwise.
            return web.Response(status=301, headers={"Location": f"{prefix}/"})
        stub, node = await host_of(pod, self._registry.lookup, self._network)
        ref = node_pb2.ContainerRef(node=node, namespace=target.namespace, pod=pod["metadata"]["name"])
        # What a pod shows is not checked, as in Kubernetes: it has no name that a certificate could bear.
        connector = PodConnector(stub, ref, port, tls=_unchecked() if address.scheme == "https" else None)
        return await self._forward(request, connector, address.scheme, path, prefix)

    async def _pod(self, namespace: str, address: Address) -> tuple[Object, int]:
        pod = await self._registry.lookup.get("pods", address.name, namespace)
        if pod is None:
            raise NotFound.of("pods", address.name)
        if not address.port:
            ports = (p["containerPort"] for c in pod["spec"]["containers"] for p in c.get("ports") or ())
            return pod, next(ports, 443 if address.scheme == "https" else 80)
        if not is_number_of_port(address.port) or not 0 < int(address.port) < 65536:
            raise BadRequest(f'a port of a pod is a number from 1 to 65535, not "{address.port}"')
        return pod, int(address.port)

    async def _service(self, namespace: str, address: Address) -> tuple[Object, int]:
        """A ready pod behind the service's port, given by name or number."""
        lookup, gone = self._registry.lookup, f'no endpoints available for service "{address.name}"'
        behind = [e for e in await endpoints_of(lookup, namespace, address.name, address.port) if e.pod]
        if not behind:
            raise ServiceUnavailable(gone)
        chosen = self._registry.env.rng.choice(behind)
        pod = await lookup.get("pods", chosen.pod, namespace)
        if pod is None:
            raise ServiceUnavailable(gone)
        return pod, chosen.port

    async def _forward(
        self, request: web.BaseRequest, connector: PodConnector, scheme: str, path: str, prefix: str
    ) -> web.StreamResponse:
        headers = reverse_proxy.request_headers(request)
        # Whoever asks has shown the API server who it is; that is nothing for the pod.
        headers.popall("Authorization", None)
        subprotocols.drop_token(headers)
        headers["X-Forwarded-Uri"] = f"{prefix}/{path}"
        _, mark, query = request.raw_path.partition("?")
        url = f"{scheme}://{connector.host}/{path}{mark}{query}"

        def located(location: str) -> str:
            """Redirections and links within the pod stay below the path at which it is shown."""
            inner = location.removeprefix(f"{scheme}://{connector.host}")
            inside = inner.startswith("/") and not inner.startswith(("//", f"{prefix}/"))
            return f"{prefix}{inner}" if inside else location

        if _HTML in headers.get("Accept", ""):
            # Links in what is compressed are not changed.
            headers["Accept-Encoding"] = "identity"
        timeout = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)
        cookies = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=cookies, timeout=timeout, auto_decompress=False
        ) as session:
            try:
                if wants_websocket(request):
                    return await reverse_proxy.forward_websocket(request, session, url, headers)
                return await reverse_proxy.forward(
                    request,
                    session,
                    url,
                    headers,
                    request.content if request.can_read_body else None,
                    located=located,
                    starting=self._kept_apart,
                    changed=lambda head: _links(head, located),
                )
            except aiohttp.WSServerHandshakeError as e:
                return web.Response(status=e.status, text=f"{e.message}\n")
            except (aiohttp.ClientError, reverse_proxy.Broken, TimeoutError) as e:
                why = e.os_error if isinstance(e, aiohttp.ClientConnectorError) else e
                raise ServiceUnavailable(f"error trying to reach service: {why}") from e
            finally:
                await connector.end()

    def _kept_apart(self, headers: CIMultiDict[str]) -> None:
        """A policy that the pod gives holds beside this one."""
        for name, value in self._headers.items():
            headers.add(name, value)

    # --- nodes --------------------------------------------------------------------------------

    async def _node(self, request: web.BaseRequest, name: str, path: str) -> web.Response:
        """The page of the node's kubelet, in the format that the client takes."""
        node = await self._registry.lookup.get("nodes", name)
        if node is None:
            raise NotFound.of("nodes", name)
        # What a header may hold beyond ASCII names no format.
        formats = request.headers.get("Accept", "").encode("ascii", "ignore").decode()
        asked = node_pb2.PageRequest(node=name, path=path, query=request.rel_url.raw_query_string, accept=formats)
        try:
            stub = node_stub(self._network, address_of_node(node))
            answer: node_pb2.PageResponse = await stub.Page(asked, timeout=_NODE_TIMEOUT_S)
        except RpcError as e:
            raise node_error(e) from e
        return web.Response(
            body=answer.page, status=answer.status, headers={"Content-Type": answer.content_type, **self._headers}
        )


def _links(headers: Mapping[str, str], located: Callable[[str], str]) -> PageLinks | None:
    """The links of an answer that is a page as it can be read."""
    is_page = headers.get("Content-Type", "").partition(";")[0].strip().lower() == _HTML
    return PageLinks(located) if is_page and headers.get("Content-Encoding", "identity") == "identity" else None


def _unchecked() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _split(request: web.BaseRequest, *, namespaced: bool) -> tuple[str, bool, str]:
    """A path up to `proxy`, whether a slash follows, and what comes after it; all as the client has encoded them."""
    parts = request.raw_path.partition("?")[0].split("/")
    own = 8 if namespaced else 6
    return "/".join(parts[:own]), len(parts) > own, "/".join(parts[own:])
