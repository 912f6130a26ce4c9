"""The front door of a cluster: its REST face through the load balancer, as kubectl and others come to it."""

import json
import ssl
from collections.abc import Callable
from typing import Any

import aiohttp

from rayplane.control_plane.api import errors
from rayplane.control_plane.api.meta import Object

TIMEOUT_S = 10.0
MERGE = "application/merge-patch+json"


class Front:
    """A client of the REST face that keeps its connections. `address`: host:port of the load balancer now."""

    def __init__(self, context: ssl.SSLContext, address: Callable[[], str]) -> None:
        self._context = context
        self._address = address
        self._opened: aiohttp.ClientSession | None = None

    @property
    def _session(self) -> aiohttp.ClientSession:
        """Opened by the first request: who asks nothing has nothing to give back."""
        if self._opened is None:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=0)
            self._opened = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self._opened

    async def ask(self, method: str, path: str, body: Object | None = None, media: str = "application/json") -> Object:
        """The object of a good answer. Raises ApiError; Timeout when none came, so that nobody knows what was done."""
        data = json.dumps(body) if body is not None else None
        url = f"https://{self._address()}{path}"
        try:
            async with self._session.request(method, url, data=data, headers={"Content-Type": media}) as response:
                found: dict[str, Any] = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as e:
            raise errors.Timeout(f"{method} {path}: {e or type(e).__name__}") from e
        if response.status >= 400:
            raise errors.from_status(found)
        return found

    async def close(self) -> None:
        """Give the connections back."""
        if self._opened is not None:
            await self._opened.close()
