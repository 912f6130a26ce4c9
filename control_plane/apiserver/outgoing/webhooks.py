"""Posts to webhooks: at a URL, or at a service, whose pods are reached through the hosts of their nodes.

A service without pods (a selector of none with endpoints of its own, or an ExternalName) is how a program outside the
cluster is a webhook. What a server shows must be signed by the configuration's `caBundle` and bear its name:
`SERVICE.NAMESPACE.svc` for a service.

Source: apiserver's util/webhook/client.go, admissionregistration.k8s.io/v1 WebhookClientConfig.
"""

import asyncio
import base64
import binascii
import os
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from rayplane.control_plane.api.errors import ApiError
from rayplane.control_plane.apiserver.outgoing.node_hosts import host_of
from rayplane.control_plane.apiserver.outgoing.pods import PodConnector
from rayplane.control_plane.apiserver.outgoing.services import Endpoint, endpoints_of
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.apiserver.webhook_calls import CallFailed
from rayplane.control_plane.rpc import Network
from rayplane.proto.rayplane.v1 import node_pb2

ANSWER_BYTES_MAX = 3 * 1024 * 1024
_CHUNK = 64 * 1024
#: Webhooks whose connections are kept; of more, those asked longest ago are connected to anew.
SESSIONS_MAX = 64
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class WebhookClient:
    """A client of all webhooks of one server."""

    def __init__(self, lookup: Lookup, network: Network, rng: random.Random) -> None:
        self._lookup = lookup
        self._network = network
        self._rng = rng
        self._sessions: dict[tuple[str, str], aiohttp.ClientSession] = {}

    async def post(self, client: dict[str, Any], body: bytes, timeout_s: float) -> bytes:
        """The answer of the webhook at `client` (a WebhookClientConfig). Raises CallFailed."""
        url = _url(client)
        shown = f'failed to call webhook: Post "{url}?timeout={timeout_s:g}s"'
        try:
            async with asyncio.timeout(timeout_s), self._session(client, url) as session:
                return await _posted(session, f"{url}?timeout={timeout_s:g}s", body)
        except TimeoutError as e:
            raise CallFailed(f"{shown}: context deadline exceeded") from e
        except ApiError as e:
            raise CallFailed(f"{shown}: {e.message}") from e
        except aiohttp.ClientConnectorCertificateError as e:
            raise CallFailed(f"{shown}: tls: failed to verify certificate: {e.certificate_error}") from e
        except aiohttp.ClientConnectorError as e:
            why = os.strerror(e.os_error.errno).lower() if e.os_error.errno else str(e.os_error)
            raise CallFailed(f"{shown}: dial tcp {e.host}:{e.port}: connect: {why}") from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise CallFailed(f"{shown}: {e}") from e

    async def close(self) -> None:
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    @asynccontextmanager
    async def _session(self, client: dict[str, Any], url: str) -> AsyncIterator[aiohttp.ClientSession]:
        service = client.get("service")
        bundle = client.get("caBundle") or ""
        if service is None:
            yield await self._kept(("", bundle))
            return
        namespace, name = service["namespace"], service["name"]
        found = await endpoints_of(self._lookup, namespace, name, str(service.get("port") or 443))
        if not found:
            raise CallFailed(f'no endpoints available for service "{name}"')
        chosen = self._rng.choice(found)
        server_name = urlsplit(url).hostname or ""
        if not chosen.pod:
            connector: aiohttp.BaseConnector = _Elsewhere(chosen, _context(bundle))
            async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
                yield session
            return
        pod = await self._lookup.get("pods", chosen.pod, namespace)
        if pod is None:
            raise CallFailed(f'no endpoints available for service "{name}"')
        stub, node = await host_of(pod, self._lookup, self._network)
        ref = node_pb2.ContainerRef(node=node, namespace=namespace, pod=chosen.pod)
        to_pod = PodConnector(stub, ref, chosen.port, tls=_context(bundle), server_name=server_name)
        try:
            async with aiohttp.ClientSession(connector=to_pod, cookie_jar=aiohttp.DummyCookieJar()) as session:
                yield session
        finally:
            await to_pod.end()

    async def _kept(self, key: tuple[str, str]) -> aiohttp.ClientSession:
        session = self._sessions.pop(key, None)
        if session is None:
            connector = aiohttp.TCPConnector(ssl=_context(key[1]))
            session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        self._sessions[key] = session
        if len(self._sessions) > SESSIONS_MAX:
            oldest = next(iter(self._sessions))
            await self._sessions.pop(oldest).close()
        return session


class _Elsewhere(aiohttp.TCPConnector):
    """A connector to an endpoint, whatever the URL names: that is whose certificate it must show."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext) -> None:
        super().__init__(ssl=tls, force_close=True)
        self._endpoint = endpoint

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[Any]:
        found = await super()._resolve_host(self._endpoint.address, self._endpoint.port, traces)
        return [{**one, "hostname": host, "port": self._endpoint.port} for one in found]


async def _posted(session: aiohttp.ClientSession, url: str, body: bytes) -> bytes:
    async with session.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response:
        answer = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            answer += chunk
            if len(answer) > ANSWER_BYTES_MAX:
                raise ValueError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        if not 200 <= response.status < 300:
            raise ValueError(f"the server answered with status code {response.status} {response.reason or ''}".rstrip())
        return bytes(answer)


def _url(client: dict[str, Any]) -> str:
    service = client.get("service")
    if service is None:
        return str(client.get("url") or "")
    port = service.get("port") or 443
    path = (service.get("path") or "").removeprefix("/")
    return f"https://{service['name']}.{service['namespace']}.svc:{port}/{path}"


def _context(bundle: str) -> ssl.SSLContext:
    """Trust in the certificates of a bundle (base64 of PEM), or in the machine's. Raises ValueError."""
    if not bundle:
        return ssl.create_default_context()
    try:
        return ssl.create_default_context(cadata=base64.b64decode(bundle, validate=True).decode())
    except (binascii.Error, UnicodeDecodeError, ssl.SSLError) as e:
        raise ValueError(f"unable to load root certificates: {e}") from e
