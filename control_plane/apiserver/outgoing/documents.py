"""Documents of others over HTTPS, bounded in time and size: keys of issuers, and answers of those who review.

Source: OpenID Connect Discovery 1.0; RFC 7517 (JSON Web Key); Kubernetes' webhooks by kubeconfig file.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import orjson

from rayplane.control_plane.apiserver.authentication.configuration import Issuer
from rayplane.control_plane.apiserver.authentication.webhooks import ReviewFailed
from rayplane.control_plane.apiserver.outgoing.kubeconfig import Destination
from rayplane.control_plane.backoff import Backoff, Pauses
from rayplane.control_plane.client.singleflight import SingleFlight
from rayplane.control_plane.tasks import cancel_and_wait
from rayplane.storage.env.leaps import at_machine_pace

log = logging.getLogger(__name__)

BYTES_MAX = 1 << 20
KEYS_MAX = 100
FETCH_TIMEOUT_S = 10.0
REFRESH_S = 300.0
"""So often keys are read again: what an issuer has taken back is not taken much longer."""
ASK_AGAIN_S = 10.0
"""For a key that nobody knows an issuer is asked no more often than this."""
TRIES = 5
_GROWTH, _JITTER = 1.5, 0.2
# What says so by itself: internal error, too many requests, and whoever stands before it waited in vain.
_PASSING = frozenset({429, 500, 502, 503, 504})
RETRY_AFTER_MAX_S = 10.0
_DIGITS_MAX = 6
_CHUNK = 64 * 1024
_FAILURES = (aiohttp.ClientError, OSError, ValueError, TimeoutError, jwt.PyJWKSetError)


async def _document(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object of an answer. Raises ValueError."""
    answer = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        answer += chunk
        if len(answer) > BYTES_MAX:
            raise ValueError(f"the answer is larger than {BYTES_MAX} bytes")
    if not 200 <= response.status < 300:
        raise ValueError(f"the server answered with status code {response.status}")
    document = orjson.loads(answer)
    if not isinstance(document, dict):
        raise ValueError("the answer is no JSON object")
    return document


class IssuerKeys:
    """The keys of one issuer, kept fresh in the background from `start` to `stop`."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._known: Sequence[jwt.PyJWK] = ()
        self._asked_at = float("-inf")
        self._flight: SingleFlight[None] = SingleFlight(lambda: ConnectionError("the server stops"))
        self._task: asyncio.Task[None] | None = None

    @property
    def known(self) -> Sequence[jwt.PyJWK]:
        return self._known

    async def renewed(self) -> Sequence[jwt.PyJWK]:
        now = asyncio.get_running_loop().time()
        if self._flight.under_way("") or now - self._asked_at >= ASK_AGAIN_S:
            try:
                await self._flight.run("", self._fetch)
            except _FAILURES as e:
                log.warning("the keys of %s cannot be had: %s", self._issuer.url, e)
        return self._known

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep(), name=f"keys of {self._issuer.url}")

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        await self._flight.stop()

    async def _keep(self) -> None:
        while True:
            await self.renewed()
            await asyncio.sleep(REFRESH_S if self._known else ASK_AGAIN_S)

    async def _fetch(self) -> None:
        self._asked_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            tls = ssl.create_default_context(cadata=self._issuer.authority or None)
            connector = aiohttp.TCPConnector(ssl=tls, force_close=True)
            async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
                async with session.get(self._issuer.discovery_url, allow_redirects=False) as response:
                    where = await _document(response)
                if where.get("issuer") != self._issuer.url:
                    raise ValueError(f"{self._issuer.discovery_url} is of the issuer {where.get('issuer')!r}")
                url = where.get("jwks_uri")
                if not isinstance(url, str) or urlsplit(url).scheme != "https":
                    raise ValueError(f"jwks_uri {url!r} is no HTTPS URL")
                async with session.get(url, allow_redirects=False) as response:
                    keys = await _document(response)
        self._known = jwt.PyJWKSet.from_dict(keys).keys[:KEYS_MAX]


class _Passing(Exception):
    """A failure that may be over soon. `after_s`: when to ask again, where it says so."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """The times of a webhook. `timeout_s`: of each try, `total_s`: of all together, `retry_s`: the first pause."""

    timeout_s: float
    total_s: float
    retry_s: float


class ReviewWebhook:
    """A webhook at the place that a kubeconfig file says.

    What may pass is asked again, as in Kubernetes: up to five tries, each pause half as long again as the last.
    """

    def __init__(self, destination: Destination, patience: Patience, rng: random.Random) -> None:
        self._destination = destination
        self._patience = patience
        self._rng = rng
        self._session: aiohttp.ClientSession | None = None
        self._waiting = 0
        self._retired = False

    async def post(self, review: Mapping[str, Any]) -> dict[str, Any]:
        """The review as it comes back. Raises ReviewFailed."""
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience.total_s):
                return await self._tried(review)
        except TimeoutError as e:
            text = f"{self._destination.url} did not answer within {self._patience.total_s:g} s"
            raise ReviewFailed(text) from e
        finally:
            self._waiting -= 1
            if self._retired:
                await self.retire()

    async def _tried(self, review: Mapping[str, Any]) -> dict[str, Any]:
        first_s = self._patience.retry_s
        pauses = Pauses(Backoff(first_s, first_s * 8, _GROWTH), rng=self._rng, jitter=_JITTER) if first_s else None
        left = TRIES - 1
        while True:
            try:
                return await self._posted(review)
            except _Passing as e:
                if not left or pauses is None:
                    raise ReviewFailed(f"{self._destination.url}: {e}") from e
                left -= 1
                await asyncio.sleep(max(pauses.next_s(), min(e.after_s, RETRY_AFTER_MAX_S)))

    @at_machine_pace
    async def _posted(self, review: Mapping[str, Any]) -> dict[str, Any]:
        to = self._destination
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=to.tls)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        headers = {"Content-Type": "application/json", "Accept": "application/json", **to.headers}
        try:
            async with (
                asyncio.timeout(self._patience.timeout_s),
                self._session.post(
                    to.url,
                    data=orjson.dumps(review),
                    headers=headers,
                    allow_redirects=False,
                    server_hostname=to.server_name or None,
                ) as response,
            ):
                after = response.headers.get("Retry-After", "")
                if response.status in _PASSING or (response.status >= 400 and after.isdecimal()):
                    why = f"the server answered with status code {response.status}"
                    raise _Passing(why, float(after[:_DIGITS_MAX]) if after.isdecimal() else 0.0)
                return await _document(response)
        except TimeoutError as e:
            raise ReviewFailed(f"{to.url} did not answer within {self._patience.timeout_s:g} s") from e
        except (aiohttp.ServerDisconnectedError, ConnectionError) as e:
            raise _Passing(str(e) or type(e).__name__) from e
        except (aiohttp.ClientError, OSError, ValueError) as e:
            raise ReviewFailed(f"{to.url}: {e}") from e

    async def retire(self) -> None:
        """Close as soon as nobody waits for an answer: whoever began to decide by this webhook may still ask it."""
        self._retired = True
        if not self._waiting:
            await self.close()

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
