"""Answers of one JSON value a line, as they come, for as long as the client listens."""

from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import aclosing
from typing import Any

import orjson
from aiohttp import web

from rayplane.control_plane.rpc.static_files import HEADERS


async def streamed(
    request: web.BaseRequest,
    values: AsyncGenerator[bytes, None],
    failures: tuple[type[Exception], ...],
    *,
    starting: Callable[[MutableMapping[str, Any]], None] = lambda _: None,
) -> web.StreamResponse:
    """The answer; one value alone is a JSON document. `starting` is told the headers before they are sent.

    Raises what comes instead of the first value. What of `failures` comes later is told in the last line, as `error`.
    """
    async with aclosing(values):
        first = await anext(values, None)
        response = web.StreamResponse(headers=HEADERS | {"Content-Type": "application/x-ndjson"})
        starting(response.headers)
        await response.prepare(request)
        if first is not None:
            await response.write(first + b"\n")
        try:
            async for value in values:
                await response.write(value + b"\n")
        except failures as e:
            await response.write(orjson.dumps({"error": str(getattr(e, "message", "") or e)}) + b"\n")
    await response.write_eof()
    return response
