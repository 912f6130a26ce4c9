"""Paths that every component answers over HTTP/1.1, on the port that it has for gRPC or on one of its own.

    GET /metrics             its measurements (see `exposition`)
    GET, PUT /debug/flags/v  the level of its log, by name or by Kubernetes' verbosity

For whom `callers` names: what a component is busy with is not everybody's business.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from rayplane.control_plane.component_base.log_settings import level_of
from rayplane.control_plane.component_base.logs import Level
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.rpc import ADMINISTRATORS, Callers, Network, Server, identity_of_transport

if TYPE_CHECKING:
    from aiohttp import web

METRICS = "/metrics"
VERBOSITY = "/debug/flags/v"
LEVEL_BYTES_MAX = 64
#: Who may ask for it unless the component says otherwise.
CALLERS = ADMINISTRATORS

Collect = Callable[[], Iterable[Family]]


class Debugging:
    """A web handler, as `Network.serve` takes it."""

    def __init__(self, collect: Collect, callers: Callers = CALLERS) -> None:
        self._collect = collect
        self._callers = callers
        self._level = Level()

    async def __call__(self, request: "web.BaseRequest") -> "web.StreamResponse":
        refusal = self._callers.refusal(identity_of_transport(request.transport), request.path)
        if refusal is not None:
            return _text(403, refusal.message)
        if request.path == VERBOSITY:
            return await verbosity(request, self._level)
        return _answer(request, self._collect) or _text(404, "404 page not found")


async def serve(network: Network, address: str, collect: Collect) -> Server | None:
    """A port for these paths alone, of a component that serves nothing else; none where `address` is empty. OSError."""
    return await network.serve(address, [], web=Debugging(collect)) if address else None


async def verbosity(request: "web.BaseRequest", level: Level) -> "web.Response":
    """Tell or change the level of the log, for a caller who may."""
    if request.method == "GET":
        return _text(200, level.get())
    if request.method != "PUT":
        return _text(405, "Method Not Allowed", Allow="GET, PUT")
    body = await request.content.read(LEVEL_BYTES_MAX)
    try:
        level.set(level_of(body.decode(errors="replace")))
    except ValueError as e:
        return _text(400, str(e))
    return _text(200, f"the level is {level.get()} now")


def _answer(request: "web.BaseRequest", collect: Collect) -> "web.Response | None":
    if request.path != METRICS:
        return None
    if request.method not in ("GET", "HEAD"):
        return _text(405, "Method Not Allowed", Allow="GET, HEAD")
    return metrics(request, collect())


def metrics(request: "web.BaseRequest", families: Iterable[Family], **headers: str) -> "web.Response":
    from aiohttp import web

    from rayplane.control_plane.component_base.exposition import page

    body, content_type = page(families, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})


def _text(status: int, text: str, **headers: str) -> "web.Response":
    # Imported here: who is never asked needs none of it.
    from aiohttp import web

    return web.Response(status=status, text=f"{text}\n", headers=headers)
