"""A client of one HTTP extender: one POST for each question, over connections that are kept for a while."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from rayplane.control_plane.api.meta import Object
from rayplane.control_plane.rpc import http_failures
from rayplane.control_plane.rpc.tls import Credentials
from rayplane.control_plane.scheduler import extenders
from rayplane.control_plane.scheduler.extenders import Extender, ExtenderError, ExtenderTLS, Filtered, Victims
from rayplane.storage.env.leaps import at_machine_pace

#: An answer may carry all nodes.
ANSWER_BYTES_MAX = 64 << 20
CONNECTIONS_MAX = 64
_CHUNK = 64 * 1024
#: Shorter than common servers keep a connection that nobody uses.
_IDLE_S = 4.0
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}
_FAILURES = (TimeoutError, aiohttp.ClientError, OSError, ValueError)


class ExtenderClient:
    """A client of one extender. All calls raise ExtenderError."""

    def __init__(self, extender: Extender) -> None:
        self.extender = extender
        self._session: aiohttp.ClientSession | None = None

    async def filter(self, pod: Object, nodes: Mapping[str, Any]) -> Filtered:
        """Which of the nodes will do."""
        asked = extenders.arguments(self.extender, pod, nodes)
        return extenders.read_filtered(self.extender, await self._ask(self.extender.filter_verb, asked), nodes)

    async def prioritize(self, pod: Object, nodes: Mapping[str, Any]) -> dict[str, int]:
        """What to add to the scores of the nodes."""
        asked = extenders.arguments(self.extender, pod, nodes)
        return extenders.read_priorities(self.extender, await self._ask(self.extender.prioritize_verb, asked), nodes)

    async def preempt(self, pod: Object, victims: Mapping[str, Victims]) -> dict[str, tuple[list[str], int]]:
        """Whom to delete on which of the nodes, by uid, and how many budgets that breaks."""
        asked = extenders.preemption_arguments(self.extender, pod, victims)
        return extenders.read_victims(self.extender, await self._ask(self.extender.preempt_verb, asked), victims)

    async def bind(self, pod: Object, node: str) -> None:
        asked = extenders.binding_arguments(pod, node)
        extenders.read_bound(self.extender, await self._ask(self.extender.bind_verb, asked))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @at_machine_pace
    async def _ask(self, verb: str, arguments: Object) -> Any:
        url = self.extender.url_of(verb)
        body = orjson.dumps(arguments)
        try:
            async with asyncio.timeout(self.extender.timeout_s):
                try:
                    status, answer = await self._post(url, body)
                except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                    # A kept connection may have been closed meanwhile.
                    status, answer = await self._post(url, body)
        except _FAILURES as e:
            raise ExtenderError(f'Post "{url}": {_reason(e)}') from e
        if status != 200:
            raise ExtenderError(f"failed {verb} with extender at URL {url}, code {status}")
        try:
            return orjson.loads(answer)
        except orjson.JSONDecodeError as e:
            raise ExtenderError(f'extender "{self.extender.url}" answered {verb} with what is no JSON: {e}') from e

    async def _post(self, url: str, body: bytes) -> tuple[int, bytes]:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=_context(self.extender.tls), limit=CONNECTIONS_MAX, keepalive_timeout=_IDLE_S
            )
            self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        name = self.extender.tls.server_name or None
        async with self._session.post(url, data=body, headers=_HEADERS, server_hostname=name) as response:
            answer = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK):
                answer += chunk
                if len(answer) > ANSWER_BYTES_MAX:
                    raise ValueError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
            return response.status, bytes(answer)


def _context(tls: ExtenderTLS) -> ssl.SSLContext:
    """OSError, ValueError: the files cannot be read, or are not what they should be."""
    ca = tls.ca or (Path(tls.ca_file).read_bytes() if tls.ca_file else b"")
    context = ssl.create_default_context(cadata=ca.decode() or None)
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    cert = tls.cert or (Path(tls.cert_file).read_bytes() if tls.cert_file else b"")
    if cert:
        key = tls.key or (Path(tls.key_file).read_bytes() if tls.key_file else b"")
        Credentials(ca, cert, key).load(context)
    return context


def _reason(failure: Exception) -> str:
    late = " (Client.Timeout exceeded while awaiting headers)" if isinstance(failure, TimeoutError) else ""
    return http_failures.reason(failure) + late
