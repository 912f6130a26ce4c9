"""Compression of answers: as Kubernetes does it, from a size on at which it pays."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable

from aiohttp import web

from rayplane.control_plane.apiserver.flowcontrol.heavy import Heavy
from rayplane.control_plane.apiserver.rest.answers import Whole

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BYTES_MIN = 128 * 1024
# The fastest: most of the gain comes with it.
_LEVEL = 1


def compressed(handler: Handler, heavy: Heavy) -> Handler:
    """The same handler; large answers are in gzip for who accepts that. Streams are left as they are."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        response = await handler(request)
        if isinstance(response, web.Response | Whole) and not response.prepared:
            await _compress(request, response, heavy)
        return response

    return handle


async def _compress(request: web.BaseRequest, response: web.Response | Whole, heavy: Heavy) -> None:
    if "Content-Encoding" in response.headers or not _accepts_gzip(request.headers.get("Accept-Encoding", "")):
        return
    body = response.body
    if not isinstance(body, bytes) or len(body) < BYTES_MIN:
        return
    response.body = await heavy.run(len(body), _gzip, body)
    response.headers["Content-Encoding"] = "gzip"
    response.headers.add("Vary", "Accept-Encoding")


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, _LEVEL, mtime=0)


def _accepts_gzip(accepted: str) -> bool:
    return any(one.partition(";")[0].strip() == "gzip" for one in accepted.split(","))
