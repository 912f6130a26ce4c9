"""Paths that every component answers over HTTP/1.1, on the port that it has for gRPC or on one of its own.

    GET /metrics             its measurements (see `exposition`)
    GET /healthz, /livez, /readyz            of a component of Kubernetes (see `healthz`)
    GET /statusz, /flagz, /metrics/slis      of one, too (see `zpages`)
    /debug/...               its log (see `log_pages`)

For whom `callers` names: what a component is busy with is not everybody's business.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from rayplane.control_plane.component_base import healthz
from rayplane.control_plane.component_base.flags import flags_of
from rayplane.control_plane.component_base.log_pages import LogPages, text
from rayplane.control_plane.component_base.metrics import Family
from rayplane.control_plane.component_base.zpages import Component, Page, page
from rayplane.control_plane.rpc import ADMINISTRATORS, Callers, Network, Server, Service, identity_of_transport

if TYPE_CHECKING:
    from aiohttp import web

METRICS = "/metrics"
#: Who may ask for it unless the component says otherwise.
CALLERS = ADMINISTRATORS

Collect = Callable[[], Iterable[Family]]
Now = Callable[[], datetime]


class Told(NamedTuple):
    """A component of Kubernetes that tells of itself, with the clock that it goes by and its health checks."""

    component: Component
    now: Now
    checks: healthz.Checks


class Debugging:
    """A web handler, as `Network.serve` takes it. `component`: one of Kubernetes."""

    def __init__(self, collect: Collect, callers: Callers = CALLERS, component: Told | None = None) -> None:
        self._collect = collect
        self._component = component
        self._callers = callers
        self._log = LogPages()

    async def __call__(self, request: "web.BaseRequest") -> "web.StreamResponse":
        refusal = self._callers.refusal(identity_of_transport(request.transport), request.path)
        if refusal is not None:
            return text(403, refusal.message)
        if request.path in LogPages.PATHS:
            return await self._log.answer(request)
        answer = metrics(request, self._collect()) if request.path == METRICS else self._of_component(request)
        if answer is None:
            return text(404, "404 page not found")
        if request.method not in ("GET", "HEAD"):
            return text(405, "Method Not Allowed", Allow="GET, HEAD")
        return answer

    def _of_component(self, request: "web.BaseRequest") -> "web.Response | None":
        if self._component is None:
            return None
        component, now, checks = self._component
        if kind := healthz.kind_of(request.path):
            return health(request, component, checks(kind))
        return zpage(request, component, now())


async def serve(
    network: Network,
    address: str,
    collect: Collect,
    services: Sequence[Service] = (),
    component: Told | None = None,
) -> Server | None:
    """A port for these paths, and what else a component has to tell; none where `address` is empty. OSError."""
    if not address:
        return None
    return await network.serve(address, services, web=Debugging(collect, component=component))


def told(name: str, config: Any, now: Now, checks: healthz.Checks) -> Told:
    """A component of Kubernetes that starts now with these settings, and serves the paths of this module."""
    return Told(Component(name, now(), flags_of(config), (*healthz.PATHS, METRICS)), now, checks)


def zpage(request: "web.BaseRequest", component: Component, now: datetime) -> "web.Response | None":
    """The answer of `zpages`; None for another path."""
    return _response(page(request.path, request.headers.get("Accept", ""), component, now))


def health(request: "web.BaseRequest", component: Component, problems: healthz.Problems) -> "web.Response | None":
    """The answer of `healthz`; None where no check has this name."""
    found = healthz.answer(request.path, request.rel_url.raw_query_string, problems, component.health)
    return _response(found, **{"X-Content-Type-Options": "nosniff"})


def _response(page: Page | None, **headers: str) -> "web.Response | None":
    from aiohttp import web

    if page is None:
        return None
    return web.Response(body=page.body, status=page.status, headers={**headers, "Content-Type": page.content_type})


def metrics(request: "web.BaseRequest", families: Iterable[Family], **headers: str) -> "web.Response":
    from aiohttp import web

    from rayplane.control_plane.component_base.exposition import page

    body, content_type = page(families, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={**headers, "Content-Type": content_type})
