"""Calls to servers of aggregated APIs, as the front proxy that they know from `extension-apiserver-authentication`.

They believe the headers that name a user from whoever shows a certificate of the cluster's authority with the name
that is kept for front proxies: what they get to see is good for nothing else.

Source: Kubernetes documentation, "Configure the Aggregation Layer"; client-go's transport/round_trippers.go.
"""

import asyncio
import random
import string
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from pathlib import Path

import aiohttp
import orjson
from multidict import CIMultiDict

from rayplane.control_plane.api.aggregation.backends import Backend
from rayplane.control_plane.apiserver.outgoing.sessions import Sessions, Trust
from rayplane.control_plane.apiserver.requests import User
from rayplane.control_plane.apiserver.watch_cache.lookup import Lookup
from rayplane.control_plane.identities import MASTERS
from rayplane.control_plane.rpc import Network
from rayplane.control_plane.rpc.tls import Renewed, front_proxy_dir
from rayplane.storage.env.leaps import at_machine_pace

#: How long an answer to a question of our own may take.
ANSWER_S = 5.0
_AGGREGATOR = User("system:kube-aggregator", (MASTERS,))
_CHUNK = 64 * 1024
_TOKEN = frozenset(string.ascii_letters + string.digits + "!#$&'*+-.^_`|~")  # RFC 9110, section 5.6.2, without %


class BadStatus(ValueError):
    """An answer that is none of a success; `body`: as much of it as an error may have."""

    def __init__(self, url: str, status: int, body: bytes) -> None:
        super().__init__(f"bad status from {url}: {status}")
        self.status, self.body = status, body

    def says_missing(self, name: str) -> bool:
        """Whether it is the API's own word that there is no object of that name: no gap in what is served."""
        try:
            told = orjson.loads(self.body)
        except ValueError:
            return False
        if self.status != HTTPStatus.NOT_FOUND or not isinstance(told, dict) or told.get("reason") != "NotFound":
            return False
        details = told.get("details")
        return isinstance(details, dict) and details.get("name") == name


class BackendClient:
    """A client of all servers of aggregated APIs. `tls_dir`: below it is the certificate that it shows."""

    def __init__(self, lookup: Lookup, network: Network, rng: random.Random, tls_dir: str | None) -> None:
        self._sessions = Sessions(lookup, network, rng, connections=0, decompress=False)
        shown = front_proxy_dir(Path(tls_dir)) if tls_dir is not None else None
        self._shown = Renewed(shown) if shown is not None and shown.is_dir() else None

    def session(self, backend: Backend, *, fresh: bool = False) -> AbstractAsyncContextManager[aiohttp.ClientSession]:
        """See `Sessions.to_service`."""
        shown = self._shown.current() if self._shown is not None else None
        trust = Trust(backend.bundle, backend.unchecked, shown)
        return self._sessions.to_service(backend.namespace, backend.service, backend.port, trust, fresh=fresh)

    async def get(self, backend: Backend, path: str, *, bytes_max: int) -> bytes:
        """The document at a path, asked for by ourselves. Raises what `sessions.FAILURES` names."""
        return await self.call(backend, "GET", path, user=_AGGREGATOR, bytes_max=bytes_max)

    @at_machine_pace
    async def call(
        self,
        backend: Backend,
        method: str,
        path: str,
        *,
        user: User,
        bytes_max: int,
        body: bytes = b"",
        media_type: str = "application/json",
    ) -> bytes:
        """The answer of a success, to a request of this user. Raises what `sessions.FAILURES` names."""
        url = backend.root + path
        headers = CIMultiDict({"Accept": "application/json", "Accept-Encoding": "identity"})
        headers.extend(headers_of(user))
        if body:
            headers["Content-Type"] = media_type
        target = aiohttp.client.URL(url, encoded=True)
        async with (
            asyncio.timeout(ANSWER_S),
            self.session(backend) as session,
            session.request(method, target, headers=headers, data=body or None, allow_redirects=False) as answer,
        ):
            if not 200 <= answer.status < 300:
                raise BadStatus(url, answer.status, await answer.content.read(_CHUNK))
            answered = bytearray()
            async for chunk in answer.content.iter_chunked(_CHUNK):
                answered += chunk
                if len(answered) > bytes_max:
                    raise ValueError(f"the answer is larger than {bytes_max} bytes")
            return bytes(answered)

    async def close(self) -> None:
        await self._sessions.close()


def headers_of(user: User) -> Iterator[tuple[str, str]]:
    """Who asks, as front proxies tell it."""
    yield "X-Remote-User", user.name
    if user.uid:
        yield "X-Remote-Uid", user.uid
    for group in user.groups:
        yield "X-Remote-Group", group
    for key, values in user.extra.items():
        for value in values:
            yield f"X-Remote-Extra-{_escaped(key)}", value


def is_of_user(header: str) -> bool:
    """Whether a header tells who asks: nobody but us may say that to a server behind us.

    Many programs cannot tell an underscore from a hyphen there (RFC 3875, section 4.1.18).
    """
    name = header.lower().replace("_", "-")
    return name == "authorization" or name.startswith(("x-remote-", "impersonate-"))


def _escaped(key: str) -> str:
    return "".join(chr(b) if chr(b) in _TOKEN else f"%{b:02X}" for b in key.encode())
