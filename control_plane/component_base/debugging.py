"""Paths that every component answers over HTTP/1.1, on the port that it has for gRPC or on one of its own.

    GET /metrics             its measurements (see `exposition`)
    /debug/...               its log (see `log_pages`)

For whom `callers` names: what a component is busy with is not everybody's business.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rayplane.control_plane.component_base.log_pages import LogPages, text
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.rpc import ADMINISTRATORS, Callers, Network, Server, Service, identity_of_transport

if TYPE_CHECKING:
    from aiohttp import web

METRICS = "/metrics"
#: Who may ask for it unless the component says otherwise.
CALLERS = ADMINISTRATORS

Collect = Callable[[], Iterable[Family]]


class Debugging:
    """A web handler, as `Network.serve` takes it."""

    def __init__(self, collect: Collect, callers: Callers = CALLERS) -> None:
        self._collect = collect
        self._callers = callers
        self._log = LogPages()

    async def __call__(self, request: "web.BaseRequest") -> "web.StreamResponse":
        refusal = self._callers.refusal(identity_of_transport(request.transport), request.path)
        if refusal is not None:
            return text(403, refusal.message)
        if request.path in LogPages.PATHS:
            return await self._log.answer(request)
        return _answer(request, self._collect) or text(404, "404 page not found")


async def serve(network: Network, address: str, collect: Collect, services: Sequence[Service] = ()) -> Server | None:
    """A port for these paths, and what else a component has to tell; none where `address` is empty. OSError."""
    return await network.serve(address, services, web=Debugging(collect)) if address else None


def _answer(request: "web.BaseRequest", collect: Collect) -> "web.Response | None":
    if request.path != METRICS:
        return None
    if request.method not in ("GET", "HEAD"):
        return text(405, "Method Not Allowed", Allow="GET, HEAD")
    return metrics(request, collect())


def metrics(request: "web.BaseRequest", families: Iterable[Family], **headers: str) -> "web.Response":
    from aiohttp import web

    from rayplane.control_plane.component_base.exposition import page

    body, content_type = page(families, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})
