"""Posts to webhooks: at a URL, or at a service.

Source: apiserver's util/webhook/client.go, admissionregistration.k8s.io/v1 WebhookClientConfig.
"""

import asyncio
import random
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from rayplane.control_plane.apiserver.outgoing.sessions import FAILURES, Sessions, Trust, reason
from rayplane.control_plane.apiserver.tracing.spans import spanned
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.apiserver.webhook_calls import CallFailed
from rayplane.control_plane.rpc import Network
from rayplane.storage.env.leaps import at_machine_pace

ANSWER_BYTES_MAX = 3 * 1024 * 1024
_CHUNK = 64 * 1024
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


class WebhookClient:
    """A client of all webhooks of one server."""

    def __init__(self, lookup: Lookup, network: Network, rng: random.Random) -> None:
        self._sessions = Sessions(lookup, network, rng)

    @spanned("call", about=lambda _, client, *__: {"url": _url(client)})
    @at_machine_pace
    async def post(self, client: dict[str, Any], body: bytes, timeout_s: float) -> bytes:
        """The answer of the webhook at `client` (a WebhookClientConfig). Raises CallFailed."""
        url = f"{_url(client)}?timeout={timeout_s:g}s"
        shown = f'failed to call webhook: Post "{url}"'
        try:
            async with asyncio.timeout(timeout_s):
                try:
                    return await self._posted(client, url, body)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # A kept connection may have been closed meanwhile.
                    return await self._posted(client, url, body)
        except FAILURES as e:
            raise CallFailed(f"{shown}: {reason(e)}") from e

    async def close(self) -> None:
        await self._sessions.close()

    async def _posted(self, client: dict[str, Any], url: str, body: bytes) -> bytes:
        async with (
            self._session(client) as session,
            session.post(url, data=body, headers=_HEADERS, allow_redirects=False) as response,
        ):
            answer = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    raise ValueError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
            if not 200 <= response.status < 300:
                said = f"{response.status} {response.reason or ''}".rstrip()
                raise ValueError(f"the server answered with status code {said}")
            return bytes(answer)

    def _session(self, client: dict[str, Any]) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        service, trust = client.get("service"), Trust(client.get("caBundle") or "")
        if service is None:
            return self._sessions.anywhere(trust)
        return self._sessions.to_service(service["namespace"], service["name"], service.get("port") or 443, trust)


def _url(client: dict[str, Any]) -> str:
    service = client.get("service")
    if service is None:
        return str(client.get("url") or "")
    port = service.get("port") or 443
    path = (service.get("path") or "").removeprefix("/")
    return f"https://{service['name']}.{service['namespace']}.svc:{port}/{path}"
