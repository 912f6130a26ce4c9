"""HTTPS to what answers for services and at URLs, over connections that are kept for a while.

A service's pods are reached through the hosts of their nodes. One without pods (endpoints of its own, or an
ExternalName) is how a program outside the cluster is reached. What a server shows must be signed by the bundle that is
trusted and bear the name `SERVICE.NAMESPACE.svc`.
"""

import base64
import binascii
import random
import ssl
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp

from rayplane.control_plane.api.errors import ApiError, ServiceUnavailable
from rayplane.control_plane.apiserver.outgoing.node_hosts import address_of, node_stub
from rayplane.control_plane.apiserver.outgoing.pods import PodConnector
from rayplane.control_plane.apiserver.outgoing.services import Endpoint, endpoints_of
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.rpc import Network, http_failures, reverse_proxy
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.proto.rayplane.v1 import node_pb2

#: Places whose connections are kept; of more, those asked longest ago are connected to anew.
SESSIONS_MAX = 64
#: Shorter than common servers keep a connection that nobody uses: who uses it must not find it closed.
IDLE_S = 4.0

FAILURES = (ApiError, TimeoutError, aiohttp.ClientError, OSError, ValueError)
"""What calls raise when the other side is not reached, or answers what is no answer."""


def reason(failure: Exception) -> str:
    """What to tell of one of the `FAILURES`."""
    return failure.message if isinstance(failure, ApiError) else http_failures.reason(failure)


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom to believe who they are, and what to show them."""

    bundle: str = ""
    """base64 of PEM; empty: the machine's authorities."""
    unchecked: bool = False
    shown: Credentials | None = None

    def context(self) -> ssl.SSLContext:
        """A client's context. Raises ValueError for a bundle that is none."""
        try:
            data = base64.b64decode(self.bundle, validate=True).decode() or None
            context = ssl.create_default_context(cadata=data)
        except (binascii.Error, UnicodeDecodeError, ssl.SSLError) as e:
            raise ValueError(f"unable to load root certificates: {e}") from e
        if self.unchecked:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.shown is not None:
            self.shown.load(context)
        return context


@dataclass(slots=True)
class _Kept:
    session: aiohttp.ClientSession
    users: int = 0


class Sessions:
    """The sessions of one server with everybody it calls.

    `connections`: most to one place at the same time, 0 for no bound; `decompress`: whether bodies are unpacked.
    """

    def __init__(
        self,
        lookup: Lookup,
        network: Network,
        rng: random.Random,
        *,
        connections: int = 100,
        decompress: bool = True,
    ) -> None:
        self._lookup = lookup
        self._network = network
        self._rng = rng
        self._limit = connections
        self._decompress = decompress
        self._kept: dict[Hashable, _Kept] = {}

    @asynccontextmanager
    async def anywhere(self, trust: Trust) -> AsyncIterator[aiohttp.ClientSession]:
        """A session for any URL. Raises ValueError."""
        async with self._use(trust, lambda: aiohttp.TCPConnector(ssl=trust.context(), **self._options())) as session:
            yield session

    @asynccontextmanager
    async def to_service(
        self, namespace: str, name: str, port: int, trust: Trust, *, fresh: bool = False
    ) -> AsyncIterator[aiohttp.ClientSession]:
        """A session with one of a service's endpoints, whose URLs have the host `NAME.NAMESPACE.svc`.

        `fresh`: by a new connection, for what cannot be sent again. Raises ApiError and ValueError.
        """
        found = await endpoints_of(self._lookup, namespace, name, str(port))
        if not found:
            raise ServiceUnavailable(f'no endpoints available for service "{name}"')
        chosen, options = self._rng.choice(found), self._options(fresh)
        if chosen.pod:
            place, make = await self._to_pod(namespace, name, chosen, trust, options)
        else:
            place, make = (chosen,), lambda: _Elsewhere(chosen, ssl=trust.context(), **options)
        async with self._use((*place, f"{name}.{namespace}.svc", trust, fresh), make) as session:
            yield session

    async def close(self) -> None:
        kept, self._kept = self._kept, {}
        for one in kept.values():
            await one.session.close()

    async def _to_pod(
        self, namespace: str, name: str, chosen: Endpoint, trust: Trust, options: dict[str, Any]
    ) -> tuple[tuple[Hashable, ...], Callable[[], aiohttp.BaseConnector]]:
        pod = await self._lookup.get("pods", chosen.pod, namespace)
        if pod is None:
            raise ServiceUnavailable(f'no endpoints available for service "{name}"')
        host, node = await address_of(pod, self._lookup)
        ref = node_pb2.ContainerRef(node=node, namespace=namespace, pod=chosen.pod)

        def make() -> aiohttp.BaseConnector:
            stub, own = node_stub(self._network, host), f"{name}.{namespace}.svc"
            return PodConnector(stub, ref, chosen.port, tls=trust.context(), server_name=own, **options)

        return (host, node, pod["metadata"]["uid"], chosen.port), make

    def _options(self, fresh: bool = False) -> dict[str, Any]:
        kept: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": IDLE_S}
        return {"limit": self._limit, **kept}

    @asynccontextmanager
    async def _use(
        self, key: Hashable, make: Callable[[], aiohttp.BaseConnector]
    ) -> AsyncIterator[aiohttp.ClientSession]:
        kept = self._kept.pop(key, None)
        if kept is None:
            cookies = aiohttp.DummyCookieJar()
            session = aiohttp.ClientSession(
                connector=make(),
                cookie_jar=cookies,
                auto_decompress=self._decompress,
                response_class=reverse_proxy.Answer,
            )
            kept = _Kept(session)
        self._kept[key] = kept
        kept.users += 1
        try:
            yield kept.session
        finally:
            kept.users -= 1
            await self._trim()

    async def _trim(self) -> None:
        for key, kept in list(self._kept.items()):
            if len(self._kept) <= SESSIONS_MAX:
                return
            if not kept.users:
                del self._kept[key]
                await kept.session.close()


class _Elsewhere(aiohttp.TCPConnector):
    """A connector to an endpoint, whatever the URL names: that is whose certificate it must show."""

    def __init__(self, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(**options)
        self._endpoint = endpoint

    async def _resolve_host(self, host: str, port: int, traces: Any = None) -> list[Any]:
        found = await super()._resolve_host(self._endpoint.address, self._endpoint.port, traces)
        return [{**one, "hostname": host, "port": self._endpoint.port} for one in found]
